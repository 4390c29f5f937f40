//! The end of a build: what was made, or what went wrong, where, what may help, and the exit code. Pure.

use crate::args::{LogFormat, Problem};
use crate::progress::output::{Colours, visible};
use crate::progress::{json_line, measure};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use builder_core::build::{BuildError, ErrorKind, Outcome, Place};
use serde_json::json;
use std::fmt::Write;

/// Why the program ends, as the calling script sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// A check has found something.
    Warnings,
    /// A command of the Dockerfile failed with this code.
    Step(u8),
    /// The command line.
    Usage,
    /// The Dockerfile.
    Dockerfile,
    /// The context.
    Context,
    /// A registry that is read from.
    Registry,
    /// Our bug.
    Internal,
    /// What the host permits.
    Host,
    /// The state directory.
    State,
    /// A file that we were asked to write.
    File,
    /// The place that the image goes to.
    Push,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// SIGHUP: the terminal is gone.
    HungUp,
}

const EXITS: [(Exit, &str); 14] = [
    (Exit::Success, "the image was built and is where it was asked for; doctor: RUN works here"),
    (Exit::Warnings, "--check, --call=check: warnings were found"),
    (Exit::Usage, "flags: unknown, contradictory or not supported"),
    (Exit::Dockerfile, "Dockerfile: missing, or a mistake in it"),
    (Exit::Context, "context: missing, or without a file that COPY or ADD names"),
    (Exit::Registry, "registry: a base image cannot be read"),
    (Exit::Internal, "a bug in Cofferdam"),
    (Exit::Host, "host: it does not permit what RUN needs; builds without RUN work (also the answer of doctor)"),
    (Exit::State, "state directory: none can be written, or it is damaged or full (also the answer of doctor)"),
    (Exit::File, "a file or directory that a flag names cannot be written"),
    (Exit::Push, "push: the image is built and could not be delivered"),
    (Exit::HungUp, "ended by SIGHUP: the terminal was closed"),
    (Exit::Interrupted, "interrupted by Ctrl-C"),
    (Exit::Terminated, "ended by SIGTERM"),
];

impl Exit {
    /// The number, in the ranges that `sysexits.h` leaves to programs.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Warnings => 1,
            Self::Step(code) => code,
            Self::Usage => 64,
            Self::Dockerfile => 65,
            Self::Context => 66,
            Self::Registry => 69,
            Self::Internal => 70,
            Self::Host => 71,
            Self::State => 72,
            Self::File => 73,
            Self::Push => 74,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::HungUp => 129,
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            // A step that failed must not look like success.
            ErrorKind::Step { exit_code } => Self::Step(exit_code.max(1)),
            ErrorKind::Dockerfile => Self::Dockerfile,
            ErrorKind::Context => Self::Context,
            ErrorKind::Request => Self::Usage,
            ErrorKind::Base => Self::Registry,
            ErrorKind::Host => Self::Host,
            ErrorKind::State => Self::State,
            ErrorKind::Export => Self::File,
            ErrorKind::Push => Self::Push,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

/// The exit codes as the help shows them.
pub fn exit_code_table() -> String {
    let mut text = String::from(
        "Exit codes:\n  1…  the exit code of the RUN command that failed; 128 and its number if a signal ended it, 124 if it took longer than \
         --run-timeout\n",
    );
    for (exit, meaning) in EXITS {
        let _ = writeln!(text, "  {:<3} {meaning}", exit.code());
    }
    text
}

/// `docs/exit-codes.md`.
#[cfg(test)]
fn exit_code_document() -> String {
    let mut text = String::from(
        "# Exit codes\n\n\
         Made from `builder-cli/src/report.rs` (`BLESS=1 cargo test -p builder-cli` rewrites it).\n\n\
         The exit code of a RUN command that fails is that of `cofferdam`; 128 and the number of the signal if one ended it,\n\
         124 if it took longer than `--run-timeout`, 127 if there is no such program and 126 if it cannot be executed.\n\
         So a code below may also be a command's own: the log tells them apart. Everything else ends with one of these, so that\n\
         a pipeline can repeat what may pass the next time (69, 74) and leave alone what will not (64, 65, 66).\n\n\
         | code | why |\n|---|---|\n",
    );
    for (exit, meaning) in EXITS {
        let _ = writeln!(text, "| {} | {meaning} |", exit.code());
    }
    text
}

/// What ended a build before its time.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong; several things if they are independent.
    pub troubles: Vec<Trouble>,
}

