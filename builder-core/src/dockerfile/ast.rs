//! What a Dockerfile says, as plain values with positions.
//!
//! The parser makes these values and nothing else does; they hold no meaning beyond the text. A
//! [`Word`] is raw: its variables are not expanded and its quotes are still there, because both
//! depend on the state of the build. Pure data.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::mount::Mount;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The text that was parsed, without a byte order mark; every [`Span`] points into it.
    pub source: Arc<str>,
    /// The escape character, `\` unless `# escape=` says otherwise. Expansion needs it.
    pub escape: char,
    /// The parser directives at the top, in the order of the file.
    pub directives: Vec<Directive>,
    /// The `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages; at least one.
    pub stages: Vec<Stage>,
}

/// A range of bytes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

/// Where something stands in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The first line, counted from 1.
    pub first_line: usize,
    /// The last line, counted from 1; heredoc bodies are part of their instruction.
    pub last_line: usize,
    /// The column of the first byte, counted from 1 in bytes.
    pub column: usize,
    /// The bytes.
    pub span: Span,
}

/// A piece of an instruction, as written: unexpanded and with its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text after line continuations were joined.
    pub text: String,
    /// Where it stands. A word that continues over lines ends on a later line than it begins.
    pub position: Position,
}

/// A `# key=value` line at the top of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Which one.
    pub key: DirectiveKey,
    /// The value without surrounding blanks.
    pub value: String,
    /// The line.
    pub position: Position,
}

/// The directives of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirectiveKey {
    /// `# syntax=`: only the Dockerfile language itself is accepted.
    Syntax,
    /// `# escape=`: `\` or a backtick.
    Escape,
    /// `# check=`: options of the linter.
    Check,
}

/// A comment line that stands directly before an instruction, or only parted from it by blank
/// lines and other comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// The text after `#`, without surrounding blanks.
    pub text: String,
    /// Its line, counted from 1.
    pub line: usize,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Where the `FROM` stands.
    pub position: Position,
    /// The word `FROM` as written.
    pub keyword: Word,
    /// The `FROM` line, continuations joined.
    pub original: String,
    /// The comments above the `FROM`.
    pub comments: Vec<Comment>,
    /// Lines of this `FROM` that are empty although the line before them continues.
    pub empty_continuation_lines: Vec<usize>,
    /// The image or stage it starts from, unexpanded.
    pub base: Word,
    /// The value of `--platform`, unexpanded.
    pub platform: Option<Word>,
    /// The name after `AS`.
    pub name: Option<StageName>,
    /// The instructions up to the next `FROM`.
    pub instructions: Vec<Instruction>,
}

/// The name of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageName {
    /// The name that counts, in lower case.
    pub name: String,
    /// The name as written.
    pub written: Word,
    /// The word `AS` as written.
    pub as_keyword: Word,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// All of it, heredoc bodies included.
    pub position: Position,
    /// The instruction's word as written (`run`, `RUN`).
    pub keyword: Word,
    /// The instruction in one line, continuations joined and comments dropped; without heredoc bodies.
    pub original: String,
    /// The comments above it.
    pub comments: Vec<Comment>,
    /// Lines of this instruction that are empty although the line before them continues.
    pub empty_continuation_lines: Vec<usize>,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ARG name[=default] …`
    Arg(Vec<ArgPair>),
    /// `ENV name=value …` or `ENV name value`
    Env(Pairs),
    /// `LABEL name=value …` or `LABEL name value`
    Label(Pairs),
    /// `RUN`
    Run(Run),
    /// `COPY`
    Copy(Copy),
    /// `ADD`
    Add(Add),
    /// `WORKDIR path`
    Workdir(Word),
    /// `USER name[:group]`
    User(Word),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `EXPOSE port[-port][/protocol] …`; the words are split once more after expansion.
    Expose(Vec<Word>),
    /// `VOLUME path …`
    Volume(Vec<Word>),
    /// `STOPSIGNAL signal`
    Stopsignal(Word),
    /// `SHELL ["program", "argument" …]`
    Shell(Vec<String>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD instruction`
    Onbuild(Onbuild),
    /// `MAINTAINER text`
    Maintainer(Word),
}

/// One name of an `ARG`. The name is never expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    /// The name.
    pub name: String,
    /// The default value; `None` if there is no `=`.
    pub value: Option<Word>,
    /// Where name and value stand.
    pub position: Position,
}

/// The pairs of `ENV` and `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// At least one.
    pub pairs: Vec<Pair>,
    /// Whether it is the old form without `=`, which holds one pair.
    pub legacy: bool,
}

/// A name and a value; both are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name; not empty.
    pub key: Word,
    /// The value; may be empty.
    pub value: Word,
}

/// A command line in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell of `SHELL`. May be empty.
    Shell(Word),
    /// A JSON array: the program and its arguments. May be empty.
    Exec(Vec<String>),
}

