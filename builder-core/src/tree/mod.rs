//! The file system as a value: what an image holds, without a disk.
//!
//! A [`Tree`] is path → [`Entry`]. A layer is a list of [`Change`]s ([`LayerIndex`]); applying the lists of all layers in
//! turn, whiteouts and hard links included, yields the tree that a container would see. COPY, ADD and WORKDIR are computed
//! on it; what a RUN did is found by comparing with it. Pure.

mod change;
mod entry;
mod follow;
mod fold;
mod path;
pub mod text;

pub use change::{Change, LayerIndex};
pub use entry::{Content, ContentDigest, ContentHasher, Entry, File, Node, SourceId, Timestamp};
pub use fold::{Inode, Tree};
pub use follow::{Last, Met, ResolveError, follow};
pub use path::{PathError, TreePath};
