//! Containers with the security settings of pods: what a kubelet would hand to `runc` for each kind of pod, run for real.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tools::{Finished, command, output_of, run};

/// What Docker and containerd grant a container when nobody asks.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// What CRI-O grants.
const CRIO: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_KILL",
];
/// What a privileged container has beyond [`DEFAULT`]. `CAP_SYS_RESOURCE` is left out: a machine that runs the tests may not
/// have it itself, and a build has no use for it.
const PRIVILEGED: &[&str] = &[
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_LEASE",
    "CAP_AUDIT_CONTROL",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The first id of the host that a pod with a user namespace of its own is given, and how many.
const MAPPED: (u32, u32) = (1_000_000, 65_536);

/// All flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u32 = 0x7E02_0000;

/// A kind of pod, as far as it matters to what runs in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodKind {
    /// Root with the default capabilities and seccomp profile: Pod Security *baseline*.
    Baseline,
    /// The same under CRI-O, which grants fewer capabilities.
    BaselineCrio,
    /// The same without a seccomp profile, as a kubelet without `seccompDefault` runs it.
    BaselineUnset,
    /// User 1000 without capabilities and with `no_new_privs`: Pod Security *restricted*.
    Restricted,
    /// The same under CRI-O.
    RestrictedCrio,
    /// A high user id in group 0: OpenShift's *restricted-v2*.
    Openshift,
    /// User 1000 without a seccomp profile.
    NonrootUnconfined,
    /// Root of a user namespace: `hostUsers: false`.
    HostusersFalse,
    /// The same with `SYS_ADMIN`.
    HostusersAdmin,
    /// Root with `SYS_ADMIN` under the default profile.
    Sysadmin,
    /// Everything allowed.
    Privileged,
}

/// The published profile that a kind is filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Moby,
    Crio,
}

impl PodKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [PodKind; 11] = [
        PodKind::Baseline,
        PodKind::BaselineCrio,
        PodKind::BaselineUnset,
        PodKind::Restricted,
        PodKind::RestrictedCrio,
        PodKind::Openshift,
        PodKind::NonrootUnconfined,
        PodKind::HostusersFalse,
        PodKind::HostusersAdmin,
        PodKind::Sysadmin,
        PodKind::Privileged,
    ];

    /// The name in reports and on command lines: `baseline-crio`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PodKind::Baseline => "baseline",
            PodKind::BaselineCrio => "baseline-crio",
            PodKind::BaselineUnset => "baseline-unset",
            PodKind::Restricted => "restricted",
            PodKind::RestrictedCrio => "restricted-crio",
            PodKind::Openshift => "openshift",
            PodKind::NonrootUnconfined => "nonroot-unconfined",
            PodKind::HostusersFalse => "hostusers-false",
            PodKind::HostusersAdmin => "hostusers-admin",
            PodKind::Sysadmin => "sysadmin",
            PodKind::Privileged => "privileged",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<PodKind> {
        PodKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What the kind stands for, in a line.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            PodKind::Baseline => {
                "root, default capabilities, the runtime's seccomp profile (containerd, Docker): Pod Security *baseline*"
            }
            PodKind::BaselineCrio => "the same under CRI-O: fewer capabilities (no MKNOD, SETFCAP, SYS_CHROOT), no namespaces",
            PodKind::BaselineUnset => "root, default capabilities, no seccomp profile (a kubelet without `seccompDefault`)",
            PodKind::Restricted => {
                "uid 1000, no capabilities, `no_new_privs`, the runtime's seccomp profile: Pod Security *restricted*"
            }
            PodKind::RestrictedCrio => "the same under CRI-O",
            PodKind::Openshift => "random high uid, gid 0, `no_new_privs`, CRI-O: OpenShift *restricted-v2*",
            PodKind::NonrootUnconfined => "uid 1000, no capabilities, `no_new_privs`, no seccomp profile",
            PodKind::HostusersFalse => {
                "root of a user namespace, default capabilities, the runtime's seccomp profile: `hostUsers: false`"
            }
            PodKind::HostusersAdmin => "the same with SYS_ADMIN added",
            PodKind::Sysadmin => "root with SYS_ADMIN, the runtime's seccomp profile",
            PodKind::Privileged => "everything allowed",
        }
    }

    /// The names of the capabilities that the pod is granted, with `CAP_`.
    #[must_use]
    pub fn capabilities(self) -> Vec<&'static str> {
        match self {
            PodKind::Baseline | PodKind::BaselineUnset | PodKind::HostusersFalse => DEFAULT.to_vec(),
            PodKind::BaselineCrio => CRIO.to_vec(),
            PodKind::Restricted | PodKind::RestrictedCrio | PodKind::Openshift | PodKind::NonrootUnconfined => Vec::new(),
            PodKind::HostusersAdmin | PodKind::Sysadmin => [DEFAULT, &["CAP_SYS_ADMIN"]].concat(),
            PodKind::Privileged => [DEFAULT, PRIVILEGED].concat(),
        }
    }

    /// The user and the group that the pod's processes are, as they see it.
    #[must_use]
    pub fn ids(self) -> (u32, u32) {
        match self {
            PodKind::Restricted | PodKind::RestrictedCrio | PodKind::NonrootUnconfined => (1000, 1000),
            PodKind::Openshift => (1_000_660_000, 0),
            _ => (0, 0),
        }
    }

    /// The same as the host sees it: who has to own what the pod shall write to.
    #[must_use]
    pub fn host_ids(self) -> (u32, u32) {
        let (user, group) = self.ids();
        let first = self.first_id();
        (first + user, first + group)
    }

    /// Whether the pod has a user namespace of its own.
    #[must_use]
    pub fn is_mapped(self) -> bool {
        matches!(self, PodKind::HostusersFalse | PodKind::HostusersAdmin)
    }

    /// Whether processes of the pod can gain nothing by executing a setuid program.
    #[must_use]
    pub fn has_no_new_privileges(self) -> bool {
        self.ids().0 != 0
    }

    /// Whether a seccomp profile filters the calls of the pod's processes.
    #[must_use]
    pub fn is_filtered(self) -> bool {
        self.profile().is_some()
    }

    fn profile(self) -> Option<Profile> {
        match self {
            PodKind::BaselineUnset | PodKind::NonrootUnconfined | PodKind::Privileged => None,
            PodKind::BaselineCrio | PodKind::RestrictedCrio | PodKind::Openshift => Some(Profile::Crio),
            _ => Some(Profile::Moby),
        }
    }

    /// What id of the host the id 0 of the pod is.
    fn first_id(self) -> u32 {
        if self.is_mapped() { MAPPED.0 } else { 0 }
    }
}

