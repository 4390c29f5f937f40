//! RUN: the root file system comes onto the disk, the command runs in it, and what it changed becomes a layer.
//!
//! The disk comes last: a RUN that is known from an earlier build touches none, and layers are unpacked when the first one
//! that is not known needs them. From then on the stage keeps its root, so a later RUN unpacks only what came between.

use super::{
    Build, BuildError, ErrorKind, Event, StepId, Stream,
    base::Unpacking,
    cached::StepKind,
    contents::Contents,
    mounts::{Attached, FoundMount},
    readings::Recall,
    request::Entitlement,
    stage::{CurrentStep, StageState, StepLayer},
};
use crate::cache::{Key, KeyBuilder, StepKey};
use crate::copy::User;
use crate::dockerfile::{Network, Security};
use crate::evaluate::{self, RunAction};
use crate::image::{Layer, Origin};
use crate::isolation::{
    self, Attempt, ExitStatus, FileContent, Identity, Isolation, Mount, MountKind, Privileges, Refusal, Refused, RunError, Step,
};
use crate::layer::read::{self, Visitor};
use crate::oci::{DiffId, Digest};
use crate::rootfs::{self, Copying, Dating, LoneLayer, OverlayAttributes, Owners, RootMount, Rootfs, RootfsError, StepChanges};
use crate::store::Store;
use crate::tree::{Change, Timestamp, Tree, TreePath};
use futures_util::future::try_join_all;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

/// What `uname -n` says in a step, as with BuildKit.
const HOST_NAME: &str = "buildkitsandbox";

/// BuildKit's build argument for another host name.
const HOST_NAME_ARGUMENT: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// The longest host name that Linux takes.
const MAX_HOST_NAME_BYTES: usize = 64;

/// The root file system of a stage, as far as it is on disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) rootfs: Rootfs,
    /// How many of the stage's layers are in it.
    layers: usize,
    /// What they add up to.
    pub(super) tree: Tree,
    /// Names them, for directories that builds share.
    chain: Option<Digest>,
}

/// The strongest isolation that this host grants, or the one that is wanted.
pub(super) fn open_isolation(state_directory: &Path, wanted: Option<isolation::Kind>) -> Result<Arc<dyn Isolation>, Refused> {
    let facts = isolation::probe(state_directory).map_err(|error| {
        let attempt = Attempt::Refused { errno: error.raw_os_error().unwrap_or(libc::EIO) };
        Refused { wanted, refused: vec![Refusal { what: "a file in the state directory".to_owned(), attempt }], otherwise: None }
    })?;
    Ok(isolation::open(isolation::choose(&facts, wanted)?))
}

/// The resolver settings of this host; a step on its network needs them.
pub(super) fn host_resolv_conf() -> Vec<u8> {
    fs::read("/etc/resolv.conf").unwrap_or_default()
}

/// Refuses what the kernel would not take as the host name of a step.
pub(super) fn check_host_name(build_args: &BTreeMap<String, String>) -> Result<(), BuildError> {
    match build_args.get(HOST_NAME_ARGUMENT).map(String::len) {
        Some(length) if length > MAX_HOST_NAME_BYTES => {
            let message = format!("{HOST_NAME_ARGUMENT} has {length} bytes");
            Err(BuildError::new(ErrorKind::Request, message).hint(format!("a host name has at most {MAX_HOST_NAME_BYTES} bytes")))
        }
        _ => Ok(()),
    }
}

impl Build {
    /// Does a RUN.
    pub(super) async fn run(&self, step: &mut CurrentStep<'_>, action: RunAction) -> Result<StepLayer, BuildError> {
        self.refuse(&action)?;
        let mut mounts = self.find_mounts(step, &action, Recall::Allowed).await?;
        let mut key = self.run_key(step.before.key, &action, &mounts);
        if mounts.iter().any(FoundMount::is_recalled) {
            if let Some(found) = self.look_up(step, &key, StepKind::Run).await {
                return Ok(found);
            }
            mounts = self.find_mounts(step, &action, Recall::Refused).await?;
            key = self.run_key(step.before.key, &action, &mounts);
        }
        if let Some(found) = self.known(step, &key, StepKind::Run).await {
            return Ok(found);
        }
        self.will_execute(step);
        let user = self.user(step.before, &action.user).await?;
        let isolation = self.isolation().await?;
        let known = step.before.disk.take();
        let disk = self.disk(known, &step.before.layers, &*isolation).await?;
        let attached = self.attach(mounts, &isolation).await?;
        let (changes, disk) = self.execute(step, action, user, isolation, disk, attached).await?;
        let made = self.make_layer(step, key, StepKind::Run, changes).await?;
        let index = made.index.clone().unwrap_or_default();
        let diff_id = made.layer.diff_id;
        let disk = self
            .work
            .run(move || {
                let mut disk = disk;
                disk.tree.apply(&index.changes);
                disk.layers += 1;
                disk.chain = Some(chain(disk.chain, diff_id));
                Ok(disk)
            })
            .await?;
        step.before.disk = Some(Arc::new(disk));
        Ok(made)
    }

