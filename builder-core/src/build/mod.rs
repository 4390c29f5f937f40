//! A build, from a request to an image.
//!
//! The story: read the Dockerfile and plan ([`crate::plan`]) → start the needed stages, side by side (`stage.rs`) → each
//! begins with its base (`base.rs`) and goes through its instructions: COPY, ADD and WORKDIR on values (`copy.rs`), RUN in an
//! isolation (`run.rs`, `mounts.rs`), files from elsewhere (`fetch.rs`), results of earlier builds where the key of a step is known
//! (`cached.rs`, `explain.rs`); what layers add up to is found out when somebody asks (`trees.rs`) → the last stage becomes the
//! image, which goes to its destinations (`publish.rs`). Finished layers are uploaded while later steps run.
//!
//! This is the only module that knows all others.

mod agent;
mod base;
mod cache_mounts;
mod cached;
mod check;
mod contents;
mod copy;
mod error;
mod events;
mod explain;
mod fetch;
mod mounts;
mod publish;
mod readings;
mod request;
mod run;
mod stage;
mod trees;
mod warm;
mod work;

pub use check::{Checked, Definition, read_definition};
pub use error::{BuildError, ErrorKind, Place};
pub use events::{Event, LayerSummary, StepId, StepOutcome, Stream};
pub use publish::Pushed;
pub use request::{
    BuildRequest, CacheLayers, CacheMounts, CacheMountsPlace, CachePlace, CacheRequest, CacheTarget, CacheUse, ConfigPlatform,
    ContextSource, DockerfileSource, Entitlement, Export, SecretSource,
};
pub use warm::{WarmRequest, Warmed, WarmedLayers, warm};

use crate::cache::{DirectoryCache, LayerCache};
use crate::confined::ConfinedDir;
use crate::context::git::Git;
use crate::context::{self, Context};
use crate::dockerfile::{self, Dockerfile, Instruction, ParseError};
use crate::http;
use crate::image::{Image, Layer};
use crate::isolation::{CancelToken, Isolation, Kind, Refused};
use crate::layer::read::Limits;
use crate::oci::{DiffId, Digest, ImageConfig, Platform};
use crate::plan::{self, Plan};
use crate::registry;
use crate::rootfs::LoneLayer;
use crate::store::{Store, Workspace};
use crate::tree::{Timestamp, Tree, TreePath};
use base::{Bases, Keep};
use cache_mounts::UsedCaches;
use cached::Caches;
use contents::Contents;
use fetch::{Fetch, Files};
use futures_util::{StreamExt as _, future::try_join_all, stream};
use mounts::MountSources;
use publish::Publisher;
use stage::StageState;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Read,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit, mpsc};
use work::Work;

/// Layers of bases that are downloaded at a time.
const MAX_DOWNLOADS: usize = 4;

/// The largest Dockerfile that is read.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// BuildKit's build argument that keeps `.git` in a context that is a repository.
const KEEP_GIT_DIRECTORY: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Gives the isolation for RUN; asked once, when the first RUN is executed.
pub type OpenIsolation = dyn Fn() -> Result<Arc<dyn Isolation>, Refused> + Send + Sync;

/// Opens what [`ContextSource::Input`] stands for; asked once.
pub type OpenInput = dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Send + Sync;

/// The media that a build works with.
#[derive(Clone)]
pub struct Backends {
    /// What this machine keeps between builds.
    pub store: Store,
    /// The registries, with credentials and mirrors.
    pub registry: registry::Client,
    /// Web servers.
    pub http: http::Client,
    /// How Git repositories are fetched.
    pub git: Git,
    /// The standard input of a command, say.
    pub input: Arc<OpenInput>,
    /// How RUN is executed.
    pub isolation: Arc<OpenIsolation>,
    /// Where results of steps are remembered.
    pub cache: Arc<dyn LayerCache>,
    /// Content of `/etc/resolv.conf` during RUN.
    pub resolv_conf: Vec<u8>,
    /// Stops one build from outside, perhaps with a signal for its commands before it is dropped. It is cancelled when the build
    /// has ended.
    pub cancel: Option<CancelToken>,
}

