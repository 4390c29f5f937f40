//! `RUN --mount`: what each mount shows, what of it counts in the key of the step, and what is there while the step runs.
//!
//! In two parts, because a RUN that is known from an earlier build needs nothing on disk: [`Build::find_mounts`] finds the
//! sources and digests them, on values; [`Build::attach`] puts them on disk, takes the directories of caches and reads the
//! secrets. Isolation mounts the result; dropping [`Attached`] gives everything back.

use super::{
    Build, BuildError, ErrorKind, Event,
    agent::{self, Agent},
    base::Keep,
    contents::Contents,
    copy::{found, threads},
    fetch,
    readings::{Recall, mount_key},
    request::SecretSource,
    run::{Disk, chain_of, on_disk},
    stage::CurrentStep,
    trees::LazyTree,
};
use crate::cache::{FileParts, KeyBuilder, Reading};
use crate::context::Context;
use crate::copy::{self, Selected, Selection};
use crate::dockerfile::{BindMount, CacheMount, Position, ResolvedMount, SecretMount, Sharing, SshMount, TmpfsMount, Word};
use crate::evaluate::RunAction;
use crate::image::Layer;
use crate::isolation::{Access, FileContent, Isolation, Mount, MountKind};
use crate::layer::read::Visitor as _;
use crate::layer::write::OpenContent as _;
use crate::oci::Digest;
use crate::plan::Source;
use crate::rootfs::{Owners, RootMount, Rootfs, RootfsError, Unpacker};
use crate::store::{self, CacheLease};
use crate::tree::{Change, ContentDigest, Entry, LayerIndex, Timestamp, Tree, TreePath};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The most that a secret may hold, as with BuildKit.
const MAX_SECRET_BYTES: u64 = 500 << 10;
/// The argument that sets the caches of a build apart from those of others.
const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// How often a cache is asked for that others use.
const CACHE_POLL: Duration = Duration::from_millis(100);
/// How long a step waits for a cache before it says so.
const CACHE_PATIENCE: Duration = Duration::from_secs(2);
/// The name under which files are put into a directory of their own to be mounted from there.
const SHOWN: &str = "source";

/// What the mounts of a build have put on disk, for later steps.
#[derive(Default)]
pub(super) struct MountSources {
    /// Roots of stages and images, by the layers in them.
    disks: Mutex<HashMap<Digest, Pending<Disk>>>,
    /// Files of contexts.
    copies: Mutex<BTreeMap<ContextPath, Pending<Rootfs>>>,
}

/// The name of a context, and a path in it.
type ContextPath = (Option<String>, TreePath);

/// Something that is being made, or was.
type Pending<T> = Arc<OnceCell<Arc<T>>>;

/// A mount whose source is found, with nothing on disk yet.
#[derive(Clone)]
pub(super) struct FoundMount {
    target: TreePath,
    kind: FoundKind,
}

#[derive(Clone)]
enum FoundKind {
    Bind { files: Files, access: Access },
    Cache(FoundCache),
    Tmpfs { size_bytes: Option<u64>, mode: u16, access: Access },
    Secret(SecretMount),
    Ssh(SshMount),
}

/// What is bound, or what a cache starts with.
#[derive(Clone)]
struct Files {
    from: From,
    /// None if an earlier build has read them, which is enough for a key.
    selection: Option<Selection>,
    digest: [u8; 32],
}

impl Files {
    fn selection(&self) -> Result<&Selection, BuildError> {
        self.selection.as_ref().ok_or_else(|| BuildError::new(ErrorKind::Internal, "files to mount were not read"))
    }
}

/// Where they come from.
#[derive(Clone)]
enum From {
    /// A stage or an image; what they have on disk already.
    Layers { layers: Vec<Layer>, disk: Option<Arc<Disk>> },
    Context {
        name: Option<String>,
        /// If it is one of this machine.
        directory: Option<Arc<Context>>,
    },
}

