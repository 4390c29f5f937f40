//! COPY, ADD and WORKDIR: select on values, place on the tree, write the layer straight from the sources.

use super::{
    Build, BuildError, ErrorKind, StepOutcome,
    cached::StepKind,
    contents::Contents,
    fetch::{self, Files, Remote},
    readings::{Account, Recall, Recalled, Role},
    seconds_since_epoch,
    stage::{CurrentStep, StageState, StepLayer},
};
use crate::cache::{FileParts, KeyBuilder, Record, StepKey};
use crate::context::Context;
use crate::context::git::Pinned;
use crate::copy::{self, Accounts, Chmod, Ground, Item, Kind, Placement, Rules, SelectError, Selection};
use crate::dockerfile::Word;
use crate::evaluate::{CopyAction, CopySource, WorkdirAction};
use crate::http;
use crate::image::{Layer, Origin};
use crate::isolation::CancelToken;
use crate::layer::{
    archive,
    write::{self, OpenContent as _, PackError, PackOptions},
};
use crate::oci::Digest;
use crate::plan::{self, Source};
use crate::tree::{Change, Content, Timestamp, Tree, TreePath};
use futures_util::future::try_join_all;
use std::{borrow::Cow, num::NonZeroUsize};

/// A COPY of more files is explained as a whole.
pub(super) const MOST_EXPLAINED_FILES: usize = 250_000;

/// One source of a COPY or ADD, found.
pub(super) enum Found {
    /// Files of a context, a stage or an image, or in the Dockerfile itself.
    Files(Vec<Selection>),
    /// A file from a web server.
    Download(Selection),
    /// A commit, not fetched yet.
    Repository(Pinned),
    /// Files of a stage or an image that an earlier build has read: enough for a key.
    Recalled(Recalled),
}

/// What the key of a COPY or ADD needs to know.
struct CopyInputs {
    owner: Option<(u32, u32)>,
    sources: Vec<Found>,
    /// Whether some of it is what an earlier build has read.
    are_recalled: bool,
}

impl Build {
    /// Does a COPY or ADD.
    pub(super) async fn copy(&self, step: &CurrentStep<'_>, action: &CopyAction) -> Result<StepLayer, BuildError> {
        let chmod = action.chmod.as_deref().map(Chmod::parse).transpose();
        let mut placement = Placement {
            destination: action.destination.clone().into_bytes(),
            workdir: TreePath::clamp(&action.working_dir),
            owner: None,
            chmod: chmod.map_err(|error| mistake("the value of --chmod").because(error))?,
            // BuildKit: with --chmod, --link is a copy like any other.
            ground: if action.link && action.chmod.is_none() { Ground::Empty } else { Ground::Tree },
            now: self.made_time(),
        };
        copy::check_destination(action.sources.len(), &placement.destination)
            .map_err(|error| mistake("the destination").because(error))?;
        let mut inputs = self.copy_inputs(step, action, placement.now, Recall::Allowed).await?;
        placement.owner = inputs.owner;
        let mut key = self.copy_key(step, action, &placement, &inputs.sources)?;
        if inputs.are_recalled {
            if let Some(known) = self.look_up(step, &key, StepKind::Copy).await {
                return Ok(known);
            }
            // What somebody remembers finds results; it makes none.
            inputs = self.copy_inputs(step, action, placement.now, Recall::Refused).await?;
            placement.owner = inputs.owner;
            key = self.copy_key(step, action, &placement, &inputs.sources)?;
        }
        if let Some(known) = self.known(step, &key, StepKind::Copy).await {
            return Ok(known);
        }
        self.will_execute(step);
        let unpack = action.add.as_ref().and_then(|add| add.unpack);
        let mut selections = Vec::new();
        for source in inputs.sources {
            match source {
                // Archives of the context are unpacked, downloads only if that is asked for.
                Found::Files(found) => {
                    let unpack = action.add.is_some() && unpack.unwrap_or(true);
                    selections.extend(found.into_iter().map(|selection| (selection, unpack)));
                }
                Found::Download(selection) => selections.push((selection, unpack == Some(true))),
                Found::Recalled(_) => return Err(unhashed()),
                Found::Repository(pinned) => {
                    let directory = pinned.source.directory.clone();
                    let tree = self.fetch().check_out(pinned).await?;
                    let excludes = excludes(action)?;
                    let selected = found("copy", copy::select(&*tree, directory.as_bytes(), Kind::Contents, &excludes), None)?;
                    selections.extend(selected.into_iter().map(|selection| (selection, false)));
                }
            }
        }
        let (tree, contents) = (self.tree(&step.before.tree).await?, self.contents.clone());
        let place = move || {
            let item = |(selection, unpack)| if unpack { unpacked(&contents, selection) } else { Ok(Item::Files(selection)) };
            let items: Vec<Item> = selections.into_iter().map(item).collect::<Result<_, _>>()?;
            copy::place(&tree, &items, &placement).map_err(|error| mistake("cannot copy").because(error))
        };
        let changes = self.work.run(place).await?;
        self.make_layer(step, key, StepKind::Copy, changes).await
    }

