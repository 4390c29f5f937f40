//! COPY, ADD and WORKDIR: select on values, place on the tree, write the layer straight from the sources.

use super::{
    Build, BuildError, ErrorKind, StepOutcome,
    base::Keep,
    contents::Contents,
    stage::{CurrentStep, StageState, StepLayer},
};
use crate::cache::{Key, KeyBuilder, Record};
use crate::context::Context;
use crate::copy::{self, Accounts, Chmod, Ground, Item, Kind, Placement, Rules, SelectError, Selection};
use crate::dockerfile::Word;
use crate::evaluate::{CopyAction, CopySource, WorkdirAction};
use crate::image::{Layer, Origin};
use crate::isolation::CancelToken;
use crate::layer::{
    archive,
    write::{self, OpenContent as _, PackError, PackOptions},
};
use crate::oci::Compression;
use crate::plan::{self, Source};
use crate::tree::{Change, Content, Timestamp, Tree, TreePath};
use std::{num::NonZeroUsize, sync::Arc};

/// Where an instruction copies from.
#[derive(Clone)]
enum From {
    Tree(Arc<Tree>),
    Context(Arc<Context>),
}

impl Build {
    /// Does a COPY or ADD.
    pub(super) async fn copy(&self, step: &CurrentStep<'_>, action: &CopyAction) -> Result<StepLayer, BuildError> {
        refuse_remote_sources(action)?;
        let from = self.copy_source(step, action).await?;
        let owner = match &action.chown {
            None => None,
            Some(text) => Some(
                self.accounts(step.before)
                    .await?
                    .owner(text)
                    .map_err(|error| mistake(format!("--chown={text}")).because(error))?,
            ),
        };
        let chmod = action.chmod.as_deref().map(Chmod::parse).transpose();
        let placement = Placement {
            destination: action.destination.clone().into_bytes(),
            workdir: TreePath::clamp(&action.working_dir),
            owner,
            chmod: chmod.map_err(|error| mistake("the value of --chmod").because(error))?,
            // BuildKit: with --chmod, --link is a copy like any other.
            ground: if action.link && action.chmod.is_none() { Ground::Empty } else { Ground::Tree },
            now: self.made_time(),
        };
        copy::check_destination(action.sources.len(), &placement.destination)
            .map_err(|error| mistake("the destination").because(error))?;
        let (selecting, cancel) = ((action.clone(), from.clone(), placement.now), self.work.cancel_token());
        let selections = self.work.run(move || select(&selecting.0, &selecting.1, selecting.2, &cancel)).await?;
        let key = self.copy_key(step, action, &placement, &selections)?;
        if let Some(found) = self.known(key).await {
            return Ok(found);
        }
        let unpack = action.add.as_ref().is_some_and(|add| add.unpack.unwrap_or(true));
        let (tree, contents) = (step.before.tree.clone(), self.contents.clone());
        let place = move || {
            let item = |selection| if unpack { unpacked(&contents, selection) } else { Ok(Item::Files(selection)) };
            let items: Vec<Item> = selections.into_iter().map(item).collect::<Result<_, _>>()?;
            copy::place(&tree, &items, &placement).map_err(|error| mistake("cannot copy").because(error))
        };
        let changes = self.work.run(place).await?;
        self.make_layer(key, changes).await
    }

    /// Does a WORKDIR.
    pub(super) async fn workdir(&self, step: &CurrentStep<'_>, action: &WorkdirAction) -> Result<StepLayer, BuildError> {
        let owner = match action.user.as_str() {
            "" => (0, 0),
            user => {
                let accounts = self.accounts(step.before).await?;
                accounts.maker(user).map_err(|error| mistake(format!("USER {user}")).because(error))?
            }
        };
        let mut key = KeyBuilder::new("WORKDIR", Some(step.before.key));
        key.part("path", &action.path).part("uid", owner.0.to_le_bytes()).part("gid", owner.1.to_le_bytes());
        let key = self.with_epoch(&mut key);
        if let Some(found) = self.known(key).await {
            return Ok(found);
        }
        let changes = copy::workdir(&step.before.tree, &TreePath::clamp(&action.path), owner, self.made_time())
            .map_err(|error| mistake("cannot make the working directory").because(error))?;
        self.make_layer(key, changes).await
    }

    /// The users and groups that the image knows at this point.
    pub(super) async fn accounts(&self, before: &StageState) -> Result<Accounts, BuildError> {
        let file = |path: &str| {
            let path = before.tree.resolve(&TreePath::clamp(path)).ok()?;
            before.tree.get(&path)?.file().cloned()
        };
        let files = [file("etc/passwd"), file("etc/group")];
        for file in files.iter().flatten() {
            if let Content::Layer { diff_id, .. } = file.content {
                self.need_blob(diff_id).await?;
            }
        }
        let contents = self.contents.clone();
        let read = move || {
            let bytes = |file: &Option<_>| file.as_ref().map_or(Ok(Vec::new()), |file| contents.small_file(file));
            Ok(Accounts::parse(&bytes(&files[0])?, &bytes(&files[1])?))
        };
        self.work.run(read).await
    }

