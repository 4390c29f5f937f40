//! The command `cofferdam`.
//!
//! From the words typed to the exit code: [`args`] (what was typed) → [`request`] (what it means, with what
//! [`environment`] says) → [`commands`] (what is done) → [`progress`] (how it is shown) → [`report`] (how it ended).

// One literal describes a whole request.
#![recursion_limit = "256"]
#![expect(unreachable_pub, reason = "a program offers nothing: `pub` marks what a module offers to the others")]

mod args;
mod commands;
mod environment;
mod examination;
mod first_process;
#[cfg(test)]
mod golden;
mod inspection;
mod limits;
mod progress;
mod report;
mod request;

use std::{io::Write as _, process::ExitCode};

/// musl's own allocator costs twice the CPU.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Nobody above us would reap what is left behind, and signals without a handler would not reach us.
    if std::process::id() == 1
        && let Some(code) = first_process::look_after()
    {
        return code;
    }
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let exit = match args::parse_called(&program, &words.collect::<Vec<_>>()) {
        Ok(args::Command::Version) => {
            let _ = writeln!(std::io::stdout(), "cofferdam {}", env!("CARGO_PKG_VERSION"));
            report::Exit::Success
        }
        Ok(args::Command::Help(text)) => {
            // Whoever pipes it into `head` does not want the rest.
            let _ = writeln!(std::io::stdout(), "{text}");
            report::Exit::Success
        }
        Ok(args::Command::Build(args)) => commands::build(&args, &environment::Environment::read()),
        Ok(args::Command::Doctor(args)) => commands::doctor(&args, &environment::Environment::read()),
        Ok(args::Command::Warm(args)) => commands::warm(&args, &environment::Environment::read()),
        Ok(args::Command::Cache(args)) => commands::cache(&args, &environment::Environment::read()),
        Err(problems) => {
            // The flags could not be read, those of the log included.
            let log = request::log_settings(&args::BuildArgs::default(), &environment::Environment::read());
            let failure = report::Failure::from(problems);
            commands::say(&report::failure(&failure, log.format, ""));
            failure.exit
        }
    };
    ExitCode::from(exit.code())
}
