//! A [`Tree`] made real: layers unpacked for a RUN step, and what the step changed.
//!
//! A root is an *overlay* of directories, one per layer, which may be kept and shared by builds, or a *plain directory* into
//! which the layers are unpacked in order. Both give the same changes. Whoever runs the step needs only the [`RootMount`].
//!
//! ```text
//! for each layer:  unpacker → layer::read::read(blob, …, &mut unpacker) → push
//! for each RUN:    begin_step → isolation runs it → end_step → pack the changes → next
//! ```

mod changes;
mod content;
mod recorded;
mod records;
mod unpack;

mod lone;

pub use content::can_share;
pub use lone::{LoneLayer, LoneUnpacker};
pub(crate) use recorded::beside;
pub use unpack::{Copying, Unpacked, Unpacker, copy};

use crate::confined::{Attributes, ConfinedDir, ConfinedError};
use crate::tree::{Change, Entry, LayerIndex, SourceId, Timestamp, Tree, TreePath};
use records::Records;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A root file system on disk. What it made is removed when it, and every other that shares it, is dropped.
#[derive(Debug)]
pub struct Rootfs {
    /// Directories that hold this root, those of others that it started from first.
    states: Vec<Arc<StateDirectory>>,
    form: Form,
    owners: Owners,
    /// Directories made so far: each gets a name of its own.
    made: u32,
}

#[derive(Debug)]
enum Form {
    Overlay { lower: Vec<PathBuf>, attributes: OverlayAttributes, upper: Option<PathBuf> },
    Plain { root: PathBuf, records: Records, unmade: BTreeSet<TreePath> },
}

/// What a step gets as its root; made of host paths, not yet mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootMount {
    /// Directories over each other.
    Overlay {
        /// Directories that stay as they are, lowest first; at least one.
        lower: Vec<PathBuf>,
        /// Takes what is written.
        upper: PathBuf,
        /// Empty, on the file system of `upper`, for the kernel.
        work: PathBuf,
        /// Where overlay keeps its notes.
        attributes: OverlayAttributes,
        /// An empty directory to mount it on.
        mount_point: PathBuf,
    },
    /// A directory, written in place.
    Directory {
        /// The directory.
        path: PathBuf,
    },
}

/// Which extended attributes overlay notes opaque directories in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OverlayAttributes {
    /// `trusted.overlay.*`: the real root only.
    Trusted,
    /// `user.overlay.*`: inside a user namespace.
    User,
}

/// Which owners the disk can hold. A file of another owner has root's id there, and the tree remembers: where a step leaves
/// it in its place, it keeps its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Ids below this one can be given to a file: 1 in a user namespace with a single id. 0 where a step is emulated: then all
    /// attributes are recorded beside the files, and the step sees and changes those records.
    pub storable_ids: u32,
}

/// Another time for what a step has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dating {
    /// What is not older than this was written by a step; a time before it was set on purpose, and stays.
    pub since: Timestamp,
    /// The time that a layer gives it.
    pub to: Timestamp,
}

/// What a step changed.
#[derive(Debug)]
pub struct StepChanges {
    /// Sorted by path; a hard link comes after its target.
    pub changes: Vec<Change>,
    /// The files whose content is [`Content::Host`](crate::tree::Content::Host). In a plain directory the next step may change them: pack them first.
    pub files: ConfinedDir,
}

