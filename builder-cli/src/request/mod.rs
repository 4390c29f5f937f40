//! What was typed and what the environment says, made into what is asked of the builder. Pure.

mod cache;
mod cache_mounts;
mod call;
mod describe;
mod keep;
mod location;
mod registry;

pub use call::{Call, CallFormat, Method};
pub use describe::describe;
pub use keep::{CacheInvocation, CacheUseAction, KeptPlace, WarmInvocation, cache, warm};
pub use registry::{CredentialSource, RegistrySettings};

use crate::args::{BuildArgs, CompressionChoice, IsolationChoice, LogFormat, Problem, ProgressStyle, Verbosity};
use crate::environment::Environment;
use builder_core::build::{
    BuildRequest, CachePlace, CacheUse, ConfigPlatform, ContextSource, DockerfileSource, Entitlement, Export, SecretSource,
};
use builder_core::http::Secret;
use builder_core::oci::{Compression, Platform, Reference};
use location::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Everything that `cofferdam build` is going to do.
#[derive(Clone)]
pub struct Invocation {
    /// What is done with the Dockerfile.
    pub call: Call,
    /// The build. Its Dockerfile is the first of `dockerfile_candidates` until someone has looked.
    pub request: BuildRequest,
    /// Where the Dockerfile may be on this machine; empty if it is elsewhere: on standard input, in a context that is no
    /// directory, on a web server.
    pub dockerfile_candidates: Vec<PathBuf>,
    /// How to reach registries.
    pub registry: RegistrySettings,
    /// Where the state may be, best first.
    pub state_candidates: Vec<StateCandidate>,
    /// Stores that are only read, where the state is not among them.
    pub cache_directories: Vec<PathBuf>,
    /// What the state directory may hold after the build.
    pub keep_bytes: Option<u64>,
    /// How RUN is kept apart.
    pub isolation: IsolationChoice,
    /// Files that tell others what was built.
    pub result_files: ResultFiles,
    /// How the build is shown.
    pub log: LogSettings,
    /// What the user should know beforehand.
    pub notes: Vec<Note>,
    /// Whether to print this and stop.
    pub print_request: bool,
}

/// A line said before the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Worth knowing.
    Information(String),
    /// Worth changing.
    Warning(String),
}

/// A place for layers and results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateCandidate {
    /// A directory that must exist, or this is no candidate.
    pub inside: Option<PathBuf>,
    /// The directory.
    pub path: PathBuf,
    /// Whether the user named it.
    pub asked_for: bool,
}

/// Files that tell others what was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultFiles {
    /// The digest.
    pub digest: Option<PathBuf>,
    /// Lines of `repository@digest`.
    pub name_with_digest: Option<PathBuf>,
    /// Lines of `repository:tag@digest`.
    pub name_tag_with_digest: Option<PathBuf>,
}

/// How the build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How much.
    pub verbosity: Verbosity,
    /// Whether the digest goes to standard output, and nothing else anywhere.
    pub quiet: bool,
    /// In what form.
    pub format: LogFormat,
    /// Whether lines begin with the time.
    pub timestamps: bool,
    /// Whether the last line of the terminal moves.
    pub moving_line: bool,
}

const DEFAULT_MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// How errors and notes are to be shown, also when nothing else of the command line makes sense.
pub fn log_settings(args: &BuildArgs, environment: &Environment) -> LogSettings {
    let colours = environment.terminal && environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb");
    let quiet = args.quiet.unwrap_or(false);
    let format = args.log_format.unwrap_or(if colours { LogFormat::Color } else { LogFormat::Text });
    let moving_line = match args.progress.unwrap_or_default() {
        ProgressStyle::Auto => environment.terminal && format != LogFormat::Json && environment.get("TERM") != Some("dumb"),
        ProgressStyle::Plain => false,
        ProgressStyle::Tty => true,
    };
    LogSettings {
        verbosity: if quiet { Verbosity::Error } else { args.verbosity.unwrap_or_default() },
        quiet,
        format,
        timestamps: args.log_timestamp.unwrap_or(false),
        moving_line: moving_line && !quiet,
    }
}

/// Says what a build with these flags in this environment is.
///
/// # Errors
/// Everything that contradicts itself, is missing or cannot be read.
pub fn request(args: &BuildArgs, environment: &Environment) -> Result<Invocation, Vec<Problem>> {
    let mut problems = Vec::new();
    let invocation = assemble(args, environment, &mut problems);
    if problems.is_empty() { Ok(invocation) } else { Err(problems) }
}