#[derive(Clone)]
struct FoundCache {
    /// For messages.
    id: String,
    /// Equal for all mounts that mean the same directory.
    name: Digest,
    sharing: store::Sharing,
    access: Access,
    /// What a new one holds.
    seed: Option<Files>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// The mounts of one step, ready for the isolation.
#[derive(Default)]
pub(super) struct Attached {
    /// In the order in which they have to be made.
    pub(super) mounts: Vec<Mount>,
    /// Variables that the step gets, which nobody else may see.
    pub(super) secrets: BTreeMap<OsString, OsString>,
    /// The first socket of an SSH agent, in the step.
    pub(super) agent_socket: Option<String>,
    /// What has to live as long as the step.
    kept: Vec<Kept>,
}

/// Something that a mount stands on.
enum Kept {
    Disk { _disk: Arc<Disk> },
    Root { _rootfs: Rootfs },
    Copy { _rootfs: Arc<Rootfs> },
    Cache { _lease: Arc<CacheLease> },
    Agent { _agent: Agent },
}

impl Build {
    /// Finds what the mounts of a RUN show.
    pub(super) async fn find_mounts(
        &self,
        step: &CurrentStep<'_>,
        action: &RunAction,
        recall: Recall,
    ) -> Result<Vec<FoundMount>, BuildError> {
        let mut found = Vec::new();
        let mut agents = 0;
        for mount in &action.mounts {
            let target = |text: &str| target(&action.working_dir, text);
            found.push(match mount {
                ResolvedMount::Bind(BindMount { from, source, target: at, writable }) => {
                    let files = self.files(step, from.as_deref(), source, recall).await?;
                    FoundMount { target: target(at)?, kind: FoundKind::Bind { files, access: access(*writable) } }
                }
                ResolvedMount::Cache(cache) => FoundMount {
                    target: target(&cache.target)?,
                    kind: FoundKind::Cache(self.find_cache(step, cache, recall).await?),
                },
                ResolvedMount::Tmpfs(TmpfsMount { target: at, size_bytes, writable }) => {
                    let at = target(at)?;
                    let mode = tmpfs_mode(&*self.tree(&step.before.tree).await?, &at);
                    let size_bytes = size_bytes.filter(|size| *size > 0);
                    FoundMount { target: at, kind: FoundKind::Tmpfs { size_bytes, mode, access: access(*writable) } }
                }
                ResolvedMount::Secret(secret) => {
                    // Without a file, any place will do.
                    let target = secret.target.as_deref().map(target).transpose()?.unwrap_or_default();
                    FoundMount { target, kind: FoundKind::Secret(secret.clone()) }
                }
                ResolvedMount::Ssh(ssh) => {
                    let default = format!("/run/buildkit/ssh_agent.{agents}");
                    agents += 1;
                    FoundMount { target: target(ssh.target.as_deref().unwrap_or(&default))?, kind: FoundKind::Ssh(ssh.clone()) }
                }
            });
        }
        Ok(found)
    }