/// One thing that went wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was being done, then its causes.
    pub chain: Vec<String>,
    /// Where in the Dockerfile.
    pub place: Option<Place>,
    /// What may help.
    pub hint: Option<String>,
}

impl Failure {
    /// One thing went wrong.
    pub fn new(exit: Exit, error: &(dyn std::error::Error + 'static), hint: Option<String>) -> Self {
        Self { exit, troubles: vec![Trouble { chain: chain(error), place: None, hint }] }
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        let trouble = |problem: Problem| Trouble { chain: vec![problem.message], place: None, hint: problem.hint };
        Self { exit: Exit::Usage, troubles: problems.into_iter().map(trouble).collect() }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let exit = error.kind.into();
        let room = (exit == Exit::State && is_full(&error)).then(|| ROOM.to_owned());
        let mut troubles = vec![Trouble { chain: chain(&error), place: error.place, hint: error.hint.or(room) }];
        troubles.extend(error.others.into_iter().flat_map(|other| Self::from(other).troubles));
        Self { exit, troubles }
    }
}

/// What helps where the state directory is full.
const ROOM: &str = "name a larger volume with --state-dir, or make room with `cofferdam cache prune`";

/// Whether a full disk is among the causes.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| matches!(cause.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

/// An error and its causes, each once: some libraries repeat the cause in their own message.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !messages.last().is_some_and(|last| last.ends_with(&message)) {
            messages.push(message);
        }
        cause = error.source();
    }
    messages
}

/// An error and its causes.
pub fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).join(": ")
}

/// The text that tells of `failure`; `time` begins the lines of a JSON log.
pub fn failure(failure: &Failure, format: LogFormat, time: &str) -> String {
    let shown = |trouble: &Trouble| match format {
        LogFormat::Json => trouble_as_json(trouble, failure.exit, time),
        LogFormat::Text => as_text(Level::ERROR, trouble, &Renderer::plain(), Colours::Remove),
        LogFormat::Color => as_text(Level::ERROR, trouble, &Renderer::styled(), Colours::Keep),
    };
    failure.troubles.iter().map(shown).collect()
}

/// The text of something worth knowing that has no place in the Dockerfile.
pub fn note(text: &str, format: LogFormat, time: &str) -> String {
    match format {
        LogFormat::Json => json_line(time, "warning", text, json!({ "event": "warning" })),
        LogFormat::Text | LogFormat::Color => format!("warning: {}\n", visible(text, Colours::Remove)),
    }
}

/// The text of something that is no failure, in the form of one.
pub fn warning(trouble: &Trouble, colours: Colours) -> String {
    match colours {
        Colours::Remove => as_text(Level::WARNING, trouble, &Renderer::plain(), colours),
        Colours::Keep => as_text(Level::WARNING, trouble, &Renderer::styled(), colours),
    }
}

fn as_text(level: Level<'_>, trouble: &Trouble, renderer: &Renderer, colours: Colours) -> String {
    // Text from servers and files: it may not draw on the terminal.
    let clean = |text: &String| text.lines().map(|line| visible(line, Colours::Remove)).collect::<Vec<_>>().join("\n");
    let chain: Vec<String> = trouble.chain.iter().map(clean).collect();
    let (message, causes) = chain.split_first().map_or(("unknown error", &[][..]), |(first, rest)| (first.as_str(), rest));
    let title = level.primary_title(message);
    let report = match &trouble.place {
        None => title.elements(std::iter::empty::<Snippet<'_, annotate_snippets::Annotation<'_>>>()),
        Some(place) => title.element(excerpt(place)),
    };
    let mut text = renderer.render(&[report]);
    let paint = |word: &str| match colours {
        Colours::Keep => format!("\u{1b}[1m{word}\u{1b}[0m"),
        Colours::Remove => word.to_owned(),
    };
    for cause in causes {
        let _ = write!(text, "\n  {} {}", paint("caused by:"), cause.replace('\n', "\n    "));
    }
    if let Some(hint) = trouble.hint.as_ref().map(clean) {
        let _ = write!(text, "\n{} {hint}", paint("hint:"));
    }
    text.push('\n');
    text
}