/// Collects problems on the way: what is wrong is replaced by a default, and the result is thrown away.
fn assemble(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> Invocation {
    let log = log_settings(args, environment);
    if log.format == LogFormat::Json && args.progress == Some(ProgressStyle::Tty) {
        problems.push(Problem::new("--log-format json and --progress tty exclude each other"));
    }
    let mut notes: Vec<Note> = args.notes.iter().cloned().map(Note::Information).collect();

    let call = call::call(args, problems);
    let context = location::context(args, environment, problems);
    let (dockerfile, dockerfile_candidates) = dockerfile(args, environment, &context, problems);
    let state_candidates = state_candidates(args, environment, context.directory());
    let directory = context.directory().map(without_parents);
    let lies_inside = |path: &Path| directory.as_ref().is_some_and(|context| without_parents(path).starts_with(context));
    if let Some(state) = state_candidates.first().filter(|state| state.asked_for && lies_inside(&state.path)) {
        notes.push(Note::Warning(format!(
            "the state directory {} lies in the context: name it in .dockerignore",
            state.path.display()
        )));
    }

    let destinations = gather(problems, &args.destination, "--destination", |text| {
        let name: Reference = text.parse().map_err(chain)?;
        match name.digest() {
            Some(_) => Err(format!("{text:?} names an image by its digest, which is not known before it is built")),
            None => Ok(name),
        }
    });
    let no_push = args.no_push.unwrap_or_else(|| switched_on(environment, "KANIKO_NO_PUSH", problems));
    let absolute = |path: &PathBuf| environment.absolute(path);
    let oci_layout = args.oci_layout_path.iter().map(absolute).map(Export::OciLayout);
    let exports: Vec<Export> = oci_layout.chain(args.tar_path.iter().map(absolute).map(Export::DockerTar)).collect();
    if call.method == Method::Build && args.destination.is_empty() && exports.is_empty() && !no_push {
        problems.push(Problem::with_hint(
            "the image has nowhere to go",
            "name it with --destination REGISTRY/REPOSITORY:TAG, write it with --oci-layout-path or --tar-path, or build only with --no-push",
        ));
    }
    if args.cache == Some(true) && args.no_cache == Some(true) {
        problems.push(Problem::new("--cache and --no-cache exclude each other"));
    }

    let cache = cache::cache(args, environment, &destinations, problems);
    let places = cache.from.iter().chain(cache.to.iter().map(|target| &target.place));
    let layouts: BTreeSet<&PathBuf> =
        places.filter_map(|place| if let CachePlace::Layout(path) = place { Some(path) } else { None }).collect();
    for path in layouts.into_iter().filter(|path| lies_inside(path)) {
        let message = format!("the cache {} lies in the context: name it in .dockerignore", path.display());
        notes.push(Note::Warning(message));
    }

    let request = BuildRequest {
        context: context.source,
        context_directory: context.below,
        dockerfile,
        build_args: build_args(args, environment, problems),
        target: target(args, problems),
        labels: gather(problems, &args.label, "--label", pair).into_iter().collect(),
        platform: platform(args, problems).unwrap_or_else(|| environment.platform.clone()),
        config_platform: if args.platform.is_some() { ConfigPlatform::Request } else { ConfigPlatform::Base },
        push: !no_push,
        destinations,
        exports,
        build_contexts: build_contexts(args, environment, problems),
        secrets: secrets(args, environment, problems),
        ssh: agents(args, environment, problems),
        allowed: gather(problems, &args.allow, "--allow", entitlement).into_iter().flatten().collect(),
        source_date_epoch: source_date_epoch(args, environment, problems),
        cache,
        use_cache: if args.cache.unwrap_or(true) && !args.no_cache.unwrap_or(false) { CacheUse::On } else { CacheUse::WriteOnly },
        cache_mounts: args
            .cache_mounts
            .as_deref()
            .and_then(|text| note_problem(cache_mounts::read(text, environment), "--cache-mounts", problems)),
        max_unpacked_bytes: max_unpacked_bytes(args, problems),
        compression: compression(args, problems),
        // Kaniko's default is -1, and 0 is no level of its either.
        compression_level: args.compression_level.filter(|level| *level > 0),
        jobs: args.jobs,
        step_timeout_seconds: step_timeout_seconds(args, problems),
    };
    Invocation {
        call,
        request,
        dockerfile_candidates,
        registry: registry::registry(args, environment, problems),
        state_candidates,
        cache_directories: cache_directories(args, environment),
        keep_bytes: args
            .cache_keep_storage
            .as_deref()
            .and_then(|text| note_problem(size_bytes(text), "--cache-keep-storage", problems)),
        isolation: args.isolation.unwrap_or_default(),
        result_files: result_files(args, environment, problems),
        log,
        notes,
        print_request: args.print_request.unwrap_or(false),
    }
}

fn dockerfile(
    args: &BuildArgs,
    environment: &Environment,
    context: &Place,
    problems: &mut Vec<Problem>,
) -> (DockerfileSource, Vec<PathBuf>) {
    let path = match &args.dockerfile {
        Some(path) if path.as_os_str() == "-" => {
            if context.source == ContextSource::Input {
                problems.push(Problem::new("the Dockerfile and the context cannot both come from standard input"));
            }
            // The text is read by whoever acts on this.
            return (DockerfileSource::Inline { name: "-".to_owned(), text: String::new() }, Vec::new());
        }
        Some(path) => {
            let text = path.to_string_lossy();
            if text.starts_with("http://") || text.starts_with("https://") {
                return (DockerfileSource::Url(text.into_owned()), Vec::new());
            }
            Some(path)
        }
        None => None,
    };
    let candidates = match (path, context.directory()) {
        // A context that is elsewhere is looked into when it is here.
        (None, None) => return (DockerfileSource::Path("Dockerfile".into()), Vec::new()),
        (Some(path), None) => return (DockerfileSource::Path(path.clone()), Vec::new()),
        (None, Some(context)) => vec![context.join("Dockerfile")],
        (Some(path), Some(_)) if path.is_absolute() => vec![path.clone()],
        (Some(path), Some(context)) => vec![environment.absolute(path), context.join(path)],
    };
    (DockerfileSource::Path(candidates[0].clone()), candidates)
}

/// The directories in which state may live, best first. Defaults inside the context are left out: they would be copied.
fn state_candidates(args: &BuildArgs, environment: &Environment, context: Option<&Path>) -> Vec<StateCandidate> {
    if let Some(path) = &args.state_dir {
        return vec![StateCandidate { inside: None, path: environment.absolute(path), asked_for: true }];
    }
    let mut candidates = Vec::new();
    if let Some(path) = environment.get("COFFERDAM_STATE") {
        candidates.push(StateCandidate { inside: None, path: environment.absolute(Path::new(path)), asked_for: true });
    }
    if let Some(directory) = &args.cache_dir {
        let inside = environment.absolute(directory);
        let path = inside.join(STORE_IN_CACHE);
        candidates.push(StateCandidate { inside: Some(inside), path, asked_for: false });
    }
    let mut add = |inside: Option<PathBuf>, path: PathBuf| candidates.push(StateCandidate { inside, path, asked_for: false });
    let variable = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = variable("KANIKO_DIR") {
        add(None, path.join("cofferdam"));
    }
    if let Some(path) = variable("XDG_CACHE_HOME") {
        add(None, path.join("cofferdam"));
    }
    for root in ["/cache", "/workspace"].map(PathBuf::from) {
        add(Some(root.clone()), root.join("cofferdam"));
    }
    // After the volumes: in a pod the home directory lies on the container's own overlay, where no other can be mounted.
    if let Some(home) = variable("HOME").filter(|home| home != Path::new("/")) {
        add(Some(home.clone()), home.join(".cache/cofferdam"));
    }
    for root in variable("TMPDIR").into_iter().chain([PathBuf::from("/tmp")]) {
        add(Some(root.clone()), root.join(format!("cofferdam-{}", environment.user_id)));
    }
    candidates.retain(|candidate| candidate.asked_for || !context.is_some_and(|context| candidate.path.starts_with(context)));
    candidates
}

/// The path as it reads if no link leads elsewhere: enough for a warning.
fn without_parents(path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(found.pop()),
            other => found.push(other),
        }
    }
    found
}