impl Backends {
    /// The defaults: results are remembered in `store`, RUN gets the strongest isolation that this host grants, web servers are
    /// spoken to as the registries are, `git` is where it usually is, and there is no input.
    pub fn new(store: Store, registry: registry::Client) -> Self {
        let cache = Arc::new(DirectoryCache::new(store.clone()));
        let directory = store.root().to_owned();
        let isolation = Arc::new(move || run::open_isolation(&directory, None));
        let http = registry.plain_http().clone();
        let input = Arc::new(|| Err(std::io::Error::other("nobody gave an input to read it from")));
        let resolv_conf = run::host_resolv_conf();
        Self { store, registry, http, git: Git::default(), input, isolation, cache, resolv_conf, cancel: None }
    }

    /// The same with this isolation, or none if the host refuses it.
    #[must_use]
    pub fn isolated_by(self, kind: Kind) -> Self {
        let directory = self.store.root().to_owned();
        Self { isolation: Arc::new(move || run::open_isolation(&directory, Some(kind))), ..self }
    }
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The digest of the image: of its manifest.
    pub digest: Digest,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Of manifest, config and layers.
    pub size_bytes: u64,
    /// What the destinations got.
    pub pushed: Vec<Pushed>,
}

/// One build in progress.
struct Build {
    request: BuildRequest,
    dockerfile: Dockerfile,
    /// What messages call the Dockerfile.
    file_name: String,
    plan_options: plan::Options,
    /// Grows when the base of a stage turns out to have triggers that need further stages.
    plan: Mutex<Arc<Plan>>,
    store: Store,
    caches: Caches,
    registry: registry::Client,
    http: http::Client,
    git: Arc<Git>,
    input: Arc<OpenInput>,
    isolation: OnceCell<Arc<dyn Isolation>>,
    isolation_told: OnceCell<()>,
    open_isolation: Arc<OpenIsolation>,
    resolv_conf: Vec<u8>,
    /// A little before the build began: the clock of a file system may lag behind.
    started: Timestamp,
    events: mpsc::Sender<Event>,
    contents: Arc<Contents>,
    contexts: BTreeMap<Option<String>, OnceCell<Files>>,
    bases: Bases,
    mount_sources: MountSources,
    used_caches: UsedCaches,
    /// By their index in the Dockerfile; those that nobody asks for stay empty.
    stages: Vec<OnceCell<Arc<StageState>>>,
    /// Where each layer can be had.
    layers: Mutex<HashMap<DiffId, Layer>>,
    /// Layers of which a shared cache has said what they hold.
    hearsay: Mutex<BTreeSet<DiffId>>,
    downloads: Semaphore,
    /// What will be done with the blobs of layers, as far as it is known.
    wanted: Mutex<HashMap<DiffId, Keep>>,
    /// Blobs that were fetched or are on their way.
    pulls: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    /// Layers to fetch before anybody waits for them.
    ahead: mpsc::UnboundedSender<DiffId>,
    awaited: Mutex<Option<mpsc::UnboundedReceiver<DiffId>>>,
    jobs: Semaphore,
    /// Layers that were unpacked while they were downloaded, until a step needs them.
    lone_layers: Mutex<HashMap<DiffId, base::Unpacking<LoneLayer>>>,
    publisher: Publisher,
    /// Declared before the workspace: threads that write to it end before it is removed.
    work: Work,
    workspace: Arc<Workspace>,
}

/// Builds an image and puts it where the request says.
///
/// Events go to `events` as they happen; the receiver has to be read while the build runs, or dropped. Dropping the
/// future cancels the build: its processes are killed (with [`Backends::cancel`] they get a signal first), its threads end and
/// its files are removed before the drop returns.
///
/// Needs a tokio runtime with time and I/O enabled.
///
/// # Errors
/// [`BuildError`], which says who can mend it. Nothing is pushed that names a failed build.
pub async fn build(request: BuildRequest, backends: Backends, events: mpsc::Sender<Event>) -> Result<Outcome, BuildError> {
    // On the heap: whoever embeds a build holds its future on the stack.
    let mut build = Box::pin(Build::prepare(request, backends, events)).await?;
    let plan = build.plan();
    let steps = plan.stages.keys().map(|index| build.dockerfile.stages[*index].instructions.len() + 1).sum();
    build.tell(Event::Planned { stages: plan.stages.len(), steps }).await;
    build.refuse_warnings().await?;
    let outcome = loop {
        let outcome = Box::pin(build.run_stages(&plan)).await;
        if outcome.is_ok() || !build.begin_anew() {
            break outcome;
        }
    };
    // What a failed build has done is not done again either.
    build.remember_all(outcome.as_ref().ok()).await;
    // Of a failed build as well: a warning may say why it failed.
    build.tell_warnings().await;
    outcome
}

