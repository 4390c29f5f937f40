//! CPU that programs need in a RUN step, in each back end, against the same programs in a plain chroot; and how long a step
//! takes to start. Not a criterion bench: the programs run for seconds, on copies of one root, one back end after the other in
//! each round, so that a busy machine slows all of them alike.
//!
//! As root:
//!
//! ```text
//! mmdebstrap --variant=apt --include=gcc,libc6-dev,make,git,python3,python3-pip,python3-wheel,nodejs,npm,ca-certificates \
//!     --aptopt='APT::Install-Recommends "false"' bookworm root.tar
//! cargo bench --package benches --bench run_step -- root.tar [ROUNDS [NAME...]]
//! ```
//!
//! Prints a table, row by row; the dated ones are in `benches/runs/`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table, and what is being done meanwhile")]

use builder_core::{
    isolation::{
        CancelToken, Choice, Emulated, Identity, Isolation, Kind, Namespaces, Network, Privileges, Step, Stream, choose, probe,
    },
    layer::read,
    oci::{DiffId, Hasher},
    rootfs::{RootMount, Rootfs},
    tree::{Tree, TreePath},
};
use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

type Failure = Box<dyn Error>;

/// A workload: how it is prepared once in each root, and what is measured. Scripts of `/bin/sh`, in `/bench`.
struct Workload {
    name: &'static str,
    prepare: &'static str,
    run: &'static str,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "C compile, 200 files, make -j2",
        prepare: r#"mkdir c; cd c; for i in $(seq 200); do
            printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%d(int x){char b[64];snprintf(b,64,"%%d",x);return strlen(b)+%d;}\n' $i $i >f$i.c
            done; printf 'all: $(patsubst %%.c,%%.o,$(wildcard *.c))\nclean:\n\trm -f *.o\n' >Makefile"#,
        run: "cd c && make -s clean && make -s -j2 all",
    },
    Workload {
        name: "dpkg, 4 packages of 750 files",
        prepare: r"echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/speed; mkdir debs; for p in 1 2 3 4; do d=p$p; mkdir -p $d/DEBIAN $d/usr/lib/p$p $d/usr/share/doc/p$p;
            printf 'Package: p%d\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n' $p >$d/DEBIAN/control
            printf '#!/bin/sh\nset -e\nchown root:mail /usr/lib/p%d\nchmod 2755 /usr/lib/p%d\n' $p $p >$d/DEBIAN/postinst; chmod 755 $d/DEBIAN/postinst
            for f in $(seq 750); do echo $f >$d/usr/lib/p$p/file$f; done; dpkg-deb -Znone --build $d debs/$d.deb >/dev/null; rm -r $d; done",
        run: "dpkg -i debs/*.deb >/dev/null && dpkg --purge p1 p2 p3 p4 >/dev/null",
    },
    Workload {
        name: "apt-get, 3 packages of 40 MB",
        prepare: r"mkdir apt; n=0; for d in /usr/lib/python3.11 /usr/share/perl /usr/lib/git-core; do n=$((n+1)); p=apt/q$n; mkdir -p $p/DEBIAN $p/opt; cp -a $d $p/opt/q$n
            printf 'Package: q%d\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n' $n >$p/DEBIAN/control; dpkg-deb -Zxz -z1 --build $p apt/q$n.deb >/dev/null; rm -r $p; done",
        run: "apt-get install -qq --yes ./apt/*.deb >/dev/null && dpkg --purge q1 q2 q3 >/dev/null",
    },
    Workload {
        name: "pip, a wheel of 400 modules",
        prepare: r#"mkdir pip; cd pip; python3 - <<'END'
import zipfile
with zipfile.ZipFile("many-1-py3-none-any.whl", "w") as wheel:
    for number in range(400):
        wheel.writestr(f"many/m{number}.py", "".join(f"def f{k}(x):\n    return x + {k}\n" for k in range(20)))
    wheel.writestr("many/__init__.py", "")
    wheel.writestr("many-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: many\nVersion: 1\n")
    wheel.writestr("many-1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("many-1.dist-info/RECORD", "")
END"#,
        run: "rm -rf target && pip install --quiet --no-index --no-cache-dir --root-user-action=ignore --target target pip/*.whl",
    },
    Workload {
        name: "python imports",
        prepare: "true",
        run: "for i in 1 2 3 4 5 6 7 8; do python3 -c 'import asyncio, json, http.client, email.message, xml.dom.minidom, unittest, ctypes, sqlite3, ssl'; done",
    },
    Workload {
        name: "npm, 15 packages of 100 files",
        prepare: r#"mkdir -p npm/app; cd npm; for p in $(seq 15); do mkdir -p package; printf '{"name":"p%d","version":"1.0.0"}' $p >package/package.json
            for f in $(seq 100); do echo "module.exports = $f" >package/f$f.js; done; tar -czf p$p.tgz package; rm -r package; done; echo '{"name":"app","version":"1.0.0"}' >app/package.json"#,
        run: "cd npm/app && rm -rf node_modules package-lock.json && npm install --silent --offline --no-audit --no-fund --no-save ../p*.tgz",
    },
    Workload {
        name: "git, 3,000 files",
        prepare: "mkdir git; for d in $(seq 30); do mkdir git/d$d; for f in $(seq 100); do echo $d $f >git/d$d/f$f; done; done",
        run: "cd git && rm -rf .git && git init -q . && git add . && git -c user.name=n -c user.email=n@example.org commit -qm m && git status -s && git checkout -q -b b && git clone -q . /tmp/clone && rm -rf /tmp/clone",
    },
    Workload {
        name: "tar, 20,000 files",
        prepare: "mkdir tar; for d in $(seq 100); do mkdir tar/d$d; (cd tar/d$d && seq 200 | xargs -n 200 touch); done",
        run: "tar -cf /tmp/t.tar tar && mkdir /tmp/x && tar -xf /tmp/t.tar -C /tmp/x && rm -rf /tmp/x /tmp/t.tar",
    },
    Workload {
        name: "shell, 1,000 short processes",
        prepare: "true",
        run: "i=0; while [ $i -lt 500 ]; do /bin/true; x=$(echo $i | cat); i=$((i+1)); done",
    },
    Workload { name: "find /", prepare: "true", run: "for i in 1 2 3; do find / -xdev >/dev/null; done" },
    Workload { name: "find / -ls", prepare: "true", run: "find / -xdev -ls >/dev/null" },
];

