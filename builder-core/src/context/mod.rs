//! Where COPY and ADD take files from: directories of this machine, Git repositories ([`git`]), web servers ([`download`]),
//! OCI layouts ([`layout`]).
//!
//! A [`Context`] is a confined directory minus what the ignore rules leave out. It is a [`Listing`]: a directory is read when a source asks
//! for it, once, and one that is excluded is not entered unless something in it may be brought back. Owners are 0:0, as every
//! builder gives them. Digests come later, on several threads, for what was selected: [`Context::complete`].

pub mod download;
pub mod git;
mod ignore_file;
pub mod layout;

pub use git::GitSource;
pub use ignore_file::find_rules;

use crate::confined::{ConfinedDir, ConfinedError, Stat, StatKind};
use crate::copy::{Child, Identified, IgnoreError, Listing, Rules, Selection, Verdict};
use crate::tree::{Content, ContentDigest, ContentHasher, Entry, File as TreeFile, Node, SourceId, Timestamp, TreePath};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A directory to take files from. All that is read of it is remembered: within one build it does not change.
#[derive(Debug)]
pub struct Context {
    directory: ConfinedDir,
    rules: Rules,
    source: SourceId,
    known: Mutex<Known>,
}

/// Device and number of an inode.
pub type HostInode = ((u32, u32), u64);

/// Asked between pieces of work, on several threads: whether to give up.
pub type Stop<'a> = dyn Fn() -> bool + Sync + 'a;

/// Why a context cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The file system refused.
    #[error(transparent)]
    Directory(#[from] ConfinedError),
    /// The bytes of a file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file has another size than when it was listed.
    #[error("{path:?} changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Nobody wants the digests any more.
    #[error("stopped")]
    Stopped,
    /// The ignore file is malformed.
    #[error("cannot understand {path:?}")]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// The line.
        source: IgnoreError,
    },
}

#[derive(Debug, Default)]
struct Known {
    /// What the rules said of directories.
    verdicts: HashMap<TreePath, Verdict>,
    /// Directories that were read to see whether anything in them is brought back, and are not listed yet.
    read: HashMap<TreePath, Vec<(Vec<u8>, Stat)>>,
    /// Directories that were listed.
    listed: HashMap<TreePath, Vec<Child<HostInode>>>,
    /// Files that were read and are in no directory that was listed: of the others the list has all.
    completed: HashMap<TreePath, Arc<Entry>>,
}

/// What only reading a file tells.
struct Completed {
    digest: ContentDigest,
    capability: Option<Vec<u8>>,
}

/// Files that one thread takes at a time.
const BATCH_FILES: usize = 16;
const BUFFER_BYTES: usize = 128 * 1024;

impl Context {
    /// Opens the directory at `path` on this machine. Contents of its files are [`Content::Host`] of `source`.
    ///
    /// # Errors
    /// [`ContextError`] if it is missing or no directory.
    pub fn directory(path: &Path, rules: Rules, source: SourceId) -> Result<Self, ContextError> {
        Ok(Self { directory: ConfinedDir::open(path)?, rules, source, known: Mutex::default() })
    }

    /// Opens a regular file to read, whether or not the rules leave it out.
    ///
    /// # Errors
    /// [`ContextError`] if it is missing or something else.
    pub fn open(&self, path: &TreePath) -> Result<File, ContextError> {
        Ok(self.directory.open_file(path)?)
    }

    /// What is left out.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The directory on this machine, if a step that sees it finds what `selection` says: no rule leaves anything out, and
    /// everything is root's.
    ///
    /// # Errors
    /// [`ContextError`] if something cannot be asked for its owner.
    pub fn as_directory(&self, selection: &Selection) -> Result<Option<PathBuf>, ContextError> {
        if !self.rules.is_empty() {
            return Ok(None);
        }
        for selected in &selection.entries {
            let stat = self.directory.stat(&selection.origin.join(&selected.path))?;
            let mode = selected.entry.mode;
            if stat.is_none_or(|stat| (stat.uid, stat.gid) != (0, 0) || stat.mode != mode && stat.kind != StatKind::Symlink) {
                return Ok(None);
            }
        }
        let path = self.directory.shown();
        path.canonicalize().map(Some).map_err(|source| ContextError::Read { path: path.to_owned(), source })
    }

