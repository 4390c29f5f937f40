//! Following symbolic links inside a root, wherever the entries come from. Pure.

use crate::tree::{Node, ResolveError, TreePath};

/// Number of symbolic links that one look-up follows, as in Linux.
const MAX_LINKS: u32 = 40;

/// Whether a link in the last part is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Followed,
    Kept,
}

/// Where `path` leads, by the nodes that `node_at` tells. Parts that do not exist are taken as they are.
pub(super) fn follow<E: From<ResolveError>>(
    path: &TreePath,
    last: Last,
    mut node_at: impl FnMut(&TreePath) -> Result<Option<Node>, E>,
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
        match node_at(&next)? {
            Some(Node::Symlink(target)) if last == Last::Followed || !left.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ResolveError::TooManyLinks(path.clone()).into());
                }
                if target.first() == Some(&b'/') {
                    here = TreePath::root();
                }
                left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
            Some(Node::Directory) | None => here = next,
            Some(_) if left.iter().any(|part| !part.is_empty()) => return Err(ResolveError::NotADirectory(next).into()),
            Some(_) => here = next,
        }
    }
    Ok(here)
}
