//! `cofferdam doctor`, and what becomes of a build where the host refuses what RUN needs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "a host that refuses is played by a seccomp filter, installed between fork and exec")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use testkit::pod::{Pod, PodKind};
use testkit::{require, require_root, static_cofferdam};

/// What the host answers to an attempt.
#[derive(Clone, Copy)]
enum Answer {
    Refusal,
    Death,
}

/// A call that is not granted; with `argument`, only if its first argument is that.
#[derive(Clone, Copy)]
struct Denied {
    call: libc::c_long,
    argument: Option<u32>,
    answer: Answer,
}

/// No namespace, and no filter either.
const NOTHING: [Denied; 4] = [
    Denied { call: libc::SYS_unshare, argument: None, answer: Answer::Refusal },
    Denied { call: libc::SYS_mount, argument: None, answer: Answer::Refusal },
    Denied { call: libc::SYS_seccomp, argument: None, answer: Answer::Refusal },
    Denied { call: libc::SYS_prctl, argument: Some(22), answer: Answer::Refusal },
];

/// No namespace, and no call that older profiles do not know.
const NO_OPENAT2: [Denied; 3] =
    [NOTHING[0], NOTHING[1], Denied { call: libc::SYS_openat2, argument: None, answer: Answer::Refusal }];

/// No namespace, and no extended attributes.
const NO_ATTRIBUTES: [Denied; 3] =
    [NOTHING[0], NOTHING[1], Denied { call: libc::SYS_setxattr, argument: None, answer: Answer::Refusal }];

/// Whoever asks for a namespace is killed, as by a profile that was written for programs that never ask.
const DEADLY: [Denied; 1] = [Denied { call: libc::SYS_unshare, argument: None, answer: Answer::Death }];

#[test]
fn it_says_what_works_here() {
    let directory = tempfile::tempdir().unwrap();
    let output = cofferdam(directory.path(), &["doctor", "--json"], &[]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), report["run_works"] == true, "{report:#}");
    assert_eq!(report["exit_code"], output.status.code().unwrap());
    assert_eq!(report["state_directory"]["path"], directory.path().join("state").to_str().unwrap());
    assert_eq!(report["facts"]["records"]["result"], "works", "{report:#}");
    assert!(report["limits"]["processors"].as_u64() > Some(0));

    let output = cofferdam(directory.path(), &["doctor"], &[]);
    let line = text(&output.stdout).lines().next().unwrap().to_owned();
    assert_eq!(report["verdict"], line);
    assert_eq!(std::fs::read_dir(directory.path().join("state")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn credentials_are_named_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), r#"{"auths": {"r.example": {"auth": "dTpodW50ZXIy"}}}"#).unwrap();
    for words in [&["doctor"][..], &["doctor", "--json"]] {
        let said = text(&cofferdam(directory.path(), words, &[]).stdout);
        assert!(said.contains("r.example") && !said.contains("dTpodW50ZXIy") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn where_filters_are_refused_a_build_without_run_works_and_run_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let refused = "a filter that traps system calls refused (Operation not permitted)";

    let output = cofferdam(directory.path(), &["doctor"], &NOTHING);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.starts_with("builds without RUN work here, RUN does not\n") && said.contains(refused), "{said}");

    let output = build(directory.path(), "FROM scratch\nCOPY Dockerfile /\n", &[], &NOTHING);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let run = "FROM scratch\nCOPY Dockerfile /\nRUN [\"/program\"]\n";
    for (flags, expected) in [
        (
            &[][..],
            &["this host refuses every way to run commands: a mount namespace refused (Operation not permitted)", refused][..],
        ),
        (&["--isolation=emulated"], &["this host refuses the isolation emulated: ", refused]),
        (
            &["--isolation=namespaces"],
            &[
                "this host refuses the isolation namespaces: a mount namespace refused (Operation not permitted), ",
                "a user namespace around it refused (Operation not permitted)",
            ],
        ),
    ] {
        let output = build(directory.path(), run, flags, &NOTHING);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(71), "{flags:?}: {said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{flags:?}: {said}");
        assert!(said.contains("hint: a build without RUN works here; `cofferdam doctor` says what would help"), "{said}");
    }
}

#[test]
fn what_of_emulation_the_host_refuses_is_named_by_the_error_and_by_doctor() {
    let run = "FROM scratch\nCOPY Dockerfile /\nRUN [\"/program\"]\n";
    for (denied, fact, said, advice) in [
        (&NOTHING[..], "filter", "a filter that traps system calls", "the pod's seccomp profile refuses filters"),
        (&NO_OPENAT2, "confined_paths", "openat2, which keeps paths in a root", "openat2 is refused"),
        (
            &NO_ATTRIBUTES,
            "records",
            "an extended attribute user.* in the state directory",
            "setting an extended attribute (setxattr) is refused",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let output = cofferdam(directory.path(), &["doctor", "--json"], denied);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["facts"][fact]["errno"], libc::EPERM, "{report:#}");
        assert_eq!(report["facts"]["emulation"]["result"], "not_tried", "{report:#}");
        assert!(report["advice"][0]["what"].as_str().unwrap().contains(advice), "{report:#}");
        let error = text(&build(directory.path(), run, &[], denied).stderr);
        assert!(error.contains(&format!("{said} refused (Operation not permitted)")), "{error}");
        let others = ["a filter", "openat2", "an extended attribute", "an emulated step"].into_iter();
        for other in others.filter(|other| !said.starts_with(other)) {
            assert!(!error.contains(other), "{other}: {error}");
        }
    }
}