    /// What `source` names in a stage, an image or a context.
    async fn files(&self, step: &CurrentStep<'_>, from: Option<&str>, source: &str, recall: Recall) -> Result<Files, BuildError> {
        let context = |name: Option<String>| async {
            let files = self.context(name.clone()).await?;
            let selecting = (files.clone(), source.to_owned(), self.work.cancel_token());
            let select = move || {
                let (files, source, cancel) = selecting;
                let context = match files {
                    fetch::Files::Tree(tree) => return Ok([found("mount", copy::select_path(&*tree, source.as_bytes()), None)?]),
                    fetch::Files::Context(context) => context,
                };
                let mut selected = [found("mount", copy::select_path(&*context, source.as_bytes()), Some(&context))?];
                let completed = context.complete(&mut selected, threads(), &|| cancel.is_cancelled());
                completed.map_err(|error| BuildError::new(ErrorKind::Context, "cannot read the context").because(error))?;
                Ok(selected)
            };
            let [selection] = self.work.run(select).await?;
            let directory = match files {
                fetch::Files::Tree(_) => None,
                fetch::Files::Context(context) => Some(context),
            };
            let digest = *content_digest(&selection)?.as_bytes();
            Ok(Files { from: From::Context { name, directory }, selection: Some(selection), digest })
        };
        let layers = |tree: LazyTree, layers: Vec<Layer>, disk| async move {
            let key = mount_key(&layers, source);
            if recall == Recall::Allowed
                && let Some(Reading::Content { digest, .. }) = self.recall(key).await
            {
                return Ok(Files { from: From::Layers { layers, disk }, selection: None, digest });
            }
            let (tree, source) = (self.tree(&tree).await?, source.to_owned());
            let select = move || found("mount", copy::select_path(&*tree, source.as_bytes()), None);
            let selection = self.work.run(select).await?;
            let digest = *content_digest(&selection)?.as_bytes();
            self.have_read(&layers, key, Reading::Content { digest, files: FileParts::default() });
            Ok(Files { from: From::Layers { layers, disk }, selection: Some(selection), digest })
        };
        let named = match from {
            None => None,
            Some(name) => Some(self.named_source(step, &Word { text: name.to_owned(), position: Position::default() })?),
        };
        match named {
            None => context(None).await,
            Some(Source::Context(name)) => match self.image_context(&name, &self.request.platform, Keep::WhatIsRead).await? {
                Some(image) => layers(image.tree, image.layers, None).await,
                None => context(Some(name)).await,
            },
            Some(Source::Scratch) => layers(LazyTree::new(Tree::new()), Vec::new(), None).await,
            Some(Source::Stage(index)) => {
                let stage = self.stage(index).await?;
                layers(stage.tree.clone(), stage.layers.clone(), stage.disk.clone()).await
            }
            Some(Source::Image(name)) => {
                let image = self.base(&name, &self.request.platform, Keep::WhatIsRead).await?;
                layers(image.tree, image.layers, None).await
            }
        }
    }

    async fn find_cache(&self, step: &CurrentStep<'_>, cache: &CacheMount, recall: Recall) -> Result<FoundCache, BuildError> {
        let seed = match &cache.from {
            Some(from) => Some(self.files(step, Some(from), &cache.source, recall).await?),
            None if TreePath::clamp(&cache.source).is_root() => None,
            None => {
                return Err(mistake(format!("a cache has no {} to begin with", cache.source))
                    .hint("say with from= which stage or image `source` is in"));
            }
        };
        if seed.iter().filter_map(|seed| seed.selection.as_ref()).any(|selection| selection.as_file().is_some()) {
            return Err(mistake(format!("a cache is a directory, and {} is a file", cache.source)));
        }
        // As BuildKit: the target as it is written, so that a relative one means the same cache from everywhere.
        let id = cache.id.clone().unwrap_or_else(|| clean(&cache.target));
        let namespace = self.request.build_args.get(CACHE_NAMESPACE).map_or("", String::as_str);
        let unless_seeded = |value| if seed.is_none() { Some(value) } else { None };
        let mode = cache.mode.or(unless_seeded(0o755));
        let (uid, gid) = (cache.uid.or(unless_seeded(0)), cache.gid.or(unless_seeded(0)));
        let begins_with = seed.as_ref().map(|seed| seed.digest);
        let identity = serde_json::json!([namespace, id, mode, uid, gid, begins_with]);
        Ok(FoundCache {
            id,
            name: Digest::of(identity.to_string().as_bytes()),
            sharing: match cache.sharing {
                Sharing::Shared => store::Sharing::Shared,
                Sharing::Private => store::Sharing::Private,
                Sharing::Locked => store::Sharing::Locked,
            },
            access: access(cache.writable),
            seed,
            mode,
            uid,
            gid,
        })
    }