fn excerpt(place: &Place) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    let source: &str = &place.text;
    let span = place.focus.unwrap_or(place.position).span;
    // A span is only a promise: one that lies outside the text or cuts a character is brought back into it.
    let inside = |at: usize| (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
    let (start, end) = (inside(span.start), inside(span.end));
    Snippet::source(source).path(place.file_name.as_str()).annotation(AnnotationKind::Primary.span(start..end.max(start)))
}

fn trouble_as_json(trouble: &Trouble, exit: Exit, time: &str) -> String {
    let fields = json!({
        "event": "failed",
        "exit_code": exit.code(),
        "causes": trouble.chain.iter().skip(1).collect::<Vec<_>>(),
        "dockerfile": trouble.place.as_ref().map(|place| &place.file_name),
        "line": trouble.place.as_ref().map(Place::line),
        "hint": trouble.hint,
    });
    json_line(time, "error", trouble.chain.first().map_or("unknown error", String::as_str), fields)
}

/// The text that tells what was made.
pub fn success(outcome: &Outcome, files: &[String], format: LogFormat, time: &str) -> String {
    if format == LogFormat::Json {
        let mut text = json_line(
            time,
            "info",
            &format!("built {}", outcome.digest),
            json!({ "event": "built", "digest": outcome.digest.to_string(), "size_bytes": outcome.size_bytes, "files": files }),
        );
        for pushed in &outcome.pushed {
            let fields = json!({
                "event": "pushed", "reference": pushed.reference.to_string(), "digest": pushed.digest.to_string(),
                "size_bytes": pushed.size_bytes, "layers_reused": pushed.layers_reused, "layers_new": pushed.layers_new,
            });
            text.push_str(&json_line(time, "info", &format!("pushed {}", pushed.reference), fields));
        }
        return text;
    }
    let mut text = format!("built {} ({})\n", outcome.digest, measure::size(outcome.size_bytes));
    for file in files {
        let _ = writeln!(text, "wrote {file}");
    }
    for pushed in &outcome.pushed {
        let _ = writeln!(
            text,
            "pushed {} {} ({}, layers: {} reused, {} new)",
            pushed.reference,
            pushed.digest,
            measure::size(pushed.size_bytes),
            pushed.layers_reused,
            pushed.layers_new
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder_core::build::Pushed;
    use builder_core::dockerfile::{Position, Span};
    use builder_core::oci::{Digest, ImageConfig};

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Link {
        message: &'static str,
        source: Option<Box<Link>>,
    }

    fn error(kind: ErrorKind, messages: &[&'static str], span: Option<std::ops::Range<usize>>, hint: Option<&str>) -> BuildError {
        let link = |source: Option<Box<Link>>, message: &&'static str| Some(Box::new(Link { message, source }));
        let place = span.map(|span| {
            let line = DOCKERFILE[..span.start].matches('\n').count() + 1;
            let position =
                Position { first_line: line, last_line: line, column: 1, span: Span { start: span.start, end: span.end } };
            Place { file_name: "Dockerfile".to_owned(), text: DOCKERFILE.into(), position, focus: None }
        });
        let error = BuildError { place, hint: hint.map(str::to_owned), ..BuildError::new(kind, messages[0]) };
        match messages[1..].iter().rev().fold(None, link) {
            Some(cause) => error.because(*cause),
            None => error,
        }
    }

    const DOCKERFILE: &str = "FROM debian:12\nCPY a /b\nRUN apt-get update && \\\n    apt-get install gcc\nCOPY größe /\n";

    fn examples() -> Vec<Failure> {
        let at = |text: &str| DOCKERFILE.find(text).map(|start| start..start + text.len());
        vec![
            error(ErrorKind::Dockerfile, &["unknown instruction CPY"], at("CPY"), Some("did you mean COPY?")).into(),
            error(
                ErrorKind::Step { exit_code: 42 },
                &["the command exited with code 42"],
                at("RUN apt-get update && \\\n    apt-get install gcc"),
                None,
            )
            .into(),
            error(
                ErrorKind::Base,
                &[
                    "cannot pull docker.io/library/debian:12",
                    "cannot reach registry-1.docker.io: connection refused",
                    "connection refused",
                ],
                at("debian:12"),
                Some("behind a proxy? set HTTPS_PROXY"),
            )
            .into(),
            error(ErrorKind::Push, &["cannot push r.example/a:1", "the registry said \u{1b}[2Jdenied\r\nby policy"], None, None)
                .into(),
            vec![
                Problem::with_hint("unknown flag --x", "did you mean --y?"),
                Problem::new("--cache and --no-cache exclude each other"),
            ]
            .into(),
            error(ErrorKind::Context, &["größe is not in the context"], Some(DOCKERFILE.len() - 8..DOCKERFILE.len() + 90), None)
                .into(),
        ]
    }

    fn check(name: &str, actual: &str) {
        crate::golden::check(&format!("{}/testdata/report/{name}", env!("CARGO_MANIFEST_DIR")), actual);
    }

    #[test]
    fn a_full_state_directory_is_told_with_what_helps() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (kind, hint) in [(ErrorKind::State, Some(ROOM)), (ErrorKind::Export, None)] {
            let failure = Failure::from(BuildError::new(kind, "cannot write the layer").because(full()));
            assert_eq!(failure.troubles[0].hint.as_deref(), hint);
        }
    }

    #[test]
    fn errors_show_the_line_the_causes_and_a_hint() {
        for (name, format) in [("text.txt", LogFormat::Text), ("json.txt", LogFormat::Json), ("color.txt", LogFormat::Color)] {
            let shown = |example: &Failure| format!("{}exit code {}\n\n", failure(example, format, "T"), example.exit.code());
            let text: String = examples().iter().map(shown).collect();
            check(name, &text.replace('\u{1b}', "^["));
        }
    }

    #[test]
    fn the_line_can_be_found_by_a_tool() {
        let text = failure(&examples()[0], LogFormat::Text, "T");
        assert!(text.contains("Dockerfile:2") && text.contains("hint: did you mean COPY?"), "{text}");
    }

    #[test]
    fn the_end_of_a_build_says_where_the_image_is() {
        let digest = Digest::of(b"image");
        let pushed = Pushed {
            reference: "r.example/a:1".parse().unwrap(),
            digest,
            size_bytes: 48_000_123,
            layers_reused: 3,
            layers_new: 1,
        };
        let outcome =
            Outcome { digest, config: ImageConfig::default(), layers: Vec::new(), size_bytes: 48_000_123, pushed: vec![pushed] };
        let files = ["/out (OCI layout)".to_owned()];
        check("success.txt", &success(&outcome, &files, LogFormat::Text, "T"));
        check("success-json.txt", &success(&outcome, &files, LogFormat::Json, "T"));
    }

    #[test]
    fn docs_exit_codes_md_says_what_the_codes_are() {
        crate::golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/exit-codes.md"), &exit_code_document());
    }

    #[test]
    fn a_failed_command_gives_its_own_code() {
        for (exit_code, expected) in [(1, 1), (42, 42), (137, 137), (255, 255), (0, 1)] {
            assert_eq!(Exit::from(ErrorKind::Step { exit_code }).code(), expected);
        }
        let mut codes: Vec<u8> = EXITS.iter().map(|(exit, _)| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), EXITS.len());
        assert!(codes.is_sorted());
    }
}
