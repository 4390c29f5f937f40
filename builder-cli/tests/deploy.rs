//! The examples in `deploy/`: they are YAML, and the program understands what they tell it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::require;

/// What stands where a system puts a value of its own.
const SAMPLE: &str = "sample";

#[test]
fn the_examples_are_understood() {
    if !require(&["python3"]) {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml"));
    files.sort();
    assert_eq!(files.len(), 6);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut found = commands(&parse(&file));
        // Jenkins has its commands in a pipeline, which the comment shows.
        found.extend(text.lines().filter_map(|line| {
            Some(split(line.trim_start_matches(['#', ' ']).strip_prefix("sh 'cofferdam ")?.strip_suffix('\'')?))
        }));
        assert!(!found.is_empty(), "{} builds nothing", file.display());
        for words in found {
            understood(&file, &words);
        }
    }
}

fn understood(file: &Path, words: &[String]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.env_clear().args(words);
    if words[0] == "doctor" {
        command.arg("--help");
    } else {
        command.arg("--print-request");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: cofferdam {}: {said}", file.display(), words.join(" "));
}

/// By a reader that is not ours: a file that Kubernetes does not take is no example.
fn parse(file: &Path) -> Value {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new("python3").args(["-c", program]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The arguments of every call of the program: `args` of a container of ours that has no other command, and lines of scripts.
fn commands(value: &Value) -> Vec<Vec<String>> {
    match value {
        Value::Object(fields) => {
            let is_ours = fields.get("image").and_then(Value::as_str).is_some_and(|image| !image.is_empty())
                && !fields.contains_key("command");
            let args = fields.get("args").and_then(Value::as_array).filter(|_| is_ours);
            let args =
                args.map(|args| args.iter().filter_map(Value::as_str).map(filled).filter(|word| !word.is_empty()).collect());
            fields.values().flat_map(commands).chain(args).collect()
        }
        Value::Array(items) => items.iter().flat_map(commands).collect(),
        Value::String(line) => line.strip_prefix("cofferdam ").map(split).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Words as a shell splits them; no word of the examples holds a blank.
fn split(line: &str) -> Vec<String> {
    line.split_whitespace().map(|word| filled(&word.replace('"', ""))).collect()
}

/// A word with values for `$NAME`, `$(params.name)` and `${{NAME}}`; a list of arguments is left out.
fn filled(word: &str) -> String {
    let Some((before, rest)) = word.split_once('$') else { return word.to_owned() };
    let length = match rest.as_bytes() {
        [b'(', ..] => rest.find(')').unwrap() + 1,
        [b'{', ..] => rest.find("}}").unwrap() + 2,
        _ => rest.find(|next: char| !next.is_ascii_alphanumeric() && next != '_').unwrap_or(rest.len()),
    };
    let value = if rest[..length].ends_with("[*])") { "" } else { SAMPLE };
    format!("{before}{value}{}", filled(&rest[length..]))
}
