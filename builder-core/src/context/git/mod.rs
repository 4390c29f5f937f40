//! Git repositories, by the program `git` of this machine.
//!
//! First the commit is found out ([`Git::pin`]: one question to the server, and all that a cache key needs), then it alone is
//! fetched and checked out ([`Git::check_out`]), then the files become a tree ([`Checkout::tree`]). The program sees nothing of the
//! user but what the caller hands in: no configuration, no hooks, no terminal, no protocol but the usual ones. It is ended with
//! its children when its time is up or nobody waits for it any more.

mod address;

pub use address::{CHECKSUM, GitAddressError, GitCredential, GitSource, checksum};

use crate::confined::{ConfinedDir, ConfinedError, StatKind};
use crate::http::Url;
use crate::running::Running;
use crate::tree::{Change, Content, ContentHasher, Entry, File, Node, SourceId, Timestamp, Tree, TreePath};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write as _},
    num::NonZeroU32,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How `git` is run.
#[derive(Clone, Debug)]
pub struct Git {
    /// The directories in which it, and what it starts itself, are looked for.
    pub search_path: Vec<PathBuf>,
    /// Its variables, beside our own: proxies, certificates, the socket of an SSH agent.
    pub environment: Vec<(OsString, OsString)>,
    /// How long one command may take.
    pub timeout: Duration,
    /// Whether repositories of this machine (`file://`) may be read.
    pub local: LocalRepositories,
}

/// Whether repositories of this machine may be read: a Dockerfile could name any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalRepositories {
    /// They may not.
    #[default]
    Refused,
    /// They may.
    Allowed,
}

impl Default for Git {
    fn default() -> Self {
        let search_path = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from).to_vec();
        let timeout = Duration::from_mins(30);
        Self { search_path, environment: Vec::new(), timeout, local: LocalRepositories::Refused }
    }
}

/// A commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// What was asked for.
    pub source: GitSource,
    /// All digits of the commit.
    pub commit: String,
}

/// A commit on disk.
#[derive(Debug)]
pub struct Checkout {
    files: PathBuf,
    keeps_git_directory: bool,
    time: Timestamp,
}

/// Why a repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no such program here.
    #[error("the program git is needed, and is not installed")]
    Missing,
    /// It cannot be started, or its files cannot be kept.
    #[error("cannot run git")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("git cannot {action} {remote}: {message}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// The repository.
        remote: String,
        /// What it said.
        message: String,
    },
    /// It took too long.
    #[error("git takes longer than {} s to {action} {remote}", limit.as_secs())]
    Late {
        /// What was being done.
        action: &'static str,
        /// The repository.
        remote: String,
        /// The limit.
        limit: Duration,
    },
    /// Nobody waits for it any more.
    #[error("git was ended, because the build was cancelled")]
    Cancelled,
    /// No branch or tag of that name.
    #[error("{remote} has no branch and no tag {reference:?}")]
    NoReference {
        /// The repository.
        remote: String,
        /// What was asked for.
        reference: String,
    },
    /// The commit is another one than was promised.
    #[error("{remote} is at the commit {found}, not at {expected}")]
    WrongCommit {
        /// The repository.
        remote: String,
        /// The promised digits.
        expected: String,
        /// The commit.
        found: String,
    },
    /// The files that were checked out cannot be read.
    #[error("cannot read what was checked out")]
    Read(#[from] ConfinedError),
}

/// Says whether to give up.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

const MOST_REFERENCES_BYTES: u64 = 64 << 20;
const MOST_MESSAGE_BYTES: u64 = 64 << 10;
const NOTICE: Duration = Duration::from_millis(10);

impl Git {
    /// Finds out which commit is meant. `scratch` is an empty directory for this alone.
    ///
    /// # Errors
    /// [`GitError`]; [`GitError::WrongCommit`] if it is not the one that `source` promises.
    pub fn pin(&self, source: &GitSource, scratch: &Path, cancelled: Cancelled<'_>) -> Result<Pinned, GitError> {
        let whole = |text: &&String| matches!(text.len(), 40 | 64) && checksum(text).is_some();
        let given = source.reference.as_ref().or(source.commit.as_ref()).filter(whole);
        let commit = match given {
            Some(commit) => commit.to_ascii_lowercase(),
            None => self.ask(source, scratch, cancelled)?,
        };
        match &source.commit {
            Some(expected) if !commit.starts_with(expected) => {
                Err(GitError::WrongCommit { remote: source.remote.clone(), expected: expected.clone(), found: commit })
            }
            _ => Ok(Pinned { source: source.clone(), commit }),
        }
    }

