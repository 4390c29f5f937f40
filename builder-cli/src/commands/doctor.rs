//! `cofferdam doctor`: tries what a build would try, in the same place, and says how it went. Nothing is built, and no registry is asked.

use super::backends;
use super::build::{enter, isolation_kind, now, say};
use crate::args::{DoctorArgs, IsolationChoice};
use crate::environment::{self, Environment, StateRefusal};
use crate::examination::{Examination, PassedOver, State};
use crate::limits;
use crate::report::{self, Exit, Failure};
use crate::request::{self, Invocation};
use builder_core::isolation::{choose, probe};
use std::io::Write;
use std::path::PathBuf;

/// Examines this host; the answer goes to standard output.
pub fn doctor(args: &DoctorArgs, environment: &Environment) -> Exit {
    let log = request::log_settings(&args.build(), environment);
    let examined = request::request(&args.build(), environment).map_err(Failure::from);
    match examined.and_then(|invocation| examine(&invocation, environment)) {
        Ok(examination) => {
            let text = if args.json == Some(true) { examination.as_json() } else { examination.as_text() };
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            examination.exit()
        }
        Err(failure) => {
            say(&report::failure(&failure, log.format, &now(log.format)));
            failure.exit
        }
    }
}

fn examine(invocation: &Invocation, environment: &Environment) -> Result<Examination, Failure> {
    let in_user_namespace = environment::is_in_user_namespace();
    // As a build does it, and before it looks for a directory.
    let user_namespace = enter()?;
    let over = |refusals: Vec<StateRefusal>| {
        let over = |refusal: StateRefusal| PassedOver { path: refusal.path, reason: refusal.reason.to_string() };
        refusals.into_iter().map(over).collect::<Vec<_>>()
    };
    let state = match environment::prepare_state_directory(&invocation.state_candidates) {
        Ok((path, refusals)) => Ok(examine_state(path, over(refusals), invocation.isolation)?),
        Err(refusals) => Err(over(refusals)),
    };
    Ok(Examination {
        wanted: isolation_kind(invocation.isolation).map_or_else(|| "auto".to_owned(), |kind| kind.to_string()),
        user_id: environment.user_id,
        in_user_namespace,
        user_namespace,
        state,
        limits: limits::read(),
        credentials: backends::credential_names(&invocation.registry),
    })
}

fn examine_state(path: PathBuf, passed_over: Vec<PassedOver>, wanted: IsolationChoice) -> Result<State, Failure> {
    let facts = probe(&path).map_err(|error| Failure::new(Exit::State, &error, None))?;
    let choice = choose(&facts, isolation_kind(wanted));
    Ok(State { disk: limits::disk(&path).ok(), path, passed_over, facts, choice })
}