/// A pod with one container, which starts a command as its first process as often as asked.
///
/// The network is the host's. Everything that belongs to it (the root of [`Pod::new`], volumes, the runtime's state) is in
/// a directory of its own, and goes with it.
///
/// ```
/// use testkit::pod::{Pod, PodKind};
///
/// if !testkit::require(&["runc", "busybox"]) || !testkit::require_root() {
///     return;
/// }
/// let pod = Pod::new(PodKind::Restricted).volume("/workspace");
/// let finished = pod.run(&["sh", "-c", "id -u; echo done > /workspace/file"]);
/// assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "1000\n"), "{}", finished.stderr);
/// assert_eq!(std::fs::read_to_string(pod.volume_path("/workspace").join("file")).unwrap(), "done\n");
/// ```
#[derive(Debug)]
pub struct Pod {
    kind: PodKind,
    rootfs: PathBuf,
    read_only: bool,
    mounts: Vec<Value>,
    environment: Vec<String>,
    directory: String,
    volumes: Vec<(String, PathBuf)>,
    scratch: tempfile::TempDir,
}

impl Pod {
    /// A pod with a small root: Debian's static busybox with a link for each of its commands, users root and 1000 with homes, a
    /// `/tmp` and a `/workspace` that everybody may write to. Needs `busybox` on the host, and root.
    #[must_use]
    pub fn new(kind: PodKind) -> Pod {
        let pod = Pod::with_rootfs(kind, Path::new(""));
        let rootfs = pod.scratch.path().join("rootfs");
        small_rootfs(&rootfs);
        if kind.is_mapped() {
            // Mounts with mapped ids arrange it in a pod.
            give(&rootfs, kind.first_id(), kind.first_id());
        }
        Pod { rootfs, ..pod }
    }