    /// With `SOURCE_DATE_EPOCH`, that is the time of what was written since the build began. A time that the command set by
    /// itself stays, as do those of files that it brought along.
    fn dating(&self) -> Option<Dating> {
        let to = Timestamp::from_seconds(self.request.source_date_epoch?);
        Some(Dating { since: self.started, to })
    }

    /// Runs the command; gives what it changed.
    async fn execute(
        &self,
        step: &CurrentStep<'_>,
        action: RunAction,
        user: User,
        isolation: Arc<dyn Isolation>,
        mut disk: Disk,
        mut attached: Attached,
    ) -> Result<(Vec<Change>, Disk), BuildError> {
        let command = shown(&action);
        let tree = self.tree(&step.before.tree).await?;
        let (contents, cancel, dating) = (self.contents.clone(), self.work.cancel_token(), self.dating());
        let (resolv_conf, time_limit) = (self.resolv_conf.clone(), self.request.step_timeout_seconds.map(Duration::from_secs));
        let host_name = self.host_name().unwrap_or(HOST_NAME).to_owned();
        let output = Output { events: self.events.clone(), step: step.id.clone(), cancel: cancel.clone() };
        let run = move || {
            let root = disk.rootfs.begin_step(&tree).map_err(|error| on_disk(&error))?;
            let mut mounts = std::mem::take(&mut attached.mounts);
            mounts.extend(action.script.clone().map(script));
            let step = Step {
                root,
                environment: environment(&action, &user, &attached),
                directory: TreePath::clamp(&action.working_dir),
                identity: Identity { uid: user.uid, gid: user.gid, groups: user.groups },
                hosts: hosts(&host_name),
                host_name,
                network: if action.network == Some(Network::None) { isolation::Network::None } else { isolation::Network::Host },
                privileges: if action.security == Some(Security::Insecure) { Privileges::All } else { Privileges::Usual },
                mounts,
                arguments: action.argv.into_iter().map(OsString::from).collect(),
                resolv_conf,
                time_limit,
            };
            let status = isolation.run(&step, &mut |stream, bytes| output.send(stream, bytes), &cancel).map_err(|error| {
                let kind = error.exit_code().map_or(ErrorKind::Host, |code| ErrorKind::Step { exit_code: exit_code(code) });
                let failed = match error {
                    RunError::TimedOut { .. } => BuildError::new(kind, format!("the command {command} took too long"))
                        .hint("--run-timeout sets the limit; without it there is none"),
                    _ => BuildError::new(kind, format!("cannot run {command}")),
                };
                failed.because(error)
            })?;
            // What it was given goes before its changes are read: others may wait for it.
            drop(attached);
            succeeded(status, &command, || disk.rootfs.is_full())?;
            let source = contents.reserve();
            let StepChanges { changes, files } = disk.rootfs.end_step(&tree, source, dating).map_err(|error| on_disk(&error))?;
            contents.fill(source, files);
            Ok((changes, disk))
        };
        let _job = self.job().await;
        self.work.run(run).await
    }

    /// Everything that the result depends on. Proxies are left out: they say how to reach something, not what.
    fn run_key(&self, parent: Key, action: &RunAction, mounts: &[FoundMount]) -> StepKey {
        let mut key = KeyBuilder::new("RUN", Some(parent));
        for word in &action.argv {
            key.part("command", word);
        }
        for (name, value) in action.environment.iter() {
            key.named("variable", name, value);
        }
        key.part("directory", &action.working_dir).part("user", &action.user);
        if let Some(script) = &action.script {
            key.part("script", &script.name).part("content", &script.content);
        }
        key.optional("host name", self.host_name());
        key.optional("network", (action.network == Some(Network::None)).then_some("none"));
        key.optional("security", (action.security == Some(Security::Insecure)).then_some("insecure"));
        for mount in mounts {
            mount.add_to(&mut key);
        }
        self.with_epoch(key)
    }

