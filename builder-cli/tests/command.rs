//! The program as it is started: what only a process shows. What flags mean is tested beside `request`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use std::process::{Command, Output, Stdio};

fn cofferdam(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(words).env_clear().output().expect("the program was built for this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("we write text")
}

#[test]
fn the_version_goes_to_standard_output() {
    let output = cofferdam(&["--version"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), format!("cofferdam {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_end_with_64_and_leave_standard_output_empty() {
    let output = cofferdam(&["--destinaton=x"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "error: unknown flag --destinaton\nhint: did you mean --destination?\n");

    let output = cofferdam(&["build", "--log-format=json", "."]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("\"msg\":\"the image has nowhere to go\""), "{}", text(&output.stderr));
}

#[test]
fn the_request_can_be_printed() {
    let output = cofferdam(&["build", "--print-request", "--no-push", "/src"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let request: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(request["context"], "/src");
}

#[test]
fn an_image_that_was_not_pushed_is_not_called_pushed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("a Dockerfile");
    let (context, state) = (directory.path().display().to_string(), directory.path().join("state").display().to_string());
    let output = cofferdam(&[
        "build",
        "--no-push",
        "--digest-file=/dev/null/digest",
        "--state-dir",
        &state,
        &context,
        "-d",
        "r.example/a",
    ]);
    assert_eq!(output.status.code(), Some(73), "{}", text(&output.stderr));
    assert!(text(&output.stderr).ends_with("hint: the image is built all the same\n"), "{}", text(&output.stderr));
}

#[test]
fn a_signal_cancels_the_build_and_says_so() {
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // A registry that takes connections and never answers.
        let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = registry.local_addr().expect("an address");
        std::fs::write(directory.path().join("Dockerfile"), format!("FROM {address}/never\n")).expect("a Dockerfile");
        let building = Command::new(env!("CARGO_BIN_EXE_cofferdam"))
            .args(["build", "--no-push", "--state-dir=state", "."])
            .current_dir(directory.path())
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built for this test");
        let _silent = registry.accept().expect("the build asks the registry");
        let process = i32::try_from(building.id()).ok().and_then(Pid::from_raw).expect("the program runs");
        kill_process(process, signal).expect("we may signal our child");
        let output = building.wait_with_output().expect("our child ends");
        assert_eq!(output.status.code(), Some(expected));
        assert!(text(&output.stderr).ends_with("error: the build was cancelled\n"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_check_prints_its_warnings_and_ends_with_1() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let check = |dockerfile: &str, words: &[&str]| {
        std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
        let path = directory.path().to_string_lossy().into_owned();
        let mut all = vec!["build"];
        all.extend(words);
        all.push(&path);
        cofferdam(&all)
    };
    let (clean, warned, wrong) =
        ("FROM scratch\nCOPY a /\n", "FROM scratch as a\n", "FROM scratch as a\nEXPOSE x\nSTOPSIGNAL y\n");
    for (dockerfile, words, code, said) in [
        (clean, &["--check"][..], 0, "check complete: no warnings\n"),
        (warned, &["--check"], 1, "check complete: 1 warning\n"),
        (warned, &["--call=check,ignorestatus=true"], 0, "check complete: 1 warning\n"),
        (warned, &["--check", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all"], 0, "check complete: no warnings\n"),
        (wrong, &["--check"], 65, "check complete: 1 warning\n"),
        (warned, &["--call=targets"], 0, "TARGET       BASE\na (default)  scratch\n"),
        (warned, &["--call=outline"], 0, "TARGET:  a\n"),
    ] {
        let output = check(dockerfile, words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with(said), "{words:?}: {}", text(&output.stdout));
    }
    let output = check(wrong, &["--call=lint,format=json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["warnings"][0]["ruleName"]), (Some(65), &"FromAsCasing".into()));
    let errors = text(&output.stderr);
    assert!(errors.contains("Dockerfile:2") && errors.contains("Dockerfile:3"), "all at once: {errors}");
}

#[test]
fn a_build_tells_its_warnings_and_fails_if_they_are_errors() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let build = |dockerfile: &str| {
        std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
        let state = directory.path().join("state");
        cofferdam(&["build", "--no-push", "--state-dir", &state.to_string_lossy(), &directory.path().to_string_lossy()])
    };
    let output = build("FROM scratch as a\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let errors = text(&output.stderr);
    assert!(errors.contains("warning: FromAsCasing: 'as' is not written in the case of 'FROM'"), "{errors}");
    assert!(errors.contains("Dockerfile:1\n"), "{errors}");

    let output = build("# check=error=true\nFROM scratch as a\n");
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("error: lint violation found for rules: FromAsCasing"), "{}", text(&output.stderr));

    let output = build("# check=eror=true\nFROM scratch\n");
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("there is no option \"eror\""), "{}", text(&output.stderr));
}
