//! `cofferdam build`: prepares the media, runs the build, shows it, and tells how it ended.

use super::{backends, inspect, results};
use crate::args::{BuildArgs, IsolationChoice, LogFormat};
use crate::environment::{self, Environment};
use crate::examination::UserNamespace;
use crate::progress::{self, View};
use crate::report::{self, Exit, Failure, Trouble};
use crate::request::{self, Invocation, LogSettings, Method, Note, StateCandidate};
use builder_core::build::{Backends, BuildRequest, CachePlace, DockerfileSource, Event, Export, Outcome};
use builder_core::isolation::{CancelToken, Kind, StopSignal, UserNamespaceError, conceal_process, enter_user_namespace};
use builder_core::oci::Reference;
use builder_core::store::{PrunePolicy, Store};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// A build that is ahead of its view by this much waits for it.
const EVENTS_IN_FLIGHT: usize = 1024;
/// Signals within this time are one. Ctrl-C comes twice if a parent hands on what the terminal sends to both, as the first process
/// of a container does.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// Builds what was typed; everything has been said when it returns.
pub fn build(args: &BuildArgs, environment: &Environment) -> Exit {
    let log = request::log_settings(args, environment);
    let outcome = request::request(args, environment).map_err(Failure::from).and_then(|invocation| {
        if invocation.print_request {
            print_request(&invocation);
            return Ok(Exit::Success);
        }
        match invocation.call.method {
            Method::Build => run(invocation).map(|()| Exit::Success),
            _ => inspect::inspect(invocation),
        }
    });
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            say(&report::failure(&failure, log.format, &now(log.format)));
            failure.exit
        }
    }
}

fn print_request(invocation: &Invocation) {
    let _ = writeln!(std::io::stdout(), "{:#}", request::describe(invocation));
}

fn run(mut invocation: Invocation) -> Result<(), Failure> {
    enter()?;
    // Credentials and secrets are read from here on.
    conceal_process().map_err(|error| Failure::new(Exit::Host, &error, None))?;
    settle_dockerfile(&mut invocation)?;
    let state = settle_state_directory(&invocation.state_candidates, &mut invocation.notes)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Host, &error, None))?;
    let outcome = runtime.block_on(shown(invocation.log, &invocation.notes, async |events, cancel| {
        engine(&invocation, &state, events, cancel).await
    }))?;

    results::write(&invocation.result_files, &invocation.request.destinations, &outcome)
        .map_err(|error| Failure::new(Exit::File, &error, Some(all_the_same(&outcome).to_owned())))?;
    tell(&invocation, &outcome);
    Ok(())
}

/// Enters a user namespace if the process cannot have other namespaces without: before there is any thread, for a process of
/// several cannot. Emulated steps are kept apart in it too. Where it is refused a build without RUN goes on.
pub(super) fn enter() -> Result<UserNamespace, Failure> {
    match enter_user_namespace() {
        Ok(entered) => Ok(UserNamespace::Entered(entered)),
        Err(UserNamespaceError::Refused(reason)) => Ok(UserNamespace::Refused(reason.to_string())),
        // An emulator of another architecture has threads of its own.
        Err(error @ UserNamespaceError::Threads) => Ok(UserNamespace::Refused(error.to_string())),
        Err(error) => Err(Failure::new(Exit::Host, &error, None)),
    }
}

/// The back end that is asked for; `None`: any.
pub(super) fn isolation_kind(isolation: IsolationChoice) -> Option<Kind> {
    match isolation {
        IsolationChoice::Auto => None,
        IsolationChoice::Namespaces => Some(Kind::Namespaces),
        IsolationChoice::Emulated => Some(Kind::Emulated),
    }
}

/// What is true of the image although something after it went wrong.
fn all_the_same(outcome: &Outcome) -> &'static str {
    if outcome.pushed.is_empty() { "the image is built all the same" } else { "the image is built and pushed all the same" }
}

/// Finds the Dockerfile among its candidates, or reads it from standard input.
pub(super) fn settle_dockerfile(invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.request.dockerfile = match &invocation.request.dockerfile {
        DockerfileSource::Url(_) => return Ok(()),
        DockerfileSource::Path(_) if invocation.dockerfile_candidates.is_empty() => return Ok(()),
        DockerfileSource::Path(_) => DockerfileSource::Path(environment::first_existing(&invocation.dockerfile_candidates)),
        DockerfileSource::Inline { .. } => {
            let text = environment::read_standard_input();
            let text = text.map_err(|error| {
                Failure::new(Exit::Dockerfile, &error, Some("the Dockerfile is read from standard input".to_owned()))
            })?;
            DockerfileSource::Inline { name: "Dockerfile".to_owned(), text }
        }
    };
    Ok(())
}

/// The first of the candidates that can be written; says of those that were asked for why they are not it.
pub(super) fn settle_state_directory(candidates: &[StateCandidate], notes: &mut Vec<Note>) -> Result<PathBuf, Failure> {
    match environment::prepare_state_directory(candidates) {
        Ok((path, refusals)) => {
            let asked = refusals.iter().filter(|refusal| refusal.asked_for);
            let warning = |refusal: &environment::StateRefusal| {
                format!(
                    "the state directory is {}, because {} cannot be used: {}",
                    path.display(),
                    refusal.path.display(),
                    refusal.reason
                )
            };
            notes.extend(asked.map(warning).map(Note::Warning));
            Ok(path)
        }
        Err(refusals) if refusals.is_empty() => {
            let trouble = Trouble {
                chain: vec!["every usual directory for layers and results lies in the context".to_owned()],
                place: None,
                hint: Some("name one with --state-dir, outside of the context or in .dockerignore".to_owned()),
            };
            Err(Failure { exit: Exit::State, troubles: vec![trouble] })
        }
        Err(refusals) => {
            let refusal = |refusal: &environment::StateRefusal| format!("{}: {}", refusal.path.display(), refusal.reason);
            let chain = std::iter::once("no directory for layers and results can be written".to_owned());
            let trouble = Trouble {
                chain: chain.chain(refusals.iter().map(refusal)).collect(),
                place: None,
                hint: Some("mount a volume that this user can write and name it with --state-dir".to_owned()),
            };
            Err(Failure { exit: Exit::State, troubles: vec![trouble] })
        }
    }
}