    /// A pod with this directory as its root. What the pod writes goes there, and mount points that are missing are made there.
    #[must_use]
    pub fn with_rootfs(kind: PodKind, rootfs: &Path) -> Pod {
        let scratch = tempfile::Builder::new().prefix("pod-").tempdir().expect("a temporary directory");
        // The root of a user namespace has to get to what lies inside.
        open_to_all(scratch.path(), 0o755);
        Pod {
            kind,
            rootfs: rootfs.to_owned(),
            read_only: false,
            mounts: Vec::new(),
            environment: Vec::new(),
            directory: "/".to_owned(),
            volumes: Vec::new(),
            scratch,
        }
    }

    /// Shows a file or directory of the host at `destination`. Who may write to it is its owner's affair; see
    /// [`PodKind::host_ids`].
    #[must_use]
    pub fn bind(self, source: &Path, destination: &str) -> Pod {
        self.mount(source, destination, "rw")
    }

    /// The same, without writing.
    #[must_use]
    pub fn read_only_bind(self, source: &Path, destination: &str) -> Pod {
        self.mount(source, destination, "ro")
    }

    /// An empty volume at `destination` that everybody in the pod may write to, as `emptyDir` gives one.
    #[must_use]
    pub fn volume(mut self, destination: &str) -> Pod {
        let path = self.scratch.path().join(format!("volume-{}", self.volumes.len()));
        std::fs::create_dir(&path).expect("the directory of the pod can be written");
        open_to_all(&path, 0o777);
        give(&path, self.kind.first_id(), self.kind.first_id());
        self.volumes.push((destination.to_owned(), path.clone()));
        self.bind(&path, destination)
    }

    /// Where the volume lies on the host.
    #[must_use]
    pub fn volume_path(&self, destination: &str) -> &Path {
        let found = self.volumes.iter().find(|(at, _)| at == destination);
        &found.unwrap_or_else(|| panic!("no volume at {destination}")).1
    }

    /// Sets a variable for the commands, which counts more than one of the same name that they have without:
    /// `PATH`, `HOME=/tmp` and `TERM=dumb`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Pod {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Starts the commands in this directory instead of `/`.
    #[must_use]
    pub fn directory(mut self, directory: &str) -> Pod {
        directory.clone_into(&mut self.directory);
        self
    }

    /// Makes the root read-only: `readOnlyRootFilesystem`. Binds and volumes are not concerned.
    #[must_use]
    pub fn read_only_root(mut self) -> Pod {
        self.read_only = true;
        self
    }

    /// Gives a file or directory of the host, with all that it holds, to the pod's user.
    pub fn own(&self, path: &Path) {
        let (user, group) = self.kind.host_ids();
        give(path, user, group);
    }

    /// What kind of pod this is.
    #[must_use]
    pub fn kind(&self) -> PodKind {
        self.kind
    }

    /// Where the root lies on the host.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Runs a command as the first process of the container to its end, without input.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.start(arguments).wait()
    }

    /// The same, for a command that might never end: after `limit` it is killed, and its standard error goes on with what each
    /// process of the container was doing then.
    #[must_use]
    pub fn run_at_most(&self, limit: Duration, arguments: &[&str]) -> Finished {
        let mut running = self.start(arguments);
        let until = Instant::now() + limit;
        while !running.has_ended() {
            if Instant::now() >= until {
                let processes = processes_below(running.child.id());
                running.delete();
                let mut finished = running.wait();
                finished.code = None;
                finished.stderr = format!("{}not at its end after {} s:\n{processes}\n", finished.stderr, limit.as_secs());
                return finished;
            }
            std::thread::sleep(PAUSE);
        }
        running.wait()
    }

    /// Starts a command as the first process of a container, without input, and waits until it runs (or has ended).
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> RunningPod {
        let mut running = self.start(arguments);
        running.wait_until_started();
        running
    }

    fn start(&self, arguments: &[&str]) -> RunningPod {
        static RUNS: AtomicU32 = AtomicU32::new(0);

        let name = format!("cofferdam-pod-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let bundle = self.scratch.path().join(&name);
        std::fs::create_dir(&bundle).expect("the directory of the pod can be written");
        std::fs::write(bundle.join("config.json"), self.config(&name, arguments).to_string()).expect("the bundle can be written");
        let state = self.scratch.path().join("runc");
        let mut child = command("runc")
            .args([OsStr::new("--root"), state.as_os_str(), "run".as_ref(), "--bundle".as_ref(), bundle.as_os_str()])
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runc can be started");
        let output = Collected::of(child.stdout.take().expect("it was asked for"));
        let errors = Collected::of(child.stderr.take().expect("it was asked for"));
        RunningPod { name, state, child, status: None, output, errors }
    }

    fn mount(mut self, source: &Path, destination: &str, mode: &str) -> Pod {
        let source = std::path::absolute(source).expect("a path");
        self.mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", mode]}));
        self
    }

    /// What the runtime is told.
    fn config(&self, name: &str, arguments: &[&str]) -> Value {
        let kind = self.kind;
        let names = kind.capabilities();
        let (uid, gid) = kind.ids();
        let effective = if uid == 0 { names.clone() } else { Vec::new() };
        let groups: &[u32] = if kind == PodKind::Openshift { &[uid] } else { &[] };
        let mut environment = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "HOME=/tmp".to_owned(),
            "TERM=dumb".to_owned(),
        ];
        let variable_name = |variable: &String| variable.split('=').next().map(str::to_owned);
        environment.retain(|variable| !self.environment.iter().any(|own| variable_name(own) == variable_name(variable)));
        environment.extend_from_slice(&self.environment);
        let mut mounts = usual_mounts(kind);
        mounts.extend_from_slice(&self.mounts);
        json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": {"path": std::path::absolute(&self.rootfs).expect("a path"), "readonly": self.read_only},
            "process": {
                "terminal": false,
                "user": {"uid": uid, "gid": gid, "additionalGids": groups},
                "args": arguments,
                "env": environment,
                "cwd": self.directory,
                "capabilities": {"bounding": names, "permitted": names, "effective": effective},
                "noNewPrivileges": kind.has_no_new_privileges(),
            },
            "mounts": mounts,
            "linux": settings(kind, name),
        })
    }
}