impl Build {
    async fn prepare(
        mut request: BuildRequest,
        backends: Backends,
        events: mpsc::Sender<Event>,
    ) -> Result<Box<Self>, BuildError> {
        run::check_host_name(&request.build_args)?;
        let work = backends.cancel.map_or_else(Work::new, |cancel| Ok(Work::under(cancel)))?;
        let store = backends.store;
        let opening = store.clone();
        let workspace = Arc::new(work.run(move || opening.workspace().map_err(BuildError::store)).await?);
        let limits = Limits { uncompressed_bytes: request.max_unpacked_bytes, ..Limits::default() };
        let contents = Arc::new(Contents::new(store.clone(), workspace.path().to_owned(), limits, work.cancel_token()));
        let git = Arc::new(backends.git);
        let fetch = Fetch {
            http: &backends.http,
            git: &git,
            input: &backends.input,
            store: &store,
            contents: &contents,
            work: &work,
            workspace: workspace.path(),
            secrets: &request.secrets,
            limit_bytes: request.max_unpacked_bytes,
        };
        let context = fetch.context_elsewhere(&request, &events).await?;
        let (file_name, dockerfile) = fetch.dockerfile(&request, context.as_deref()).await?;
        let options = plan_options(&request);
        let mut plan = plan::plan(&dockerfile, &options)
            .map_err(|mistakes| BuildError::mistakes(&file_name, &dockerfile.source, mistakes))?;
        if request.source_date_epoch.is_none()
            && let Some(text) =
                request.build_args.get(EPOCH).or_else(|| plan.global_args.get(EPOCH)).filter(|text| !text.is_empty())
        {
            let seconds = epoch(text, &request, &dockerfile, context.as_deref())?;
            // Steps see the time and not where it came from.
            let seen = seconds.map(|seconds| seconds.to_string()).unwrap_or_default();
            match request.build_args.get_mut(EPOCH) {
                Some(given) => *given = seen,
                None => drop(plan.global_args.insert(EPOCH.to_owned(), seen)),
            }
            request.source_date_epoch = seconds;
        }
        let named = request.build_contexts.keys().map(|name| (Some(name.clone()), OnceCell::new()));
        let own = OnceCell::new_with(context.map(Files::Tree));
        let contexts = std::iter::once((None, own)).chain(named).collect();
        let stages = dockerfile.stages.iter().map(|_| OnceCell::new()).collect();
        let destinations = if request.push { request.destinations.as_slice() } else { &[] };
        let jobs = request.jobs;
        let publisher = Publisher::new(backends.registry.clone(), store.clone(), destinations, events.clone());
        let caches = Caches::open(&request, backends.cache, &backends.registry, &store);
        let (ahead, awaited) = mpsc::unbounded_channel();
        Ok(Box::new(Self {
            request,
            dockerfile,
            file_name,
            plan_options: options,
            plan: Mutex::new(Arc::new(plan)),
            store,
            caches,
            registry: backends.registry,
            http: backends.http,
            git,
            input: backends.input,
            isolation: OnceCell::new(),
            open_isolation: backends.isolation,
            resolv_conf: backends.resolv_conf,
            started: Timestamp::from_seconds(seconds_since_epoch() - 1),
            events,
            contents,
            contexts,
            bases: Bases::default(),
            mount_sources: MountSources::default(),
            used_caches: UsedCaches::default(),
            stages,
            layers: Mutex::default(),
            hearsay: Mutex::default(),
            downloads: Semaphore::new(MAX_DOWNLOADS),
            wanted: Mutex::default(),
            pulls: Mutex::default(),
            ahead,
            awaited: Mutex::new(Some(awaited)),
            jobs: Semaphore::new(jobs.map_or(Semaphore::MAX_PERMITS, |jobs| jobs.get().min(Semaphore::MAX_PERMITS))),
            lone_layers: Mutex::default(),
            isolation_told: OnceCell::new(),
            publisher,
            work,
            workspace,
        }))
    }

    async fn run_stages(&self, plan: &Plan) -> Result<Outcome, BuildError> {
        let build = async {
            try_join_all(plan.stages.keys().map(|index| self.stage(*index))).await?;
            self.finish(&*self.stage(plan.target).await?).await
        };
        tokio::select! {
            outcome = build => outcome,
            () = self.fetch_ahead() => unreachable!("the build itself holds the channel open"),
        }
    }