/// A `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command as written behind the flags.
    pub command: Command,
    /// The heredocs of the command, in the order of their markers. Empty for a JSON array.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Network>,
    /// `--security`
    pub security: Option<Security>,
    /// `--device`, in order, as written.
    pub devices: Vec<Word>,
}

/// What a `RUN` hands over to be executed, its heredocs resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunScript<'a> {
    /// Text for the shell.
    Shell(Cow<'a, str>),
    /// A heredoc that begins with `#!`: a file of that name, mode 0755, at a place of its own; the
    /// shell is given its path.
    File {
        /// The name of the heredoc.
        name: &'a str,
        /// The content of the file.
        body: Cow<'a, str>,
    },
    /// A program and its arguments, without a shell.
    Exec(&'a [String]),
}

/// `RUN --network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The network of the build.
    Default,
    /// No network.
    None,
    /// The network of the host.
    Host,
}

/// `RUN --security`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Confined as every other step.
    Sandbox,
    /// With the privileges of the builder.
    Insecure,
}

/// A `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// At least one; paths first, then heredocs, the order in which they are copied.
    pub sources: Vec<Source>,
    /// The destination, unexpanded.
    pub destination: Word,
    /// `--from`: a stage, an index, an image or a named context. Never holds a variable.
    pub from: Option<Word>,
    /// `--chown`, unexpanded.
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, in order; not expanded.
    pub exclude: Vec<Word>,
}

/// An `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// At least one; paths, addresses and repositories first, then heredocs.
    pub sources: Vec<Source>,
    /// The destination, unexpanded.
    pub destination: Word,
    /// `--chown`, unexpanded.
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Word>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in order; not expanded.
    pub exclude: Vec<Word>,
    /// `--keep-git-dir`; `None` if it is not given, because a build argument may then decide.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`; `None` means: archives of the context yes, downloads no.
    pub unpack: Option<bool>,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, a pattern, a URL or a git repository, unexpanded.
    Path(Word),
    /// A file whose content stands in the Dockerfile.
    Heredoc(Heredoc),
}

/// A text between `<<NAME` and a line `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The name without its quotes.
    pub name: String,
    /// The lines exactly as in the file, with their line ends.
    pub content: String,
    /// Whether the name was written without quotes. `COPY` and `ADD` then expand the body with
    /// [`expand_raw`](super::expand_raw); `RUN` never does.
    pub expand: bool,
    /// Whether it was written `<<-`: tabs at the beginning of its lines do not count.
    pub strip_tabs: bool,
    /// The digits before `<<`.
    pub file_descriptor: Option<u32>,
    /// The lines of the body, without the end line.
    pub position: Position,
}

/// A `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: an inherited check is switched off.
    None,
    /// `HEALTHCHECK [flags] CMD command`
    Cmd {
        /// The command. Not empty.
        command: Command,
        /// `--interval`; `None` and zero both mean: the default of the runtime.
        interval: Option<Duration>,
        /// `--timeout`
        timeout: Option<Duration>,
        /// `--start-period`
        start_period: Option<Duration>,
        /// `--start-interval`
        start_interval: Option<Duration>,
        /// `--retries`
        retries: Option<u32>,
    },
}

/// An `ONBUILD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The text that the image config records: the line behind `ONBUILD`, and heredocs behind it.
    pub trigger: String,
    /// The same, parsed. Its positions are those of this file.
    pub instruction: Box<Instruction>,
}

impl Heredoc {
    /// The body as the reader means it: without leading tabs if it was written `<<-`.
    #[must_use]
    pub fn body(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }
}

impl Run {
    /// What is to be executed.
    ///
    /// A command that is nothing but one heredoc is a script: a body that begins with `#!` becomes a
    /// file, every other body is the text of the shell. Any other command keeps its markers, and the
    /// bodies follow it, so that the shell of the image reads the heredocs.
    #[must_use]
    pub fn script(&self) -> RunScript<'_> {
        let text = match &self.command {
            Command::Exec(arguments) => return RunScript::Exec(arguments),
            Command::Shell(text) => text.text.as_str(),
        };
        match self.heredocs.as_slice() {
            [] => RunScript::Shell(Cow::Borrowed(text)),
            [only] if super::heredoc::is_marker(text) => {
                // The raw content decides, as with BuildKit: an indented `#!` of `<<-` is no script.
                if only.content.starts_with("#!") {
                    RunScript::File { name: &only.name, body: only.body() }
                } else {
                    RunScript::Shell(only.body())
                }
            }
            several => {
                let mut script = text.to_owned();
                for heredoc in several {
                    script.push('\n');
                    script.push_str(&heredoc.content);
                    script.push_str(&heredoc.name);
                }
                RunScript::Shell(Cow::Owned(script))
            }
        }
    }
}
