//! `--call` and `--check`: what is done with the Dockerfile. Pure.

use crate::args::{BuildArgs, Problem};

/// What is done, and in which form the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Call {
    /// What.
    pub method: Method,
    /// The form.
    pub format: CallFormat,
    /// Whether warnings leave the exit code as it is.
    pub ignores_status: bool,
}

/// What is done with a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    /// It is built.
    #[default]
    Build,
    /// It is checked.
    Check,
    /// What can be given to the target is listed.
    Outline,
    /// The stages are listed.
    Targets,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CallFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Reads both flags.
pub(super) fn call(args: &BuildArgs, problems: &mut Vec<Problem>) -> Call {
    let mut call = Call::default();
    for (at, part) in args.call.iter().flat_map(|text| text.split(',')).enumerate() {
        match (at, part.split_once('=')) {
            (0, None) => match method(part) {
                Some(method) => call.method = method,
                None => problems
                    .push(Problem::with_hint(format!("--call: there is no {part:?}"), "it is build, check, outline or targets")),
            },
            (_, Some(("format", "text"))) => call.format = CallFormat::Text,
            (_, Some(("format", "json"))) => call.format = CallFormat::Json,
            (_, Some(("ignorestatus", value @ ("true" | "false" | "1" | "0")))) => {
                call.ignores_status = matches!(value, "true" | "1");
            }
            _ => problems.push(Problem::with_hint(
                format!("--call: there is no option {part:?}"),
                "the options are format=text, format=json and ignorestatus=true",
            )),
        }
    }
    match (args.check, call.method) {
        (Some(true), Method::Build) => call.method = Method::Check,
        (Some(true), Method::Outline | Method::Targets) => {
            problems.push(Problem::new("--check and --call ask for different things"));
        }
        _ => {}
    }
    call
}

fn method(word: &str) -> Option<Method> {
    match word {
        "build" => Some(Method::Build),
        "check" | "lint" => Some(Method::Check),
        "outline" => Some(Method::Outline),
        "targets" => Some(Method::Targets),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_say_what_is_done() {
        let read = |check: Option<bool>, text: Option<&str>| {
            let mut problems = Vec::new();
            let args = BuildArgs { check, call: text.map(str::to_owned), ..BuildArgs::default() };
            let call = call(&args, &mut problems);
            if problems.is_empty() { Ok(call) } else { Err(problems.remove(0).message) }
        };
        let call = |method, format, ignores_status| Ok(Call { method, format, ignores_status });
        let refused = |message: &str| Err(message.to_owned());
        for (check, text, expected) in [
            (None, None, call(Method::Build, CallFormat::Text, false)),
            (Some(true), None, call(Method::Check, CallFormat::Text, false)),
            (Some(false), None, call(Method::Build, CallFormat::Text, false)),
            (None, Some("lint"), call(Method::Check, CallFormat::Text, false)),
            (Some(true), Some("check,format=json"), call(Method::Check, CallFormat::Json, false)),
            (None, Some("check,ignorestatus=true"), call(Method::Check, CallFormat::Text, true)),
            (None, Some("outline,format=text"), call(Method::Outline, CallFormat::Text, false)),
            (None, Some("targets,format=json"), call(Method::Targets, CallFormat::Json, false)),
            (None, Some("format=json"), call(Method::Build, CallFormat::Json, false)),
            (None, Some("chek"), refused("--call: there is no \"chek\"")),
            (None, Some("check,format=xml"), refused("--call: there is no option \"format=xml\"")),
            (Some(true), Some("targets"), refused("--check and --call ask for different things")),
        ] {
            assert_eq!(read(check, text), expected, "{check:?} {text:?}");
        }
    }
}
