//! What a build takes from elsewhere: downloads, repositories, archives; each becomes files or a tree.
//!
//! Nothing is unpacked: an archive is read into a spool and its tree points into that, a download is a blob of the store, and
//! only a repository comes onto the disk, in the workspace of the build.

use super::{Build, BuildError, ContextSource, ErrorKind, OpenInput, SecretSource, contents::Contents, work::Work};
use crate::confined::ConfinedDir;
use crate::context::Context;
use crate::context::download::{Download, DownloadError, Wanted, download};
use crate::context::git::{self, Git, GitCredential, GitError, GitSource, Pinned};
use crate::copy::{Rules, Selection};
use crate::http::{self, Secret, Url};
use crate::layer::archive;
use crate::layer::write::OpenContent as _;
use crate::oci::{Digest, Platform};
use crate::plan::Source;
use crate::store::Store;
use crate::tree::{Content, Entry, File, Inode, Node, Timestamp, Tree, TreePath};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

/// Where files are copied from.
#[derive(Clone)]
pub(super) enum Files {
    /// A stage, an image, an archive, a repository.
    Tree(Arc<Tree>),
    /// A directory of this machine.
    Context(Arc<Context>),
}

impl Files {
    /// What a `.dockerignore` leaves out of them.
    pub(super) fn rules(&self) -> Option<&Rules> {
        if let Self::Context(context) = self { Some(context.rules()) } else { None }
    }
}

/// A source of ADD that is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    Url(Url),
    Git(GitSource),
}

/// The doors that lead elsewhere, and what is needed to use them.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) http: &'a http::Client,
    pub(super) git: &'a Arc<Git>,
    pub(super) input: &'a Arc<OpenInput>,
    pub(super) store: &'a Store,
    pub(super) contents: &'a Arc<Contents>,
    pub(super) work: &'a Work,
    pub(super) workspace: &'a Path,
    pub(super) secrets: &'a BTreeMap<String, SecretSource>,
    /// Most bytes of a download.
    pub(super) limit_bytes: u64,
}

impl Build {
    pub(super) fn fetch(&self) -> Fetch<'_> {
        Fetch {
            http: &self.http,
            git: &self.git,
            input: &self.input,
            store: &self.store,
            contents: &self.contents,
            work: &self.work,
            workspace: self.workspace.path(),
            secrets: &self.request.secrets,
            limit_bytes: self.request.max_unpacked_bytes,
        }
    }

    /// The files of what `--from` or a mount names.
    pub(super) async fn files_of(&self, source: Source, platform: &Platform) -> Result<Files, BuildError> {
        Ok(match source {
            Source::Scratch => Files::Tree(Arc::new(Tree::new())),
            Source::Stage(index) => Files::Tree(self.tree(&self.stage(index).await?.tree).await?),
            Source::Image(name) => {
                Files::Tree(self.tree(&self.base(&name, platform, super::base::Keep::Indexes).await?.tree).await?)
            }
            Source::Context(name) => match self.image_context(&name, platform, super::base::Keep::Indexes).await? {
                Some(image) => Files::Tree(self.tree(&image.tree).await?),
                None => self.context(Some(name)).await?,
            },
        })
    }
}

/// Reads a source of ADD; `None` if it is a path.
pub(super) fn remote(text: &str) -> Result<Option<Remote>, BuildError> {
    let failed = || BuildError::new(ErrorKind::Dockerfile, "cannot understand a source");
    if let Some(source) = GitSource::parse(text).map_err(|error| failed().because(error))? {
        return Ok(Some(Remote::Git(source)));
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(None);
    }
    let url = Url::parse(text).map_err(|_| failed().hint("an address is of the form https://host/path"))?;
    Ok(Some(Remote::Url(url)))
}