    /// Asks the server for the commit of a reference.
    fn ask(&self, source: &GitSource, scratch: &Path, cancelled: Cancelled<'_>) -> Result<String, GitError> {
        let reference = source.reference.as_deref().unwrap_or("HEAD");
        let peeled = format!("{reference}^{{}}");
        let session = Session { git: self, source, scratch, cancelled };
        let output = session.run("ask", None, &["ls-remote", "--", &source.remote, reference, &peeled])?;
        let output = String::from_utf8_lossy(&output);
        let found = |name: &str| {
            let mut lines = output.lines().filter_map(|line| line.split_once('\t'));
            lines.find(|(_, listed)| *listed == name).and_then(|(commit, _)| checksum(commit))
        };
        let short = reference.strip_prefix("refs/").unwrap_or(reference);
        // As BuildKit: a branch before a tag of the same name; an annotated tag leads to its commit.
        let names = [
            (reference == "HEAD").then(|| "HEAD".to_owned()),
            Some(format!("refs/heads/{reference}")),
            Some(format!("refs/tags/{reference}^{{}}")),
            Some(format!("refs/tags/{reference}")),
            Some(format!("refs/{short}^{{}}")),
            Some(format!("refs/{short}")),
        ];
        names
            .into_iter()
            .flatten()
            .find_map(|name| found(&name))
            .ok_or_else(|| GitError::NoReference { remote: source.remote.clone(), reference: reference.to_owned() })
    }

    /// Fetches the commit, and no more history than was asked for, into `scratch`: an empty directory for this alone, which has
    /// to stay as long as the files are read.
    ///
    /// # Errors
    /// [`GitError`]
    pub fn check_out(&self, pinned: &Pinned, scratch: &Path, cancelled: Cancelled<'_>) -> Result<Checkout, GitError> {
        let (source, commit) = (&pinned.source, pinned.commit.as_str());
        let files = scratch.join("files");
        let session = Session { git: self, source, scratch, cancelled };
        let files_text = files.as_os_str();
        session.run("prepare a place for", None, &[OsStr::new("init"), OsStr::new("-q"), files_text])?;
        let at = Some(files.as_path());
        session.run("note", at, &["remote", "add", "--", "origin", &source.remote])?;
        let depth = format!("--depth={}", source.depth.map_or(1, NonZeroU32::get));
        let shallow = ["fetch", "-q", &depth, "--no-tags", "--no-recurse-submodules", "origin", commit];
        match session.run("fetch", at, &shallow) {
            // Old servers give only what a branch or tag leads to.
            Err(GitError::Failed { .. }) => {
                let all = ["fetch", "-q", "--tags", "--no-recurse-submodules", "origin", "+refs/heads/*:refs/remotes/origin/*"];
                session.run("fetch", at, &all)?;
            }
            other => drop(other?),
        }
        session.run("check out", at, &["checkout", "-q", "--force", "--detach", commit, "--"])?;
        if source.submodules && files.join(".gitmodules").is_file() {
            let update = ["submodule", "-q", "update", "--init", "--recursive", "--force", "--depth=1"];
            session.run("fetch the submodules of", at, &update)?;
        }
        let time = session.run("read", at, &["log", "-1", "--format=%ct"])?;
        let seconds = String::from_utf8_lossy(&time).trim().parse().unwrap_or_default();
        Ok(Checkout { files, keeps_git_directory: source.keep_git_directory, time: Timestamp::from_seconds(seconds) })
    }
}

/// What commands have in common.
struct Session<'a> {
    git: &'a Git,
    source: &'a GitSource,
    scratch: &'a Path,
    cancelled: Cancelled<'a>,
}

