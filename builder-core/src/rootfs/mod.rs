//! A [`Tree`](crate::tree::Tree) made real: layers unpacked for a RUN step, and what the step changed.
//!
//! A root is an *overlay* of directories, one per layer, or a *plain directory*. Both give the same changes.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

impl OverlayAttributes {
    /// The attribute of a directory that hides what is below it.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}