/// A container that was started. Dropped, it is killed with everything in it.
#[derive(Debug)]
pub struct RunningPod {
    name: String,
    state: PathBuf,
    child: Child,
    status: Option<ExitStatus>,
    output: Collected,
    errors: Collected,
}

impl RunningPod {
    /// Sends a signal (`TERM`, `INT`, …) to the first process.
    pub fn signal(&self, signal: &str) {
        self.runc(&["kill", &self.name, signal]);
    }

    /// Runs a further command in the container, with the settings of the first.
    #[must_use]
    pub fn exec(&self, arguments: &[&str]) -> Finished {
        let state = self.state.to_string_lossy();
        run("runc", [&["--root", &state, "exec", &self.name], arguments].concat())
    }

    /// The standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.so_far()
    }

    /// The standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.errors.so_far()
    }

    /// Waits until the standard output contains `text`.
    ///
    /// # Panics
    /// When the command ends, or a minute passes, before that.
    pub fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + Duration::from_mins(1);
        while !self.stdout().contains(text) {
            let ended = self.has_ended() && !self.stdout().contains(text);
            let (stdout, stderr) = (self.stdout(), self.stderr());
            assert!(!ended && Instant::now() < until, "no {text:?} came: {stdout}{stderr}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the first process has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our child can be asked");
        }
        self.status.is_some()
    }

    /// Waits until the first process ends. After a signal the exit code is 128 and its number.
    #[must_use]
    pub fn wait(mut self) -> Finished {
        let status = match self.status {
            Some(status) => status,
            None => *self.status.insert(self.child.wait().expect("our child can be waited for")),
        };
        Finished { code: status.code(), stdout: self.output.all(), stderr: self.errors.all() }
    }

    /// A signal that is sent before would meet nobody.
    fn wait_until_started(&mut self) {
        while !self.has_ended() && !self.is_running() {
            std::thread::sleep(PAUSE);
        }
    }

    fn is_running(&self) -> bool {
        let answer = run("runc", [OsStr::new("--root"), self.state.as_os_str(), "state".as_ref(), self.name.as_ref()]);
        serde_json::from_str::<Value>(&answer.stdout).is_ok_and(|state| state["status"] == "running")
    }

    /// Kills everything in the container, and a runtime that has not come so far. Both may be gone by now, which is as good.
    fn delete(&mut self) {
        let _ = run("runc", ["--root", &self.state.to_string_lossy(), "delete", "--force", &self.name]);
        let _ = self.child.kill();
    }

    fn runc(&self, arguments: &[&str]) {
        let state = self.state.to_string_lossy();
        output_of("runc", [&["--root", &state], arguments].concat());
    }
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.delete();
            let _ = self.child.wait();
        }
    }
}

const PAUSE: Duration = Duration::from_millis(10);