impl Session<'_> {
    fn run(&self, action: &'static str, directory: Option<&Path>, arguments: &[impl AsRef<OsStr>]) -> Result<Vec<u8>, GitError> {
        let search_path = self.git.search_path.iter().filter(|directory| directory.is_absolute());
        let program = search_path.map(|directory| directory.join("git")).find(|path| path.is_file()).ok_or(GitError::Missing)?;
        let mut command = Command::new(program);
        if let Some(directory) = directory {
            command.arg("-C").arg(directory);
        }
        command.args(arguments).current_dir(self.scratch).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.surround(&mut command).map_err(GitError::Run)?;
        let mut running = Running(command.spawn().map_err(GitError::Run)?);
        let output = running.0.stdout.take().expect("the output is a pipe");
        let message = running.0.stderr.take().expect("the messages are a pipe");
        let output = thread::spawn(move || read(output, MOST_REFERENCES_BYTES));
        let message = thread::spawn(move || read(message, MOST_MESSAGE_BYTES));
        let started = Instant::now();
        let remote = || self.source.remote.clone();
        let status = loop {
            if let Some(status) = running.0.try_wait().map_err(GitError::Run)? {
                break status;
            }
            if (self.cancelled)() {
                return Err(GitError::Cancelled);
            }
            if started.elapsed() >= self.git.timeout {
                return Err(GitError::Late { action, remote: remote(), limit: self.git.timeout });
            }
            thread::sleep(NOTICE);
        };
        let output = output.join().unwrap_or_default();
        let message = message.join().unwrap_or_default();
        if status.success() {
            return Ok(output);
        }
        let message = said(&message).unwrap_or_else(|| format!("it ended with {status}"));
        Err(GitError::Failed { action, remote: remote(), message })
    }

    /// The environment, whole.
    fn surround(&self, command: &mut Command) -> io::Result<()> {
        let home = self.scratch.join("home");
        fs::create_dir_all(&home)?;
        let search_path = self.git.search_path.iter().filter(|directory| directory.is_absolute());
        let search_path = search_path.map(|directory| directory.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":"));
        command
            .env_clear()
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
            .envs(self.git.environment.iter().map(|(name, value)| (name, value)))
            .env("PATH", search_path)
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_LFS_SKIP_SMUDGE", "1");
        let protocols = match self.git.local {
            LocalRepositories::Refused => "http:https:ssh:git",
            LocalRepositories::Allowed => "http:https:ssh:git:file",
        };
        command.env("GIT_ALLOW_PROTOCOL", protocols);
        if self.source.skip_tls_verify {
            command.env("GIT_SSL_NO_VERIFY", "1");
        }
        let mut config = b"[core]\n\thooksPath = /dev/null\n\tlogAllRefUpdates = false\n[gc]\n\tauto = 0\n\
            [maintenance]\n\tauto = false\n[http]\n\tlowSpeedLimit = 100\n\tlowSpeedTime = 120\n"
            .to_vec();
        let origin = Url::parse(&self.source.remote).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let origin = origin.map(|url| url.origin().ascii_serialization());
        match (&self.source.credential, origin) {
            (Some(GitCredential::Basic { user, password }), Some(origin)) => {
                use std::os::unix::ffi::OsStrExt as _;
                // The secret is in the environment only, where submodules of the same server find it too.
                let helper = r#"!f() { test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \"$COFFERDAM_GIT_USER\" \"$COFFERDAM_GIT_PASSWORD\"; }; f"#;
                write!(config, "[credential \"{origin}\"]\n\thelper = \"{helper}\"\n")?;
                command.env("COFFERDAM_GIT_USER", user).env("COFFERDAM_GIT_PASSWORD", OsStr::from_bytes(password.reveal()));
            }
            (Some(GitCredential::Header(value)), Some(origin)) => {
                use std::os::unix::ffi::OsStrExt as _;
                let header = [b"Authorization: ", value.reveal()].concat();
                command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", format!("http.{origin}/.extraHeader"))
                    .env("GIT_CONFIG_VALUE_0", OsStr::from_bytes(&header));
            }
            _ => {}
        }
        let path = home.join(".gitconfig");
        fs::write(&path, config)?;
        command.env("GIT_CONFIG_GLOBAL", path);
        Ok(())
    }
}

fn read(from: impl Read, limit_bytes: u64) -> Vec<u8> {
    let mut from = from;
    let mut bytes = Vec::new();
    let _ = from.by_ref().take(limit_bytes).read_to_end(&mut bytes);
    // A writer whose pipe is full would wait for ever.
    let _ = io::copy(&mut from, &mut io::sink());
    bytes
}

/// What git says is wrong, on one line: servers and hints say more than that.
fn said(message: &[u8]) -> Option<String> {
    const MOST_LINES: usize = 3;
    let text = String::from_utf8_lossy(message);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:"));
    let wrong: Vec<&str> = lines()
        .filter_map(|line| line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: ")))
        .take(MOST_LINES)
        .collect();
    if wrong.is_empty() { lines().next_back().map(str::to_owned) } else { Some(wrong.join("; ")) }
}

impl Checkout {
    /// The directory with the files.
    pub fn directory(&self) -> &Path {
        &self.files
    }

    /// The files as a tree: root's, 0644 or 0755, with the time of the commit. Contents are [`Content::Host`] of `source`,
    /// which stands for `directory`: the opened [`Self::directory`].
    ///
    /// # Errors
    /// [`GitError::Read`] or [`GitError::Run`] if a file cannot be read.
    pub fn tree(&self, directory: &ConfinedDir, source: SourceId) -> Result<Tree, GitError> {
        let made = Entry::directory(self.time);
        let mut changes = vec![Change::put(TreePath::root(), made.clone())];
        let mut left = vec![TreePath::root()];
        let mut buffer = vec![0; 128 << 10];
        while let Some(parent) = left.pop() {
            for (name, stat) in directory.list_stats(&parent)? {
                if name == b".git" && !self.keeps_git_directory {
                    continue;
                }
                let path = parent.child(&name);
                let entry = match stat.kind {
                    StatKind::Directory => {
                        left.push(path.clone());
                        made.clone()
                    }
                    StatKind::Symlink => Entry { node: Node::Symlink(directory.read_link(&path)?), mode: 0o777, ..made.clone() },
                    StatKind::File => {
                        let (size_bytes, digest) = hashed(directory.open_file(&path)?, &mut buffer).map_err(GitError::Run)?;
                        let content = Content::Host { source, path: path.clone() };
                        let mode = if stat.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                        Entry { node: Node::File(File { size_bytes, digest: Some(digest), content }), mode, ..made.clone() }
                    }
                    // A repository holds nothing else.
                    _ => continue,
                };
                changes.push(Change::put(path, entry));
            }
        }
        let mut tree = Tree::new();
        tree.apply(&changes);
        Ok(tree)
    }
}

fn hashed(file: fs::File, buffer: &mut [u8]) -> io::Result<(u64, crate::tree::ContentDigest)> {
    let mut file = file;
    let mut hasher = ContentHasher::default();
    let mut size_bytes = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((size_bytes, hasher.finish())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size_bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
