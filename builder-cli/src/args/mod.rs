//! The command line: from words to what was typed, and nothing more.
//!
//! Two spellings meet here: `cofferdam build [CONTEXT]` as with `docker build`, and the bare command with flags as with
//! Kaniko. Pure: neither the environment nor a file is looked at.

mod build;
mod cache;
mod doctor;
mod elsewhere;
#[cfg(test)]
mod flags_document;
mod warm;

pub use build::{BuildArgs, CompressionChoice, IsolationChoice, LogFormat, ProgressStyle, Verbosity};
pub use cache::{CacheAction, CacheArgs, PruneArgs, StateArgs};
pub use doctor::DoctorArgs;
pub use warm::WarmArgs;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, FromArgMatches, Parser as _};
use elsewhere::{Fate, OTHER_FLAGS, Takes};
use std::ffi::{OsStr, OsString};

/// What the user wants done.
#[derive(Debug)]
pub enum Command {
    /// Build an image.
    Build(Box<BuildArgs>),
    /// Say what this host permits.
    Doctor(Box<DoctorArgs>),
    /// Bring base images.
    Warm(Box<WarmArgs>),
    /// List or remove what is kept.
    Cache(CacheArgs),
    /// Say the version.
    Version,
    /// Print this text.
    Help(String),
}

/// One thing that is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem that explains itself.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// A problem and what may help.
    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// The name of Kaniko's program that warms.
const WARMER: &str = "warmer";

const COMMANDS: [&str; 6] = ["build", "warm", "cache", "doctor", "version", "help"];

/// Reads the words after `program`, which is called as Kaniko's warmer for the sake of its users.
///
/// # Errors
/// Everything wrong that can be seen at once.
pub fn parse_called(program: &OsStr, words: &[OsString]) -> Result<Command, Vec<Problem>> {
    let name = std::path::Path::new(program).file_name().unwrap_or_default();
    if name == WARMER && words.first().is_none_or(|word| word != "version") { parse_warm(words) } else { parse(words) }
}

/// Reads the words after the program's name.
///
/// # Errors
/// Everything wrong that can be seen at once.
pub fn parse(words: &[OsString]) -> Result<Command, Vec<Problem>> {
    let first = words.first().map(|word| word.to_string_lossy().into_owned());
    match first.as_deref() {
        None | Some("help") => Ok(Command::Help(help())),
        Some("version" | "--version" | "-V") => Ok(Command::Version),
        Some("build") => parse_build(&words[1..], Spelling::Docker),
        Some("doctor") => parse_doctor(&words[1..]),
        Some("warm") => parse_warm(&words[1..]),
        Some("cache") => parse_cache(&words[1..]),
        Some(word) if word.starts_with('-') => parse_build(words, Spelling::Kaniko),
        Some(word) => Err(vec![unknown_command(word)]),
    }
}

fn parse_doctor(words: &[OsString]) -> Result<Command, Vec<Problem>> {
    let definition = doctor_definition();
    let program = OsStr::new("cofferdam doctor").to_owned();
    let matches = match definition.try_get_matches_from(std::iter::once(&program).chain(words)) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Command::Help(doctor_definition().render_help().to_string()));
        }
        Err(error) => return Err(vec![explain(&error, Spelling::Docker, &doctor_definition())]),
    };
    let args = DoctorArgs::from_arg_matches(&matches);
    Ok(Command::Doctor(Box::new(args.map_err(|error| vec![explain(&error, Spelling::Docker, &doctor_definition())])?)))
}

/// The flags of an examination.
fn doctor_definition() -> clap::Command {
    let command = clap::Command::new("cofferdam doctor")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .max_term_width(110)
        .override_usage("cofferdam doctor [FLAGS]")
        .after_help("Exit codes:\n  0   RUN works here\n  71  builds without RUN work, and RUN does not\n  72  no state directory can be written");
    let command =
        DoctorArgs::augment_args(command).about("Says what this host permits, what a build makes of it, and what would help");
    command.mut_args(attached_switch)
}

/// Like Go's flags: `--cache` and `--cache=true` are the same, `--cache true` is not.
fn attached_switch(arg: clap::Arg) -> clap::Arg {
    if boolean_value(&arg) { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
}

/// Reads the words after the name of Kaniko's warmer.
///
/// # Errors
/// Everything wrong that can be seen at once.
pub fn parse_warm(words: &[OsString]) -> Result<Command, Vec<Problem>> {
    let program = OsStr::new("cofferdam warm").to_owned();
    let matches = match warm::definition().try_get_matches_from(std::iter::once(&program).chain(words)) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Command::Help(warm::definition().render_help().to_string()));
        }
        Err(error) => return Err(vec![explain(&error, Spelling::Docker, &warm::definition())]),
    };
    Ok(Command::Warm(Box::new(warm::read(&matches)?)))
}