    async fn copy_source(&self, step: &CurrentStep<'_>, action: &CopyAction) -> Result<From, BuildError> {
        let Some(name) = &action.from else { return Ok(From::Context(self.context(None).await?)) };
        Ok(match self.named_source(step, name)? {
            Source::Scratch => From::Tree(Arc::new(Tree::new())),
            Source::Stage(index) => From::Tree(self.stage(index).await?.tree.clone()),
            Source::Image(name) => From::Tree(self.base(&name, &step.stage.platform, Keep::Indexes).await?.tree),
            Source::Context(name) => From::Context(self.context(Some(name)).await?),
        })
    }

    /// What a name after `from=` means in this stage.
    pub(super) fn named_source(&self, step: &CurrentStep<'_>, name: &Word) -> Result<Source, BuildError> {
        let contexts = self.request.build_contexts.keys().cloned().collect();
        plan::source(&self.dockerfile, step.id.stage, name, &contexts)
            .map_err(|mistake| BuildError::mistakes(&self.file_name, &self.dockerfile.source, vec![mistake]))
    }

    /// Everything that the layer depends on. A layer that is made on nothing does not depend on what is below it.
    fn copy_key(
        &self,
        step: &CurrentStep<'_>,
        action: &CopyAction,
        placement: &Placement,
        selections: &[Selection],
    ) -> Result<Key, BuildError> {
        let content = copy::content_digest(selections)
            .ok_or_else(|| BuildError::new(ErrorKind::Internal, "a file to copy was not hashed"))?;
        let parent = Some(step.before.key).filter(|_| placement.ground == Ground::Tree);
        let mut key = KeyBuilder::new(if action.add.is_some() { "ADD" } else { "COPY" }, parent);
        key.part("content", content.as_bytes())
            .part("destination", &action.destination)
            .part("working directory", &action.working_dir)
            .optional("chmod", action.chmod.as_deref())
            .part("sources", [u8::from(action.sources.len() > 1)])
            .part("link", [u8::from(placement.ground == Ground::Empty)])
            .part("parents", [u8::from(action.parents)]);
        if let Some((uid, gid)) = placement.owner {
            key.part("uid", uid.to_le_bytes()).part("gid", gid.to_le_bytes());
        }
        if let Some(unpack) = action.add.as_ref().and_then(|add| add.unpack) {
            key.part("unpack", [u8::from(unpack)]);
        }
        Ok(self.with_epoch(&mut key))
    }

    /// The key with the times that the layer may hold.
    pub(super) fn with_epoch(&self, key: &mut KeyBuilder) -> Key {
        key.optional("source date epoch", self.request.source_date_epoch.map(i64::to_le_bytes)).finish()
    }

    /// The time of directories that nobody gave a time: fixed, so that equal inputs give equal layers.
    pub(super) fn made_time(&self) -> Timestamp {
        Timestamp::from_seconds(self.request.source_date_epoch.unwrap_or_default())
    }

    /// What an earlier build made of the same step.
    pub(super) async fn known(&self, key: Key) -> Option<StepLayer> {
        if self.request.use_cache == super::CacheUse::WriteOnly {
            return None;
        }
        let record = match self.cache.probe(&[key]).await {
            Ok(found) => found.into_iter().next().flatten()?,
            Err(error) => {
                self.warn_about_cache(&error).await;
                return None;
            }
        };
        let store = self.store.clone();
        let index = self.work.run(move || store.layer_index(record.diff_id).map_err(BuildError::store)).await.ok().flatten()?;
        let layer = Layer { diff_id: record.diff_id, blob: record.blob, origin: Origin::Store };
        Some(StepLayer { layer, index, created: record.created, key, outcome: StepOutcome::Cached })
    }

    /// Writes `changes` as a layer into the store and remembers it.
    pub(super) async fn make_layer(&self, key: Key, changes: Vec<Change>) -> Result<StepLayer, BuildError> {
        for layer in Contents::layers_of(&changes) {
            self.need_blob(layer).await?;
        }
        let (contents, store) = (self.contents.clone(), self.store.clone());
        let options = PackOptions {
            compression: Compression::Gzip,
            level: None,
            // Times of what is copied are inputs; those of what a RUN wrote have been dealt with there.
            mtime_limit: None,
            threads: threads(),
        };
        let pack = move || {
            let mut changes = changes;
            contents.take_out_of_layers(&mut changes)?;
            let mut writer = store.blob_writer().map_err(BuildError::store)?;
            let packed = write::pack(&changes, &*contents, &options, &mut writer)
                .map_err(|error| BuildError::new(kind_of(&error), "cannot write the layer").because(error))?;
            writer.finish(Some(&packed.blob)).map_err(BuildError::store)?;
            store.put_layer_index(packed.diff_id, &packed.index).map_err(BuildError::store)?;
            store.add_layer_blob(packed.diff_id, &packed.blob).map_err(BuildError::store)?;
            Ok(packed)
        };
        let packed = self.work.run(pack).await?;
        let record = Record { diff_id: packed.diff_id, blob: packed.blob.clone(), created: self.now_text() };
        if let Err(error) = self.cache.record(key, &record).await {
            self.warn_about_cache(&error).await;
        }
        let layer = Layer { diff_id: packed.diff_id, blob: packed.blob, origin: Origin::Store };
        Ok(StepLayer { layer, index: packed.index, created: record.created, key, outcome: StepOutcome::Executed })
    }
}