    /// Prepares to go through all stages once more, if a cache has not kept its word: what was done meanwhile is known then.
    fn begin_anew(&mut self) -> bool {
        if !self.caches.begin_anew() {
            return false;
        }
        self.stages.iter_mut().for_each(|stage| *stage = OnceCell::new());
        self.publisher.forget_uploads();
        self.pulls.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let (ahead, awaited) = mpsc::unbounded_channel();
        (self.ahead, self.awaited) = (ahead, Mutex::new(Some(awaited)));
        true
    }

    /// Fetches and asks what will be needed, until the build ends.
    async fn fetch_ahead(&self) {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner).take();
        let layers = stream::unfold(awaited, async |awaited| {
            let mut awaited = awaited?;
            Some((awaited.recv().await?, Some(awaited)))
        });
        // Whoever needs one is told what is wrong with it.
        let fetch = async |layer| drop(self.need_blob(layer).await);
        tokio::join!(layers.for_each_concurrent(None, fetch), self.read_caches(), self.look_for_images());
    }

    /// The last stage becomes the image.
    async fn finish(&self, result: &StageState) -> Result<Outcome, BuildError> {
        let mut config = result.state.config.clone();
        config.config.labels.extend(self.request.labels.clone());
        if self.request.config_platform == ConfigPlatform::Request {
            let Platform { os, architecture, variant } = self.request.platform.clone();
            (config.os, config.architecture, config.variant) = (os, architecture, variant);
        }
        if config.created.is_none() {
            config.created = Some(self.now_text());
        }
        self.write_inline_cache(&mut config, &result.layers);
        let image = Image { config, layers: result.layers.clone() };
        let assembled = image.assemble();
        let blobs = assembled.manifest.layers.iter().map(|layer| layer.size_bytes).sum::<u64>();
        let (config, layers, digest) = (image.config.clone(), image.layers.clone(), assembled.descriptor.digest);
        let size_bytes = blobs + assembled.manifest.config.size_bytes + assembled.descriptor.size_bytes;
        let pushed = self.publish(image, assembled).await?;
        self.export_caches().await;
        Ok(Outcome { digest, config, layers, size_bytes, pushed })
    }

    /// The files of a context, opened when they are first asked for. Without a name it is the build's own.
    async fn context(&self, name: Option<String>) -> Result<Files, BuildError> {
        let cell =
            self.contexts.get(&name).ok_or_else(|| BuildError::new(ErrorKind::Internal, "a context that was not planned"))?;
        let source = match &name {
            None => &self.request.context,
            Some(name) => &self.request.build_contexts[name],
        };
        let is_file = |path: &Path| name.is_some() && path.is_file();
        let open = async || match source {
            // As buildx: a named context may be a tar.
            ContextSource::Directory(path) if is_file(path) => {
                self.fetch().open(&ContextSource::Archive(path.clone()), None, "context").await.map(Files::Tree)
            }
            ContextSource::Directory(directory) => {
                let dockerfile = match &self.request.dockerfile {
                    DockerfileSource::Path(path) if name.is_none() => Some(path.clone()),
                    _ => None,
                };
                let (contents, directory) = (self.contents.clone(), directory.clone());
                self.work.run(move || open_directory(&contents, &directory, dockerfile.as_deref())).await
            }
            ContextSource::Empty => {
                Err(BuildError::new(ErrorKind::Context, "this build has no context to copy from").hint("name one with --context"))
            }
            elsewhere => {
                let url = if let ContextSource::Url(text) = elsewhere { http::Url::parse(text).ok() } else { None };
                let lone = url.map(|url| String::from_utf8_lossy(&fetch::name_of(&url)).into_owned());
                self.fetch().open(elsewhere, None, lone.as_deref().unwrap_or("context")).await.map(Files::Tree)
            }
        };
        cell.get_or_try_init(open).await.cloned()
    }

    /// What is to be built, as far as it is known.
    fn plan(&self) -> Arc<Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what the triggers of a base image need.
    fn plan_triggers(&self, index: usize, triggers: &[Instruction]) -> Result<(), Vec<ParseError>> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan = Arc::new(Plan::clone(&plan).with_triggers(&self.dockerfile, &self.plan_options, index, triggers)?);
        Ok(())
    }

    /// Waits until a step may work. Whoever holds this waits for no other stage, so that the one it would wait for may work.
    async fn job(&self) -> SemaphorePermit<'_> {
        self.jobs.acquire().await.expect("it is never closed")
    }

    /// Tells an event. Nobody has to listen.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// `SOURCE_DATE_EPOCH`, as a config writes it.
    fn epoch_text(&self) -> Option<String> {
        self.request.source_date_epoch.map(rfc3339)
    }

    /// The time of what is made now: never later than `SOURCE_DATE_EPOCH`.
    fn now_text(&self) -> String {
        self.epoch_text().unwrap_or_else(|| rfc3339(seconds_since_epoch()))
    }
}

