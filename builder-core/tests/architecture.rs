//! The rules of the house that a compiler does not hold: the order of the modules, no I/O in the pure ones, no I/O of the
//! process (terminal, environment, exit) anywhere, a duty at the head of each file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules that hold values and decisions only. `cache/key.rs` is pure as well, inside a module that is not.
const PURE: [&str; 9] = ["oci", "tree", "image", "dockerfile", "plan", "evaluate", "copy", "lint", "outline"];

/// What a pure module does not say.
const IO: [&str; 19] = [
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::process",
    "std::env",
    "std::thread",
    "std::os::fd",
    "SystemTime",
    "Instant",
    "fs::",
    "File::open",
    "io::stdin",
    "rustix",
    "libc::",
    "tokio",
    "hyper",
    "tempfile",
    "crossbeam",
];

/// What no module of the library does: it is embedded in other programs.
const PROCESS: [&str; 7] = ["println!", "eprintln!", "print!(", "std::env::", "env::var", "process::exit", "home_dir"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn modules() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("pub(crate) mod "))?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// The files of a module, each with its code: comments and the tests at its end left out.
fn files(module: &str) -> Vec<(PathBuf, String)> {
    let mut open = vec![source().join(module), source().join(format!("{module}.rs"))];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file()
            && path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
            let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
            files.push((path, code.join("\n")));
        }
    }
    files
}

#[test]
fn a_module_uses_only_those_above_it() {
    let modules = modules();
    assert!(modules.len() > 8, "lib.rs lists the modules one per line: {modules:?}");
    let mut violations = Vec::new();
    for (at, module) in modules.iter().enumerate() {
        for (path, code) in files(module) {
            let below = modules[at + 1..]
                .iter()
                .filter(|other| code.contains(&format!("crate::{other}::")) || code.contains(&format!("crate::{other};")));
            violations.extend(below.map(|other| format!("{} uses {other}", path.display())));
            // A list of modules in one `use` would hide them from this test.
            violations.extend(code.contains("crate::{").then(|| format!("{} names several modules in one use", path.display())));
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn pure_modules_hold_no_input_or_output() {
    let mut violations = Vec::new();
    for (path, code) in PURE
        .iter()
        .flat_map(|module| files(module))
        .chain(files("cache").into_iter().filter(|(path, _)| path.ends_with("key.rs")))
    {
        violations.extend(IO.iter().filter(|word| code.contains(**word)).map(|word| format!("{} says {word}", path.display())));
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn the_library_does_not_touch_terminal_environment_or_process() {
    let mut violations = Vec::new();
    for (path, code) in modules().iter().flat_map(|module| files(module)) {
        violations
            .extend(PROCESS.iter().filter(|word| code.contains(**word)).map(|word| format!("{} says {word}", path.display())));
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn every_file_opens_with_its_duty() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut open: Vec<PathBuf> =
        ["builder-core", "builder-cli", "testkit", "benches"].iter().map(|name| root.join(name)).collect();
    let mut bare = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !fs::read_to_string(&path).unwrap().starts_with("//! ")
        {
            bare.push(path);
        }
    }
    assert!(bare.is_empty(), "files without a //! on their first line: {bare:#?}");
}