/// The name of a downloaded file, as BuildKit gives it: the last part of the path.
pub(super) fn name_of(url: &Url) -> Vec<u8> {
    let last = url.path().rsplit('/').find(|segment| !segment.is_empty());
    let name = last.map(percent_decoded).unwrap_or_default();
    // A decoded `%2F` makes a path of it.
    let name = name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    match name {
        b"" | b"." | b".." => b"__unnamed__".to_vec(),
        name if name.contains(&0) => b"__unnamed__".to_vec(),
        name => name.to_vec(),
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = text.as_bytes();
    while let [first, rest @ ..] = left {
        left = rest;
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, rest) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push(hex(*high).unwrap_or_default() << 4 | hex(*low).unwrap_or_default());
                left = after;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    bytes
}

impl Fetch<'_> {
    /// Sees to it that the file is in the store.
    pub(super) async fn download(&self, url: &Url, checksum: Option<Digest>) -> Result<Download, BuildError> {
        let wanted =
            Wanted { url: url.clone(), authorization: self.authorization(url).await?, checksum, limit_bytes: self.limit_bytes };
        let download = download(self.http, self.store, &wanted).await;
        download.map_err(|error| match error {
            DownloadError::Status { status, .. } if matches!(status.as_u16(), 401 | 403) => {
                let host = http::host_of(url);
                elsewhere(error).hint(format!("a token for it can be given with --secret id=HTTP_AUTH_TOKEN_{host}"))
            }
            DownloadError::Checksum { .. } => {
                BuildError::new(ErrorKind::Dockerfile, "the wrong file was downloaded").because(error)
            }
            DownloadError::Store(_) | DownloadError::Write(_) => {
                BuildError::new(ErrorKind::State, "cannot keep a download").because(error)
            }
            error => elsewhere(error),
        })
    }

    /// A downloaded file as ADD copies it: of root's, 0600, with the time that the server says.
    pub(super) fn selection(&self, url: &Url, download: &Download, made: Timestamp) -> Result<Selection, BuildError> {
        let mtime = download.modified_seconds.map_or(made, Timestamp::from_seconds);
        let entry = Entry { node: self.blob(download)?, mode: 0o600, uid: 0, gid: 0, mtime, capability: None };
        Ok(Selection::file(name_of(url), entry))
    }

    fn blob(&self, download: &Download) -> Result<Node, BuildError> {
        let file = self.store.open_blob(&download.digest).map_err(BuildError::store)?;
        let file = file.ok_or_else(|| BuildError::new(ErrorKind::State, "a download is not in the state directory any more"))?;
        let content = Content::Range { source: self.contents.add_file(file), offset_bytes: 0 };
        Ok(Node::File(File { size_bytes: download.size_bytes, digest: Some(download.content), content }))
    }

    /// Finds out which commit is meant.
    pub(super) async fn pin(&self, source: GitSource) -> Result<Pinned, BuildError> {
        let source = self.with_credential(source).await?;
        let (git, workspace, cancel) = (self.git.clone(), self.workspace.to_owned(), self.work.cancel_token());
        let pin = move || {
            let scratch = tempfile::tempdir_in(workspace).map_err(temporary)?;
            git.pin(&source, scratch.path(), &|| cancel.is_cancelled()).map_err(of_git)
        };
        self.work.run(pin).await
    }

    /// The files of a commit.
    pub(super) async fn check_out(&self, pinned: Pinned) -> Result<Arc<Tree>, BuildError> {
        let (git, workspace, cancel) = (self.git.clone(), self.workspace.to_owned(), self.work.cancel_token());
        let contents = self.contents.clone();
        let check_out = move || {
            let scratch = tempfile::tempdir_in(workspace).map_err(temporary)?;
            let checkout = git.check_out(&pinned, scratch.path(), &|| cancel.is_cancelled()).map_err(of_git)?;
            let open = || ConfinedDir::open(checkout.directory()).map_err(|error| of_git(error.into()));
            let source = contents.add_directory(open()?);
            let tree = checkout.tree(&open()?, source).map_err(of_git)?;
            // From here on it goes with the workspace.
            let _ = scratch.keep();
            Ok(Arc::new(tree))
        };
        self.work.run(check_out).await
    }

    /// The files of a context that is no directory of this machine and no image. A lone file gets the name `lone`.
    pub(super) async fn open(&self, source: &ContextSource, below: Option<&Path>, lone: &str) -> Result<Arc<Tree>, BuildError> {
        let (tree, below) = match source {
            ContextSource::Git(source) => {
                let tree = self.check_out(self.pin(source.clone()).await?).await?;
                let git = TreePath::clamp(&source.directory);
                (tree, git.join(&below.map(clamped).unwrap_or_default()))
            }
            other => {
                let tree = match other {
                    ContextSource::Archive(path) => {
                        let (path, lone) = (path.clone(), None);
                        let shown = path.display().to_string();
                        self.archive(shown, lone, move || Ok(Box::new(fs::File::open(path)?))).await?
                    }
                    ContextSource::Input => {
                        let input = self.input.clone();
                        self.archive("the input".to_owned(), Some(lone.to_owned()), move || input()).await?
                    }
                    ContextSource::Url(text) => self.url_tree(text, lone).await?,
                    _ => return Err(BuildError::new(ErrorKind::Request, "an image cannot be the context of a build")),
                };
                (tree, below.map(clamped).unwrap_or_default())
            }
        };
        subtree(tree, &below)
    }

    async fn url_tree(&self, text: &str, lone: &str) -> Result<Arc<Tree>, BuildError> {
        let url = Url::parse(text).map_err(|_| BuildError::new(ErrorKind::Request, "the address of the context is no URL"))?;
        let download = self.download(&url, None).await?;
        let (store, digest) = (self.store.clone(), download.digest);
        let open = move || -> io::Result<Box<dyn Read + Send>> {
            let file = store.open_blob(&digest).map_err(io::Error::other)?;
            Ok(Box::new(file.ok_or_else(|| io::Error::other("the download is gone"))?))
        };
        let again = open.clone();
        let is_archive = self
            .work
            .run(move || again().and_then(archive::recognise).map_err(|error| archived("the download").because(error)))
            .await?
            .is_some();
        if is_archive {
            return self.archive(http::redacted(&url), None, open).await;
        }
        let mtime = Timestamp::from_seconds(download.modified_seconds.unwrap_or_default());
        let entry = Entry { node: self.blob(&download)?, mode: 0o600, uid: 0, gid: 0, mtime, capability: None };
        let mut tree = Tree::new();
        tree.put(&TreePath::root().child(lone.as_bytes()), entry);
        Ok(Arc::new(tree))
    }

    /// Reads an archive. Whatever is none becomes a file called `lone`, where that is said.
    async fn archive(
        &self,
        shown: String,
        lone: Option<String>,
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static,
    ) -> Result<Arc<Tree>, BuildError> {
        let contents = self.contents.clone();
        let read = move || {
            let failed = || archived(&shown);
            let mut source = open().map_err(|error| failed().because(error))?;
            let mut first = Vec::new();
            source.by_ref().take(512).read_to_end(&mut first).map_err(|error| failed().because(error))?;
            let is_archive = archive::sniff(&first).is_some();
            let mut source = io::Cursor::new(first).chain(source);
            let mut tree = Tree::new();
            match lone {
                Some(lone) if !is_archive => {
                    const MOST: u64 = 16 << 20;
                    let mut bytes = Vec::new();
                    source.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| failed().because(error))?;
                    if bytes.len() as u64 > MOST {
                        return Err(failed().hint("it is no tar, and too large for a Dockerfile"));
                    }
                    let selection = Selection::inline(lone.as_bytes(), &bytes, Timestamp::default());
                    let entries = selection.entries.into_iter().map(|selected| selected.entry);
                    entries.for_each(|entry| tree.put(&TreePath::root().child(lone.as_bytes()), entry));
                }
                _ => {
                    let index = contents.spool(|id, spool| {
                        archive::read(&mut source, id, contents.limits(), spool).map_err(|error| failed().because(error))
                    })?;
                    let mut changes = index.changes;
                    for change in &mut changes {
                        // Files of a context are root's, whoever packed them.
                        if let Some(entry) = change.entry_mut() {
                            (entry.uid, entry.gid) = (0, 0);
                        }
                    }
                    tree.apply(&changes);
                }
            }
            Ok(Arc::new(tree))
        };
        self.work.run(read).await
    }

    /// The text of a file in a tree; `None` if there is none.
    pub(super) async fn text(&self, tree: &Tree, path: &TreePath, limit_bytes: u64) -> Result<Option<Vec<u8>>, BuildError> {
        let path = tree.resolve(path).ok();
        let Some(file) = path.and_then(|path| tree.get(&path)).and_then(Entry::file).cloned() else { return Ok(None) };
        if file.size_bytes > limit_bytes {
            return Err(BuildError::new(ErrorKind::Dockerfile, format!("the Dockerfile is larger than {limit_bytes} bytes")));
        }
        let contents = self.contents.clone();
        let read = move || {
            let mut bytes = Vec::new();
            let opened = contents.open(&file.content).and_then(|reader| reader.take(file.size_bytes).read_to_end(&mut bytes));
            opened.map_err(|error| BuildError::new(ErrorKind::Context, "cannot read the Dockerfile").because(error))?;
            Ok(Some(bytes))
        };
        self.work.run(read).await
    }

    async fn authorization(&self, url: &Url) -> Result<Option<Secret>, BuildError> {
        let hosts = [http::host_of(url), url.host_str().unwrap_or_default().to_owned()];
        for host in hosts {
            if let Some(header) = self.secret(format!("HTTP_AUTH_HEADER_{host}")).await? {
                return Ok(Some(header));
            }
            if let Some(token) = self.secret(format!("HTTP_AUTH_TOKEN_{host}")).await? {
                return Ok(Some(Secret::new([b"Bearer ", token.reveal()].concat())));
            }
        }
        Ok(None)
    }

    async fn with_credential(&self, mut source: GitSource) -> Result<GitSource, BuildError> {
        let url = Url::parse(&source.remote).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url.filter(|_| source.credential.is_none()) else { return Ok(source) };
        for end in [format!(".{}", http::host_of(&url)), String::new()] {
            if let Some(header) = self.secret(format!("GIT_AUTH_HEADER{end}")).await? {
                source.credential = Some(GitCredential::Header(header));
                break;
            }
            if let Some(password) = self.secret(format!("GIT_AUTH_TOKEN{end}")).await? {
                source.credential = Some(GitCredential::Basic { user: "x-access-token".to_owned(), password });
                break;
            }
        }
        Ok(source)
    }

    /// A secret of the build, without the line end that editors add.
    async fn secret(&self, id: String) -> Result<Option<Secret>, BuildError> {
        let bytes = match self.secrets.get(&id) {
            None => return Ok(None),
            Some(SecretSource::Value(secret)) => secret.reveal().to_vec(),
            Some(SecretSource::File(path)) => {
                let path = path.clone();
                let read = move || {
                    let failed =
                        |error| BuildError::new(ErrorKind::Request, format!("cannot read the secret {id}")).because(error);
                    fs::read(path).map_err(failed)
                };
                self.work.run(read).await?
            }
        };
        Ok(Some(Secret::new(bytes.trim_ascii_end())))
    }
}