    /// Puts the mounts of a step on disk.
    pub(super) async fn attach(&self, found: Vec<FoundMount>, isolation: &Arc<dyn Isolation>) -> Result<Attached, BuildError> {
        let mut attached = Attached::default();
        // Last, so that nobody waits longer than they must for what this step has locked.
        let leases = async |attached: &mut Attached| -> Result<_, BuildError> {
            let caches =
                found.iter().filter_map(|mount| if let FoundKind::Cache(cache) = &mount.kind { Some(cache) } else { None });
            let leases = self.lease_caches(caches, isolation.choice().owners).await?;
            attached.kept.extend(leases.values().map(|(lease, _)| Kept::Cache { _lease: lease.clone() }));
            Ok(leases)
        };
        let mut mounts = Vec::new();
        for FoundMount { target, kind } in &found {
            let kind = match kind {
                FoundKind::Bind { files, access } => {
                    let (root, path) = self.show(files, *access, isolation, &mut attached).await?;
                    MountKind::Bind { root, path, access: *access }
                }
                // Its directory is known below.
                FoundKind::Cache(_) => continue,
                FoundKind::Tmpfs { size_bytes, mode, access } => {
                    MountKind::Tmpfs { size_bytes: *size_bytes, mode: *mode, access: *access }
                }
                FoundKind::Secret(secret) => {
                    let Some(content) = self.secret(secret).await? else { continue };
                    if let Some(name) = &secret.env {
                        use std::os::unix::ffi::OsStringExt as _;
                        attached.secrets.insert(name.into(), OsString::from_vec(content.clone()));
                    }
                    if secret.target.is_none() {
                        continue;
                    }
                    let (uid, gid) = (secret.uid.unwrap_or_default(), secret.gid.unwrap_or_default());
                    MountKind::File { content: FileContent(content), mode: permissions(secret.mode.unwrap_or(0o400)), uid, gid }
                }
                FoundKind::Ssh(ssh) => {
                    // Also if there is no agent: the variables are the same for everybody.
                    attached.agent_socket.get_or_insert_with(|| format!("/{}", target.as_path().display()));
                    let Some(agent) = self.agent(ssh).await? else { continue };
                    let root = RootMount::Directory { path: agent.directory().to_owned() };
                    attached.kept.push(Kept::Agent { _agent: agent });
                    MountKind::Bind { root, path: TreePath::clamp(Agent::SOCKET), access: Access::ReadOnly }
                }
            };
            mounts.push(Mount { kind, target: target.clone() });
        }
        let leases = leases(&mut attached).await?;
        for FoundMount { target, kind } in &found {
            if let FoundKind::Cache(cache) = kind {
                let root = RootMount::Directory { path: leases[&cache.name].1.clone() };
                let kind = MountKind::Bind { root, path: TreePath::root(), access: cache.access };
                mounts.push(Mount { kind, target: target.clone() });
            }
        }
        // What is mounted below another mount comes after it, however they are written.
        mounts.sort_by_key(|mount| mount.target.parts().count());
        attached.mounts = mounts;
        Ok(attached)
    }

