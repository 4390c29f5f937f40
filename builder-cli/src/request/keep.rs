//! What `cofferdam cache` and `cofferdam warm` are going to do. Pure.

use super::cache::place;
use super::{
    LogSettings, Note, RegistrySettings, StateCandidate, build_args, cache_directories, chain, gather, log_settings,
    note_problem, platform, registry, size_bytes, state_candidates,
};
use crate::args::{BuildArgs, CacheAction, CacheArgs, Problem, PruneArgs, StateArgs, WarmArgs};
use crate::environment::Environment;
use builder_core::build::{CachePlace, DockerfileSource, WarmRequest};
use builder_core::store::PrunePolicy;
use std::path::PathBuf;
use std::time::Duration;

/// What is done with what builds keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInvocation {
    /// Where they keep it.
    pub place: KeptPlace,
    /// What is done.
    pub action: CacheUseAction,
    /// Whether the answer is JSON.
    pub json: bool,
}

/// Where builds keep something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPlace {
    /// A state directory: where it may be, best first.
    State(Vec<StateCandidate>),
    /// A cache in an OCI layout.
    Layout(PathBuf),
}

/// What is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUseAction {
    /// It is listed.
    List,
    /// Some of it is removed.
    Prune(PrunePolicy),
}

/// Which images are brought, where to, and how.
#[derive(Clone)]
pub struct WarmInvocation {
    /// The images.
    pub request: WarmRequest,
    /// How to reach registries.
    pub registry: RegistrySettings,
    /// Where the state may be, best first.
    pub state_candidates: Vec<StateCandidate>,
    /// Stores that are only read.
    pub cache_directories: Vec<PathBuf>,
    /// How it is shown.
    pub log: LogSettings,
    /// What the user should know beforehand.
    pub notes: Vec<Note>,
}

/// Says what `cofferdam cache` with these flags does.
///
/// # Errors
/// Everything that contradicts itself, is missing or cannot be read.
pub fn cache(args: &CacheArgs, environment: &Environment) -> Result<CacheInvocation, Vec<Problem>> {
    let mut problems = Vec::new();
    let (state, action, json) = match &args.action {
        CacheAction::Ls(args) => (&args.state, CacheUseAction::List, args.json),
        CacheAction::Prune(args) => (&args.state, CacheUseAction::Prune(policy(args, &mut problems)), args.json),
    };
    let place = kept_place(state, environment, &mut problems);
    if problems.is_empty() { Ok(CacheInvocation { place, action, json }) } else { Err(problems) }
}

fn kept_place(args: &StateArgs, environment: &Environment, problems: &mut Vec<Problem>) -> KeptPlace {
    let place = args.cache_repo.as_deref().and_then(|text| note_problem(place(text, environment), "--cache-repo", problems));
    match place {
        Some(CachePlace::Layout(path)) => return KeptPlace::Layout(path),
        Some(_) => problems.push(Problem::with_hint(
            "--cache-repo: a cache in a registry is not listed or removed from here",
            "builds leave out what is older than --cache-ttl; for the rest there are the registry's own retention and garbage \
             collection. A directory is oci:DIRECTORY",
        )),
        None => {}
    }
    let args = BuildArgs { state_dir: args.state_dir.clone(), cache_dir: args.cache_dir.clone(), ..BuildArgs::default() };
    KeptPlace::State(state_candidates(&args, environment, None))
}

fn policy(args: &PruneArgs, problems: &mut Vec<Problem>) -> PrunePolicy {
    let filters = gather(problems, &args.filter, "--filter", |text| match text.split_once('=') {
        Some(("until", age)) => duration(age),
        _ => Err(format!("{text:?} is not until=DURATION")),
    });
    let until = args.until.as_deref().and_then(|text| note_problem(duration(text), "--until", problems));
    let keep_bytes = args.keep_storage.as_deref().and_then(|text| note_problem(size_bytes(text), "--keep-storage", problems));
    let is_limited = args.until.is_some() || args.keep_storage.is_some() || !args.filter.is_empty();
    if !is_limited && !args.all {
        problems.push(Problem::with_hint(
            "nothing says what may go",
            "give --keep-storage SIZE, --until DURATION or both; --all removes everything that no build uses",
        ));
    }
    if is_limited && args.all {
        problems.push(Problem::new("--all and a limit exclude each other"));
    }
    // As docker: what has to fulfil several of them is older than each.
    let unused_for = filters.into_iter().chain(until).max();
    PrunePolicy { keep_bytes, unused_for, dry_run: args.dry_run }
}

