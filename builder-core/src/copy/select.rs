//! What a source of COPY or ADD names: one word of the instruction in, the files in. Pure.
//!
//! A source tree is anything that can be listed: the [`Tree`] of a stage, or a context that reads its directories as they are
//! asked for.

use super::{
    Rules, Verdict,
    glob::{Glob, GlobError, Stars, has_wildcard},
};
use crate::tree::{
    Content, ContentDigest, ContentHasher, Entry, File, Inode, Last, Met, Node, ResolveError, Timestamp, Tree, TreePath, follow,
};
use std::{collections::HashMap, convert::Infallible, error::Error, hash::Hash, sync::Arc};

/// What stands at a path: identity, entry.
pub type Identified<Inode> = (Inode, Arc<Entry>);
/// What a directory holds: path, identity, entry.
pub type Child<Inode> = (TreePath, Inode, Arc<Entry>);

/// A tree whose directories can be listed.
pub trait Listing {
    /// What tells hard links: equal for two names of one file.
    type Inode: Copy + Eq + Hash;
    /// Why something could not be listed.
    type Error: Error + Send + Sync + 'static;

    /// The entry at exactly this path; no link is followed.
    ///
    /// # Errors
    /// If the medium fails. What does not exist is `None`.
    fn get(&self, path: &TreePath) -> Result<Option<Identified<Self::Inode>>, Self::Error>;

    /// What is directly in a directory, by name.
    ///
    /// # Errors
    /// If the medium fails.
    fn children(&self, directory: &TreePath) -> Result<Vec<Child<Self::Inode>>, Self::Error>;
}

impl Listing for Tree {
    type Inode = Inode;
    type Error = Infallible;

    fn get(&self, path: &TreePath) -> Result<Option<Identified<Inode>>, Infallible> {
        Ok(self.inode(path).zip(self.shared(path)))
    }

    fn children(&self, directory: &TreePath) -> Result<Vec<Child<Inode>>, Infallible> {
        let children = self.shared_children(directory);
        Ok(children.map(|(path, inode, entry)| (path.clone(), inode, entry.clone())).collect())
    }
}

/// One thing that a source names, with all below it: what one pass of copying places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The last part of its path, as written or as matched by a wildcard: the name that a file gets in a directory.
    pub name: Vec<u8>,
    /// The path in the source tree, links followed.
    pub origin: TreePath,
    /// Itself, at the empty path, then what is below it; a directory stands before what is in it.
    pub entries: Vec<Selected>,
    pub(super) kind: Kind,
}

/// An entry of a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its place below the selection's root.
    pub path: TreePath,
    /// What it is. The digest of a file may be unknown until somebody needs it.
    pub entry: Arc<Entry>,
    /// Equal for the names of one file within this selection.
    pub link: Option<usize>,
    pub(super) role: Role,
}

/// What decides about directories that exist at the destination already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, or the contents of a directory.
    Contents,
    /// Paths kept, as with `--parents`.
    Parents,
}

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is wanted.
    Wanted,
    /// A directory that is there only because something below it is wanted.
    Parent,
}

/// Why a source names nothing.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A literal path, or the part before a wildcard, that does not exist.
    #[error("{source_text:?} was not found")]
    NotFound {
        /// As written.
        source_text: String,
        /// The path that does not exist, links followed.
        path: TreePath,
    },
    /// The pattern is malformed.
    #[error("{source_text:?} is no pattern")]
    Pattern {
        /// As written.
        source_text: String,
        /// What is wrong with it.
        source: GlobError,
    },
    /// The path leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The medium failed.
    #[error("cannot read {path}")]
    Read {
        /// What was to be read.
        path: TreePath,
        /// Why it could not.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Finds what `source_text` names in `from`: itself for a literal path, every match in order for a pattern.
///
/// A pattern without a match is no error and yields nothing. Links in the path, and one that the path ends with, are followed
/// inside the tree; links below a directory are kept. `..` stops at the root. `excludes` speaks of what is below a selected
/// directory, relative to it.
///
/// With [`Kind::Parents`] the selection is the root of the tree (or the directory before `/./`), and of what is below it only
/// what the pattern matches, which may hold `**`.
///
/// # Errors
/// [`SelectError::NotFound`] for a literal path that does not exist.
pub fn select<L: Listing>(from: &L, source_text: &[u8], kind: Kind, excludes: &Rules) -> Result<Vec<Selection>, SelectError> {
    let shown = String::from_utf8_lossy(source_text).into_owned();
    let source = Source { from, shown };
    match kind {
        Kind::Contents => {
            let found = source.find(source_text)?;
            found.into_iter().map(|(name, path)| source.gather(name, path, kind, None, excludes)).collect()
        }
        Kind::Parents => {
            let pivot = source_text.windows(3).position(|part| part == b"/./");
            let (base, pattern) = pivot.map_or((&b""[..], source_text), |at| (&source_text[..at], &source_text[at + 3..]));
            let pattern = TreePath::clamp(pattern);
            let includes = Rules::single(pattern.as_bytes())
                .map_err(|error| SelectError::Pattern { source_text: source.shown.clone(), source: error })?;
            let includes = Some(&includes).filter(|_| !pattern.is_root());
            let found = source.find(base)?;
            found
                .into_iter()
                .map(|(name, path)| {
                    let required = path.join(&pattern);
                    if !has_wildcard(pattern.as_bytes()) && source.get(&required)?.is_none() {
                        return Err(source.not_found(required));
                    }
                    source.gather(name, path, kind, includes, excludes)
                })
                .collect()
        }
    }
}

/// Finds what a path names in `from`, whatever characters are in it. Links are followed as [`select`] does.
///
/// # Errors
/// [`SelectError::NotFound`] if nothing is there.
pub fn select_path<L: Listing>(from: &L, path: &[u8]) -> Result<Selection, SelectError> {
    let source = Source { from, shown: String::from_utf8_lossy(path).into_owned() };
    let path = TreePath::clamp(path);
    let name = path.name().unwrap_or_default().to_vec();
    source.gather(name, source.follow(&path)?, Kind::Contents, None, &Rules::default())
}

/// One source on its way through the functions below.
struct Source<'a, L> {
    from: &'a L,
    shown: String,
}