    /// The root and the path in it that hold `files`.
    async fn show(
        &self,
        files: &Files,
        access: Access,
        isolation: &Arc<dyn Isolation>,
        attached: &mut Attached,
    ) -> Result<(RootMount, TreePath), BuildError> {
        match &files.from {
            From::Layers { layers, disk } => {
                let root = self.show_layers(layers, disk.as_ref(), access, isolation, attached).await?;
                Ok((root, files.selection()?.origin.clone()))
            }
            From::Context { name, directory } => {
                let selection = files.selection()?.clone();
                let checked = directory.clone();
                let direct = move || match checked {
                    None => Ok(None),
                    Some(directory) => directory
                        .as_directory(&selection)
                        .map_err(|error| BuildError::new(ErrorKind::Context, "cannot read the context").because(error)),
                };
                if access == Access::ReadOnly
                    && let Some(path) = self.work.run(direct).await?
                {
                    return Ok((RootMount::Directory { path }, files.selection()?.origin.clone()));
                }
                let owners = isolation.choice().owners;
                let root = if access == Access::ReadWrite {
                    // What the step writes there is its own, and goes with it.
                    let rootfs = self.copy_files(files.selection()?, owners).await?;
                    let root = rootfs.as_directory();
                    attached.kept.push(Kept::Root { _rootfs: rootfs });
                    root
                } else {
                    let cell = {
                        let mut copies = self.mount_sources.copies.lock().unwrap_or_else(PoisonError::into_inner);
                        copies.entry((name.clone(), files.selection()?.origin.clone())).or_default().clone()
                    };
                    let copy = async { self.copy_files(files.selection()?, owners).await.map(Arc::new) };
                    let rootfs = cell.get_or_try_init(|| copy).await?.clone();
                    let root = rootfs.as_directory();
                    attached.kept.push(Kept::Copy { _rootfs: rootfs });
                    root
                };
                let root = root.ok_or_else(|| BuildError::new(ErrorKind::Internal, "files that lie in no directory"))?;
                Ok((root, TreePath::clamp(SHOWN)))
            }
        }
    }

    /// A stage or an image as it is on disk, from where what is written does not come back.
    async fn show_layers(
        &self,
        layers: &[Layer],
        known: Option<&Arc<Disk>>,
        access: Access,
        isolation: &Arc<dyn Isolation>,
        attached: &mut Attached,
    ) -> Result<RootMount, BuildError> {
        let id = chain_of(layers);
        let cell = {
            let mut disks = self.mount_sources.disks.lock().unwrap_or_else(PoisonError::into_inner);
            disks.entry(id.unwrap_or_else(|| Digest::of(b""))).or_default().clone()
        };
        let make = async { self.disk(known.cloned(), layers, &**isolation).await.map(Arc::new) };
        let disk = cell.get_or_try_init(|| make).await?.clone();
        if access == Access::ReadOnly
            && let Some(root) = disk.rootfs.as_directory()
        {
            attached.kept.push(Kept::Disk { _disk: disk });
            return Ok(root);
        }
        // A fork of it, or where there is none, another one.
        let mut own = self.disk(Some(disk), layers, &**isolation).await?;
        let (root, own) = self.work.run(move || Ok((own.rootfs.view(&own.tree).map_err(|error| on_disk(&error))?, own))).await?;
        attached.kept.push(Kept::Root { _rootfs: own.rootfs });
        Ok(root)
    }

    /// Writes files into a new directory, below [`SHOWN`].
    async fn copy_files(&self, selection: &Selection, owners: Owners) -> Result<Rootfs, BuildError> {
        let mut changes = changes(selection, &TreePath::clamp(SHOWN));
        self.need_blobs_of(&changes).await?;
        let (contents, directory) = (self.contents.clone(), self.workspace.path().to_owned());
        let copy = move || {
            contents.take_out_of_layers(&mut changes)?;
            let mut rootfs = Rootfs::new(&directory, None, owners).map_err(|error| on_disk(&error))?;
            let index = LayerIndex { changes };
            let mut unpacker = rootfs.unpacker(&Tree::new(), &index).map_err(|error| on_disk(&error))?;
            write(&index, &contents, &mut unpacker)?;
            rootfs.push(unpacker.finish().map_err(|error| on_disk(&error))?);
            Ok(rootfs)
        };
        self.work.run(copy).await
    }

    async fn need_blobs_of(&self, changes: &[Change]) -> Result<(), BuildError> {
        for layer in Contents::layers_of(changes) {
            self.need_blob(layer).await?;
        }
        Ok(())
    }

