//! `cofferdam build --check` and its like: looks at a Dockerfile, builds nothing, and prints what it found.

use super::backends;
use super::build::{now, say, settle_dockerfile};
use crate::inspection;
use crate::progress::output::Colours;
use crate::report::{self, Exit, Failure};
use crate::request::{CallFormat, Invocation, Method};
use builder_core::build::{BuildError, Definition, read_definition};
use std::io::{IsTerminal, Write};

/// Does what was asked for instead of a build. The answer goes to standard output, also where the Dockerfile is wrong.
pub fn inspect(mut invocation: Invocation) -> Result<Exit, Failure> {
    settle_dockerfile(&mut invocation)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Host, &error, None))?;
    runtime.block_on(answer(&invocation))
}

async fn answer(invocation: &Invocation) -> Result<Exit, Failure> {
    let format = invocation.call.format;
    let definition = read_definition(invocation.request.clone()).await;
    if invocation.call.method == Method::Check {
        return check(invocation, definition).await;
    }
    let definition = definition?;
    print(&match invocation.call.method {
        Method::Outline => inspection::outline(&definition, &definition.outline()?, format),
        _ => inspection::targets(&definition, &definition.targets(), format),
    });
    Ok(Exit::Success)
}

async fn check(invocation: &Invocation, definition: Result<Definition, BuildError>) -> Result<Exit, Failure> {
    let call = invocation.call;
    let definition = match definition {
        Ok(definition) => definition,
        Err(error) => {
            if call.format == CallFormat::Json {
                print(&inspection::unreadable_as_json(&error));
            }
            return Err(error.into());
        }
    };
    let checked = definition.check(&backends::registry(&invocation.registry, &[])?).await?;
    let report = &checked.report;
    let mistakes = Some(report.mistakes.clone()).filter(|mistakes| !mistakes.is_empty());
    let mistakes = mistakes.map(|mistakes| definition.mistakes(mistakes));
    let log = invocation.log;
    print(&match call.format {
        CallFormat::Json => inspection::check_as_json(&definition, &report.warnings, mistakes.as_ref()),
        CallFormat::Text => {
            let colours = if std::io::stdout().is_terminal() && log.format == crate::args::LogFormat::Color {
                Colours::Keep
            } else {
                Colours::Remove
            };
            inspection::check_as_text(&definition, &report.warnings, colours)
        }
    });
    if !log.quiet {
        checked.notes.iter().for_each(|note| say(&report::note(note, log.format, &now(log.format))));
    }
    match mistakes {
        Some(mistakes) => Err(mistakes.into()),
        None if report.warnings.is_empty() || call.ignores_status => Ok(Exit::Success),
        None => Ok(Exit::Warnings),
    }
}

/// On standard output, whose reader may have gone away.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