    /// Finds out what the key of a COPY or ADD needs.
    async fn copy_inputs(
        &self,
        step: &CurrentStep<'_>,
        action: &CopyAction,
        made: Timestamp,
        recall: Recall,
    ) -> Result<CopyInputs, BuildError> {
        let mut are_recalled = false;
        let mut owner = None;
        if let Some(text) = &action.chown {
            let ids = self.ids(Account { role: Role::Owner, text }, step.before, recall).await?;
            are_recalled |= ids.is_recalled;
            owner = Some(ids.value);
        }
        let recalled = if recall == Recall::Allowed { self.recall_sources(step, action).await? } else { None };
        are_recalled |= recalled.is_some();
        let sources = match recalled {
            Some(sources) => sources,
            None => self.find(step, action, made).await?,
        };
        Ok(CopyInputs { owner, sources, are_recalled })
    }

    /// A stage that begins with the files of a context: one layer with all of them.
    pub(super) async fn files_as_layer(&self, step: &CurrentStep<'_>, files: Files) -> Result<StepLayer, BuildError> {
        let (selecting, cancel) = (files, self.work.cancel_token());
        let select = move || select(&selecting, b"/", Kind::Contents, &Rules::default(), &cancel);
        let selected = self.work.run(select).await?;
        let content = copy::content_digest(&selected).ok_or_else(unhashed)?;
        let mut key = KeyBuilder::new("FROM files", None);
        key.part("content", content.as_bytes());
        let key = self.with_epoch(key);
        if let Some(known) = self.known(step, &key, StepKind::Copy).await {
            return Ok(known);
        }
        let placement = Placement {
            destination: b"/".to_vec(),
            workdir: TreePath::root(),
            owner: None,
            chmod: None,
            ground: Ground::Empty,
            now: self.made_time(),
        };
        let place = move || {
            let items: Vec<Item> = selected.into_iter().map(Item::Files).collect();
            copy::place(&Tree::new(), &items, &placement).map_err(|error| mistake("cannot copy").because(error))
        };
        let changes = self.work.run(place).await?;
        self.make_layer(step, key, StepKind::Copy, changes).await
    }