/// A directory that is being walked.
struct Level<I> {
    children: std::vec::IntoIter<Child<I>>,
    /// The directory, if it is not selected itself: it comes along with the first thing below it.
    pending: Option<Selected>,
    excluded: Verdict,
    included: Verdict,
}

impl<L: Listing> Source<'_, L> {
    /// The paths that a text names, with the name of each: literal parts are followed, from the first wildcard on the tree is searched.
    fn find(&self, text: &[u8]) -> Result<Vec<(Vec<u8>, TreePath)>, SelectError> {
        let path = TreePath::clamp(text);
        let parts: Vec<&[u8]> = path.parts().collect();
        let literal = parts.iter().position(|part| has_wildcard(part)).unwrap_or(parts.len());
        let base = self.follow(&TreePath::clamp(parts[..literal].join(&b'/')))?;
        if self.get(&base)?.is_none() {
            return Err(self.not_found(base));
        }
        if literal == parts.len() {
            return Ok(vec![(path.name().unwrap_or_default().to_vec(), base)]);
        }
        let mut found = vec![base];
        for part in &parts[literal..] {
            let glob = Glob::parse(part, Stars::Single)
                .map_err(|error| SelectError::Pattern { source_text: self.shown.clone(), source: error })?;
            let mut matches = Vec::new();
            for directory in found {
                if self.get(&directory)?.is_some_and(|(_, entry)| entry.is_directory()) {
                    let children = self.children(&directory)?.into_iter().map(|(path, ..)| path);
                    matches.extend(children.filter(|path| path.name().is_some_and(|name| glob.matches(name))));
                }
            }
            found = matches;
        }
        found.into_iter().map(|path| Ok((path.name().unwrap_or_default().to_vec(), self.follow(&path)?))).collect()
    }

    /// The entry at `origin` and what of the things below it is wanted.
    fn gather(
        &self,
        name: Vec<u8>,
        origin: TreePath,
        kind: Kind,
        includes: Option<&Rules>,
        excludes: &Rules,
    ) -> Result<Selection, SelectError> {
        let (_, entry) = self.get(&origin)?.ok_or_else(|| self.not_found(origin.clone()))?;
        let is_directory = entry.is_directory();
        let everything = Rules::default();
        let includes_rules = includes.unwrap_or(&everything);
        let mut links = HashMap::new();
        let mut entries = vec![Selected { path: TreePath::root(), entry, link: None, role: Role::Wanted }];
        let mut levels = Vec::new();
        if is_directory {
            let children = self.children(&origin)?.into_iter();
            levels.push(Level { children, pending: None, excluded: excludes.root(), included: includes_rules.root() });
        }
        while let Some(level) = levels.last_mut() {
            let Some((full_path, inode, entry)) = level.children.next() else {
                levels.pop();
                continue;
            };
            let Some(path) = full_path.below(&origin) else { continue };
            let is_directory = entry.is_directory();
            if !is_directory {
                let is_included = includes.is_none_or(|rules| rules.excludes(&path, &level.included));
                if is_included && !excludes.excludes(&path, &level.excluded) {
                    let next = links.len();
                    let link = Some(*links.entry(inode).or_insert(next));
                    entries.extend(levels.iter_mut().filter_map(|level| level.pending.take()));
                    entries.push(Selected { path, entry, link, role: Role::Wanted });
                }
                continue;
            }
            let excluded = excludes.judge(&path, &level.excluded);
            // A pattern of `--parents` is a rule that selects: what it "excludes" is wanted.
            let included = includes_rules.judge(&path, &level.included);
            let is_included = includes.is_none() || included.excluded;
            let is_entered = (!excluded.excluded || excludes.may_bring_back_below(&path))
                && (is_included || includes_rules.may_match_below(&path));
            let mut pending = None;
            if is_included && !excluded.excluded {
                entries.extend(levels.iter_mut().filter_map(|level| level.pending.take()));
                entries.push(Selected { path, entry, link: None, role: Role::Wanted });
            } else {
                pending = Some(Selected { path, entry, link: None, role: Role::Parent });
            }
            if is_entered {
                let children = self.children(&full_path)?.into_iter();
                levels.push(Level { children, pending, excluded, included });
            }
        }
        Ok(Selection { name, origin, entries, kind })
    }

    fn follow(&self, path: &TreePath) -> Result<TreePath, SelectError> {
        follow(path, Last::Followed, |path| Ok(self.get(path)?.map(|(_, entry)| Met::from(Arc::unwrap_or_clone(entry).node))))
    }

    fn get(&self, path: &TreePath) -> Result<Option<Identified<L::Inode>>, SelectError> {
        self.from.get(path).map_err(|error| SelectError::Read { path: path.clone(), source: error.into() })
    }

    fn children(&self, directory: &TreePath) -> Result<Vec<Child<L::Inode>>, SelectError> {
        self.from.children(directory).map_err(|error| SelectError::Read { path: directory.clone(), source: error.into() })
    }

    fn not_found(&self, path: TreePath) -> SelectError {
        SelectError::NotFound { source_text: self.shown.clone(), path }
    }
}