    /// Whether a path that was not found is there and left out by the rules: for a hint.
    pub fn is_excluded(&self, path: &TreePath) -> bool {
        self.rules.excluded(path) && self.directory.stat(path).is_ok_and(|stat| stat.is_some())
    }

    /// Fills in what only the bytes of the files tell, on several threads: their digests, and `security.capability`.
    ///
    /// # Errors
    /// [`ContextError`] if a file cannot be read, or changed since it was listed.
    pub fn complete(&self, selections: &mut [Selection], threads: NonZeroUsize, stop: &Stop<'_>) -> Result<(), ContextError> {
        let entries = selections.iter_mut().flat_map(|selection| &mut selection.entries).map(|selected| &mut selected.entry);
        let incomplete = entries.filter(|entry| self.file_to_read(entry).is_some());
        let left = Mutex::new(incomplete.collect::<Vec<_>>().into_iter());
        let next_batch = || left.lock().unwrap_or_else(PoisonError::into_inner).by_ref().take(BATCH_FILES).collect::<Vec<_>>();
        let work = || {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let batch = next_batch();
                if batch.is_empty() {
                    return Ok(());
                }
                for entry in batch {
                    self.complete_entry(entry, &mut buffer, stop)?;
                }
            }
        };
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads.get()).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = helpers.into_iter().map(|helper| helper.join().expect("reading files does not panic"));
            others.fold(own, Result::and)
        })
    }

    /// Path and size of a file of ours whose digest is unknown.
    fn file_to_read(&self, entry: &Entry) -> Option<(TreePath, u64)> {
        match entry.file()? {
            TreeFile { size_bytes, digest: None, content: Content::Host { source, path } } if *source == self.source => {
                Some((path.clone(), *size_bytes))
            }
            _ => None,
        }
    }

    fn complete_entry(&self, entry: &mut Arc<Entry>, buffer: &mut [u8], stop: &Stop<'_>) -> Result<(), ContextError> {
        let Some((path, size_bytes)) = self.file_to_read(entry) else { return Ok(()) };
        let known = self.known().completed(&path);
        let Completed { digest, capability } = match known {
            Some(completed) => completed,
            None => self.read(&path, size_bytes, entry.mode, buffer, stop)?,
        };
        let complete = Arc::make_mut(entry);
        complete.capability = capability;
        if let Some(file) = complete.file_mut() {
            file.digest = Some(digest);
        }
        self.known().complete(path, entry);
        Ok(())
    }

    fn read(
        &self,
        path: &TreePath,
        size_bytes: u64,
        mode: u16,
        buffer: &mut [u8],
        stop: &Stop<'_>,
    ) -> Result<Completed, ContextError> {
        let mut file = self.directory.open_file(path)?;
        let shown = || self.directory.shown().join(path.as_path());
        let mut hasher = ContentHasher::default();
        let mut read_bytes = 0;
        loop {
            if stop() {
                return Err(ContextError::Stopped);
            }
            match file.read(buffer) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(&buffer[..length]);
                    read_bytes += length as u64;
                    // Of a regular file the kernel gives less than was asked for only at its end: a call less for each small one.
                    if length < buffer.len() && read_bytes == size_bytes {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ContextError::Read { path: shown(), source }),
            }
        }
        if read_bytes != size_bytes {
            return Err(ContextError::Changed { path: shown() });
        }
        // Only programs have capabilities, and most files are none: a system call less for each of these.
        let capability = if mode & 0o111 == 0 { None } else { self.directory.attribute(path, "security.capability")? };
        Ok(Completed { digest: hasher.finish(), capability })
    }

    /// What the rules say of a directory, after what they say of those above it.
    fn verdict(&self, directory: &TreePath) -> Verdict {
        if let Some(verdict) = self.known().verdicts.get(directory) {
            return verdict.clone();
        }
        let mut verdict = self.rules.root();
        for directory in directory.ancestors().chain([directory.clone()]).filter(|directory| !directory.is_root()) {
            let known = self.known().verdicts.get(&directory).cloned();
            verdict = known.unwrap_or_else(|| self.rules.judge(&directory, &verdict));
            self.known().verdicts.insert(directory, verdict.clone());
        }
        verdict
    }

    /// Whether the rules leave this path in the context.
    fn is_visible(&self, path: &TreePath, stat: &Stat, parent: &Verdict) -> Result<bool, ContextError> {
        if stat.kind != StatKind::Directory {
            return Ok(stat.kind != StatKind::Socket && !self.rules.excludes(path, parent));
        }
        let verdict = self.rules.judge(path, parent);
        let excluded = verdict.excluded;
        self.known().verdicts.insert(path.clone(), verdict);
        Ok(!excluded || (self.rules.may_bring_back_below(path) && self.holds_anything(path)?))
    }

    /// Whether anything in an excluded directory is brought back.
    fn holds_anything(&self, directory: &TreePath) -> Result<bool, ContextError> {
        let mut left = vec![directory.clone()];
        while let Some(directory) = left.pop() {
            let verdict = self.verdict(&directory);
            let stats = self.read_directory(&directory)?;
            let mut is_found = false;
            for (name, stat) in &stats {
                let path = directory.child(name);
                let excluded = stat.kind == StatKind::Socket || self.rules.excludes(&path, &verdict);
                is_found |= !excluded;
                if excluded && stat.kind == StatKind::Directory && self.rules.may_bring_back_below(&path) {
                    left.push(path);
                }
            }
            self.known().read.insert(directory, stats);
            if is_found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_directory(&self, directory: &TreePath) -> Result<Vec<(Vec<u8>, Stat)>, ContextError> {
        let read = self.known().read.remove(directory);
        Ok(match read {
            Some(read) => read,
            None => self.directory.list_stats(directory)?,
        })
    }

    fn child(&self, path: TreePath, stat: &Stat) -> Result<Option<Child<HostInode>>, ContextError> {
        let node = match stat.kind {
            StatKind::Directory => Node::Directory,
            StatKind::File => {
                let content = Content::Host { source: self.source, path: path.clone() };
                Node::File(TreeFile { size_bytes: stat.size_bytes, digest: None, content })
            }
            StatKind::Symlink => Node::Symlink(self.directory.read_link(&path)?),
            StatKind::CharDevice { major, minor } => Node::CharDevice { major, minor },
            StatKind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
            StatKind::Fifo => Node::Fifo,
            StatKind::Socket => return Ok(None),
        };
        // A layer stores whole seconds; what is the same in a layer is the same here.
        let mtime = Timestamp::truncated(stat.mtime);
        let mode = reduced(&node, stat.mode);
        let entry = Entry { node, mode, uid: 0, gid: 0, mtime, capability: None };
        Ok(Some((path, (stat.device, stat.inode), entry.into())))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The place of a file in the list of its directory, if there is one.
    fn listed(&mut self, path: &TreePath) -> Option<&mut Arc<Entry>> {
        let children = self.listed.get_mut(&path.parent()?)?;
        let at = children.binary_search_by(|(child, ..)| child.cmp(path)).ok()?;
        Some(&mut children[at].2)
    }

    fn completed(&mut self, path: &TreePath) -> Option<Completed> {
        let digest = |entry: &Arc<Entry>| entry.file().and_then(|file| file.digest);
        let listed = self.listed(path).filter(|entry| digest(entry).is_some()).map(|entry| entry.clone());
        let entry = listed.or_else(|| self.completed.get(path).cloned())?;
        Some(Completed { digest: digest(&entry)?, capability: entry.capability.clone() })
    }

    fn complete(&mut self, path: TreePath, entry: &Arc<Entry>) {
        match self.listed(&path) {
            Some(listed) => *listed = entry.clone(),
            None => drop(self.completed.insert(path, entry.clone())),
        }
    }
}

impl Listing for Context {
    type Inode = HostInode;
    type Error = ContextError;

    fn get(&self, path: &TreePath) -> Result<Option<Identified<HostInode>>, ContextError> {
        // The door follows links on the way; an entry of a tree has none above it.
        for directory in path.ancestors() {
            if self.directory.stat(&directory)?.is_none_or(|stat| stat.kind != StatKind::Directory) {
                return Ok(None);
            }
        }
        let Some(stat) = self.directory.stat(path)? else { return Ok(None) };
        if let Some(parent) = path.parent()
            && !self.is_visible(path, &stat, &self.verdict(&parent))?
        {
            return Ok(None);
        }
        Ok(self.child(path.clone(), &stat)?.map(|(_, inode, entry)| (inode, entry)))
    }

    fn children(&self, directory: &TreePath) -> Result<Vec<Child<HostInode>>, ContextError> {
        if let Some(listed) = self.known().listed.get(directory) {
            return Ok(listed.clone());
        }
        let verdict = self.verdict(directory);
        let mut listed = Vec::new();
        for (name, stat) in self.read_directory(directory)? {
            let path = directory.child(&name);
            if self.is_visible(&path, &stat, &verdict)? {
                listed.extend(self.child(path, &stat)?);
            }
        }
        self.known().listed.insert(directory.clone(), listed.clone());
        Ok(listed)
    }
}

/// The mode that a file or directory of a context counts as having: what a checkout makes under a umask of 002 or 000 is what it
/// makes under 022 (Git knows of a mode whether a file can be executed, and no more). Any other mode was set by hand and stays.
/// docs/decisions/keys.md
fn reduced(node: &Node, mode: u16) -> u16 {
    match (node, mode) {
        (Node::File(_), 0o664 | 0o666) => 0o644,
        (Node::File(_) | Node::Directory, 0o775 | 0o777) => 0o755,
        _ => mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::{Kind, content_digest, select};
    use std::{fs, os::unix::fs::symlink};

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn context(directory: &tempfile::TempDir, rules: &str) -> Context {
        Context::directory(directory.path(), Rules::parse(rules).unwrap(), SourceId(1)).unwrap()
    }

    fn selected(context: &Context, source: &str) -> String {
        let selections = select(context, source.as_bytes(), Kind::Contents, &Rules::default()).unwrap();
        let entries = selections
            .iter()
            .flat_map(|selection| selection.entries.iter().map(|selected| selection.origin.join(&selected.path).to_string()));
        entries.collect::<Vec<_>>().join(" ")
    }

    const FILES: [(&str, &str); 6] =
        [("a.txt", "A"), ("d/a.txt", "B"), ("d/e/a.txt", "C"), ("d/e/y.go", "D"), ("d/x.md", "E"), ("lib/keep.so", "F")];

    #[test]
    fn ignored_files_do_not_exist() {
        let directory = directory(&FILES);
        let selected = |rules: &str, source: &str| selected(&context(&directory, rules), source);
        assert_eq!(selected("**/a.txt\n", "."), "/ /d /d/e /d/e/y.go /d/x.md /lib /lib/keep.so");
        assert_eq!(selected("d\n", "."), "/ /a.txt /lib /lib/keep.so");
        assert_eq!(selected("d/*", "d"), "/d");
        assert_eq!(selected("**\n!d/e/a.txt", "."), "/ /d /d/e /d/e/a.txt");
        assert_eq!(selected("**\n!**/none", "."), "/");
        assert_eq!(selected("*\n!a.txt\n!d\nd/e\n!d/e/y.go", "."), "/ /a.txt /d /d/a.txt /d/e /d/e/y.go /d/x.md");
        assert_eq!(selected("a.*", "*.txt"), "");
        let gone = context(&directory, "a.*");
        assert!(select(&gone, b"a.txt", Kind::Contents, &Rules::default()).is_err());
        assert!(gone.is_excluded(&TreePath::clamp("a.txt")) && !gone.is_excluded(&TreePath::clamp("a.none")));
    }

    #[test]
    fn only_what_a_source_needs_is_listed() {
        let directory = directory(&FILES);
        let context = context(&directory, "d/e");
        assert_eq!(selected(&context, "lib"), "/lib /lib/keep.so");
        assert_eq!(selected(&context, "*/x.md"), "/d/x.md");
        let mut listed: Vec<String> = context.known().listed.keys().map(TreePath::to_string).collect();
        listed.sort();
        assert_eq!(listed, ["/", "/d", "/lib"]);
    }

    #[test]
    fn no_link_leads_out_of_the_context() {
        let outside = directory(&[("secret", "secret"), ("root/real", "mine")]);
        let root = outside.path().join("root");
        symlink("../../secret", root.join("up")).unwrap();
        symlink(outside.path().join("secret"), root.join("absolute")).unwrap();
        symlink(outside.path(), root.join("directory")).unwrap();
        symlink("/real", root.join("inside")).unwrap();
        let context = Context::directory(&root, Rules::default(), SourceId(1)).unwrap();
        for source in ["up", "absolute", "directory/secret", "../secret"] {
            assert!(select(&context, source.as_bytes(), Kind::Contents, &Rules::default()).is_err(), "{source}");
        }
        assert_eq!(selected(&context, "inside"), "/real");
        assert!(context.get(&TreePath::clamp("directory/root")).unwrap().is_none());
    }

    #[test]
    fn digests_are_filled_in_for_what_was_selected() {
        let directory = directory(&FILES);
        let context = context(&directory, "");
        let mut selections = select(&context, b".", Kind::Contents, &Rules::default()).unwrap();
        assert_eq!(content_digest(&selections), None);
        for threads in [1, 3] {
            context.complete(&mut selections, NonZeroUsize::new(threads).unwrap(), &|| false).unwrap();
        }
        let file = |path: &str| selections[0].entries.iter().find(|selected| selected.path == TreePath::clamp(path)).unwrap();
        assert_eq!(file("d/x.md").entry.file().unwrap().digest, Some(ContentDigest::of(b"E")));
        assert!(content_digest(&selections).is_some());
        assert_eq!((file("d").entry.uid, file("d").entry.gid), (0, 0));
    }

    #[test]
    fn a_file_that_changes_under_our_eyes_is_an_error() {
        let directory = directory(&FILES);
        let context = context(&directory, "");
        let mut selections = select(&context, b"a.txt", Kind::Contents, &Rules::default()).unwrap();
        fs::write(directory.path().join("a.txt"), "longer").unwrap();
        let error = context.complete(&mut selections, NonZeroUsize::MIN, &|| false).unwrap_err();
        assert!(matches!(error, ContextError::Changed { .. }), "{error}");
    }

    #[test]
    fn hard_links_pipes_and_sockets() {
        let directory = directory(&[("d/one", "same")]);
        let below = directory.path().join("d");
        fs::hard_link(below.join("one"), below.join("two")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, below.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(below.join("socket")).unwrap();
        let context = context(&directory, "");
        let selections = select(&context, b"d", Kind::Contents, &Rules::default()).unwrap();
        let entries: Vec<(String, Option<usize>)> =
            selections[0].entries.iter().skip(1).map(|selected| (selected.path.to_string(), selected.link)).collect();
        let (one, two) = (("/one".to_owned(), Some(0)), ("/two".to_owned(), Some(0)));
        assert_eq!(entries, [one, ("/pipe".to_owned(), Some(1)), two]);
    }
}