/// What is compared, first the one that the others are compared with.
enum BackEnd {
    /// A chroot with /proc and /dev, as root.
    Native {
        root: PathBuf,
    },
    Isolated {
        isolation: Box<dyn Isolation>,
        root: PathBuf,
    },
}

impl BackEnd {
    /// Runs a script; gives the time it took and the CPU of all processes.
    fn run(&self, script: &str) -> Result<(Duration, Duration), Failure> {
        let script = format!("mkdir -p /bench && cd /bench && {{ {script}\n}}");
        self.run_program(&["/bin/sh", "-e", "-c", &script])
    }

    fn run_program(&self, arguments: &[&str]) -> Result<(Duration, Duration), Failure> {
        let (before, started) = (cpu(), Instant::now());
        match self {
            Self::Native { root } => {
                let mut command = Command::new("chroot");
                command
                    .arg(root)
                    .args(arguments)
                    .env_clear()
                    .envs(ENVIRONMENT.iter().copied())
                    .stdin(std::process::Stdio::null());
                let status = command.status()?;
                if !status.success() {
                    return Err(format!("native: {status}").into());
                }
            }
            Self::Isolated { isolation, root } => {
                let mut output = Vec::new();
                let sink = &mut |_: Stream, bytes: &[u8]| output.extend_from_slice(bytes);
                let status = isolation.run(&step(root, arguments), sink, &CancelToken::new()?)?;
                if !status.is_success() {
                    return Err(format!("{status}: {}", String::from_utf8_lossy(&output)).into());
                }
            }
        }
        Ok((started.elapsed(), cpu().saturating_sub(before)))
    }
}

const ENVIRONMENT: &[(&str, &str)] =
    &[("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")];

fn step(root: &Path, arguments: &[&str]) -> Step {
    Step {
        root: RootMount::Directory { path: root.to_owned() },
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: ENVIRONMENT.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        directory: TreePath::root(),
        identity: Identity::default(),
        host_name: "bench".to_owned(),
        network: Network::Host,
        privileges: Privileges::Usual,
        mounts: Vec::new(),
        resolv_conf: Vec::new(),
        hosts: Vec::new(),
        time_limit: None,
    }
}

/// CPU of this process and of all that it has waited for.
fn cpu() -> Duration {
    used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN)
}

fn used(who: libc::c_int) -> Duration {
    let usage = resource_usage(who);
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[expect(unsafe_code, reason = "rusage of children is in no library that we use")]
fn resource_usage(who: libc::c_int) -> libc::rusage {
    // SAFETY: the kernel fills the structure.
    unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(who, &raw mut usage);
        usage
    }
}

/// Mounts /proc and /dev for the plain chroot; undone when dropped.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    fn below(root: &Path) -> Result<Self, Failure> {
        let mut mounted = Self(Vec::new());
        for name in ["proc", "dev"] {
            let target = root.join(name);
            fs::create_dir_all(&target)?;
            run("mount", &[OsStr::new("--rbind"), Path::new("/").join(name).as_ref(), target.as_ref()])?;
            run("mount", &[OsStr::new("--make-rslave"), target.as_ref()])?;
            mounted.0.push(target);
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for target in &self.0 {
            if let Err(error) = run("umount", &[OsStr::new("--recursive"), OsStr::new("--lazy"), target.as_ref()]) {
                eprintln!("{error}");
            }
        }
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<(), Failure> {
    let status = Command::new(program).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}").into()) }
}

struct Hashed<'a>(&'a mut Hasher);