/// A line for each process that descends from this one, as the host sees them: who it is, what it waits for, its command.
fn processes_below(ancestor: u32) -> String {
    let mut lines = Vec::new();
    let mut below = vec![ancestor.to_string()];
    // Who is older has the lower number, but for numbers that were used before: those are found in a later round.
    loop {
        let known = below.len();
        for process in std::fs::read_dir("/proc").expect("/proc can be listed").filter_map(Result::ok) {
            let id = process.file_name().to_string_lossy().into_owned();
            let read = |name: &str| std::fs::read_to_string(process.path().join(name)).unwrap_or_default();
            let status = read("status");
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
            let parent = field("PPid:");
            if below.contains(&parent) && !below.contains(&id) {
                let (state, command) = (field("State:"), read("cmdline").replace('\0', " "));
                let (waits, call) = (read("wchan"), read("syscall"));
                lines.push(format!("{id} (of {parent}) {state}, in {waits}, call {}: {command}", call.trim_end()));
                below.push(id);
            }
        }
        if below.len() == known {
            return lines.join("\n");
        }
    }
}

/// What comes out of a pipe, read by a thread, so that nobody waits for a reader.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn of(mut pipe: impl Read + Send + 'static) -> Collected {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                shared.lock().expect("nobody panics with the lock").extend_from_slice(&buffer[..count]);
            }
        });
        Collected { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("nobody panics with the lock")).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.so_far()
    }
}

/// The `linux` part of the config.
fn settings(kind: PodKind, name: &str) -> Value {
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"].map(|namespace| json!({"type": namespace})).into();
    if kind.is_mapped() {
        namespaces.push(json!({"type": "user"}));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": format!("/{name}"),
        "resources": {"devices": devices(kind)},
    });
    if kind != PodKind::Privileged {
        linux["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
        ]);
        linux["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    }
    if kind.is_mapped() {
        let (first, count) = MAPPED;
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": first, "size": count}]);
        linux["gidMappings"] = linux["uidMappings"].clone();
    }
    if let Some(profile) = kind.profile() {
        linux["seccomp"] = seccomp(profile, &kind.capabilities());
    }
    linux
}

/// Which devices may be opened: every node may be made, the usual ones used.
fn devices(kind: PodKind) -> Value {
    if kind == PodKind::Privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
    }
    rules.into()
}

fn usual_mounts(kind: PodKind) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    // A user namespace without a network of its own may not mount sysfs.
    let sys = if kind.is_mapped() {
        mount("/sys", "bind", "/sys", &["rbind", "ro"])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        sys,
        mount("/etc/resolv.conf", "bind", "/etc/resolv.conf", &["bind", "ro"]),
        mount("/etc/hosts", "bind", "/etc/hosts", &["bind", "ro"]),
    ]
}