/// Says what `cofferdam warm` with these flags does.
///
/// # Errors
/// Everything that contradicts itself, is missing or cannot be read.
pub fn warm(args: &WarmArgs, environment: &Environment) -> Result<WarmInvocation, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut notes: Vec<Note> = args.build.notes.iter().cloned().map(Note::Information).collect();
    if args.image.is_empty() && args.build.dockerfile.is_none() {
        problems.push(Problem::with_hint("no image is named", "give --image IMAGE or --dockerfile FILE"));
    }
    if let Some(text) = &args.build.cache_ttl
        && note_problem(duration(text), "--cache-ttl", &mut problems).is_some()
    {
        notes.push(Note::Information(
            "--cache-ttl has no effect: a layer is named by its digest and does not expire; `cofferdam cache prune --until` \
             removes what was not used"
                .to_owned(),
        ));
    }
    let dockerfile = args.build.dockerfile.as_ref().map(|path| match path.to_str() {
        Some("-") => {
            problems.push(Problem::new("--dockerfile - is not supported here: name a file"));
            DockerfileSource::Path(path.clone())
        }
        Some(text) if text.starts_with("http://") || text.starts_with("https://") => DockerfileSource::Url(text.to_owned()),
        _ => DockerfileSource::Path(environment.absolute(path)),
    });
    let request = WarmRequest {
        images: gather(&mut problems, &args.image, "--image", |text| text.parse().map_err(chain)),
        dockerfile,
        build_args: build_args(&args.build, environment, &mut problems),
        platform: platform(&args.build, &mut problems).unwrap_or_else(|| environment.platform.clone()),
        verify: args.force,
    };
    let invocation = WarmInvocation {
        request,
        registry: registry::registry(&args.build, environment, &mut problems),
        state_candidates: warm_candidates(&args.build, environment),
        cache_directories: cache_directories(&args.build, environment),
        log: log_settings(&args.build, environment),
        notes,
    };
    if problems.is_empty() { Ok(invocation) } else { Err(problems) }
}

/// A directory that is named is the one that is filled; there is no other then.
fn warm_candidates(args: &BuildArgs, environment: &Environment) -> Vec<StateCandidate> {
    match (&args.state_dir, cache_directories(args, environment).first()) {
        (None, Some(path)) if args.cache_dir.is_some() => {
            vec![StateCandidate { inside: None, path: path.clone(), asked_for: true }]
        }
        _ => state_candidates(args, environment, None),
    }
}