fn clamped(path: &Path) -> TreePath {
    use std::os::unix::ffi::OsStrExt as _;
    TreePath::clamp(path.as_os_str().as_bytes())
}

/// What is below `directory`, as a tree of its own.
pub(super) fn subtree(tree: Arc<Tree>, directory: &TreePath) -> Result<Arc<Tree>, BuildError> {
    if directory.is_root() {
        return Ok(tree);
    }
    let missing = || BuildError::new(ErrorKind::Context, format!("the context has no directory {directory}"));
    let from = tree.resolve(directory).map_err(|error| missing().because(error))?;
    let root = tree.get(&from).filter(|entry| entry.is_directory()).ok_or_else(missing)?;
    let mut result = Tree::new();
    result.put(&TreePath::root(), root.clone());
    let mut names: HashMap<Inode, TreePath> = HashMap::new();
    for (path, inode, entry) in tree.below(&from) {
        let Some(path) = path.below(&from) else { continue };
        if let Some(first) = names.get(&inode) {
            result.link(&path, first);
        } else {
            result.put(&path, entry.clone());
            names.insert(inode, path);
        }
    }
    Ok(Arc::new(result))
}

fn archived(shown: &str) -> BuildError {
    BuildError::new(ErrorKind::Context, format!("cannot use {shown} as a context"))
}