    /// Takes the directories of all caches of a step, each once, in an order that is the same for all steps: two steps that
    /// want the same caches never wait for each other.
    async fn lease_caches<'a>(
        &self,
        caches: impl Iterator<Item = &'a FoundCache>,
        owners: Owners,
    ) -> Result<BTreeMap<Digest, (Arc<CacheLease>, PathBuf)>, BuildError> {
        let mut wanted: BTreeMap<Digest, FoundCache> = BTreeMap::new();
        for cache in caches {
            let same = wanted.entry(cache.name).or_insert_with(|| cache.clone());
            same.sharing = same.sharing.max(cache.sharing);
        }
        let mut leases = BTreeMap::new();
        for (name, cache) in wanted {
            let lease = Arc::new(self.lease_cache(&cache).await?);
            // For whoever lists what is kept.
            let _ = self.store.note_cache_id(&cache.name, &cache.id);
            let directory = self.cache_directory(&lease, &cache, owners).await?;
            if cache.access == Access::ReadWrite {
                self.used_caches.note(cache.name, &cache.id, owners);
            }
            leases.insert(name, (lease, directory));
        }
        Ok(leases)
    }

    async fn lease_cache(&self, cache: &FoundCache) -> Result<CacheLease, BuildError> {
        let started = Instant::now();
        let mut is_said = false;
        loop {
            let (store, name, sharing) = (self.store.clone(), cache.name, cache.sharing);
            let lease = self.work.run(move || store.lease_cache(&name, sharing).map_err(BuildError::store)).await?;
            if let Some(lease) = lease {
                return Ok(lease);
            }
            if !is_said && started.elapsed() > CACHE_PATIENCE {
                is_said = true;
                let message = format!("waiting for the cache {:?}, which another step has locked", cache.id);
                self.tell(Event::Warning { message, place: None }).await;
            }
            tokio::time::sleep(CACHE_POLL).await;
        }
    }

    /// The directory of a cache, filled if it is new.
    async fn cache_directory(&self, lease: &Arc<CacheLease>, cache: &FoundCache, owners: Owners) -> Result<PathBuf, BuildError> {
        if let Some(directory) = lease.directory() {
            return Ok(directory);
        }
        if let Some(directory) = self.import_cache(lease, cache.name, &cache.id, owners).await {
            return Ok(directory);
        }
        let mut changes = match &cache.seed {
            Some(seed) => changes(seed.selection()?, &TreePath::root()),
            None => vec![Change::put(TreePath::root(), Entry::directory(Timestamp::default()))],
        };
        if let Some(entry) = changes.first_mut().and_then(Change::entry_mut) {
            entry.mode = cache.mode.map_or(entry.mode, permissions);
            (entry.uid, entry.gid) = (cache.uid.unwrap_or(entry.uid), cache.gid.unwrap_or(entry.gid));
        }
        self.need_blobs_of(&changes).await?;
        let (contents, lease) = (self.contents.clone(), lease.clone());
        let fill = move || {
            contents.take_out_of_layers(&mut changes)?;
            let writer = lease.writer().map_err(BuildError::store)?;
            let root = CacheLease::root_in(writer.path());
            fs::create_dir(&root)
                .map_err(|source| on_disk(&RootfsError::State { action: "make", path: root.clone(), source }))?;
            let index = LayerIndex { changes };
            let mut unpacker = Unpacker::over(&root, &Tree::new(), &index, owners).map_err(|error| on_disk(&error))?;
            write(&index, &contents, &mut unpacker)?;
            unpacker.finish().map_err(|error| on_disk(&error))?;
            writer.finish().map_err(BuildError::store)?;
            lease.directory().ok_or_else(|| BuildError::new(ErrorKind::Host, "a cache directory has vanished"))
        };
        self.work.run(fill).await
    }