    /// Does a WORKDIR.
    pub(super) async fn workdir(&self, step: &CurrentStep<'_>, action: &WorkdirAction) -> Result<StepLayer, BuildError> {
        let user = (!action.user.is_empty()).then(|| Account { role: Role::Maker, text: &action.user });
        let key = |owner: (u32, u32)| {
            let mut key = KeyBuilder::new("WORKDIR", Some(step.before.key));
            key.part("path", &action.path).part("uid", owner.0.to_le_bytes()).part("gid", owner.1.to_le_bytes());
            self.with_epoch(key)
        };
        let mut owner = (0, 0);
        if let Some(user) = user {
            let mut ids = self.ids(user, step.before, Recall::Allowed).await?;
            if ids.is_recalled {
                if let Some(found) = self.look_up(step, &key(ids.value), StepKind::Run).await {
                    return Ok(found);
                }
                ids = self.ids(user, step.before, Recall::Refused).await?;
            }
            owner = ids.value;
        }
        let key = key(owner);
        if let Some(found) = self.known(step, &key, StepKind::Run).await {
            return Ok(found);
        }
        self.will_execute(step);
        let tree = self.tree(&step.before.tree).await?;
        let changes = copy::workdir(&tree, &TreePath::clamp(&action.path), owner, self.made_time())
            .map_err(|error| mistake("cannot make the working directory").because(error))?;
        self.make_layer(step, key, StepKind::Run, changes).await
    }