impl io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks the archive as the builder does for this choice.
fn unpack(state: &Path, archive: &Path, choice: &Choice) -> Result<(Rootfs, PathBuf), Failure> {
    let mut hasher = Hasher::new();
    io::copy(&mut fs::File::open(archive)?, &mut Hashed(&mut hasher))?;
    let diff_id = DiffId(hasher.finish());
    let limits = read::Limits::default();
    let index = read::index(fs::File::open(archive)?, diff_id, &limits)?;
    let mut rootfs = Rootfs::new(state, None, choice.owners)?;
    let mut unpacker = rootfs.unpacker(&Tree::new(), &index)?;
    read::read(fs::File::open(archive)?, diff_id, &limits, &mut unpacker)?;
    let unpacked = unpacker.finish()?;
    rootfs.push(unpacked);
    let mut tree = Tree::new();
    tree.apply(&index.changes);
    match rootfs.begin_step(&tree)? {
        RootMount::Directory { path } => Ok((rootfs, path)),
        RootMount::Overlay { .. } => Err("a plain directory was asked for".into()),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(archive) = arguments.next() else {
        // `cargo bench` runs all benches.
        println!("run_step: no archive of a root given: nothing measured");
        return Ok(());
    };
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let wanted: Vec<String> = arguments.collect();
    let state = tempfile::tempdir()?;
    let facts = probe(state.path())?;
    let mut roots = Vec::new();
    let mut back_ends = Vec::new();
    let mut mounted = Vec::new();
    for (name, kind) in [
        ("native", Kind::Namespaces),
        ("namespaces", Kind::Namespaces),
        ("emulated", Kind::Emulated),
        ("emulated, no namespaces", Kind::Emulated),
    ] {
        eprintln!("unpacking for {name}");
        let mut choice = choose(&facts, Some(kind))?;
        // As in a pod that grants none: there the rules about files are all that stands around the step.
        choice.apart &= name != "emulated, no namespaces";
        let directory = state.path().join(name);
        fs::create_dir(&directory)?;
        let (rootfs, root) = unpack(&directory, Path::new(&archive), &choice)?;
        roots.push(rootfs);
        let isolation: Box<dyn Isolation> = match name {
            "native" => {
                mounted.push(Mounted::below(&root)?);
                back_ends.push((name, BackEnd::Native { root }));
                continue;
            }
            "namespaces" => Box::new(Namespaces::new(choice)),
            _ => Box::new(Emulated::new(choice)),
        };
        back_ends.push((name, BackEnd::Isolated { isolation, root }));
    }
    let chosen = |workload: &&Workload| wanted.is_empty() || wanted.iter().any(|name| workload.name.contains(&**name));
    println!(
        "CPU of a step, in seconds of the plain chroot (median of {rounds}) and as ratios to it (median of the ratios of each round)\n"
    );
    println!("| workload | native | namespaces | emulated | emulated, no namespaces |\n|---|---|---|---|---|");
    for workload in WORKLOADS.iter().filter(chosen) {
        eprintln!("{}", workload.name);
        for (name, back_end) in &back_ends {
            back_end.run(workload.prepare).map_err(|error| format!("{name}: {}: {error}", workload.name))?;
        }
        let mut found = vec![Vec::new(); back_ends.len()];
        // The first round fills the caches of the kernel and is not counted.
        for round in 0..=rounds {
            for (times, (name, back_end)) in found.iter_mut().zip(&back_ends) {
                let (_, cpu) = back_end.run(workload.run).map_err(|error| format!("{name}: {}: {error}", workload.name))?;
                if round > 0 {
                    times.push(cpu);
                }
            }
        }
        print!("| {} | {:.2} s", workload.name, median(found[0].clone()).as_secs_f64());
        for times in &found[1..] {
            let ratio = |(one, other): (&Duration, &Duration)| one.as_secs_f64() / other.as_secs_f64();
            let mut ratios: Vec<f64> = times.iter().zip(&found[0]).map(ratio).collect();
            ratios.sort_unstable_by(f64::total_cmp);
            print!(" | {:.2}", ratios[ratios.len() / 2]);
        }
        println!(" |");
    }
    if wanted.is_empty() || wanted.iter().any(|name| name == "start") {
        let mut times = vec![Vec::new(); back_ends.len()];
        for round in 0..=40 {
            for (at, (_, back_end)) in back_ends.iter().enumerate() {
                let (wall, _) = back_end.run_program(&["/bin/true"])?;
                if round > 0 {
                    times[at].push(wall);
                }
            }
        }
        print!("\nTime from the call to the end of /bin/true, median of 40 (shortest):");
        for ((name, _), times) in back_ends.iter().zip(times) {
            let shortest = times.iter().min().copied().unwrap_or_default();
            print!(" {name} {:.1} ms ({:.1})", median(times).as_secs_f64() * 1e3, shortest.as_secs_f64() * 1e3);
        }
        println!();
    }
    drop(mounted);
    Ok(())
}