fn plan_options(request: &BuildRequest) -> plan::Options {
    plan::Options {
        build_args: request.build_args.clone(),
        target: request.target.clone(),
        target_platform: request.platform.clone(),
        build_platform: Platform::linux_amd64(),
        contexts: request.build_contexts.keys().cloned().collect(),
    }
}

/// The variable of reproducible builds.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The name of the build's own context, where [`EPOCH`] may name one.
const OWN_CONTEXT: &str = "context";

/// What [`EPOCH`] says: a number, or the name of the context that has the time. That of a Git repository is the commit's; a
/// directory of this machine has none.
fn epoch(text: &str, request: &BuildRequest, dockerfile: &Dockerfile, context: Option<&Tree>) -> Result<Option<i64>, BuildError> {
    if let Ok(seconds) = text.parse() {
        return Ok(Some(seconds));
    }
    let refused = |message| {
        let failure = BuildError::new(ErrorKind::Request, message);
        Err(failure.hint("it is a number: seconds since 1970-01-01 UTC"))
    };
    let is_own = text == OWN_CONTEXT;
    let names_text = |stage: &dockerfile::Stage| stage.name.as_ref().is_some_and(|name| name.name.eq_ignore_ascii_case(text));
    match if is_own { Some(&request.context) } else { request.build_contexts.get(text) } {
        Some(ContextSource::Directory(path)) if !path.is_file() => Ok(None),
        Some(ContextSource::Empty) => Ok(None),
        // All files of a repository have the time of the commit.
        Some(ContextSource::Git(_)) if is_own => Ok(context.and_then(|tree| Some(tree.get(&TreePath::root())?.mtime.seconds))),
        None if !dockerfile.stages.iter().any(names_text) => refused(format!("{EPOCH} is {text:?}")),
        _ => refused(format!("{EPOCH} is {text:?}, and the time of what this names is not supported")),
    }
}

fn seconds_since_epoch() -> i64 {
    seconds_of(std::time::SystemTime::now())
}

