//! What the Dockerfile language means, case by case: small builds through the library, from `testdata/semantics`.
//!
//! A file holds the cases of one topic. A case begins with `=== name` and what it shows, then come its parts: `--- context`
//! (files as tree text), `--- tar NAME` (an archive in the context, as tree text), `--- file NAME` (a file of the context, as it
//! is), `--- arguments` (`--build-arg`, one a line), `--- Dockerfile`; then what is expected: `--- tree` (the flattened image, read
//! by testkit and not by us), `--- layer` (the last layer alone), `--- config` (a JSON pointer and a value a line), or
//! `--- error LINE` (words that the message has to hold, one a line; without LINE the place is not asked for).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{Backends, BuildError, BuildRequest, DockerfileSource, ErrorKind, Event, Export, build};
use builder_core::{http, registry, store::Store};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};
use testkit::{Layout, require, require_root};

#[derive(Default)]
struct Case {
    name: String,
    parts: Vec<(String, String)>,
}

impl Case {
    fn part(&self, title: &str) -> Option<&str> {
        self.parts.iter().find(|(known, _)| known == title).map(|(_, text)| &text[..])
    }

    /// Parts whose title is a word and a name.
    fn named<'a>(&'a self, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.parts.iter().filter_map(move |(title, text)| Some((title.strip_prefix(word)?.trim(), &text[..])))
    }
}

fn read_cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches('\n');
        if let Some(name) = bare.strip_prefix("=== ") {
            cases.push(Case { name: name.to_owned(), parts: Vec::new() });
        } else if let (Some(title), Some(case)) = (bare.strip_prefix("--- "), cases.last_mut()) {
            case.parts.push((title.to_owned(), String::new()));
        } else if let Some((_, text)) = cases.last_mut().and_then(|case| case.parts.last_mut()) {
            text.push_str(line);
        }
    }
    cases
}

fn backends(state: &Path) -> Backends {
    let client = http::Client::new(http::Options::default()).unwrap();
    let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
    Backends::new(Store::open(state).unwrap(), registry)
}

/// The error with its causes, its hint and further mistakes, as a user reads it.
fn told(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    if let Some(hint) = &error.hint {
        write!(text, " ({hint})").unwrap();
    }
    for other in &error.others {
        write!(text, "; {}", told(other)).unwrap();
    }
    text
}

/// What differs from the expectation; nothing if the case holds.
async fn differences(case: &Case) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let context = directory.path().join("context");
    fs::create_dir(&context).unwrap();
    if let Some(text) = case.part("context") {
        testkit::tree::write(text, &context);
    }
    for (name, text) in case.named("tar ") {
        fs::write(context.join(name), testkit::tree::tar(text)).unwrap();
    }
    for (name, text) in case.named("file ") {
        fs::write(context.join(name), text).unwrap();
    }
    let arguments: BTreeMap<String, String> = case
        .part("arguments")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let layout = directory.path().join("layout");
    let mut text = case.part("Dockerfile").unwrap().to_owned();
    if let Some(steps) = text.strip_prefix("BASE\n") {
        testkit::Image::new().busybox_layer().write(&directory.path().join("base"), "base");
        let tar = testkit::Layout::open_only(&directory.path().join("base")).layer_tars().remove(0);
        fs::write(context.join("busybox.tar"), tar).unwrap();
        text = format!("FROM scratch\nADD busybox.tar /\n{steps}");
    }
    let request = BuildRequest {
        dockerfile: DockerfileSource::Inline { name: "Dockerfile".to_owned(), text },
        build_args: arguments,
        push: false,
        exports: vec![Export::OciLayout(layout.clone())],
        ..BuildRequest::new(&context)
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let listening = tokio::spawn(async move {
        let mut output = Vec::new();
        while let Some(event) = receiver.recv().await {
            if let Event::StepOutput { bytes, .. } = event {
                output.extend_from_slice(&bytes);
            }
        }
        String::from_utf8_lossy(&output).into_owned()
    });
    let result = build(request, backends(&directory.path().join("state")), sender).await;
    let output = listening.await.unwrap();
    match (result, case.named("error").next()) {
        (Ok(_), None) => differences_of_image(case, &Layout::open_only(&layout)),
        (Ok(_), Some(_)) => Some("it was built, and should not have been".to_owned()),
        (Err(error), None) => Some(format!("it was not built: {}\n{output}", told(&error))),
        (Err(error), Some((line, words))) => {
            let told = told(&error);
            let place = error.place.as_ref().map(|place| place.position.first_line);
            let is_there = line.is_empty() || place == line.parse().ok();
            let missing =
                words.lines().filter(|word| !word.is_empty()).find(|word| !told.to_lowercase().contains(&word.to_lowercase()));
            let is_ours = error.kind == ErrorKind::Internal;
            (!is_there || missing.is_some() || is_ours).then(|| format!("line {place:?}: {told}; missing: {missing:?}"))
        }
    }
}

fn differences_of_image(case: &Case, image: &Layout) -> Option<String> {
    let mut found = String::new();
    let mut compare = |what: &str, is: &str, expected: &str| {
        if is.trim() != expected.trim() {
            write!(found, "{what} is\n{is}and should be\n{expected}").unwrap();
        }
    };
    if let Some(expected) = case.part("tree") {
        compare("the tree", &image.tree(), expected);
    }
    if let Some(expected) = case.part("layer") {
        compare("the last layer", &image.layers().pop().unwrap_or_default(), expected);
    }
    let config = image.config();
    for line in case.part("config").unwrap_or_default().lines().filter(|line| !line.is_empty()) {
        let (pointer, value) = line.split_once(' ').unwrap();
        let value: serde_json::Value = serde_json::from_str(value).unwrap_or_else(|error| panic!("{line}: {error}"));
        let is = config.pointer(pointer).unwrap_or(&serde_json::Value::Null);
        compare(pointer, &format!("{is}\n"), &format!("{value}\n"));
    }
    (!found.is_empty()).then_some(found)
}

async fn check(topic: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/semantics").join(topic).with_extension("txt");
    let cases = read_cases(&fs::read_to_string(&file).unwrap());
    assert!(cases.len() > 5, "{}: {} cases", file.display(), cases.len());
    let mut failures = String::new();
    for case in &cases {
        if let Some(difference) = differences(case).await {
            write!(failures, "\n=== {}\n{difference}\n", case.name).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_copy_and_add_do() {
    // Among the files is one that nobody else can read.
    if require_root() {
        check("copy").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_context_leaves_out() {
    check("ignore").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_config_says() {
    check("config").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_and_where() {
    check("errors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_a_run_leaves() {
    if require(&["busybox"]) && require_root() {
        check("run").await;
    }
}