fn parse_cache(words: &[OsString]) -> Result<Command, Vec<Problem>> {
    let program = OsStr::new("cofferdam cache").to_owned();
    match CacheArgs::try_parse_from(std::iter::once(&program).chain(words)) {
        Ok(args) => Ok(Command::Cache(args)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) => {
            Ok(Command::Help(error.to_string()))
        }
        Err(error) => Err(vec![explain_plainly(&error)]),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Docker,
    Kaniko,
}

fn parse_build(words: &[OsString], spelling: Spelling) -> Result<Command, Vec<Problem>> {
    let program = OsStr::new("cofferdam").to_owned();
    let matches = match definition().try_get_matches_from(std::iter::once(&program).chain(words)) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Command::Help(help())),
        Err(error) => return Err(vec![explain(&error, spelling, &definition())]),
    };
    let mut args = BuildArgs::from_arg_matches(&matches).map_err(|error| vec![explain(&error, spelling, &definition())])?;
    args.kaniko_spelling = spelling == Spelling::Kaniko;

    let mut problems = Vec::new();
    if let Some(word) = args.context_argument.as_ref().filter(|_| spelling == Spelling::Kaniko) {
        problems.push(unexpected_word(&word.to_string_lossy(), spelling));
    }
    for flag in OTHER_FLAGS {
        for value in matches.get_many::<String>(flag.name).into_iter().flatten() {
            match flag.fate(value) {
                Fate::NotAsked => {}
                Fate::NoEffect(reason) => args.notes.push(format!("--{} has no effect: {reason}", flag.name)),
                Fate::Refused(instead) => {
                    let shown = if flag.takes == Takes::Boolean { String::new() } else { format!("={value}") };
                    problems.push(Problem::with_hint(format!("--{}{shown} is not supported", flag.name), instead));
                }
            }
        }
    }
    args.notes.dedup();
    if problems.is_empty() { Ok(Command::Build(Box::new(args))) } else { Err(problems) }
}

/// The flags of a build, ours and the others', as clap sees them.
fn definition() -> clap::Command {
    let command = clap::Command::new("cofferdam")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .max_term_width(110)
        .override_usage("cofferdam build [FLAGS] [CONTEXT]\n       cofferdam [FLAGS]\n       cofferdam warm [FLAGS]\n       cofferdam cache ls|prune [FLAGS]\n       cofferdam doctor [--isolation KIND] [--state-dir DIRECTORY] [--json]\n       cofferdam version")
        .after_help(crate::report::exit_code_table());
    let command = BuildArgs::augment_args(command).about("Builds a container image from a Dockerfile, without a daemon");
    let command = command.mut_args(attached_switch);
    OTHER_FLAGS.iter().fold(command, |command, flag| {
        let arg = clap::Arg::new(flag.name).long(flag.name).aliases(flag.aliases.iter().copied()).hide(true);
        let arg = flag.short.into_iter().fold(arg, clap::Arg::short);
        command.arg(match flag.takes {
            Takes::Boolean => arg
                .value_parser(|text: &str| build::boolean(text).map(|value| value.to_string()))
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Takes::Value => arg.num_args(1).action(ArgAction::Append).allow_negative_numbers(true),
        })
    })
}

fn boolean_value(arg: &clap::Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == build::BOOLEAN))
}

fn help() -> String {
    definition().render_help().to_string()
}

fn explain(error: &clap::Error, spelling: Spelling, definition: &clap::Command) -> Problem {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) if word.starts_with('-') => unknown_flag(word, definition),
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => unexpected_word(word, spelling),
        _ => explain_plainly(error),
    }
}

/// As clap says it, on one line.
fn explain_plainly(error: &clap::Error) -> Problem {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let message = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    Problem::new(message.collect::<Vec<_>>().join(" "))
}

fn unknown_flag(word: &str, definition: &clap::Command) -> Problem {
    let typed = word.split('=').next().unwrap_or(word).trim_start_matches('-');
    let message = format!("unknown flag {}", word.split('=').next().unwrap_or(word));
    let known = definition.get_arguments().flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    match nearest(typed, known) {
        Some(flag) => Problem::with_hint(message, format!("did you mean --{flag}?")),
        None => Problem::with_hint(message, "`cofferdam help` lists the flags"),
    }
}

fn unexpected_word(word: &str, spelling: Spelling) -> Problem {
    let message = format!("unexpected argument {word:?}");
    match (build::boolean(word), spelling) {
        (Ok(_), _) => Problem::with_hint(message, format!("the value of a switch is attached with =, as in --cache={word}")),
        (_, Spelling::Kaniko) => {
            Problem::with_hint(message, format!("name the context with --context={word} or write `cofferdam build {word}`"))
        }
        (_, Spelling::Docker) => Problem::with_hint(message, "one context can be given"),
    }
}

fn unknown_command(word: &str) -> Problem {
    let message = format!("unknown command {word:?}");
    match nearest(word, COMMANDS) {
        Some(command) => Problem::with_hint(message, format!("did you mean `cofferdam {command}`?")),
        None => Problem::with_hint(message, format!("to build the directory {word}, write `cofferdam build {word}`")),
    }
}