fn mistake(message: impl Into<String>) -> BuildError {
    BuildError::new(ErrorKind::Dockerfile, message)
}

/// Who can mend a layer that is not written.
fn kind_of(error: &PackError) -> ErrorKind {
    if matches!(error, PackError::Write(_)) { ErrorKind::State } else { ErrorKind::Host }
}

/// Finds the files and hashes those of a context.
fn select(action: &CopyAction, from: &From, now: Timestamp, cancel: &CancelToken) -> Result<Vec<Selection>, BuildError> {
    let excludes = Rules::from_patterns(&action.excludes).map_err(|error| mistake("a pattern of --exclude").because(error))?;
    let kind = if action.parents { Kind::Parents } else { Kind::Contents };
    let mut selections = Vec::new();
    for source in &action.sources {
        match source {
            CopySource::Inline { name, content } => selections.push(Selection::inline(name.as_bytes(), content, now)),
            CopySource::Path(path) => selections.extend(match from {
                From::Tree(tree) => found("copy", copy::select(&**tree, path.as_bytes(), kind, &excludes), None),
                From::Context(context) => {
                    found("copy", copy::select(&**context, path.as_bytes(), kind, &excludes), Some(context))
                }
            }?),
        }
    }
    if let From::Context(context) = from {
        context
            .complete(&mut selections, threads(), &|| cancel.is_cancelled())
            .map_err(|error| BuildError::new(ErrorKind::Context, "cannot read the context").because(error))?;
    }
    Ok(selections)
}

/// What was found, or why it cannot be copied or mounted.
pub(super) fn found<T>(verb: &str, selected: Result<T, SelectError>, context: Option<&Context>) -> Result<T, BuildError> {
    selected.map_err(|error| match &error {
        SelectError::NotFound { path, .. } if context.is_some_and(|context| context.is_excluded(path)) => {
            BuildError::new(ErrorKind::Context, format!("cannot {verb}"))
                .hint("the file exists, but .dockerignore leaves it out")
                .because(error)
        }
        SelectError::NotFound { .. } => {
            let failure = BuildError::new(ErrorKind::Context, format!("cannot {verb}")).because(error);
            if context.is_some() { failure.hint("sources are paths below the context directory") } else { failure }
        }
        SelectError::Read { .. } => BuildError::new(ErrorKind::Context, format!("cannot {verb}")).because(error),
        SelectError::Pattern { .. } | SelectError::Resolve(_) => mistake(format!("cannot {verb}")).because(error),
    })
}

/// Threads for work that keeps a processor busy.
pub(super) fn threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// An archive as what is in it, anything else as it is.
fn unpacked(contents: &Contents, selection: Selection) -> Result<Item, BuildError> {
    let failed = || BuildError::new(ErrorKind::Context, format!("cannot unpack {}", selection.origin));
    let Some(content) =
        selection.as_file().map(|file| file.content.clone()).filter(|content| !matches!(content, Content::Inline(_)))
    else {
        return Ok(Item::Files(selection));
    };
    let open = || contents.open(&content).map_err(|error| failed().because(error));
    if archive::recognise(open()?).map_err(|error| failed().because(error))?.is_none() {
        return Ok(Item::Files(selection));
    }
    let index = contents.spool(|source, spool| {
        archive::read(open()?, source, contents.limits(), spool).map_err(|error| failed().because(error))
    })?;
    Ok(Item::Archive(index.changes))
}

/// Says of sources on the network that they cannot be had yet, rather than looking for files of that name.
fn refuse_remote_sources(action: &CopyAction) -> Result<(), BuildError> {
    let remote = |path: &&String| {
        let git = path.starts_with("git@") || path.starts_with("git://") || path.starts_with("ssh://");
        git || path.starts_with("http://") || path.starts_with("https://")
    };
    let mut paths =
        action.sources.iter().filter_map(|source| if let CopySource::Path(path) = source { Some(path) } else { None });
    match paths.find(remote) {
        None => Ok(()),
        Some(path) if action.add.is_none() => {
            Err(mistake(format!("COPY cannot take {path:?} from the network")).hint("did you mean ADD?"))
        }
        Some(path) => Err(mistake(format!("ADD cannot take {path:?} from the network yet"))
            .hint("fetch it in a RUN, or before the build into the context")),
    }
}