    /// The bytes of a secret; `None` if it is neither given nor required.
    async fn secret(&self, mount: &SecretMount) -> Result<Option<Vec<u8>>, BuildError> {
        let id = mount.id.clone();
        match self.request.secrets.get(&id) {
            None if mount.required => {
                Err(BuildError::new(ErrorKind::Request, format!("the secret {id:?} is required, and missing"))
                    .hint(format!("give it with --secret id={id},src=FILE")))
            }
            None => Ok(None),
            Some(SecretSource::Value(secret)) => Ok(Some(secret.reveal().to_vec())),
            Some(SecretSource::File(path)) => {
                let path = path.clone();
                let read = move || {
                    let failed = || BuildError::new(ErrorKind::Request, format!("cannot read the secret {id:?}"));
                    let mut bytes = Vec::new();
                    let file = fs::File::open(&path).and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes));
                    file.map_err(|error| failed().because(error).hint(format!("it is given as the file {}", path.display())))?;
                    if bytes.len() as u64 > MAX_SECRET_BYTES {
                        return Err(failed().because(io::Error::other("it is larger than 500 KiB")));
                    }
                    Ok(Some(bytes))
                };
                self.work.run(read).await
            }
        }
    }

    /// A way to an SSH agent; `None` if it is neither given nor required.
    async fn agent(&self, mount: &SshMount) -> Result<Option<Agent>, BuildError> {
        let id = mount.id.clone();
        let Some(path) = self.request.ssh.get(&id).cloned() else {
            if mount.required {
                let failure = BuildError::new(ErrorKind::Request, format!("the SSH agent {id:?} is required, and missing"));
                return Err(failure.hint(format!("give it with --ssh {id}=SOCKET")));
            }
            return Ok(None);
        };
        let mode = mount.mode.unwrap_or(0o600);
        let access = agent::Access { mode, uid: mount.uid.unwrap_or_default(), gid: mount.gid.unwrap_or_default() };
        let place = self.workspace.path().to_owned();
        let open = move || {
            Agent::pass_on(&path, &place, access).map(Some).map_err(|error| {
                BuildError::new(ErrorKind::Request, format!("cannot use {} as the SSH agent {id:?}", path.display()))
                    .hint(
                        "it is the socket of a running agent: start ssh-agent, add the key with ssh-add, and give $SSH_AUTH_SOCK",
                    )
                    .because(error)
            })
        };
        self.work.run(open).await
    }
}

impl FoundMount {
    /// Whether something of it was not read, so that it serves for a key alone.
    pub(super) fn is_recalled(&self) -> bool {
        let files = match &self.kind {
            FoundKind::Bind { files, .. } => Some(files),
            FoundKind::Cache(cache) => cache.seed.as_ref(),
            FoundKind::Tmpfs { .. } | FoundKind::Secret(_) | FoundKind::Ssh(_) => None,
        };
        files.is_some_and(|files| files.selection.is_none())
    }

    /// Adds what the result of the step depends on. How a cache is shared and what is in it are no part of that, nor are
    /// the bytes of a secret.
    pub(super) fn add_to(&self, key: &mut KeyBuilder) {
        let number = |value: Option<u32>| value.map(u32::to_le_bytes);
        let writable = |access: Access| [u8::from(access == Access::ReadWrite)];
        match &self.kind {
            FoundKind::Bind { files, access } => {
                key.part("bind", files.digest).part("writable", writable(*access));
            }
            FoundKind::Cache(cache) => {
                key.part("cache", cache.name.as_bytes()).part("writable", writable(cache.access));
            }
            FoundKind::Tmpfs { size_bytes, mode, access } => {
                key.part("tmpfs", mode.to_le_bytes())
                    .optional("size", size_bytes.map(u64::to_le_bytes))
                    .part("writable", writable(*access));
            }
            FoundKind::Secret(SecretMount { id, target, env, required: _, mode, uid, gid }) => {
                key.part("secret", id).part("is a file", [u8::from(target.is_some())]).optional("variable", env.as_ref());
                key.optional("mode", number(*mode)).optional("uid", number(*uid)).optional("gid", number(*gid));
            }
            FoundKind::Ssh(SshMount { id, target: _, required: _, mode, uid, gid }) => {
                key.part("ssh", id);
                key.optional("mode", number(*mode)).optional("uid", number(*uid)).optional("gid", number(*gid));
            }
        }
        key.part("target", self.target.as_bytes());
    }
}