    /// The host name that the steps of this build have instead of the usual one.
    fn host_name(&self) -> Option<&str> {
        self.request.build_args.get(HOST_NAME_ARGUMENT).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Says what a step does not get.
    fn refuse(&self, action: &RunAction) -> Result<(), BuildError> {
        let refused = |message: &str| BuildError::new(ErrorKind::Dockerfile, message);
        if !action.devices.is_empty() {
            return Err(refused("RUN --device is not supported: a step has no devices of this machine")
                .hint("do this work where the image runs, or before the build"));
        }
        if action.security == Some(Security::Insecure) && !self.request.allowed.contains(&Entitlement::SecurityInsecure) {
            return Err(refused("RUN --security=insecure is not allowed in this build")
                .hint("allow it with --allow security.insecure, if you trust the Dockerfile with this machine"));
        }
        Ok(())
    }

    async fn user(&self, before: &StageState, text: &str) -> Result<User, BuildError> {
        let accounts = self.accounts(before).await?;
        let name = if text.is_empty() { "0" } else { text };
        let mut user = accounts
            .user(name)
            .map_err(|error| BuildError::new(ErrorKind::Dockerfile, format!("cannot run as USER {text}")).because(error))?;
        // A process that has its own group only as such may lose it, and with it what is denied to the group
        // (CVE-2023-25173).
        if !user.groups.contains(&user.gid) {
            user.groups.insert(0, user.gid);
        }
        Ok(user)
    }

    /// The isolation for all RUN of this build; told to whoever watches.
    async fn isolation(&self) -> Result<Arc<dyn Isolation>, BuildError> {
        let isolation = self.open_isolation().await?;
        if self.isolation_told.set(()).is_ok() {
            self.tell(Event::Isolation { description: isolation.choice().to_string() }).await;
        }
        Ok(isolation)
    }

    /// The same where none may be needed in the end.
    pub(super) async fn open_isolation(&self) -> Result<Arc<dyn Isolation>, BuildError> {
        let open = async {
            let open = self.open_isolation.clone();
            let opened = self.work.run(move || {
                open().map_err(|error| {
                    let failed = BuildError::new(ErrorKind::Host, "this host does not let the builder execute RUN");
                    failed.hint(other_ways(error.otherwise)).because(error)
                })
            });
            opened.await
        };
        self.isolation.get_or_try_init(|| open).await.cloned()
    }

    /// A root file system with all of `layers`; `known` has some of them already.
    pub(super) async fn disk(
        &self,
        known: Option<Arc<Disk>>,
        layers: &[Layer],
        isolation: &dyn Isolation,
    ) -> Result<Disk, BuildError> {
        let choice = isolation.choice();
        let (overlay, owners) = (choice.overlay, choice.owners);
        let directory = self.workspace.path().to_owned();
        let base = if overlay.is_none() { base_of(layers).to_vec() } else { Vec::new() };
        let (store, base_) = (self.store.clone(), base.clone());
        let disk = self
            .work
            .run(move || {
                let start = || {
                    if let Some(disk) = Disk::kept(&base_, &directory, owners, &store) {
                        return Ok(disk);
                    }
                    let rootfs = Rootfs::new(&directory, overlay, owners).map_err(|error| on_disk(&error))?;
                    Ok(Disk { rootfs, layers: 0, tree: Tree::new(), chain: None })
                };
                match known.map(Arc::try_unwrap) {
                    None => start(),
                    Some(Ok(disk)) => Ok(disk),
                    // Other stages start from here too.
                    Some(Err(shared)) => match shared.rootfs.fork(&directory, &shared.tree) {
                        Ok(rootfs) => Ok(Disk { rootfs, layers: shared.layers, tree: shared.tree.clone(), chain: shared.chain }),
                        // What cannot be copied can be unpacked, or that says why not.
                        Err(_) => start(),
                    },
                }
            })
            .await?;
        let missing: Vec<Layer> = layers[disk.layers..].to_vec();
        let mut shared = Vec::new();
        let mut at = disk.chain;
        let mut wanted = Vec::new();
        for layer in &missing {
            let id = chain(at, layer.diff_id);
            at = Some(id);
            let place =
                overlay.filter(|_| !matches!(layer.origin, Origin::Store)).map(|overlay| shared_name(id, overlay, owners));
            let is_there = place.as_ref().is_some_and(|place| self.store.unpacked(place).is_some());
            if !is_there || !self.store.has_layer_index(layer.diff_id) {
                wanted.push(self.need_blob(layer.diff_id));
            }
            shared.push(place);
        }
        try_join_all(wanted).await?;
        let lone: Vec<Option<Unpacking<LoneLayer>>> = {
            let mut layers = self.lone_layers.lock().unwrap_or_else(PoisonError::into_inner);
            missing.iter().map(|layer| layers.remove(&layer.diff_id)).collect()
        };
        // A base that was here before this build is likely to be wanted by the next one as well.
        let was_here = {
            let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            !base.iter().any(|layer| pulls.contains_key(&layer.blob.digest))
        };
        let (store, contents) = (self.store.clone(), self.contents.clone());
        self.work
            .run(move || {
                let mut disk = disk;
                for ((layer, place), lone) in missing.iter().zip(shared).zip(lone) {
                    disk.add(layer, place, lone, &store, &contents)?;
                    if was_here && disk.layers == base.len() {
                        // The step does without it.
                        let _ = disk.keep(owners, &store);
                    }
                }
                Ok(disk)
            })
            .await
    }
}

impl Disk {
    /// A disk with these layers, if the store has them in one plain directory. Whatever is wrong with that, the blobs tell the truth.
    fn kept(layers: &[Layer], directory: &Path, owners: Owners, store: &Store) -> Option<Self> {
        let chain = chain_of(layers);
        let kept = store.unpacked(&plain_name(chain?, owners))?;
        let mut tree = Tree::new();
        for layer in layers {
            tree.apply(&store.layer_index(layer.diff_id).ok()??.changes);
        }
        let rootfs = Rootfs::copy_of(&root_of(&kept), &tree, directory, owners, Copying::Shared).ok()?;
        Some(Self { rootfs, layers: layers.len(), tree, chain })
    }

