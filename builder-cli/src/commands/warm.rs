//! `cofferdam warm`: brings base images into the state directory, and tells which.

use super::backends;
use super::build::{now, say, settle_state_directory, shown};
use crate::args::{Verbosity, WarmArgs};
use crate::environment::Environment;
use crate::progress::{json_line, measure};
use crate::report::{self, Exit, Failure};
use crate::request::{self, LogSettings, WarmInvocation};
use builder_core::build::{self, Warmed};
use serde_json::json;

/// Warms what was typed; everything has been said when it returns.
pub fn warm(args: &WarmArgs, environment: &Environment) -> Exit {
    let log = request::log_settings(&args.build, environment);
    match request::warm(args, environment).map_err(Failure::from).and_then(run) {
        Ok(()) => Exit::Success,
        Err(failure) => {
            say(&report::failure(&failure, log.format, &now(log.format)));
            failure.exit
        }
    }
}

fn run(mut invocation: WarmInvocation) -> Result<(), Failure> {
    let state = settle_state_directory(&invocation.state_candidates, &mut invocation.notes)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Host, &error, None))?;
    let warmed = runtime.block_on(shown(invocation.log, &invocation.notes, async |events, _| {
        let backends = backends::open(&state, &invocation.cache_directories, &invocation.registry, &[])?;
        Ok(build::warm(invocation.request.clone(), backends, events).await?)
    }))?;
    tell(warmed, invocation.log)
}

/// As Kaniko: what could not be had is a warning, and a failure only if nothing could.
fn tell(warmed: Vec<Warmed>, log: LogSettings) -> Result<(), Failure> {
    let time = now(log.format);
    let nothing = !warmed.is_empty() && warmed.iter().all(|image| image.result.is_err());
    let mut troubles = Vec::new();
    let mut exit = Exit::Registry;
    for Warmed { image, platform, result } in warmed {
        match result {
            Ok(layers) => {
                let size = measure::size(layers.size_bytes);
                let text = format!("{image} for {platform}: {} layers of {size} are here", layers.count);
                let fields =
                    json!({ "event": "warmed", "image": image, "layers": layers.count, "size_bytes": layers.size_bytes });
                if log.verbosity >= Verbosity::Info {
                    say(&match log.format {
                        crate::args::LogFormat::Json => json_line(&time, "info", &text, fields),
                        _ => format!("{text}\n"),
                    });
                }
            }
            Err(error) if nothing => {
                let failure = Failure::from(error);
                exit = failure.exit;
                troubles.extend(failure.troubles);
            }
            Err(error) => {
                let text = format!("{image} is not here: {}", report::in_one_line(&error));
                say(&report::note(&text, log.format, &time));
            }
        }
    }
    if nothing { Err(Failure { exit, troubles }) } else { Ok(()) }
}