/// Reads `90s`, `24h`, `1h30m`, `7d`, `2w`, and seconds alone.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration, as 90m, 24h or 7d are");
    let mut left = text.trim();
    let mut total = Duration::ZERO;
    if left.is_empty() {
        return Err(wrong());
    }
    while !left.is_empty() {
        let digits = left.find(|character: char| !character.is_ascii_digit()).unwrap_or(left.len());
        let number: u64 = left[..digits].parse().map_err(|_| wrong())?;
        left = &left[digits..];
        let letters = left.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(left.len());
        let seconds = match &left[..letters] {
            "s" => 1,
            "" if total.is_zero() => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        left = &left[letters..];
        let part = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Command};
    use std::collections::BTreeMap;

    fn environment() -> Environment {
        Environment {
            variables: BTreeMap::from([("COFFERDAM_STATE".to_owned(), "/state".to_owned()), ("V".to_owned(), "1".to_owned())]),
            current_directory: "/here".into(),
            platform: builder_core::oci::Platform::linux_amd64(),
            user_id: 0,
            terminal: false,
        }
    }

    fn parse(line: &str) -> Result<Command, Vec<Problem>> {
        args::parse(&line.split_whitespace().map(std::ffi::OsString::from).collect::<Vec<_>>())
    }

    fn asked(line: &str) -> Result<CacheInvocation, Vec<Problem>> {
        match parse(line)? {
            Command::Cache(args) => cache(&args, &environment()),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn warmed(line: &str) -> Result<WarmInvocation, Vec<Problem>> {
        match parse(line)? {
            Command::Warm(args) => warm(&args, &environment()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn durations_are_written_as_in_go_and_with_days() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("24h", 86_400), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "1y", "-1h", "1h2", "99999999999999999999h", "18446744073709551615w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_go_is_said_in_our_words_or_in_dockers() {
        let policy = |line: &str| match asked(line).unwrap().action {
            CacheUseAction::Prune(policy) => (policy.keep_bytes, policy.unused_for.map(|age| age.as_secs()), policy.dry_run),
            CacheUseAction::List => panic!("{line}"),
        };
        for (line, expected) in [
            ("cache prune --keep-storage 2GiB", (Some(2 << 30), None, false)),
            ("cache prune --max-used-space=1k --dry-run", (Some(1024), None, true)),
            ("cache prune --until 24h", (None, Some(86_400), false)),
            ("cache prune --filter until=24h --keep-storage 0", (Some(0), Some(86_400), false)),
            ("cache prune -af", (None, None, false)),
        ] {
            assert_eq!(policy(line), expected, "{line}");
        }
        for (line, message) in [
            ("cache prune", "nothing says what may go"),
            ("cache prune --all --until 1h", "--all and a limit exclude each other"),
            ("cache prune --until soon", "--until: \"soon\" is no duration, as 90m, 24h or 7d are"),
            ("cache prune --filter age=1h", "--filter: \"age=1h\" is not until=DURATION"),
            ("cache prune --keep-storage lots", "--keep-storage: \"lots\" is no size, as 500MiB or 20G are"),
            ("cache purge", "unrecognized subcommand 'purge'"),
            ("cache ls --cache-repo oci:", "--cache-repo: the directory is missing"),
            (
                "cache prune --all --cache-repo r.example/app/cache",
                "--cache-repo: a cache in a registry is not listed or removed from here",
            ),
            (
                "cache ls --cache-repo oci:c --state-dir s",
                "the argument '--cache-repo <oci:DIRECTORY>' cannot be used with '--state-dir <DIRECTORY>'",
            ),
            ("cache ls --jsn", "unexpected argument '--jsn' found"),
        ] {
            assert_eq!(asked(line).unwrap_err()[0].message, message, "{line}");
        }
        let listed = asked("cache ls --json --state-dir s").unwrap();
        let KeptPlace::State(candidates) = listed.place else { panic!("{:?}", listed.place) };
        assert_eq!((candidates[0].path.clone(), listed.json), ("/here/s".into(), true));
        assert_eq!(asked("cache ls --cache-repo oci:c").unwrap().place, KeptPlace::Layout("/here/c".into()));
        assert!(matches!(parse("cache --help"), Ok(Command::Help(text)) if text.contains("prune")));
    }

    #[test]
    fn the_flags_of_the_warmer_are_kanikos() {
        let Ok(found) = warmed(
            "warm -i busybox:1 --image=r.example/a -d Dockerfile --build-arg=V -c /c -f --customPlatform=linux/arm64 \
             --cache-ttl=6h --insecure-registry=r.example --registry-mirror=m --skip-tls-verify-pull -v debug",
        ) else {
            panic!("refused")
        };
        let request = &found.request;
        assert_eq!(
            request.images.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["docker.io/library/busybox:1", "r.example/a:latest"]
        );
        assert_eq!(request.dockerfile, Some(DockerfileSource::Path("/here/Dockerfile".into())));
        assert_eq!(request.build_args["V"], "1");
        assert_eq!((request.platform.to_string(), request.verify), ("linux/arm64".to_owned(), true));
        assert_eq!(found.state_candidates.len(), 1);
        assert_eq!(found.state_candidates[0].path, PathBuf::from("/c/cofferdam"));
        assert!(matches!(&found.notes[..], [Note::Information(text)] if text.starts_with("--cache-ttl has no effect")));
        assert_eq!(warmed("warm -i a").ok().unwrap().state_candidates[0].path, PathBuf::from("/state"));
        for (line, message) in [
            ("warm", "no image is named"),
            ("warm -i a --destination b", "--destination is no flag of `cofferdam warm`"),
            ("warm a", "unexpected argument"),
            ("warm -i a --cache-ttl x", "--cache-ttl: \"x\" is no duration, as 90m, 24h or 7d are"),
            ("warm -d -", "--dockerfile - is not supported here: name a file"),
        ] {
            assert_eq!(warmed(line).err().unwrap()[0].message, message, "{line}");
        }
    }
}