fn elsewhere(error: DownloadError) -> BuildError {
    BuildError::new(ErrorKind::Context, "a file cannot be had").because(error)
}

fn temporary(error: io::Error) -> BuildError {
    BuildError::new(ErrorKind::State, "cannot make a directory in the state directory").because(error)
}

fn of_git(error: GitError) -> BuildError {
    match error {
        GitError::Missing => BuildError::new(ErrorKind::Host, "cannot use a Git repository")
            .hint("install git beside the builder, or use the variant of the image that has it")
            .because(error),
        GitError::Run(_) | GitError::Read(_) => BuildError::new(ErrorKind::Host, "cannot use a Git repository").because(error),
        GitError::WrongCommit { .. } => BuildError::new(ErrorKind::Dockerfile, "the wrong commit was found").because(error),
        error => {
            let is_unknown =
                |message: &str| message.contains("could not read Username") || message.contains("Authentication failed");
            let hint = match &error {
                GitError::Failed { message, .. } if is_unknown(message) => {
                    Some("give a token with --secret id=GIT_AUTH_TOKEN; for the context of the build also GIT_TOKEN serves")
                }
                _ => None,
            };
            let failure = BuildError::new(ErrorKind::Context, "cannot use a Git repository").because(error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        }
    }
}

/// The checksum of a repository, as `--checksum` gives it.
pub(super) fn commit_checksum(text: &str) -> Result<String, BuildError> {
    git::checksum(text).ok_or_else(|| {
        BuildError::new(ErrorKind::Dockerfile, format!("--checksum={text} is none of a repository")).hint(git::CHECKSUM)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_named_for_the_end_of_its_address() {
        for (url, expected) in [
            ("http://h/dl/file.txt", "file.txt"),
            ("http://h/dl/file.txt?x=/1", "file.txt"),
            ("http://h/dir/", "dir"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2F..%2Fetc", "etc"),
            ("http://h/x%2F%2E%2E", "__unnamed__"),
            ("http://h/x%00", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/?a", "__unnamed__"),
        ] {
            assert_eq!(String::from_utf8(name_of(&Url::parse(url).unwrap())).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn a_part_of_a_tree_keeps_its_hard_links() {
        let changes = crate::tree::text::parse("a/b/f 0644 0:0 \"x\"\na/b/g = a/b/f\na/o 0644 0:0 \"y\"\nl -> a").unwrap();
        let mut tree = Tree::new();
        tree.apply(&changes);
        let part = subtree(Arc::new(tree), &TreePath::clamp("l/b")).unwrap();
        assert_eq!(part.len(), 3);
        assert_eq!(part.inode(&TreePath::clamp("f")), part.inode(&TreePath::clamp("g")));
        assert!(subtree(part, &TreePath::clamp("f")).is_err());
    }
}