/// Where in `--cache-dir` the store is: Kaniko's may lie beside it.
const STORE_IN_CACHE: &str = "cofferdam";

/// What `cofferdam warm` has filled, perhaps on a volume that can only be read.
fn cache_directories(args: &BuildArgs, environment: &Environment) -> Vec<PathBuf> {
    let directory = args.cache_dir.as_deref().unwrap_or(Path::new("/cache"));
    vec![environment.absolute(directory).join(STORE_IN_CACHE)]
}

fn build_args(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let given = args.build_arg.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        // A variable that is set to nothing is passed; one that is not set is not.
        None => environment.variables.get(text).map(|value| (text.clone(), value.clone())),
    });
    let given: BTreeMap<String, String> = given.collect();
    if given.contains_key("") || args.build_arg.iter().any(String::is_empty) {
        problems.push(Problem::with_hint("--build-arg without a name", "write --build-arg NAME=VALUE"));
    }
    given
}

fn target(args: &BuildArgs, problems: &mut Vec<Problem>) -> Option<String> {
    if args.target.len() > 1 {
        problems
            .push(Problem::with_hint("one build makes one target", "build each --target on its own: what they share is cached"));
    }
    args.target.first().filter(|target| !target.is_empty()).cloned()
}

fn platform(args: &BuildArgs, problems: &mut Vec<Problem>) -> Option<Platform> {
    let text = args.platform.as_deref()?;
    if text.contains(',') {
        problems.push(Problem::with_hint("one build makes an image for one platform", "build each --platform on its own"));
        return None;
    }
    note_problem(text.parse().map_err(chain), "--platform", problems)
}