/// Runs `work` beside its view. A signal drops it, and that is how a build is cancelled and cleans up; by the token that it is
/// given, commands get the signal too. A second one hurries that.
pub(super) async fn shown<T>(
    log: LogSettings,
    notes: &[Note],
    work: impl AsyncFnOnce(tokio::sync::mpsc::Sender<Event>, CancelToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (sender, events) = tokio::sync::mpsc::channel(EVENTS_IN_FLIGHT);
    let view = View::new(log, environment::terminal_columns());
    let shown = tokio::spawn({
        let notes = notes.to_vec();
        async move { progress::show(events, view, &notes).await }
    });
    let failed = |error| Failure::new(Exit::Host, &error, None);
    let cancel = CancelToken::new().map_err(failed)?;
    let signalled = listen(cancel.clone()).map_err(failed)?;
    let signalled = async {
        let Ok(signal) = signalled.await else { return std::future::pending().await };
        // Before the work is dropped, which ends its commands.
        cancel.interrupt(signal);
        signal
    };
    let ended = tokio::select! {
        biased;
        signal = signalled => Err(cancelled(signal)),
        done = work(sender, cancel.clone()) => done,
    };
    // The senders are gone with the build; what they sent last is shown before anything else is said.
    let _ = shown.await;
    ended
}

/// Gives the first signal. Those that come later hurry whoever asks `cancel`: on a task of its own, for the one that drops the
/// work waits meanwhile.
fn listen(cancel: CancelToken) -> std::io::Result<oneshot::Receiver<StopSignal>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => StopSignal::Interrupt,
                _ = terminate.recv() => StopSignal::Terminate,
                _ = hang_up.recv() => StopSignal::HangUp,
            }
        };
        let first = next().await;
        let heard = Instant::now();
        // Nobody waits for it when the work is done.
        let _ = sender.send(first);
        loop {
            next().await;
            if heard.elapsed() >= ONE_SIGNAL {
                cancel.hurry();
            }
        }
    });
    Ok(receiver)
}

async fn engine(
    invocation: &Invocation,
    state: &Path,
    events: tokio::sync::mpsc::Sender<Event>,
    cancel: CancelToken,
) -> Result<Outcome, Failure> {
    let backends = backends::open(state, &invocation.cache_directories, &invocation.registry, &pushed_to(&invocation.request))?;
    let backends = Backends { cancel: Some(cancel), ..backends };
    let backends = match isolation_kind(invocation.isolation) {
        None => backends,
        Some(kind) => backends.isolated_by(kind),
    };
    let (store, warnings) = (backends.store.clone(), events.clone());
    let outcome = builder_core::build::build(invocation.request.clone(), backends, events).await?;
    if let Some(keep_bytes) = invocation.keep_bytes {
        prune(store, keep_bytes, &warnings).await;
    }
    Ok(outcome)
}

/// Makes the state directory smaller. The image is built: that it did not work is worth a word and no more.
async fn prune(store: Store, keep_bytes: u64, warnings: &tokio::sync::mpsc::Sender<Event>) {
    let policy = PrunePolicy { keep_bytes: Some(keep_bytes), ..PrunePolicy::default() };
    let pruned = tokio::task::spawn_blocking(move || store.prune(policy)).await;
    let Ok(Err(error)) = pruned else { return };
    let message = format!("the state directory stays as large as it is: {}", report::in_one_line(&error));
    let _ = warnings.send(Event::Warning { message, place: None }).await;
}

/// The names under which something is pushed: the image, and what goes into caches.
fn pushed_to(request: &BuildRequest) -> Vec<Reference> {
    let caches = request.cache.to.iter().filter_map(|target| match &target.place {
        CachePlace::Registry(reference) => Some(reference),
        CachePlace::Layout(_) | CachePlace::Inline(_) => None,
    });
    request.destinations.iter().chain(caches).cloned().collect()
}

fn cancelled(signal: StopSignal) -> Failure {
    let exit = match signal {
        StopSignal::Interrupt => Exit::Interrupted,
        StopSignal::Terminate => Exit::Terminated,
        StopSignal::HangUp => Exit::HungUp,
    };
    Failure { exit, troubles: vec![Trouble { chain: vec!["the build was cancelled".to_owned()], place: None, hint: None }] }
}

fn tell(invocation: &Invocation, outcome: &Outcome) {
    let file = |export: &Export| match export {
        Export::OciLayout(path) => format!("{} (OCI layout)", path.display()),
        Export::DockerTar(path) => format!("{} (for docker load)", path.display()),
    };
    let files: Vec<String> = invocation.request.exports.iter().map(file).collect();
    if invocation.log.quiet {
        let _ = writeln!(std::io::stdout(), "{}", outcome.digest);
    } else if invocation.log.verbosity >= crate::args::Verbosity::Info {
        say(&report::success(outcome, &files, invocation.log.format, &now(invocation.log.format)));
    }
}

pub(super) fn now(format: LogFormat) -> String {
    match format {
        LogFormat::Json => jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        LogFormat::Text | LogFormat::Color => String::new(),
    }
}

/// On standard error, whose reader may have gone away.
pub fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