/// Why a root file system could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// Something in the root itself.
    #[error(transparent)]
    Confined(#[from] ConfinedError),
    /// A directory that holds it.
    #[error("cannot {action} {}", path.display())]
    State {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes of a file.
    #[error("cannot copy {path}")]
    Copy {
        /// The file.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// The tree has a file that no layer on disk holds.
    #[error("{path} has vanished from the root file system")]
    Vanished {
        /// The file.
        path: TreePath,
    },
}

impl Rootfs {
    /// An empty root in a new directory below `state_directory`: an overlay with these attributes, or a plain directory.
    ///
    /// # Errors
    /// [`RootfsError`] if no directory can be made.
    pub fn new(state_directory: &Path, overlay: Option<OverlayAttributes>, owners: Owners) -> Result<Self, RootfsError> {
        let state = StateDirectory::new(state_directory)?;
        let form = match overlay {
            Some(attributes) => Form::Overlay { lower: Vec::new(), attributes, upper: None },
            None => Form::Plain { root: state.make("root")?, records: Records::default(), unmade: BTreeSet::new() },
        };
        Ok(Self { states: vec![Arc::new(state)], form, owners, made: 0 })
    }

    /// A plain root that starts as a copy of the one at `directory`, which is `tree`.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses, or `directory` is not what `tree` says.
    pub fn copy_of(
        directory: &Path,
        tree: &Tree,
        state_directory: &Path,
        owners: Owners,
        copying: Copying,
    ) -> Result<Self, RootfsError> {
        let mut rootfs = Self::new(state_directory, None, owners)?;
        if let Form::Plain { root, .. } = &rootfs.form {
            let unpacked = copy(directory, root, tree, owners, copying)?;
            rootfs.push(unpacked);
        }
        Ok(rootfs)
    }

    /// Another root that starts where this one is; `tree` is what the layers so far add up to. Of an overlay nothing is copied.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses; not all that a plain directory holds need be ours to read.
    pub fn fork(&self, state_directory: &Path, tree: &Tree) -> Result<Self, RootfsError> {
        match &self.form {
            Form::Overlay { lower, attributes, .. } => {
                let mut states = self.states.clone();
                states.push(Arc::new(StateDirectory::new(state_directory)?));
                let form = Form::Overlay { lower: lower.clone(), attributes: *attributes, upper: None };
                Ok(Self { states, form, owners: self.owners, made: 0 })
            }
            // Most often it was written just now.
            Form::Plain { root, .. } => Self::copy_of(root, tree, state_directory, self.owners, Copying::Apart),
        }
    }

    /// Whether layers are directories of their own, so that [`push_directory`](Self::push_directory) can save unpacking one.
    pub fn is_overlay(&self) -> bool {
        matches!(self.form, Form::Overlay { .. })
    }

    /// Adds a layer that somebody has unpacked by [`unpacker_into`](Self::unpacker_into), over the same layers. It is only read.
    ///
    /// # Panics
    /// If this is no overlay.
    pub fn push_directory(&mut self, directory: PathBuf) {
        match &mut self.form {
            Form::Overlay { lower, .. } => lower.push(directory),
            Form::Plain { .. } => panic!("a plain directory has no layers of its own"),
        }
    }

    /// Unpacks the next layer of an overlay into `directory`, which is empty and stays the caller's; it is added by
    /// [`push_directory`](Self::push_directory). `below` is the tree of the layers so far.
    ///
    /// # Errors
    /// [`RootfsError`] if the directory cannot be opened.
    ///
    /// # Panics
    /// If this is no overlay.
    pub fn unpacker_into(&self, directory: &Path, below: &Tree, index: &LayerIndex) -> Result<Unpacker, RootfsError> {
        match &self.form {
            Form::Overlay { lower, .. } => Unpacker::beside(directory, lower, below, index, self.owners),
            Form::Plain { .. } => panic!("a plain directory has no layers of its own"),
        }
    }

    /// Unpacks the next layer into this root; it is added by [`push`](Self::push). `below` is the tree of the layers so far.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses.
    pub fn unpacker(&mut self, below: &Tree, index: &LayerIndex) -> Result<Unpacker, RootfsError> {
        if let Form::Plain { root, .. } = &self.form {
            return Unpacker::over(root, below, index, self.owners);
        }
        self.made += 1;
        let directory = self.state().make(&format!("layer-{}", self.made))?;
        self.unpacker_into(&directory, below, index)
    }

    /// Adds the layer that an [`unpacker`](Self::unpacker) has finished.
    pub fn push(&mut self, unpacked: Unpacked) {
        let directory = self.state().path.join(format!("layer-{}", self.made));
        match &mut self.form {
            Form::Overlay { lower, .. } => lower.push(directory),
            Form::Plain { records, unmade, .. } => {
                records.extend(unpacked.records);
                unmade.extend(unpacked.unmade);
            }
        }
    }

    /// Gives the root for the next step; `tree` is what the layers so far add up to.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses.
    pub fn begin_step(&mut self, tree: &Tree) -> Result<RootMount, RootfsError> {
        let mount = self.view(tree)?;
        match (&mut self.form, &mount) {
            (Form::Overlay { upper: current, .. }, RootMount::Overlay { upper, .. }) => *current = Some(upper.clone()),
            // A change within the same tick of the clock as the unpacking would leave the same time.
            _ => await_next_tick(),
        }
        if let Form::Plain { root, records, .. } = &self.form
            && self.owners == Owners::RECORDED
        {
            recorded::note_links(root, records.linked())?;
        }
        Ok(mount)
    }

    /// Gives this root to look at. On an overlay what is written is discarded; a plain directory is itself.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses.
    pub fn view(&mut self, tree: &Tree) -> Result<RootMount, RootfsError> {
        self.made += 1;
        let made = self.made;
        let (lower, attributes) = match &self.form {
            Form::Plain { root, .. } => return Ok(RootMount::Directory { path: root.clone() }),
            Form::Overlay { lower, attributes, .. } => (lower.clone(), *attributes),
        };
        let make = |name: &str| self.state().make(&format!("{name}-{made}"));
        let (upper, work, mount_point) = (make("upper")?, make("work")?, make("mount")?);
        let lower = if lower.is_empty() { vec![make("empty")?] } else { lower };
        let root = TreePath::root();
        let entry = tree.get(&root).expect("a tree has a root");
        ConfinedDir::open(&upper)?.set_attributes(&root, entry, self.owners.attributes())?;
        Ok(RootMount::Overlay { lower, upper, work, attributes, mount_point })
    }

    /// The directory that all of this root is in, to look at; `None` for an overlay.
    pub fn as_directory(&self) -> Option<RootMount> {
        match &self.form {
            Form::Plain { root, .. } => Some(RootMount::Directory { path: root.clone() }),
            Form::Overlay { .. } => None,
        }
    }

    /// Says what the step that ran since [`begin_step`](Self::begin_step) changed in `tree`, the same tree. The next step
    /// starts from there.
    ///
    /// Files are compared as a layer stores them: by whole seconds and, where those and the size are equal, by content. A
    /// directory of which only the time changed has not changed. Files that were read get no digest. With a `dating` the
    /// changes have its times, and a file that would be in the layer as it is in `tree` has not changed.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk cannot be read.
    pub fn end_step(&mut self, tree: &Tree, source: SourceId, dating: Option<Dating>) -> Result<StepChanges, RootfsError> {
        match &mut self.form {
            Form::Overlay { lower, attributes, upper } => {
                let upper = upper.take().expect("a step has begun");
                let files = ConfinedDir::open(&upper)?;
                let changes = changes::in_upper(&files, attributes.opaque(), tree, source, self.owners, dating)?;
                lower.push(upper);
                Ok(StepChanges { changes, files })
            }
            Form::Plain { root, records, unmade } => {
                let files = ConfinedDir::open(&*root)?;
                let (changes, after) = changes::in_directory(&files, records, unmade, tree, source, self.owners, dating)?;
                // What the step removed or replaced is not waiting to be made any more.
                let takes_away = |change: &&Change| !change.entry().is_some_and(Entry::is_directory);
                let gone: Vec<&TreePath> = changes.iter().filter(takes_away).map(Change::path).collect();
                unmade.retain(|path| !gone.iter().any(|gone| path.below(gone).is_some()));
                *records = after;
                Ok(StepChanges { changes, files })
            }
        }
    }

    /// Whether the file system that takes what a step writes has no room left.
    pub fn is_full(&self) -> bool {
        /// Less than a block for a file and one for its directory.
        const NEARLY_NOTHING: u64 = 16 * 1024;
        rustix::fs::statvfs(&self.state().path).is_ok_and(|space| {
            let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
            // Some file systems count neither: then both numbers are 0.
            (space.f_blocks > 0 && free_bytes < NEARLY_NOTHING) || (space.f_files > 0 && space.f_favail == 0)
        })
    }

    fn state(&self) -> &StateDirectory {
        self.states.last().expect("there is one from the start")
    }
}

impl Dating {
    /// The time in a layer of what has `mtime` on disk.
    pub fn of(self, mtime: Timestamp) -> Timestamp {
        if mtime >= self.since { self.to } else { mtime }
    }
}

impl Owners {
    /// Root's owners: every id.
    pub const REAL: Self = Self { storable_ids: u32::MAX };
    /// Recorded beside the files; for a plain directory only.
    pub const RECORDED: Self = Self { storable_ids: 0 };

    fn attributes(self) -> Attributes {
        if self == Self::REAL { Attributes::Real } else { Attributes::WherePossible }
    }
}

impl OverlayAttributes {
    /// The attribute of a directory that hides what is below it.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// All that stands in the plain root at `directory`, as a layer over nothing; what is recorded beside it counts.
///
/// # Errors
/// [`RootfsError`] if the disk cannot be read.
pub fn contents(directory: &Path, owners: Owners, source: SourceId) -> Result<StepChanges, RootfsError> {
    let files = ConfinedDir::open(directory)?;
    let (changes, _) = changes::in_directory(&files, &Records::default(), &BTreeSet::new(), &Tree::new(), source, owners, None)?;
    Ok(StepChanges { changes, files })
}

/// Gives what stands at `path` in the plain root at `root` the attributes of `entry`, recorded beside it
/// ([`Owners::RECORDED`]). `directory` is that root.
///
/// # Errors
/// [`RootfsError`] if the disk refuses.
pub fn record(root: &Path, directory: &ConfinedDir, path: &TreePath, entry: &Entry) -> Result<(), RootfsError> {
    Ok(recorded::Recorded::open(root)?.set(directory, path, entry)?)
}

/// Copies what stands at `source` in one plain root to `target` in another, with all below it and with what is recorded of it
/// ([`Owners::RECORDED`]). Nothing stands at `target`; neither path leads through a link.
///
/// # Errors
/// [`RootfsError`] if the disk refuses.
pub fn copy_recorded(from: &Path, source: &TreePath, to: &Path, target: &TreePath) -> Result<(), RootfsError> {
    recorded::copy((from, source), (to, target))
}

/// A directory of ours, removed with everything in it.
#[derive(Debug)]
struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    fn new(parent: &Path) -> Result<Self, RootfsError> {
        let made = tempfile::Builder::new().prefix("rootfs-").tempdir_in(parent);
        let failed = |source| RootfsError::State { action: "make a directory in", path: parent.to_owned(), source };
        let path = made.map_err(failed)?;
        Ok(Self { path: path.keep() })
    }

    fn make(&self, name: &str) -> Result<PathBuf, RootfsError> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(|source| RootfsError::State { action: "make", path: path.clone(), source })?;
        Ok(path)
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        // What cannot be removed has no one left to be told; the state directory itself is somebody's to remove.
        if let Ok(directory) = ConfinedDir::open(&self.path) {
            let _ = directory.remove_all(&TreePath::root());
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Waits until the kernel would stamp a change with another time than now.
fn await_next_tick() {
    use rustix::time::{ClockId, clock_gettime};
    let now = || clock_gettime(ClockId::RealtimeCoarse);
    let start = now();
    // At most 10 ms on any kernel; a clock set back in this moment ends it too.
    while now() == start {
        std::thread::sleep(Duration::from_millis(1));
    }
}
