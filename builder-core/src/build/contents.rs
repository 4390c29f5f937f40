//! Opens the bytes of files, wherever they are: in a context, an archive, a layer, a root file system.

use super::work::Stoppable;
use super::{BuildError, ErrorKind};
use crate::confined::ConfinedDir;
use crate::isolation::CancelToken;
use crate::layer::read::{Limits, Wanted, extract};
use crate::layer::write::OpenContent;
use crate::oci::DiffId;
use crate::store::Store;
use crate::tree::{Change, Content, Entry, File, Node, SourceId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// What to do about a blob that is not what its name says.
pub(super) const DAMAGED: &str = "it was damaged in the state directory and has been removed from there: build again";

/// What a build has opened to read from.
pub(super) struct Contents {
    store: Store,
    /// Where files are kept that must be read in another order than they come.
    spools: PathBuf,
    limits: Limits,
    /// Ends what is being read.
    cancel: CancelToken,
    media: Mutex<Vec<Medium>>,
}

#[derive(Clone)]
enum Medium {
    Directory(Arc<ConfinedDir>),
    File(Arc<fs::File>),
    /// Named already, opened later.
    Reserved,
}

impl Contents {
    pub(super) fn new(store: Store, spools: PathBuf, limits: Limits, cancel: CancelToken) -> Self {
        Self { store, spools, limits, cancel, media: Mutex::default() }
    }

    /// `from`, until the build is given up.
    pub(super) fn stoppable<R: Read>(&self, from: R) -> Stoppable<R> {
        Stoppable::new(from, self.cancel.clone())
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes the files below `directory` readable as [`Content::Host`].
    pub(super) fn add_directory(&self, directory: ConfinedDir) -> SourceId {
        self.add(Medium::Directory(Arc::new(directory)))
    }

    /// Makes `file` readable as [`Content::Range`].
    pub(super) fn add_file(&self, file: fs::File) -> SourceId {
        self.add(Medium::File(Arc::new(file)))
    }

    /// A name for a directory that will be opened when it is known.
    pub(super) fn reserve(&self) -> SourceId {
        self.add(Medium::Reserved)
    }

    /// Opens what was reserved.
    pub(super) fn fill(&self, source: SourceId, directory: ConfinedDir) {
        let mut media = self.media.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(medium) = media.get_mut(source.0 as usize) {
            *medium = Medium::Directory(Arc::new(directory));
        }
    }

    fn add(&self, medium: Medium) -> SourceId {
        let mut media = self.media.lock().unwrap_or_else(PoisonError::into_inner);
        media.push(medium);
        SourceId(u32::try_from(media.len() - 1).expect("a build opens fewer than 2^32 sources"))
    }

    /// Fills a file without a name, and makes it readable as [`Content::Range`].
    pub(super) fn spool<T>(&self, fill: impl FnOnce(SourceId, &mut dyn Write) -> Result<T, BuildError>) -> Result<T, BuildError> {
        let failed =
            |error| BuildError::new(ErrorKind::State, "cannot make a temporary file in the state directory").because(error);
        let file = tempfile::tempfile_in(&self.spools).map_err(failed)?;
        let source = self.add(Medium::File(Arc::new(file.try_clone().map_err(failed)?)));
        let mut writer = io::BufWriter::with_capacity(1 << 18, file);
        let result = fill(source, &mut writer)?;
        writer.flush().map_err(failed)?;
        Ok(result)
    }

    /// The layers whose bytes `changes` needs.
    pub(super) fn layers_of(changes: &[Change]) -> BTreeSet<DiffId> {
        files(changes)
            .filter_map(|file| if let Content::Layer { diff_id, .. } = file.content { Some(diff_id) } else { None })
            .collect()
    }

    /// Takes the files that lie in layers out of them, one pass a layer, so that they can be read in any order. The blobs
    /// of the layers must be in the store.
    pub(super) fn take_out_of_layers(&self, changes: &mut [Change]) -> Result<(), BuildError> {
        for layer in Self::layers_of(changes) {
            let mut wanted = BTreeMap::new();
            for file in files(changes) {
                if let (Content::Layer { diff_id, offset_bytes }, Some(digest)) = (&file.content, file.digest)
                    && *diff_id == layer
                {
                    wanted.insert(*offset_bytes, Wanted { size_bytes: file.size_bytes, digest });
                }
            }
            let moved = self.spool(|source, spool| {
                let mut at = 0;
                let mut moved = BTreeMap::new();
                let mut take = |offset_bytes: u64, data: &mut dyn Read| {
                    moved.insert(offset_bytes, Content::Range { source, offset_bytes: at });
                    at += io::copy(data, spool)?;
                    Ok(())
                };
                let failed = || BuildError::new(ErrorKind::State, format!("cannot read files out of the layer {layer}"));
                let extracted = extract(self.blob(layer)?, &wanted, &self.limits, &mut take);
                extracted.map_err(|error| self.damage(layer, failed().because(error)))?;
                Ok(moved)
            })?;
            for change in changes.iter_mut() {
                if let Some(Content::Layer { diff_id, offset_bytes }) = change.file().map(|file| &file.content)
                    && *diff_id == layer
                    && let Some(content) = moved.get(offset_bytes)
                    && let Some(file) = change.file_mut()
                {
                    file.content = content.clone();
                }
            }
        }
        Ok(())
    }

    /// The blob of a layer, from the store.
    pub(super) fn blob(&self, layer: DiffId) -> Result<Stoppable<fs::File>, BuildError> {
        let failed = || BuildError::new(ErrorKind::State, format!("cannot open the layer {layer}"));
        for blob in self.store.layer_blobs(layer).map_err(|error| failed().because(error))? {
            if let Some(file) = self.store.open_blob(&blob.digest).map_err(|error| failed().because(error))? {
                return Ok(self.stoppable(file));
            }
        }
        Err(BuildError::new(ErrorKind::Internal, format!("the layer {layer} is not in the store")))
    }

    /// What is wrong with a layer that cannot be read: a damaged blob leaves the store, so that the next build has none.
    pub(super) fn damage(&self, layer: DiffId, failure: BuildError) -> BuildError {
        let blobs = self.store.layer_blobs(layer).unwrap_or_default();
        let removed = blobs.iter().filter(|blob| matches!(self.store.remove_if_damaged(&blob.digest), Ok(true))).count();
        // Another stage may have removed it just now.
        let is_gone = removed > 0 || !blobs.iter().any(|blob| self.store.has_blob(blob));
        if is_gone { failure.hint(DAMAGED) } else { failure }
    }

    /// All bytes of a small file (`/etc/passwd`). The blob of its layer must be in the store.
    pub(super) fn small_file(&self, file: &File) -> Result<Vec<u8>, BuildError> {
        const MOST: u64 = 16 << 20;
        let entry = Entry { node: Node::File(file.clone()), ..Entry::directory(crate::tree::Timestamp::default()) };
        let mut changes = [Change::put(crate::tree::TreePath::root(), entry)];
        self.take_out_of_layers(&mut changes)?;
        let content = files(&changes).next().map_or(&file.content, |file| &file.content);
        let mut bytes = Vec::new();
        let opened = self.open(content).and_then(|reader| reader.take(file.size_bytes.min(MOST)).read_to_end(&mut bytes));
        opened.map_err(|error| BuildError::new(ErrorKind::Host, "cannot read a file of the image").because(error))?;
        Ok(bytes)
    }
}

fn files(changes: &[Change]) -> impl Iterator<Item = &File> {
    changes.iter().filter_map(Change::file)
}

impl OpenContent for Contents {
    fn open(&self, content: &Content) -> io::Result<Box<dyn Read + Send + '_>> {
        let medium = |source: &SourceId| {
            let media = self.media.lock().unwrap_or_else(PoisonError::into_inner);
            media.get(source.0 as usize).cloned().ok_or_else(|| io::Error::other("a file of a source that is not open"))
        };
        match content {
            Content::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Content::Layer { diff_id, .. } => {
                Err(io::Error::other(format!("a file of the layer {diff_id} was not taken out of it")))
            }
            Content::Host { source, path } => match medium(source)? {
                Medium::Directory(directory) => {
                    Ok(Box::new(self.stoppable(directory.open_file(path).map_err(io::Error::other)?)))
                }
                Medium::File(_) | Medium::Reserved => Err(io::Error::other("a path in a source that is no directory")),
            },
            Content::Range { source, offset_bytes } => match medium(source)? {
                Medium::File(file) => Ok(Box::new(self.stoppable(Range { file, offset_bytes: *offset_bytes }))),
                Medium::Directory(_) | Medium::Reserved => Err(io::Error::other("a range of a source that is no file")),
            },
        }
    }
}

/// Reads from an offset on, without moving the file's own position, so that many can read one file.
struct Range {
    file: Arc<fs::File>,
    offset_bytes: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset_bytes)?;
        self.offset_bytes += count as u64;
        Ok(count)
    }
}