    /// The users and groups that the image knows at this point.
    pub(super) async fn accounts(&self, before: &StageState) -> Result<Accounts, BuildError> {
        let tree = self.tree(&before.tree).await?;
        let file = |path: &str| {
            let path = tree.resolve(&TreePath::clamp(path)).ok()?;
            tree.get(&path)?.file().cloned()
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

    /// Finds all sources, side by side. Downloads are here afterwards, repositories are not.
    async fn find(&self, step: &CurrentStep<'_>, action: &CopyAction, made: Timestamp) -> Result<Vec<Found>, BuildError> {
        let mut sources = Vec::new();
        for source in &action.sources {
            let remote = match source {
                CopySource::Path(path) => fetch::remote(path)?,
                CopySource::Inline { .. } => None,
            };
            sources.push((source, remote));
        }
        check_remote(action, &sources)?;
        let is_local =
            |(source, remote): &(&CopySource, Option<Remote>)| matches!(source, CopySource::Path(_)) && remote.is_none();
        let from = if sources.iter().any(is_local) { Some(self.copy_source(step, action).await?) } else { None };
        let find = sources.into_iter().map(|(source, remote)| {
            let from = from.clone();
            async move {
                match (remote, source) {
                    (Some(Remote::Url(url)), _) => {
                        let checksum = action.add.as_ref().and_then(|add| add.checksum.as_deref()).map(checksum).transpose()?;
                        let download = self.fetch().download(&url, checksum).await?;
                        Ok(Found::Download(self.fetch().selection(&url, &download, made)?))
                    }
                    (Some(Remote::Git(mut repository)), _) => {
                        let add = action.add.clone().unwrap_or_default();
                        if let Some(text) = &add.checksum {
                            repository.commit = Some(fetch::commit_checksum(text)?);
                        }
                        repository.keep_git_directory = add.keep_git_dir.unwrap_or(repository.keep_git_directory);
                        Ok(Found::Repository(self.fetch().pin(repository).await?))
                    }
                    (None, CopySource::Inline { name, content }) => {
                        Ok(Found::Files(vec![Selection::inline(name.as_bytes(), content, made)]))
                    }
                    (None, CopySource::Path(path)) => {
                        let (path, kind) = (path.clone(), if action.parents { Kind::Parents } else { Kind::Contents });
                        let (excludes, from) = (excludes(action)?, from.ok_or_else(unhashed)?);
                        let cancel = self.work.cancel_token();
                        let select = move || select(&from, path.as_bytes(), kind, &excludes, &cancel);
                        self.work.run(select).await.map(Found::Files)
                    }
                }
            }
        });
        let found = try_join_all(find).await?;
        self.note_sources(step, action, &found).await?;
        Ok(found)
    }

    async fn copy_source(&self, step: &CurrentStep<'_>, action: &CopyAction) -> Result<Files, BuildError> {
        let Some(name) = &action.from else { return self.context(None).await };
        let source = self.named_source(step, name)?;
        self.files_of(source, &self.request.platform).await
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
        found: &[Found],
    ) -> Result<StepKey, BuildError> {
        let parent = Some(step.before.key).filter(|_| placement.ground == Ground::Tree);
        let mut key = KeyBuilder::new(if action.add.is_some() { "ADD" } else { "COPY" }, parent);
        for found in found {
            match found {
                Found::Files(selections) => {
                    key.part("content", copy::content_digest(selections).ok_or_else(unhashed)?.as_bytes());
                }
                Found::Recalled(recalled) => {
                    key.part("content", recalled.digest);
                }
                Found::Download(selection) => {
                    let content = copy::content_digest(std::slice::from_ref(selection)).ok_or_else(unhashed)?;
                    let modified = selection.entries.iter().map(|selected| selected.entry.mtime.seconds).next();
                    key.part("download", content.as_bytes()).part("modified", modified.unwrap_or_default().to_le_bytes());
                }
                Found::Repository(Pinned { source, commit }) => {
                    key.part("commit", commit).part("directory", &source.directory);
                    key.part("submodules", [u8::from(source.submodules)]);
                    for pattern in &action.excludes {
                        key.part("exclude", pattern);
                    }
                    if source.keep_git_directory {
                        key.part("remote", &source.remote);
                    }
                }
            }
        }
        key.note_files(files(found));
        key.part("destination", &action.destination)
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
        Ok(self.with_epoch(key))
    }

    /// The key with the times that the layer may hold.
    pub(super) fn with_epoch(&self, mut key: KeyBuilder) -> StepKey {
        key.optional("SOURCE_DATE_EPOCH", self.request.source_date_epoch.map(i64::to_le_bytes));
        key.into_key()
    }

    /// The time of directories that nobody gave a time: fixed, so that equal inputs give equal layers.
    pub(super) fn made_time(&self) -> Timestamp {
        Timestamp::from_seconds(self.request.source_date_epoch.unwrap_or_default())
    }

    /// Writes `changes` as a layer into the store and remembers it.
    ///
    /// Where it is part of the image, its upload begins while it is written.
    pub(super) async fn make_layer(
        &self,
        step: &CurrentStep<'_>,
        key: StepKey,
        kind: StepKind,
        changes: Vec<Change>,
    ) -> Result<StepLayer, BuildError> {
        for layer in Contents::layers_of(&changes) {
            self.need_blob(layer).await?;
        }
        let (contents, store) = (self.contents.clone(), self.store.clone());
        let options = PackOptions {
            compression: self.request.compression,
            level: self.request.compression_level,
            // Times of what is copied are inputs; those of what a RUN wrote have been dealt with there.
            mtime_limit: None,
            threads: threads(),
        };
        let store_ = store.clone();
        let mut writer = self.work.run(move || store_.hashed_blob_writer().map_err(BuildError::store)).await?;
        let is_pushed = self.publisher.has_repositories() && self.is_part_of_result(step.id.stage);
        let begun = if is_pushed { Some(self.publisher.begin(&writer.follow().map_err(BuildError::store)?)) } else { None };
        let pack = move || {
            let mut changes = changes;
            contents.take_out_of_layers(&mut changes)?;
            let packed = write::pack(&changes, &*contents, &options, &mut writer)
                .map_err(|error| BuildError::new(kind_of(&error), "cannot write the layer").because(error))?;
            writer.finish_as(&packed.blob).map_err(BuildError::store)?;
            store.put_layer_index(packed.diff_id, &packed.index).map_err(BuildError::store)?;
            store.add_layer_blob(packed.diff_id, &packed.blob).map_err(BuildError::store)?;
            Ok(packed)
        };
        let packed = {
            let _job = self.job().await;
            self.work.run(pack).await?
        };
        let record = Record {
            diff_id: packed.diff_id,
            blob: packed.blob.clone(),
            created: self.now_text(),
            made_seconds: seconds_since_epoch(),
        };
        let layer = Layer { diff_id: packed.diff_id, blob: packed.blob, origin: Origin::Store };
        if let Some(begun) = begun {
            self.publisher.offer_begun(&layer, Some(begun));
        }
        let created = record.created.clone();
        self.remember_step(step, &key, kind, record).await;
        Ok(StepLayer { layer, index: Some(packed.index), created, key: key.key, outcome: StepOutcome::Executed })
    }
}

fn mistake(message: impl Into<String>) -> BuildError {
    BuildError::new(ErrorKind::Dockerfile, message)
}

/// Who can mend a layer that is not written.
fn kind_of(error: &PackError) -> ErrorKind {
    if matches!(error, PackError::Write(_)) { ErrorKind::State } else { ErrorKind::Host }
}

fn unhashed() -> BuildError {
    BuildError::new(ErrorKind::Internal, "a file to copy was not hashed")
}

fn excludes(action: &CopyAction) -> Result<Rules, BuildError> {
    Rules::from_patterns(&action.excludes).map_err(|error| mistake("a pattern of --exclude").because(error))
}

/// What explains the content of the sources.
fn files(found: &[Found]) -> FileParts {
    let files = found.iter().filter_map(|found| match found {
        Found::Files(selections) => Some(Cow::Owned(files_of(selections, MOST_EXPLAINED_FILES))),
        Found::Recalled(recalled) => Some(Cow::Borrowed(&recalled.files)),
        Found::Download(_) | Found::Repository(_) => None,
    });
    FileParts::joined(files.collect())
}

/// The files of these selections; only their number if there are more than `most`.
pub(super) fn files_of(selections: &[Selection], most: usize) -> FileParts {
    let count = selections.iter().map(|selection| selection.entries.len()).sum();
    if count > most { FileParts::counted(count) } else { FileParts::listed(copy::file_digests(selections)) }
}

/// Reads the `--checksum` of a download.
fn checksum(text: &str) -> Result<Digest, BuildError> {
    text.parse().map_err(|error| mistake(format!("--checksum={text}")).hint("it is sha256: and 64 hex digits").because(error))
}

/// Finds the files and hashes those of a context.
fn select(from: &Files, path: &[u8], kind: Kind, excludes: &Rules, cancel: &CancelToken) -> Result<Vec<Selection>, BuildError> {
    match from {
        Files::Tree(tree) => found("copy", copy::select(&**tree, path, kind, excludes), None),
        Files::Context(context) => {
            let mut selections = found("copy", copy::select(&**context, path, kind, excludes), Some(context))?;
            context
                .complete(&mut selections, threads(), &|| cancel.is_cancelled())
                .map_err(|error| BuildError::new(ErrorKind::Context, "cannot read the context").because(error))?;
            Ok(selections)
        }
    }
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

/// Says of sources elsewhere what cannot be done with them.
fn check_remote(action: &CopyAction, sources: &[(&CopySource, Option<Remote>)]) -> Result<(), BuildError> {
    if action.add.is_none() {
        return match sources.iter().find_map(|(_, remote)| remote.as_ref()) {
            None => Ok(()),
            Some(Remote::Url(url)) => {
                Err(mistake(format!("COPY cannot take {} from the network", http::redacted(url))).hint("did you mean ADD?"))
            }
            Some(Remote::Git(source)) => {
                Err(mistake(format!("COPY cannot take {} from the network", source.remote)).hint("did you mean ADD?"))
            }
        };
    }
    let Some(text) = action.add.as_ref().and_then(|add| add.checksum.as_ref()) else { return Ok(()) };
    match sources {
        [(_, Some(_))] => Ok(()),
        [_] => Err(mistake(format!("--checksum={text} needs a URL or a Git repository as its source"))),
        _ => Err(mistake(format!("--checksum={text} needs exactly one source"))),
    }
}