/// The profile as a runtime resolves it for these capabilities.
fn seccomp(profile: Profile, capabilities: &[&str]) -> Value {
    let text = match profile {
        Profile::Moby => include_str!("../profiles/moby-default.json"),
        Profile::Crio => include_str!("../profiles/containers-common.json"),
    };
    let data: Value = serde_json::from_str(text).expect("a profile is JSON");
    let mut rules = data["syscalls"].as_array().expect("a profile has rules").clone();
    if profile == Profile::Crio {
        refuse_namespaces(&mut rules);
    }
    let (own, architectures): (&[&str], &[&str]) = match std::env::consts::ARCH {
        "aarch64" => (&["arm64", "arm"], &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => (&["amd64", "x86", "x32"], &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    };
    let words = |list: &Value| -> Vec<String> {
        let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let applies = |rule: &Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let has = |name: &String| capabilities.contains(&name.as_str());
        let needed = words(&includes["arches"]);
        (needed.is_empty() || needed.iter().any(|name| own.contains(&name.as_str())))
            && !words(&excludes["arches"]).iter().any(|name| name == own[0])
            && words(&includes["caps"]).iter().all(has)
            && !words(&excludes["caps"]).iter().any(has)
    };
    let resolved: Vec<Value> = rules
        .iter()
        .filter(|rule| applies(rule))
        .map(|rule| {
            let mut resolved = json!({"names": rule["names"], "action": rule["action"]});
            if rule["args"].as_array().is_some_and(|arguments| !arguments.is_empty()) {
                resolved["args"] = rule["args"].clone();
            }
            if rule["action"] == "SCMP_ACT_ERRNO" {
                let number = match rule["errno"].as_str() {
                    Some("EPERM") => 1,
                    Some("EINVAL") => 22,
                    Some("ENOSYS") => 38,
                    _ => rule["errnoRet"].as_u64().unwrap_or(1),
                };
                resolved["errnoRet"] = number.into();
            }
            resolved
        })
        .collect();
    json!({
        "defaultAction": data["defaultAction"],
        "defaultErrnoRet": data["defaultErrnoRet"].as_u64().unwrap_or(1),
        "architectures": architectures,
        "syscalls": resolved,
    })
}

/// Where CRI-O differs from podman: no new namespaces without `SYS_ADMIN`.
fn refuse_namespaces(rules: &mut Vec<Value>) {
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().expect("a rule has names");
        // The long list of what everybody may call.
        if names.len() > 60 {
            names.retain(|name| !["clone", "clone3", "unshare"].iter().any(|refused| name == refused));
        }
    }
    let mask = json!([{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    rules.extend([
        json!({"names": ["clone", "clone3", "unshare"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": mask}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}),
    ]);
}

fn small_rootfs(root: &Path) {
    let directory = |path: &str, mode: u32| {
        let path = root.join(path);
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).expect("the root can be written");
        open_to_all(&path, mode);
    };
    for path in ["", "bin", "etc", "proc", "dev", "sys", "root", "home", "home/user"] {
        directory(path, 0o755);
    }
    directory("tmp", 0o1777);
    directory("workspace", 0o777);
    lchown(root.join("home/user"), Some(1000), Some(1000)).expect("the test runs as root");
    for (path, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"),
        ("etc/group", "root:x:0:\nuser:x:1000:\n"),
        ("etc/resolv.conf", ""),
        ("etc/hosts", ""),
    ] {
        let path = root.join(path);
        std::fs::write(&path, text).expect("the root can be written");
        open_to_all(&path, 0o644);
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in output_of("/bin/busybox", ["--list"]).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("the root can be written");
    }
}

/// Sets a mode whatever the umask is.
fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("we own what we made");
}

/// Gives everything at and below `path` to a user and a group.
fn give(path: &Path, user: u32, group: u32) {
    let metadata = path.symlink_metadata().expect("root sees every file");
    lchown(path, Some(user), Some(group)).expect("the test runs as root");
    if metadata.is_file() && metadata.permissions().mode() & 0o6000 != 0 {
        // A new owner takes these bits away.
        std::fs::set_permissions(path, metadata.permissions()).expect("the test runs as root");
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("root reads every directory") {
            give(&entry.expect("a directory entry").path(), user, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> bool {
        crate::require(&["runc", "busybox"]) && crate::require_root()
    }

    /// A line of `/proc/self/status`.
    fn field<'text>(status: &'text str, name: &str) -> &'text str {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    }

    #[test]
    fn names_lead_back_to_their_kinds() {
        for kind in PodKind::ALL {
            assert_eq!(PodKind::named(kind.name()), Some(kind));
        }
        assert_eq!(PodKind::named("unheard-of"), None);
    }

    #[test]
    fn a_profile_is_resolved_for_the_capabilities_as_a_runtime_does_it() {
        let may = |kind: PodKind, call: &str| {
            let rules = seccomp(kind.profile().unwrap(), &kind.capabilities());
            assert_eq!(rules["defaultAction"], "SCMP_ACT_ERRNO");
            let rules = rules["syscalls"].as_array().unwrap().clone();
            rules.iter().any(|rule| {
                let plain = rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null();
                plain && rule["names"].as_array().unwrap().iter().any(|name| name == call)
            })
        };
        for (kind, call, expected) in [
            (PodKind::Baseline, "openat", true),
            (PodKind::Baseline, "chroot", true),
            (PodKind::Baseline, "mount", false),
            (PodKind::Baseline, "unshare", false),
            (PodKind::BaselineCrio, "unshare", false),
            (PodKind::BaselineCrio, "clone3", false),
            (PodKind::Restricted, "chroot", false),
            (PodKind::Restricted, "ptrace", true),
            (PodKind::Sysadmin, "mount", true),
            (PodKind::Sysadmin, "unshare", true),
        ] {
            assert_eq!(may(kind, call), expected, "{call} in {}", kind.name());
        }
    }

    #[test]
    fn privileged_each_kind_has_its_user_capabilities_and_filter() {
        if !ready() {
            return;
        }
        for (kind, ids, capabilities, no_new_privileges, filtered) in [
            (PodKind::Baseline, (0, 0), "00000000a80425fb", "0", "2"),
            (PodKind::BaselineCrio, (0, 0), "00000000000005fb", "0", "2"),
            (PodKind::BaselineUnset, (0, 0), "00000000a80425fb", "0", "0"),
            (PodKind::Restricted, (1000, 1000), "0000000000000000", "1", "2"),
            (PodKind::RestrictedCrio, (1000, 1000), "0000000000000000", "1", "2"),
            (PodKind::Openshift, (1_000_660_000, 0), "0000000000000000", "1", "2"),
            (PodKind::NonrootUnconfined, (1000, 1000), "0000000000000000", "1", "0"),
            (PodKind::HostusersFalse, (0, 0), "00000000a80425fb", "0", "2"),
            (PodKind::HostusersAdmin, (0, 0), "00000000a82425fb", "0", "2"),
            (PodKind::Sysadmin, (0, 0), "00000000a82425fb", "0", "2"),
            (PodKind::Privileged, (0, 0), "000001fffeffffff", "0", "0"),
        ] {
            let finished = Pod::new(kind).run(&["cat", "/proc/self/status", "/proc/self/uid_map"]);
            let status = &finished.stdout;
            assert_eq!(finished.code, Some(0), "{}: {}", kind.name(), finished.stderr);
            let (uid, gid) = ids;
            assert_eq!(field(status, "Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"), "{}", kind.name());
            assert_eq!(field(status, "Gid"), format!("{gid}\t{gid}\t{gid}\t{gid}"), "{}", kind.name());
            assert_eq!(field(status, "Pid"), "1", "{}", kind.name());
            assert_eq!(field(status, "CapEff"), capabilities, "{}", kind.name());
            assert_eq!(field(status, "CapBnd"), capabilities, "{}", kind.name());
            assert_eq!(field(status, "NoNewPrivs"), no_new_privileges, "{}", kind.name());
            assert_eq!(field(status, "Seccomp"), filtered, "{}", kind.name());
            let mapping: Vec<&str> = status.lines().last().unwrap_or_default().split_ascii_whitespace().collect();
            assert_eq!(mapping == ["0", "1000000", "65536"], kind.is_mapped(), "{}", kind.name());
        }
    }

    #[test]
    fn privileged_the_pod_owns_its_root_and_volumes_and_a_read_only_root_is_that() {
        if !ready() {
            return;
        }
        let script =
            "echo volume > /data/file && stat -c %u:%g /data/file && (echo root > /workspace/file) 2>&1; pwd; echo $WORD";
        for (kind, owner) in [(PodKind::Openshift, "1000660000:0"), (PodKind::HostusersFalse, "0:0")] {
            let pod = Pod::new(kind).volume("/data").env("WORD", "here").directory("/home/user");
            let finished = pod.run(&["sh", "-c", script]);
            assert_eq!(finished.stdout, format!("{owner}\n/home/user\nhere\n"), "{}", finished.stderr);
            assert_eq!(std::fs::read_to_string(pod.rootfs().join("workspace/file")).unwrap(), "root\n");
            assert_eq!(std::fs::read_to_string(pod.volume_path("/data").join("file")).unwrap(), "volume\n");

            let finished = pod.read_only_root().run(&["sh", "-c", script]);
            let refused = "sh: can't create /workspace/file: Read-only file system";
            assert_eq!(finished.stdout, format!("{owner}\n{refused}\n/home/user\nhere\n"), "{}", finished.stderr);
        }
    }

    #[test]
    fn privileged_a_running_pod_takes_signals_and_further_commands_and_does_not_outlive_its_guard() {
        if !ready() {
            return;
        }
        let pod = Pod::new(PodKind::Restricted);
        let waiting = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
        let mut running = pod.spawn(&["sh", "-c", waiting]);
        running.wait_for("ready");
        assert_eq!(running.exec(&["id", "-u"]).stdout, "1000\n");
        running.signal("TERM");
        let finished = running.wait();
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(7), "ready\ncaught\n"), "{}", finished.stderr);

        let mut running = pod.spawn(&["sh", "-c", waiting]);
        running.wait_for("ready");
        let state = running.state.join(&running.name);
        assert!(state.exists());
        drop(running);
        assert!(!state.exists());
    }
}