#[test]
fn where_only_what_was_asked_for_is_refused_the_error_says_that_the_rest_works() {
    let directory = tempfile::tempdir().unwrap();
    let run = "FROM scratch\nCOPY Dockerfile /\nRUN [\"/program\"]\n";
    let output = build(directory.path(), run, &["--isolation=namespaces"], &NOTHING[..2]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(
        said.contains("hint: without --isolation RUN works here (emulated), and a build without RUN does in any case"),
        "{said}"
    );
    // It is there to be found missing.
    let output = build(directory.path(), run, &[], &NOTHING[..2]);
    assert_eq!(output.status.code(), Some(127), "{}", text(&output.stderr));
}

#[test]
fn a_host_that_kills_for_an_attempt_kills_no_build() {
    let directory = tempfile::tempdir().unwrap();
    let output = cofferdam(directory.path(), &["doctor", "--json"], &DEADLY);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["facts"]["mount_namespace"]["result"], "killed", "{report:#}");
    assert_eq!(report["isolation"]["chosen"], "emulated", "{report:#}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn privileged_in_each_kind_of_pod_it_says_what_a_build_then_does() {
    if !require(&["runc", "busybox"]) || !require_root() {
        return;
    }
    let program = static_cofferdam();
    let context = tempfile::tempdir().unwrap();
    std::fs::set_permissions(context.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The command need not be there: how it is kept apart is said before it is started.
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\nRUN [\"/absent\"]\n").unwrap();
    let alone = "FROM scratch\nCOPY Dockerfile /\nRUN --network=none [\"/absent\"]\n";
    std::fs::write(context.path().join("alone"), alone).unwrap();
    for kind in PodKind::ALL {
        let expected = match kind {
            PodKind::Privileged | PodKind::Sysadmin => "namespaces",
            _ => "emulated",
        };
        let pod = Pod::new(kind).volume("/cache").read_only_bind(&program, "/usr/bin/cofferdam");
        let pod = pod.read_only_bind(context.path(), "/context");
        let examined = pod.run(&["cofferdam", "doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&examined.stdout).unwrap();
        let name = kind.name();
        assert_eq!(examined.code, Some(0), "{name}: {report:#}");
        assert_eq!(report["isolation"]["chosen"], expected, "{name}: {report:#}");
        assert_eq!(report["user"]["id"], kind.ids().0, "{name}");
        assert_eq!(report["state_directory"]["path"], "/cache/cofferdam", "{name}");
        let verdict = report["verdict"].as_str().unwrap().strip_prefix("RUN works here: ").unwrap();
        let built = pod.run(&["cofferdam", "build", "--no-push", "/context"]);
        assert_eq!(built.code, Some(127), "{name}: {}", built.stderr);
        assert!(built.stderr.contains(&format!("isolation: {verdict}")), "{name}: {verdict}: {}", built.stderr);
        let expected = if report["isolation"]["network_none"] == true { 127 } else { 71 };
        let alone = pod.run(&["cofferdam", "build", "--no-push", "--dockerfile=/context/alone", "/context"]);
        assert_eq!(alone.code, Some(expected), "{name}: {}", alone.stderr);
        // What was asked for is answered, and not what would do instead.
        let namespaces = pod.run(&["cofferdam", "doctor", "--isolation=namespaces"]);
        let granted =
            report["facts"]["mount_namespace"]["result"] == "works" && report["facts"]["process_namespace"]["result"] == "works";
        assert_eq!(namespaces.code, Some(if granted { 0 } else { 71 }), "{name}: {}", namespaces.stdout);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("we write text")
}

fn build(directory: &Path, dockerfile: &str, flags: &[&str], denied: &[Denied]) -> Output {
    let context = directory.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let context = context.to_string_lossy();
    let words = [&["build", "--no-push", "--no-cache", &*context][..], flags].concat();
    cofferdam(directory, &words, denied)
}

fn cofferdam(directory: &Path, words: &[&str], denied: &[Denied]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(words).arg("--state-dir").arg(directory.join("state")).env_clear().env("DOCKER_CONFIG", directory);
    let filter = filter(denied);
    // SAFETY: `install` makes system calls and nothing else.
    unsafe { command.pre_exec(move || install(&filter)) };
    command.output().expect("the program was built for this test")
}

/// The program for the kernel: each denied call gets its answer, everything else is granted.
fn filter(denied: &[Denied]) -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // offset in seccomp_data
    const FIRST_ARGUMENT: u32 = 16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = Vec::new();
    for Denied { call, argument, answer } in denied {
        let answer = match answer {
            Answer::Refusal => libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs(),
            Answer::Death => libc::SECCOMP_RET_KILL_PROCESS,
        };
        program.push(step(LOAD, NUMBER, 0, 0));
        let call = u32::try_from(*call).unwrap();
        match argument {
            None => program.push(step(EQUAL, call, 0, 1)),
            Some(argument) => {
                program.extend([step(EQUAL, call, 0, 3), step(LOAD, FIRST_ARGUMENT, 0, 0), step(EQUAL, *argument, 0, 1)]);
            }
        }
        program.push(step(RETURN, answer, 0, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    if filter.len() < 2 {
        return Ok(());
    }
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain numbers, and a program that outlives the call; the kernel copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}