fn build_contexts(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> BTreeMap<String, ContextSource> {
    let read = |text: &str| {
        let (name, location) = named_pair(text)?;
        Ok((name, location::named(&location, environment)?))
    };
    gather(problems, &args.build_context, "--build-context", read).into_iter().collect()
}

fn secrets(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for (id, source) in gather(problems, &args.secret, "--secret", |text| secret(text, environment)) {
        if secrets.insert(id.clone(), source).is_some() {
            problems.push(Problem::new(format!("--secret: the id {id:?} is given twice")));
        }
    }
    secrets
}

/// Reads `id=ID[,src|source=FILE][,env=VARIABLE][,type=file|env]`, as buildx does.
fn secret(text: &str, environment: &Environment) -> Result<(String, SecretSource), String> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        match field.split_once('=').ok_or_else(|| format!("{field:?} is not of the form KEY=VALUE"))? {
            ("id", value) => id = Some(value),
            ("src" | "source", value) => file = Some(value),
            ("env", value) => variable = Some(value),
            ("type", value @ ("file" | "env")) => kind = Some(value),
            (key, value) => return Err(format!("unexpected {key}={value}")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("the id is missing")?;
    // With type=env, `src` names the variable.
    let (file, variable) = if kind == Some("env") { (None, variable.or(file).or(Some(id))) } else { (file, variable) };
    let source = match (file, variable) {
        (Some(_), Some(_)) => return Err("src and env exclude each other".to_owned()),
        (Some(file), None) => SecretSource::File(environment.absolute(Path::new(file))),
        (None, Some(variable)) => {
            let value = environment.variables.get(variable).ok_or_else(|| format!("the variable {variable} is not set"))?;
            SecretSource::Value(Secret::new(value.clone()))
        }
        (None, None) => match environment.variables.get(id).filter(|_| kind.is_none()) {
            Some(value) => SecretSource::Value(Secret::new(value.clone())),
            None => SecretSource::File(environment.absolute(Path::new(id))),
        },
    };
    Ok((id.to_owned(), source))
}

fn agents(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> BTreeMap<String, PathBuf> {
    let mut agents = BTreeMap::new();
    for (id, socket) in gather(problems, &args.ssh, "--ssh", |text| agent(text, environment)) {
        if agents.insert(id.clone(), socket).is_some() {
            problems.push(Problem::new(format!("--ssh: the id {id:?} is given twice")));
        }
    }
    agents
}

/// Reads `default` or `ID[=SOCKET]`, as buildx does; what it also takes are files with keys.
fn agent(text: &str, environment: &Environment) -> Result<(String, PathBuf), String> {
    let (id, socket) = text.split_once('=').map_or((text, None), |(id, socket)| (id, Some(socket)));
    if id.is_empty() {
        return Err("the id is missing".to_owned());
    }
    match socket.or_else(|| environment.get("SSH_AUTH_SOCK")) {
        None | Some("") => Err(format!("there is no agent for {text:?}: SSH_AUTH_SOCK is not set")),
        Some(sockets) if socket.is_some() && sockets.contains(',') => {
            Err("one agent for an id: load all keys into it with ssh-add".to_owned())
        }
        Some(socket) => Ok((id.to_owned(), environment.absolute(Path::new(socket)))),
    }
}

/// Reads what `--allow` allows; nothing if it is allowed anyway.
fn entitlement(text: &str) -> Result<Option<Entitlement>, String> {
    match text {
        "security.insecure" => Ok(Some(Entitlement::SecurityInsecure)),
        "network.host" => Ok(None),
        _ => Err(format!("{text:?} is neither security.insecure nor network.host")),
    }
}

fn source_date_epoch(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> Option<i64> {
    let reproducible = args.reproducible.unwrap_or(false).then_some(0);
    let Some(text) = environment.get("SOURCE_DATE_EPOCH") else { return reproducible };
    let epoch = text.trim().parse().map_err(|_| format!("{text:?} is no number of seconds"));
    note_problem(epoch, "SOURCE_DATE_EPOCH", problems)
}

fn compression(args: &BuildArgs, problems: &mut Vec<Problem>) -> Compression {
    match args.compression {
        None | Some(CompressionChoice::Gzip) => Compression::Gzip,
        Some(CompressionChoice::Uncompressed) => Compression::Uncompressed,
        Some(CompressionChoice::Zstd) => {
            // As Kaniko.
            if args.tar_path.is_some() {
                problems.push(Problem::with_hint(
                    "--compression=zstd and --tar-path exclude each other: `docker load` expects gzip or none",
                    "write an OCI layout with --oci-layout-path",
                ));
            }
            Compression::Zstd
        }
    }
}

fn max_unpacked_bytes(args: &BuildArgs, problems: &mut Vec<Problem>) -> u64 {
    let Some(text) = args.max_unpacked_size.as_deref() else { return DEFAULT_MAX_UNPACKED_BYTES };
    match note_problem(size_bytes(text), "--max-unpacked-size", problems) {
        Some(0) => u64::MAX,
        size => size.unwrap_or(DEFAULT_MAX_UNPACKED_BYTES),
    }
}

fn step_timeout_seconds(args: &BuildArgs, problems: &mut Vec<Problem>) -> Option<u64> {
    note_problem(duration_seconds(args.run_timeout.as_deref()?), "--run-timeout", problems)
}

/// Reads `90`, `90s`, `30m`, `2h`, `1h30m`: at least a second.
fn duration_seconds(text: &str) -> Result<u64, String> {
    let parts = text.split_inclusive(|character: char| !character.is_ascii_digit()).map(|part| {
        let digits = part.trim_end_matches(|character: char| !character.is_ascii_digit());
        let factor = match &part[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor)
    });
    let seconds = parts.reduce(|sum, part| sum?.checked_add(part?)).flatten();
    match seconds {
        Some(0) => Err(format!("{text:?} is no time at all: leave the flag out for no limit")),
        _ => seconds.ok_or_else(|| format!("{text:?} is no duration, as 90s, 30m or 2h are")),
    }
}

/// Reads `500`, `500k`, `500MB`, `2GiB`: letters alone and with `iB` are powers of 1024, with `B` powers of 1000.
fn size_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim().to_ascii_lowercase();
    let (letter, base) = match unit.as_str() {
        "" | "b" => ("", 1),
        unit => match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b').is_none().then_some(unit)) {
            Some(letter) => (letter, 1024),
            None => (unit.strip_suffix('b').unwrap_or(unit), 1000),
        },
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == letter);
    let number: Option<u64> = text[..digits].parse().ok();
    let bytes = number.zip(power).and_then(|(number, power)| number.checked_mul(u64::pow(base, u32::try_from(power).ok()?)));
    bytes.ok_or_else(|| format!("{text:?} is no size, as 500MiB or 20G are"))
}

fn result_files(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> ResultFiles {
    let mut file = |path: &Option<PathBuf>, flag: &str| {
        let path = path.as_ref()?;
        if path.to_string_lossy().starts_with("https://") {
            problems.push(Problem::with_hint(
                format!("{flag} takes a file; nothing is sent to an address"),
                "write a file and send it with curl",
            ));
        }
        Some(environment.absolute(path))
    };
    ResultFiles {
        digest: file(&args.digest_file, "--digest-file"),
        name_with_digest: file(&args.image_name_with_digest_file, "--image-name-with-digest-file"),
        name_tag_with_digest: file(&args.image_name_tag_with_digest_file, "--image-name-tag-with-digest-file"),
    }
}

fn switched_on(environment: &Environment, variable: &str, problems: &mut Vec<Problem>) -> bool {
    match environment.get(variable).unwrap_or("false").to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => true,
        "0" | "f" | "false" => false,
        _ => {
            problems.push(Problem::new(format!("{variable} is neither true nor false")));
            false
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form NAME=VALUE")),
    }
}

fn named_pair(text: &str) -> Result<(String, String), String> {
    pair(text).and_then(|(name, value)| if value.is_empty() { Err(format!("{text:?} has no value")) } else { Ok((name, value)) })
}

/// Reads each value of a repeated flag, putting what cannot be read among the problems.
fn gather<T>(problems: &mut Vec<Problem>, texts: &[String], flag: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    texts.iter().filter_map(|text| note_problem(read(text), flag, problems)).collect()
}

fn note_problem<T>(read: Result<T, String>, flag: &str, problems: &mut Vec<Problem>) -> Option<T> {
    read.map_err(|message| problems.push(Problem::new(format!("{flag}: {message}")))).ok()
}

/// An error with its causes on one line.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
