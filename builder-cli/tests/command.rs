//! The program as it is started: what only a process shows. What flags mean is tested beside `request`.

use std::process::{Command, Output};

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