    /// Keeps a copy of the plain directory with the layers so far, where those who start from it can share its bytes: elsewhere it
    /// would cost more than it saves.
    fn keep(&self, owners: Owners, store: &Store) -> Result<(), BuildError> {
        let (Some(RootMount::Directory { path }), Some(chain)) = (self.rootfs.as_directory(), self.chain) else { return Ok(()) };
        let name = plain_name(chain, owners);
        // One that could not be copied from stays until it is pruned: its blobs are as good.
        if store.unpacked(&name).is_some() {
            return Ok(());
        }
        let writer = store.unpacked_writer(&name).map_err(BuildError::store)?;
        if !rootfs::can_share(writer.path()) {
            return Ok(());
        }
        let root = root_of(writer.path());
        fs::create_dir(&root).map_err(|error| BuildError::state().because(error))?;
        rootfs::copy(&path, &root, &self.tree, owners, Copying::Apart).map_err(|error| on_disk(&error))?;
        writer.finish().map(drop).map_err(BuildError::store)
    }

    /// Unpacks the next layer. One of an image goes to `place`, where other builds find it; `lone` is the layer if it was
    /// unpacked while it was downloaded.
    fn add(
        &mut self,
        layer: &Layer,
        place: Option<Digest>,
        lone: Option<Unpacking<LoneLayer>>,
        store: &Store,
        contents: &Contents,
    ) -> Result<(), BuildError> {
        let failed = || BuildError::new(ErrorKind::State, format!("cannot unpack the layer {}", layer.diff_id));
        let index = store.layer_index(layer.diff_id).map_err(BuildError::store)?;
        let index =
            index.ok_or_else(|| BuildError::new(ErrorKind::Internal, format!("the layer {} has no index", layer.diff_id)))?;
        let mut tree = self.tree.clone();
        tree.apply(&index.changes);
        let unpack = |visitor: &mut dyn Visitor| {
            let blob = contents.blob(layer.diff_id)?;
            let read = read::read(blob, layer.diff_id, contents.limits(), visitor).map(drop);
            read.map_err(|error| contents.damage(layer.diff_id, failed().because(error)))
        };
        match place {
            None => {
                let mut unpacker = self.rootfs.unpacker(&self.tree, &index).map_err(|error| on_disk(&error))?;
                unpack(&mut unpacker)?;
                let unpacked = unpacker.finish().map_err(|error| on_disk(&error))?;
                self.rootfs.push(unpacked);
            }
            Some(name) => {
                let mut known = store.unpacked(&name);
                if let (None, Some(Unpacking { layer, directory })) = (&known, lone)
                    && layer.settle(&self.tree, &index, &tree).map_err(|error| on_disk(&error))?
                {
                    known = Some(directory.renamed(store, &name).finish().map_err(BuildError::store)?);
                }
                let directory = if let Some(directory) = known {
                    directory
                } else {
                    let writer = store.unpacked_writer(&name).map_err(BuildError::store)?;
                    let directory = root_of(writer.path());
                    fs::create_dir(&directory).map_err(|error| failed().because(error))?;
                    let mut unpacker =
                        self.rootfs.unpacker_into(&directory, &self.tree, &index).map_err(|error| on_disk(&error))?;
                    unpack(&mut unpacker)?;
                    unpacker.finish().map_err(|error| on_disk(&error))?;
                    writer.finish().map_err(BuildError::store)?
                };
                self.rootfs.push_directory(root_of(&directory));
            }
        }
        self.tree = tree;
        self.layers += 1;
        self.chain = Some(chain(self.chain, layer.diff_id));
        Ok(())
    }
}

/// Names these layers, the lowest first; `None` if there are none.
pub(super) fn chain_of(layers: &[Layer]) -> Option<Digest> {
    layers.iter().fold(None, |below, layer| Some(chain(below, layer.diff_id)))
}

/// Names a stack of layers, as in the OCI image specification (`ChainID`).
fn chain(below: Option<Digest>, layer: DiffId) -> Digest {
    below.map_or(layer.0, |below| Digest::of(format!("{below} {layer}").as_bytes()))
}

/// Names the directory of an unpacked layer. Its form depends on what the kernel granted.
fn shared_name(chain: Digest, overlay: OverlayAttributes, owners: Owners) -> Digest {
    Digest::of(format!("{chain} {overlay:?} {owners:?}").as_bytes())
}

/// Names the directory in which all layers of a chain are unpacked over each other.
fn plain_name(chain: Digest, owners: Owners) -> Digest {
    Digest::of(format!("{chain} in one {owners:?}").as_bytes())
}

/// The layers of the image that a stage starts from, below those that were made here.
fn base_of(layers: &[Layer]) -> &[Layer] {
    let made = layers.iter().position(|layer| matches!(layer.origin, Origin::Store));
    &layers[..made.unwrap_or(layers.len())]
}

/// The file system in an unpacked directory of the store.
pub(super) fn root_of(directory: &Path) -> PathBuf {
    directory.join("root")
}

pub(super) fn on_disk(error: &RootfsError) -> BuildError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    BuildError::new(ErrorKind::Host, format!("cannot prepare the root file system: {message}"))
}