fn mistake(message: impl Into<String>) -> BuildError {
    BuildError::new(ErrorKind::Dockerfile, message)
}

fn access(is_writable: bool) -> Access {
    if is_writable { Access::ReadWrite } else { Access::ReadOnly }
}

/// The lower 12 bits of a mode that the Dockerfile gives.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits")
}

/// Where a mount appears.
fn target(working_dir: &str, text: &str) -> Result<TreePath, BuildError> {
    let path = if text.starts_with('/') { TreePath::clamp(text) } else { TreePath::clamp(format!("{working_dir}/{text}")) };
    if path.is_root() {
        return Err(mistake("nothing can be mounted at /").hint("give a directory below it with target="));
    }
    Ok(path)
}

/// A path without `.`, `..` and double slashes, as far as that can be said of a relative one.
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|part| *part != "..") => drop(parts.pop()),
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    match (is_absolute, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// What `runc` gives: the mode of the directory that it covers; without one, everybody may write.
fn tmpfs_mode(tree: &Tree, target: &TreePath) -> u16 {
    let covered = tree.resolve(target).ok().and_then(|path| tree.get(&path)).filter(|entry| entry.is_directory());
    covered.map_or(0o1777, |entry| entry.mode)
}

/// The files as a layer that puts them at `place`.
fn content_digest(selection: &Selection) -> Result<ContentDigest, BuildError> {
    let digest = copy::content_digest(std::slice::from_ref(selection));
    digest.ok_or_else(|| BuildError::new(ErrorKind::Internal, "a file to mount was not hashed"))
}

fn changes(selection: &Selection, place: &TreePath) -> Vec<Change> {
    let mut names: HashMap<usize, TreePath> = HashMap::new();
    let change = |Selected { path, entry, link, .. }: &Selected| {
        let path = place.join(path);
        match link.and_then(|link| names.get(&link).cloned()) {
            Some(target) => Change::Link { path, target },
            None => {
                names.extend(link.map(|link| (link, path.clone())));
                Change::Put { path, entry: entry.clone() }
            }
        }
    };
    selection.entries.iter().map(change).collect()
}

/// Shows the unpacker the files with their bytes.
fn write(index: &LayerIndex, contents: &Contents, unpacker: &mut Unpacker) -> Result<(), BuildError> {
    for change in &index.changes {
        let visited = match change.file() {
            Some(file) => contents.open(&file.content).and_then(|bytes| unpacker.visit(change, &mut bytes.take(file.size_bytes))),
            None => unpacker.visit(change, &mut io::empty()),
        };
        visited.map_err(|error| {
            BuildError::new(ErrorKind::Host, format!("cannot copy {} to mount it", change.path())).because(error)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_relative_to_the_working_directory_and_never_the_root() {
        for (working_dir, text, expected) in [
            ("/app", "/t", Some("t")),
            ("/app", "t/../u", Some("app/u")),
            ("/app", "", Some("app")),
            ("/app", "../..", None),
            ("/", "", None),
            ("/", "/", None),
        ] {
            assert_eq!(target(working_dir, text).ok(), expected.map(TreePath::clamp), "{working_dir} {text}");
        }
    }

    #[test]
    fn a_cache_without_an_id_is_called_as_its_clean_target() {
        for (path, expected) in
            [("/a//b/./c/..", "/a/b"), ("/..", "/"), ("a/", "a"), ("./a/../..", ".."), ("", "."), ("../a", "../a")]
        {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