fn seconds_of(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A directory of this machine as a context.
fn open_directory(contents: &Contents, directory: &Path, dockerfile: Option<&Path>) -> Result<Files, BuildError> {
    let failed = || BuildError::new(ErrorKind::Context, format!("cannot use the context {}", directory.display()));
    let rules = context::find_rules(directory, dockerfile).map_err(|error| failed().because(error))?;
    let id = contents.add_directory(ConfinedDir::open(directory).map_err(|error| failed().because(error))?);
    let context = Context::directory(directory, rules, id).map_err(|error| failed().because(error))?;
    Ok(Files::Context(Arc::new(context)))
}

impl Fetch<'_> {
    /// The context of the build, if it is neither a directory nor missing.
    async fn context_elsewhere(
        &self,
        request: &BuildRequest,
        events: &mpsc::Sender<Event>,
    ) -> Result<Option<Arc<Tree>>, BuildError> {
        let mut source = request.context.clone();
        match &mut source {
            ContextSource::Directory(_) | ContextSource::Empty => return Ok(None),
            ContextSource::Git(source) => {
                let keep = request.build_args.get(KEEP_GIT_DIRECTORY).map(String::as_str);
                source.keep_git_directory |= matches!(keep, Some("1" | "true"));
            }
            _ => {}
        }
        let tree = self.open(&source, request.context_directory.as_deref(), "Dockerfile").await?;
        if tree.get(&TreePath::clamp(".dockerignore")).is_some() {
            let message = "the .dockerignore of the context is not applied: that counts for directories only".to_owned();
            // Nobody has to listen.
            let _ = events.send(Event::Warning { message, place: None }).await;
        }
        Ok(Some(tree))
    }

    /// What the Dockerfile is called, and what is in it.
    async fn dockerfile(&self, request: &BuildRequest, context: Option<&Tree>) -> Result<(String, Dockerfile), BuildError> {
        let (name, bytes) = match &request.dockerfile {
            DockerfileSource::Inline { name, text } => (name.clone(), text.clone().into_bytes()),
            DockerfileSource::Url(text) => {
                let url = http::Url::parse(text);
                let url = url.map_err(|_| BuildError::new(ErrorKind::Request, "the address of the Dockerfile is no URL"))?;
                let download = self.download(&url, None).await?;
                let store = self.store.clone();
                let bytes = self.work.run(move || read_limited(&store.blob_path(&download.digest))).await?;
                (http::redacted(&url), bytes)
            }
            DockerfileSource::Path(path) => {
                let found = match context {
                    Some(tree) => self.dockerfile_in(tree, path).await?,
                    None => None,
                };
                match (found, context) {
                    (Some(found), _) => found,
                    (None, Some(_)) if path.is_relative() => {
                        let message = format!("the context has no Dockerfile {}", path.display());
                        return Err(BuildError::new(ErrorKind::Context, message).hint("name it with --dockerfile"));
                    }
                    _ => {
                        let source = (path.clone(), request.context.clone());
                        self.work.run(move || find_dockerfile(&source.0, &source.1)).await?
                    }
                }
            }
        };
        let dockerfile = parse(&name, &bytes)?;
        Ok((name, dockerfile))
    }

    /// The Dockerfile in a context that is no directory of this machine. One that is named by a whole path may also be beside it.
    async fn dockerfile_in(&self, tree: &Tree, path: &Path) -> Result<Option<(String, Vec<u8>)>, BuildError> {
        use std::os::unix::ffi::OsStrExt as _;
        if path.is_absolute() && path.exists() {
            return Ok(None);
        }
        let mut places = vec![path.to_owned()];
        if path.file_name().is_some_and(|name| name == "Dockerfile") {
            places.push(path.with_file_name("dockerfile"));
        }
        for place in places {
            let inside = TreePath::clamp(place.as_os_str().as_bytes());
            if let Some(bytes) = self.text(tree, &inside, MAX_DOCKERFILE_BYTES).await? {
                return Ok(Some((inside.to_string().trim_start_matches('/').to_owned(), bytes)));
            }
        }
        Ok(None)
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<Dockerfile, BuildError> {
    dockerfile::parse_bytes(bytes).map_err(|mistakes| {
        let text: Arc<str> = String::from_utf8_lossy(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)).into();
        BuildError::mistakes(name, &text, mistakes)
    })
}

/// Looks for the Dockerfile on this machine.
fn find_dockerfile(path: &Path, context: &ContextSource) -> Result<(String, Vec<u8>), BuildError> {
    let mut places = vec![path.to_owned()];
    if let (ContextSource::Directory(directory), true) = (context, path.is_relative()) {
        places.push(directory.join(path));
    }
    // BuildKit's fallback.
    if path.file_name().is_some_and(|name| name == "Dockerfile") {
        places.extend(places.clone().iter().map(|place| place.with_file_name("dockerfile")));
    }
    let found = places.iter().find(|place| place.exists());
    if let (None, ContextSource::Directory(directory)) = (found, context)
        && !directory.is_dir()
    {
        let message = format!("the context {} is not a directory", directory.display());
        return Err(BuildError::new(ErrorKind::Context, message).hint("name it with --context"));
    }
    let found = found.map_or(path, |place| place);
    Ok((found.display().to_string(), read_limited(found)?))
}

fn read_limited(path: &Path) -> Result<Vec<u8>, BuildError> {
    let failed = |error: std::io::Error| {
        let error_kind = error.kind();
        let failure =
            BuildError::new(ErrorKind::Dockerfile, format!("cannot read the Dockerfile {}", path.display())).because(error);
        match error_kind {
            std::io::ErrorKind::NotFound => failure.hint("name it with --dockerfile, or the context with --context"),
            _ => failure,
        }
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_DOCKERFILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_DOCKERFILE_BYTES {
        return Err(BuildError::new(ErrorKind::Dockerfile, format!("the Dockerfile {} is larger than 16 MiB", path.display())));
    }
    Ok(bytes)
}