/// The variables of a step; nothing of the builder's own.
fn environment(action: &RunAction, user: &User, attached: &Attached) -> Vec<(OsString, OsString)> {
    let image = (*action.environment).clone().into_iter().chain(action.proxies.clone());
    let mut variables: BTreeMap<OsString, OsString> = image.map(|(name, value)| (name.into(), value.into())).collect();
    let defaults = [("HOME", user.home.as_str()), ("PATH", evaluate::DEFAULT_PATH)].into_iter();
    for (name, value) in defaults.chain(attached.agent_socket.as_deref().map(|socket| ("SSH_AUTH_SOCK", socket))) {
        variables.entry(name.into()).or_insert_with(|| value.into());
    }
    variables.extend(attached.secrets.clone());
    variables.into_iter().collect()
}

/// What /etc/hosts says in a step.
fn hosts(host_name: &str) -> Vec<u8> {
    format!("127.0.0.1\tlocalhost {host_name}\n::1\tlocalhost ip6-localhost ip6-loopback\n").into_bytes()
}

fn script(script: evaluate::ScriptFile) -> Mount {
    Mount {
        kind: MountKind::File { content: FileContent(script.content), mode: 0o755, uid: 0, gid: 0 },
        target: TreePath::clamp(format!("dev/pipes/{}", script.name)),
    }
}

