//! What a layer does to the tree below it. Pure.

use super::{Entry, File, TreePath};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One record of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// An entry is there now, in place of whatever was: a directory over a directory keeps its children, everything else
    /// replaces what was there with all below it.
    Put {
        /// Where.
        path: TreePath,
        /// What; shared with the trees and lists that have it too.
        entry: Arc<Entry>,
    },
    /// A further name of the file at `target`, which was put earlier in this layer or lies below it.
    Link {
        /// The new name.
        path: TreePath,
        /// A name that the file has already.
        target: TreePath,
    },
    /// Nothing is there any more (`.wh.<name>`). Speaks of the tree below the layer only.
    Remove {
        /// Where.
        path: TreePath,
    },
    /// Of the tree below the layer, nothing is left in this directory (`.wh..wh..opq`). Read from foreign layers, never written.
    Opaque {
        /// The directory.
        path: TreePath,
    },
}

/// Everything in one layer, in the order of its tar; the bytes of the files are [`Content::Layer`](super::Content::Layer) of that layer.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LayerIndex {
    /// The records.
    pub changes: Vec<Change>,
}

impl Change {
    /// Puts `entry` at `path`.
    #[must_use]
    pub fn put(path: TreePath, entry: impl Into<Arc<Entry>>) -> Self {
        Self::Put { path, entry: entry.into() }
    }

    /// What it puts there.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        if let Self::Put { entry, .. } = self { Some(entry) } else { None }
    }

    /// The regular file that it puts there, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.entry()?.file()
    }

    /// What it puts there, to be changed here alone.
    pub fn entry_mut(&mut self) -> Option<&mut Entry> {
        if let Self::Put { entry, .. } = self { Some(Arc::make_mut(entry)) } else { None }
    }

    /// The regular file that it puts there, to be changed here alone.
    pub fn file_mut(&mut self) -> Option<&mut File> {
        if self.file().is_some() { self.entry_mut()?.file_mut() } else { None }
    }

    /// Where it happens.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Put { path, .. } | Self::Link { path, .. } | Self::Remove { path } | Self::Opaque { path } => path,
        }
    }
}
