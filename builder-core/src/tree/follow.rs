//! Following symbolic links inside a root, wherever the entries come from. Pure.

use super::{Node, TreePath};
use std::borrow::Cow;

/// Number of symbolic links that one look-up follows, as in Linux.
const MAX_LINKS: u32 = 40;

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A part in the middle is a file.
    #[error("{0} is not a directory")]
    NotADirectory(TreePath),
    /// A circle of links, or a very long chain.
    #[error("too many levels of symbolic links at {0}")]
    TooManyLinks(TreePath),
}

/// Whether a link in the last part is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Yes: the result is no link.
    Followed,
    /// No: the result may be one.
    Kept,
}

/// What stands on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met<'a> {
    /// A symbolic link with this target.
    Link(Cow<'a, [u8]>),
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

impl<'a> From<&'a Node> for Met<'a> {
    fn from(node: &'a Node) -> Self {
        match node {
            Node::Symlink(target) => Self::Link(Cow::Borrowed(target)),
            Node::Directory => Self::Directory,
            _ => Self::Other,
        }
    }
}

impl From<Node> for Met<'static> {
    fn from(node: Node) -> Self {
        match node {
            Node::Symlink(target) => Self::Link(Cow::Owned(target)),
            Node::Directory => Self::Directory,
            _ => Self::Other,
        }
    }
}

/// Where `path` leads when links are followed inside the root; `met` tells what stands at a path. Parts that do not exist
/// are taken as they are, so the result names the place where something would be made.
///
/// # Errors
/// [`ResolveError`], and whatever `met` fails with.
pub fn follow<'a, E: From<ResolveError>>(
    path: &TreePath,
    last: Last,
    mut met: impl FnMut(&TreePath) -> Result<Option<Met<'a>>, E>,
) -> Result<TreePath, E> {
    let mut left: Vec<Vec<u8>> = path.parts().rev().map(<[u8]>::to_vec).collect();
    let mut here = TreePath::root();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                here = here.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = here.child(&part);
        match met(&next)? {
            Some(Met::Link(target)) if last == Last::Followed || !left.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ResolveError::TooManyLinks(path.clone()).into());
                }
                if target.first() == Some(&b'/') {
                    here = TreePath::root();
                }
                left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
            Some(Met::Directory) | None => here = next,
            // `file/.` is no file, `file/..` neither.
            Some(_) if left.iter().any(|part| !part.is_empty()) => return Err(ResolveError::NotADirectory(next).into()),
            Some(_) => here = next,
        }
    }
    Ok(here)
}