impl Selection {
    /// A file that is in no tree: a heredoc, a download.
    pub fn file(name: impl Into<Vec<u8>>, entry: Entry) -> Self {
        let entries = vec![Selected { path: TreePath::root(), entry: entry.into(), link: None, role: Role::Wanted }];
        Self { name: name.into(), origin: TreePath::root(), entries, kind: Kind::Contents }
    }

    /// A heredoc: a file of root's with mode 0644.
    pub fn inline(name: impl Into<Vec<u8>>, bytes: &[u8], now: Timestamp) -> Self {
        let node = Node::File(File {
            size_bytes: bytes.len() as u64,
            digest: Some(ContentDigest::of(bytes)),
            content: Content::Inline(bytes.into()),
        });
        Self::file(name, Entry { node, mode: 0o644, uid: 0, gid: 0, mtime: now, capability: None })
    }

    /// The regular file that this is, if it is just one: it may be an archive.
    pub fn as_file(&self) -> Option<&File> {
        self.entries.first()?.entry.file()
    }
}

/// Each thing that an instruction reads, by its path, with a few bytes of the digest of what [`content_digest`] has of it.
///
/// It is there to say which files have changed, and decides nothing: that one change of 2^32 goes unseen does no harm, and the
/// parts need no lengths between them. A file whose digest is not known yet is left out.
pub fn file_digests(selections: &[Selection]) -> impl Iterator<Item = (TreePath, [u8; 4])> {
    let entries = selections.iter().flat_map(|selection| selection.entries.iter().map(|selected| (&selection.origin, selected)));
    let mut bytes = Vec::new();
    entries.filter_map(move |(origin, selected)| {
        bytes.clear();
        entry_parts(selected, &mut |part| bytes.extend_from_slice(part))?;
        let digest = ContentDigest::of(&bytes);
        Some((origin.join(&selected.path), *digest.as_bytes().first_chunk()?))
    })
}

/// The digest of all that an instruction reads: names, types, modes, owners, link targets, bytes. Not times.
///
/// `None` if the digest of a file is not known yet.
pub fn content_digest(selections: &[Selection]) -> Option<ContentDigest> {
    let mut hasher = ContentHasher::default();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for selection in selections {
        part(b"selection");
        part(&selection.name);
        for selected in &selection.entries {
            part(selected.path.as_bytes());
            part(&[u8::from(selected.role == Role::Wanted), u8::from(selected.link.is_some())]);
            part(&selected.link.unwrap_or_default().to_le_bytes());
            entry_parts(selected, &mut part)?;
        }
    }
    Some(hasher.finish())
}

/// What counts of an entry, wherever it stands.
fn entry_parts(Selected { entry, .. }: &Selected, part: &mut impl FnMut(&[u8])) -> Option<()> {
    part(&entry.mode.to_le_bytes());
    part(&entry.uid.to_le_bytes());
    part(&entry.gid.to_le_bytes());
    part(entry.capability.as_deref().unwrap_or_default());
    match &entry.node {
        Node::Directory => part(b"directory"),
        Node::File(file) => {
            part(b"file");
            part(file.digest?.as_bytes());
        }
        Node::Symlink(target) => {
            part(b"symlink");
            part(target);
        }
        Node::CharDevice { major, minor } => part(format!("char {major}:{minor}").as_bytes()),
        Node::BlockDevice { major, minor } => part(format!("block {major}:{minor}").as_bytes()),
        Node::Fifo => part(b"fifo"),
    }
    Some(())
}