/// The command, short enough for a message.
fn shown(action: &RunAction) -> String {
    const MOST: usize = 200;
    let text = action.argv.join(" ");
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let cut: String = first.chars().take(MOST).collect();
    let more = if lines.next().is_some() || cut.len() < first.len() { " …" } else { "" };
    format!("{cut:?}{more}")
}

/// What works where RUN does not, as it was asked for.
fn other_ways(otherwise: Option<isolation::Kind>) -> String {
    let works = match otherwise {
        Some(kind) => format!("without --isolation RUN works here ({kind}), and a build without RUN does in any case"),
        None => "a build without RUN works here".to_owned(),
    };
    format!("{works}; `cofferdam doctor` says what would help")
}

/// What a shell exits with when SIGKILL ended its command.
const KILLED_IN_A_SHELL: i32 = 128 + libc::SIGKILL;

/// An error unless the command succeeded; `is_full` tells whether its disk has no room left.
fn succeeded(status: ExitStatus, command: &str, is_full: impl FnOnce() -> bool) -> Result<(), BuildError> {
    if status.is_success() {
        return Ok(());
    }
    let kind = ErrorKind::Step { exit_code: exit_code(status.code()) };
    let failure = BuildError::new(kind, format!("the command {command} ended with {status}"));
    Err(match status {
        _ if is_full() => failure.hint("the disk of the state directory is full: name a larger volume with --state-dir"),
        ExitStatus::Signal(libc::SIGKILL) | ExitStatus::Code(KILLED_IN_A_SHELL) => failure.hint(
            "it was killed, most often for lack of memory: raise the memory limit of the container, or let it do less at once",
        ),
        ExitStatus::Code(127) => failure.hint("127 means that a program was not found: is it in the image, and in PATH?"),
        ExitStatus::Code(126) => {
            failure.hint("126 means that a program cannot be executed: is its mode right, and is it for this architecture?")
        }
        _ => failure,
    })
}

/// A command that failed makes the build fail, whatever its number.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(1)
}

/// Hands the output of a step over, and does not wait for a listener when the build is being cancelled.
struct Output {
    events: tokio::sync::mpsc::Sender<Event>,
    step: StepId,
    cancel: isolation::CancelToken,
}

impl Output {
    fn send(&self, stream: isolation::Stream, bytes: &[u8]) {
        use tokio::sync::mpsc::error::TrySendError;
        let stream = match stream {
            isolation::Stream::Output => Stream::Stdout,
            isolation::Stream::Error => Stream::Stderr,
        };
        let mut event = Event::StepOutput { step: self.step.clone(), stream, bytes: bytes.to_vec() };
        while let Err(TrySendError::Full(full)) = self.events.try_send(event) {
            if self.cancel.is_cancelled() {
                return;
            }
            event = full;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_often_has_one_cause_comes_with_what_helps() {
        let failure = |status, full| succeeded(status, "\"make\"", || full).expect_err("it is a failure");
        for (status, full, hint) in [
            (ExitStatus::Code(1), false, None),
            (ExitStatus::Code(1), true, Some("disk")),
            (ExitStatus::Code(126), false, Some("cannot be executed")),
            (ExitStatus::Code(127), false, Some("not found")),
            (ExitStatus::Code(137), false, Some("memory")),
            (ExitStatus::Signal(9), false, Some("memory")),
            (ExitStatus::Signal(15), false, None),
        ] {
            let found = failure(status, full).hint;
            assert_eq!(found.is_some(), hint.is_some(), "{status:?}: {found:?}");
            assert!(found.is_none_or(|found| found.contains(hint.unwrap_or_default())), "{status:?}");
        }
        let code = |status| failure(status, false).kind;
        assert_eq!(code(ExitStatus::Signal(9)), ErrorKind::Step { exit_code: 137 });
        // Whatever its number, it is not success.
        assert_eq!(code(ExitStatus::Code(256)), ErrorKind::Step { exit_code: 1 });
        assert!(succeeded(ExitStatus::Code(0), "true", || panic!("nobody asks")).is_ok());
    }
}