/// The candidate most like `typed`, if any is like it at all.
fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let rated = candidates.into_iter().map(|candidate| (strsim::normalized_damerau_levenshtein(typed, candidate), candidate));
    rated
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(line: &str) -> Vec<(String, String)> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let problems = parse(&words).expect_err(line);
        problems.into_iter().map(|problem| (problem.message, problem.hint.unwrap_or_default())).collect()
    }

    fn args(line: &str) -> BuildArgs {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match parse(&words) {
            Ok(Command::Build(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        definition().debug_assert();
        doctor_definition().debug_assert();
        warm::definition().debug_assert();
        <CacheArgs as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_answered_with_the_nearest_known_one() {
        for (line, message, hint) in [
            ("--destinaton=x", "unknown flag --destinaton", "did you mean --destination?"),
            ("build --build-args A=1 .", "unknown flag --build-args", "did you mean --build-arg?"),
            ("--dokerfile x", "unknown flag --dokerfile", "did you mean --dockerfile?"),
            ("--snapshotmode redo", "unknown flag --snapshotmode", "did you mean --snapshot-mode?"),
            ("--tls-verify", "unknown flag --tls-verify", "did you mean --skip-tls-verify?"),
            ("--xyzzy", "unknown flag --xyzzy", "`cofferdam help` lists the flags"),
        ] {
            assert_eq!(problems(line), [(message.to_owned(), hint.to_owned())], "{line}");
        }
    }

    #[test]
    fn words_that_are_no_flags_are_explained() {
        for (line, message, hint) in [
            ("--cache true", "unexpected argument \"true\"", "the value of a switch is attached with =, as in --cache=true"),
            ("-d a:1 src", "unexpected argument \"src\"", "name the context with --context=src or write `cofferdam build src`"),
            ("build a b", "unexpected argument \"b\"", "one context can be given"),
            ("buidl .", "unknown command \"buidl\"", "did you mean `cofferdam build`?"),
            (".", "unknown command \".\"", "to build the directory ., write `cofferdam build .`"),
        ] {
            assert_eq!(problems(line), [(message.to_owned(), hint.to_owned())], "{line}");
        }
    }

    #[test]
    fn an_examination_has_flags_of_its_own() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let Ok(Command::Doctor(args)) = parse(&words("doctor --isolation emulated --state-dir /s --json")) else { panic!() };
        assert_eq!((args.isolation, args.json), (Some(IsolationChoice::Emulated), Some(true)));
        assert_eq!(args.build().state_dir.as_deref(), Some(std::path::Path::new("/s")));
        assert_eq!(problems("doctor --isolaton=x"), [("unknown flag --isolaton".into(), "did you mean --isolation?".into())]);
        assert!(matches!(parse(&words("doctor --help")), Ok(Command::Help(text)) if text.contains("71  builds without RUN")));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_all_at_once() {
        let problems = problems("--bucket=r --single-snapshot --ignore-path=/a --ignore-path=/b -d x");
        let messages: Vec<&str> = problems.iter().map(|(message, _)| message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "--bucket=r is not supported",
                "--single-snapshot is not supported",
                "--ignore-path=/a is not supported",
                "--ignore-path=/b is not supported"
            ]
        );
        assert!(problems.iter().all(|(_, hint)| !hint.is_empty()));
    }

    #[test]
    fn what_the_design_fulfils_anyway_is_accepted_and_said() {
        let args = args("--force --cleanup --snapshot-mode=redo --use-new-run=true --single-snapshot=false -d x");
        let flags: Vec<&str> = args.notes.iter().map(|note| note.split(' ').next().unwrap()).collect();
        assert_eq!(flags, ["--force", "--cleanup", "--use-new-run", "--snapshot-mode"]);
        assert_eq!(problems("--snapshot-mode=fast -d x")[0].0, "--snapshot-mode=fast is not supported");
    }

    #[test]
    fn switches_are_written_as_in_go() {
        for (line, expected) in [
            ("--no-push", Some(true)),
            ("--no-push=true", Some(true)),
            ("--no-push=1", Some(true)),
            ("--no-push=F", Some(false)),
            ("--no-push --no-push=false", Some(false)),
            ("-d x", None),
        ] {
            assert_eq!(args(line).no_push, expected, "{line}");
        }
        assert!(problems("--no-push=maybe")[0].0.contains("maybe"));
    }

    #[test]
    fn the_version_and_the_help_need_no_build() {
        for line in ["version", "--version", "-V"] {
            assert!(matches!(parse(&[line.into()]), Ok(Command::Version)), "{line}");
        }
        for line in ["help", "--help", "-h"] {
            let Ok(Command::Help(text)) = parse(&[line.into()]) else { panic!("{line}") };
            assert!(text.contains("--destination") && text.contains("Exit codes"), "{text}");
        }
    }
}
