//! Paths inside a tree: bytes, relative to its root, without `.`, `..` or empty parts. Pure.

use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc};

/// A path below the root of a tree; the root itself is the empty path. Ordered by bytes, so a directory stands before
/// what is in it. Clones share the bytes: a path stands in an index, in trees and in places at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TreePath(Arc<[u8]>);

/// A path that leads out of its root, or that no file system could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `..` climbs above the root.
    #[error("path {0:?} leads outside its root")]
    Escapes(String),
    /// A zero byte.
    #[error("path {0:?} holds a zero byte")]
    ZeroByte(String),
}

impl TreePath {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// A path from text as it stands in a Dockerfile or a tar: absolute or relative to the root, `.` and empty parts
    /// dropped, `..` resolved by name.
    ///
    /// # Errors
    /// [`PathError`] if `..` climbs above the root, or for a zero byte.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let path = path.as_ref();
        let shown = || String::from_utf8_lossy(path).into_owned();
        if path.contains(&0) {
            return Err(PathError::ZeroByte(shown()));
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop().ok_or_else(|| PathError::Escapes(shown()))?;
                }
                part => parts.push(part),
            }
        }
        Ok(Self(parts.join(&b'/').into()))
    }

    /// A path as [`parse`](Self::parse) reads it, but `..` at the root stays at the root, as in a container. Zero bytes end it.
    #[must_use]
    pub fn clamp(path: impl AsRef<[u8]>) -> Self {
        let mut parts: Vec<&[u8]> = Vec::new();
        let path = path.as_ref().split(|byte| *byte == 0).next().unwrap_or_default();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Self(parts.join(&b'/').into())
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for calls relative to a directory descriptor; empty for the root.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The path with `name` below it. `name` is one part.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..", "a name is one part");
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// The path with all of `below` below it.
    #[must_use]
    pub fn join(&self, below: &TreePath) -> Self {
        if below.is_root() { self.clone() } else { self.child_path(&below.0) }
    }

    fn child_path(&self, below: &[u8]) -> Self {
        if self.is_root() {
            return Self(below.into());
        }
        Self([&self.0, &b"/"[..], below].concat().into())
    }

    /// The directory that holds it; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(self.0.iter().rposition(|byte| *byte == b'/').map_or_else(Self::root, |at| Self(self.0[..at].into())))
    }

    /// The last part; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        if self.is_root() { None } else { self.0.rsplit(|byte| *byte == b'/').next() }
    }

    /// The parts, first to last.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// The directories above it, nearest last, the root not included.
    pub fn ancestors(&self) -> impl Iterator<Item = TreePath> + '_ {
        self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| Self(self.0[..at].into()))
    }

    /// The bounds of what is below a directory: its bytes with one more, `/` or the byte after it.
    pub(super) fn with_suffix(&self, byte: u8) -> Self {
        Self([&self.0[..], &[byte]].concat().into())
    }

    /// The first path behind all that is below the directory which ends before the slash at `slash`.
    pub(super) fn behind_block(&self, slash: usize) -> Self {
        Self([&self.0[..slash], b"0"].concat().into())
    }

    /// What is left of it below `directory`; `None` if it is not there. The directory itself leaves the root.
    #[must_use]
    pub fn below(&self, directory: &TreePath) -> Option<TreePath> {
        if directory.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(&directory.0[..])? {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.into())),
            _ => None,
        }
    }
}

/// Absolute, as a container sees it.
impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_and_cannot_leave_its_root() {
        for (text, parsed, clamped) in [
            ("", Some("/"), "/"),
            ("/", Some("/"), "/"),
            ("./a//b/", Some("/a/b"), "/a/b"),
            ("/a/../b", Some("/b"), "/b"),
            ("a/../..", None, "/"),
            ("../../etc/passwd", None, "/etc/passwd"),
        ] {
            assert_eq!(TreePath::parse(text).ok().map(|path| path.to_string()).as_deref(), parsed, "{text}");
            assert_eq!(TreePath::clamp(text).to_string(), clamped, "{text}");
        }
    }

    #[test]
    fn parts_of_a_path() {
        let path = TreePath::clamp("a/b/c");
        assert_eq!(path.parent(), Some(TreePath::clamp("a/b")));
        assert_eq!(path.name(), Some(&b"c"[..]));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [TreePath::clamp("a"), TreePath::clamp("a/b")]);
        assert_eq!(path.below(&TreePath::clamp("a")), Some(TreePath::clamp("b/c")));
        assert_eq!(TreePath::clamp("ab").below(&TreePath::clamp("a")), None);
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(TreePath::clamp("a").parent(), Some(TreePath::root()));
    }
}
