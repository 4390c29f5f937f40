//! What one instruction means: `(State, Instruction) → (State', Action)`.
//!
//! The state is the image config that grows and the variables in scope. Metadata instructions are done when they are
//! evaluated; the others come out as an [`Action`] in which every variable is expanded, for somebody with a tree, a disk
//! or a kernel. History entries are written here, in BuildKit's words. Pure.

mod ports;
mod signals;

use crate::dockerfile::{
    self, Add, Command, Copy, ExpandError, Healthcheck, Instruction, InstructionKind, Network, Pairs, ParseError, Position,
    ResolvedMount, Run, RunScript, Security, Word,
};
use crate::oci::{History, ImageConfig, Platform};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// What PATH is in an image that does not say (BuildKit's value).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that reach RUN without an ARG, and stay out of the history and of cache keys unless an ARG names them.
const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What does not change while a stage is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The escape character of the file.
    pub escape: char,
    /// `--build-arg`, by name.
    pub build_args: &'a BTreeMap<String, String>,
    /// Values of the arguments before the first FROM.
    pub global_args: &'a BTreeMap<String, String>,
    /// `TARGETPLATFORM` and its like.
    pub platform_args: &'a BTreeMap<String, String>,
}

/// A stage between two instructions.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The image config so far, history included.
    pub config: ImageConfig,
    /// What an instruction sees: ENV and ARG alike, the later word counts.
    variables: BTreeMap<String, String>,
    /// The ARGs that a RUN is said to have seen, by first declaration.
    declared: Vec<String>,
    /// Whether this stage has a CMD of its own, which a later ENTRYPOINT leaves alone.
    has_command: bool,
    /// Entries of the history that came with the base: their times are not ours.
    foreign_history: usize,
}

/// What is left to do for an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Metadata,
    /// Execute a command.
    Run(RunAction),
    /// Copy files.
    Copy(CopyAction),
    /// Make a directory, if it is not there.
    Workdir(WorkdirAction),
}

/// A RUN with everything expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAction {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// A script that the step needs as a file: the program is its path below `/dev/pipes`.
    pub script: Option<ScriptFile>,
    /// ENV and ARG as they stand, by name.
    pub environment: BTreeMap<String, String>,
    /// Proxy arguments: part of the environment, no part of a key.
    pub proxies: BTreeMap<String, String>,
    /// Absolute.
    pub working_dir: String,
    /// USER; empty is root.
    pub user: String,
    /// `--mount`, in order.
    pub mounts: Vec<ResolvedMount>,
    /// `--network`
    pub network: Option<Network>,
    /// `--security`
    pub security: Option<Security>,
    /// `--device`, as written.
    pub devices: Vec<String>,
}

/// A heredoc that begins with `#!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// A COPY or ADD with everything expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyAction {
    /// `--from`, with its place; the context if not given.
    pub from: Option<Word>,
    /// In order.
    pub sources: Vec<CopySource>,
    /// As written: a `/` at the end counts.
    pub destination: String,
    /// What a relative destination is relative to.
    pub working_dir: String,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub excludes: Vec<String>,
    /// What only ADD has.
    pub add: Option<AddOptions>,
}

/// One source of a COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path or a pattern; with ADD perhaps a URL.
    Path(String),
    /// A file that stands in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its bytes.
        content: Vec<u8>,
    },
}

/// What only ADD has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddOptions {
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--unpack`; by default archives of the context are unpacked and downloads are not.
    pub unpack: Option<bool>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
}

/// A WORKDIR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkdirAction {
    /// Absolute and clean.
    pub path: String,
    /// Who owns a directory that has to be made; empty is root.
    pub user: String,
}

impl State {
    /// FROM scratch.
    pub fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        "/".clone_into(&mut config.config.working_dir);
        Self::from_image(config)
    }

    /// FROM an image. Its triggers are still in the config: see [`take_triggers`](Self::take_triggers).
    pub fn from_image(mut config: ImageConfig) -> Self {
        let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        config.variant = platform.variant;
        if !config.config.env.iter().any(|pair| pair.starts_with("PATH=")) {
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let pairs = config.config.env.iter().filter_map(|pair| pair.split_once('='));
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { foreign_history: config.history.len(), config, variables, declared: Vec::new(), has_command: false }
    }

    /// FROM an earlier stage: its ARGs stay in scope.
    #[must_use]
    pub fn inherited(&self) -> Self {
        Self { has_command: false, ..self.clone() }
    }

    /// The ONBUILD triggers of the base, which run now and are gone from the result.
    pub fn take_triggers(&mut self) -> Vec<String> {
        std::mem::take(&mut self.config.config.on_build)
    }

    /// The directory that relative paths start from.
    pub fn working_dir(&self) -> &str {
        if self.config.config.working_dir.is_empty() { "/" } else { &self.config.config.working_dir }
    }

    /// Says when the last instruction was done: its entry in the history gets the time, and so does the image.
    pub fn set_created(&mut self, created: Option<String>) {
        for entry in self.config.history.iter_mut().skip(self.foreign_history).rev().take_while(|entry| entry.created.is_none()) {
            entry.created.clone_from(&created);
        }
        self.config.created = created.or(self.config.created.take());
    }

    fn history(&mut self, created_by: String, makes_layer: bool) {
        self.config.history.push(History {
            created_by: Some(created_by),
            comment: Some("buildkit.dockerfile.v0".to_owned()),
            empty_layer: !makes_layer,
            ..History::default()
        });
    }

    fn shell(&self) -> Vec<String> {
        self.config.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }
}

/// Evaluates one instruction.
///
/// # Errors
/// An expansion that fails, or a value that makes no sense after it.
pub fn evaluate(state: &State, instruction: &Instruction, scope: Scope<'_>) -> Result<(State, Action), ParseError> {
    let mut next = state.clone();
    let step = Step { before: state, instruction, scope };
    let action = match &instruction.kind {
        InstructionKind::Arg(pairs) => step.arg(&mut next, pairs)?,
        InstructionKind::Env(pairs) => step.env(&mut next, pairs)?,
        InstructionKind::Label(pairs) => step.label(&mut next, pairs)?,
        InstructionKind::Run(run) => step.run(&mut next, run)?,
        InstructionKind::Copy(copy) => step.copy(&mut next, copy)?,
        InstructionKind::Add(add) => step.add(&mut next, add)?,
        InstructionKind::Workdir(path) => step.workdir(&mut next, path)?,
        InstructionKind::User(user) => {
            let user = step.expand(user)?;
            next.history(format!("USER {user}"), false);
            next.config.config.user = user;
            Action::Metadata
        }
        InstructionKind::Cmd(command) => {
            next.config.config.cmd = Some(step.command(command));
            next.config.config.args_escaped = true;
            next.has_command = true;
            next.history(format!("CMD {}", quoted(next.config.config.cmd.as_deref().unwrap_or_default())), false);
            Action::Metadata
        }
        InstructionKind::Entrypoint(command) => {
            next.config.config.entrypoint = Some(step.command(command));
            if !next.has_command {
                next.config.config.cmd = None;
            }
            next.history(format!("ENTRYPOINT {}", quoted(next.config.config.entrypoint.as_deref().unwrap_or_default())), false);
            Action::Metadata
        }
        InstructionKind::Expose(words) => step.expose(&mut next, words)?,
        InstructionKind::Volume(words) => {
            let mut volumes = Vec::new();
            for word in words {
                let volume = step.expand(word)?;
                if volume.is_empty() {
                    return Err(step.mistake("VOLUME specified can not be an empty string".to_owned(), word.position));
                }
                next.config.config.volumes.insert(volume.clone(), json!({}));
                volumes.push(volume);
            }
            next.history(format!("VOLUME [{}]", volumes.join(" ")), false);
            Action::Metadata
        }
        InstructionKind::Stopsignal(word) => {
            let signal = step.expand(word)?;
            if !signals::is_signal(&signal) {
                let message = format!("{signal:?} is no signal");
                return Err(ParseError {
                    hint: Some("as in SIGTERM, or a number from 1 to 64".to_owned()),
                    ..step.mistake(message, word.position)
                });
            }
            next.history(format!("STOPSIGNAL {signal}"), false);
            next.config.config.stop_signal = Some(signal);
            Action::Metadata
        }
        InstructionKind::Shell(shell) => {
            next.history(format!("SHELL [{}]", shell.join(" ")), false);
            next.config.config.shell = Some(shell.clone());
            Action::Metadata
        }
        InstructionKind::Healthcheck(check) => {
            let check = healthcheck(check);
            next.history(format!("HEALTHCHECK {}", quoted(&check.test)), false);
            next.config.config.healthcheck = Some(check);
            Action::Metadata
        }
        InstructionKind::Onbuild(onbuild) => {
            next.config.config.on_build.push(onbuild.trigger.clone());
            Action::Metadata
        }
        InstructionKind::Maintainer(name) => {
            next.config.author = Some(name.text.clone());
            next.history(format!("MAINTAINER {}", name.text), false);
            Action::Metadata
        }
    };
    Ok((next, action))
}

/// One instruction, with what it sees: the state of before itself.
struct Step<'a> {
    before: &'a State,
    instruction: &'a Instruction,
    scope: Scope<'a>,
}

impl Step<'_> {
    fn lookup(&self, name: &str) -> Option<String> {
        self.before.variables.get(name).cloned()
    }

    fn expand(&self, word: &Word) -> Result<String, ParseError> {
        let expansion = dockerfile::expand(&word.text, self.scope.escape, &|name| self.lookup(name));
        expansion.map(|expansion| expansion.text).map_err(|error| self.unexpandable(&error, word.position))
    }

    fn expand_option(&self, word: Option<&Word>) -> Result<Option<String>, ParseError> {
        word.map(|word| self.expand(word)).transpose()
    }

    fn unexpandable(&self, error: &ExpandError, focus: Position) -> ParseError {
        self.mistake(error.to_string(), focus)
    }

    fn mistake(&self, message: String, focus: Position) -> ParseError {
        ParseError { message, hint: None, position: self.instruction.position, focus: Some(focus) }
    }

    fn arg(&self, next: &mut State, pairs: &[dockerfile::ArgPair]) -> Result<Action, ParseError> {
        let mut words = Vec::new();
        for pair in pairs {
            // A default sees the arguments before it, those of the same line too.
            let lookup = |name: &str| next.variables.get(name).cloned();
            let value = match (&pair.value, self.scope.build_args.get(&pair.name)) {
                (_, Some(given)) => Some(given.clone()),
                (Some(default), None) => {
                    let expansion = dockerfile::expand(&default.text, self.scope.escape, &lookup);
                    Some(expansion.map_err(|error| self.unexpandable(&error, default.position))?.text)
                }
                (None, None) => {
                    self.scope.global_args.get(&pair.name).or_else(|| self.scope.platform_args.get(&pair.name)).cloned()
                }
            };
            words.push(match &value {
                Some(value) => format!("{}={value}", pair.name),
                None => pair.name.clone(),
            });
            if let Some(value) = value {
                next.variables.insert(pair.name.clone(), value);
            }
            if !next.declared.contains(&pair.name) {
                next.declared.push(pair.name.clone());
            }
        }
        next.history(format!("ARG {}", words.join(" ")), false);
        Ok(Action::Metadata)
    }

    /// Expands pairs with the variables of before the instruction, so that none sees another of the same line.
    fn pairs(&self, pairs: &Pairs) -> Result<Vec<(String, String)>, ParseError> {
        let mut expanded = Vec::new();
        for pair in &pairs.pairs {
            let key = self.expand(&pair.key)?;
            if key.is_empty() {
                return Err(self.mistake(
                    format!("{} names can not be blank", self.instruction.keyword.text.to_uppercase()),
                    pair.key.position,
                ));
            }
            expanded.push((key, self.expand(&pair.value)?));
        }
        Ok(expanded)
    }

    fn env(&self, next: &mut State, pairs: &Pairs) -> Result<Action, ParseError> {
        let pairs = self.pairs(pairs)?;
        for (name, value) in &pairs {
            let line = format!("{name}={value}");
            match next.config.config.env.iter_mut().find(|known| known.split_once('=').is_some_and(|(known, _)| known == name)) {
                Some(known) => *known = line,
                None => next.config.config.env.push(line),
            }
            next.variables.insert(name.clone(), value.clone());
        }
        next.history(format!("ENV {}", joined(&pairs)), false);
        Ok(Action::Metadata)
    }

    fn label(&self, next: &mut State, pairs: &Pairs) -> Result<Action, ParseError> {
        let pairs = self.pairs(pairs)?;
        next.history(format!("LABEL {}", joined(&pairs)), false);
        next.config.config.labels.extend(pairs);
        Ok(Action::Metadata)
    }

    /// The words to execute: the exec form as it is, the shell form behind the shell.
    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => self.in_shell(&text.text),
        }
    }

    fn in_shell(&self, text: &str) -> Vec<String> {
        let mut argv = self.before.shell();
        argv.push(text.to_owned());
        argv
    }

    fn run(&self, next: &mut State, run: &Run) -> Result<Action, ParseError> {
        let (argv, script) = match run.script() {
            RunScript::Exec(words) => (words.to_vec(), None),
            RunScript::Shell(text) => (self.in_shell(&text), None),
            RunScript::File { name, body } => {
                let script = ScriptFile { name: name.to_owned(), content: body.into_owned().into_bytes() };
                (self.in_shell(&format!("/dev/pipes/{name}")), Some(script))
            }
        };
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            let resolved = mount.resolve(&mut |text| {
                dockerfile::expand(text, self.scope.escape, &|name| self.lookup(name)).map(|expansion| expansion.text)
            });
            mounts.push(
                resolved.map_err(|error| ParseError { hint: error.hint(), ..self.mistake(error.to_string(), mount.position) })?,
            );
        }
        let proxies = PROXY_ARGS.iter().filter(|name| !self.before.variables.contains_key(**name));
        let proxies = proxies.filter_map(|name| Some(((*name).to_owned(), self.scope.build_args.get(*name)?.clone()))).collect();
        let arguments: Vec<String> = self
            .before
            .declared
            .iter()
            .map(|name| format!("{name}={}", self.before.variables.get(name).map_or("", String::as_str)))
            .collect();
        let arguments =
            if arguments.is_empty() { String::new() } else { format!("|{} {} ", arguments.len(), arguments.join(" ")) };
        let shown = if script.is_some() { self.command(&run.command) } else { argv.clone() };
        next.history(format!("RUN {arguments}{} # buildkit", shown.join(" ")), true);
        Ok(Action::Run(RunAction {
            argv,
            script,
            environment: self.before.variables.clone(),
            proxies,
            working_dir: self.before.working_dir().to_owned(),
            user: self.before.config.config.user.clone(),
            mounts,
            network: run.network,
            security: run.security,
            devices: run.devices.iter().map(|device| device.text.clone()).collect(),
        }))
    }

    fn sources(&self, sources: &[dockerfile::Source]) -> Result<Vec<CopySource>, ParseError> {
        let source = |source: &dockerfile::Source| {
            Ok(match source {
                dockerfile::Source::Path(word) => CopySource::Path(self.expand(word)?),
                dockerfile::Source::Heredoc(heredoc) => {
                    let content = if heredoc.expand {
                        let expansion = dockerfile::expand_raw(&heredoc.body(), &|name| self.lookup(name));
                        expansion.map_err(|error| self.unexpandable(&error, heredoc.position))?.text
                    } else {
                        heredoc.body().into_owned()
                    };
                    CopySource::Inline { name: heredoc.name.clone(), content: content.into_bytes() }
                }
            })
        };
        sources.iter().map(source).collect()
    }

    fn copy(&self, next: &mut State, copy: &Copy) -> Result<Action, ParseError> {
        let action = CopyAction {
            from: copy.from.clone(),
            sources: self.sources(&copy.sources)?,
            destination: self.expand(&copy.destination)?,
            working_dir: self.before.working_dir().to_owned(),
            chown: self.expand_option(copy.chown.as_ref())?,
            chmod: self.expand_option(copy.chmod.as_ref())?,
            link: copy.link,
            parents: copy.parents,
            excludes: copy.exclude.iter().map(|word| word.text.clone()).collect(),
            add: None,
        };
        next.history(copy_history("COPY", &action), true);
        Ok(Action::Copy(action))
    }

    fn add(&self, next: &mut State, add: &Add) -> Result<Action, ParseError> {
        let action = CopyAction {
            from: None,
            sources: self.sources(&add.sources)?,
            destination: self.expand(&add.destination)?,
            working_dir: self.before.working_dir().to_owned(),
            chown: self.expand_option(add.chown.as_ref())?,
            chmod: self.expand_option(add.chmod.as_ref())?,
            link: add.link,
            parents: false,
            excludes: add.exclude.iter().map(|word| word.text.clone()).collect(),
            add: Some(AddOptions {
                checksum: self.expand_option(add.checksum.as_ref())?,
                unpack: add.unpack,
                keep_git_dir: add.keep_git_dir,
            }),
        };
        next.history(copy_history("ADD", &action), true);
        Ok(Action::Copy(action))
    }

    fn workdir(&self, next: &mut State, word: &Word) -> Result<Action, ParseError> {
        let path = self.expand(word)?;
        if path.is_empty() {
            return Err(self.mistake(format!("the working directory is empty: {} expands to nothing", word.text), word.position));
        }
        let path = absolute(self.before.working_dir(), &path);
        next.config.config.working_dir.clone_from(&path);
        let makes_layer = path != "/";
        next.history(format!("WORKDIR {path}"), makes_layer);
        if !makes_layer {
            return Ok(Action::Metadata);
        }
        Ok(Action::Workdir(WorkdirAction { path, user: self.before.config.config.user.clone() }))
    }

    fn expose(&self, next: &mut State, words: &[Word]) -> Result<Action, ParseError> {
        let mut shown = Vec::new();
        for word in words {
            let expansion = dockerfile::expand_words(&word.text, self.scope.escape, &|name| self.lookup(name));
            for port in expansion.map_err(|error| self.unexpandable(&error, word.position))?.words {
                let parsed = ports::parse(&port).map_err(|error| ParseError {
                    hint: Some("as in 80, 80/udp or 8000-8010/tcp".to_owned()),
                    ..self.mistake(error.to_string(), word.position)
                })?;
                shown.extend(parsed);
            }
        }
        shown.sort();
        shown.dedup();
        next.config.config.exposed_ports.extend(shown.iter().map(|port| (port.clone(), json!({}))));
        next.history(format!("EXPOSE [{}]", shown.join(" ")), false);
        Ok(Action::Metadata)
    }
}

fn healthcheck(check: &Healthcheck) -> crate::oci::Healthcheck {
    let nanoseconds =
        |duration: Option<Duration>| duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX));
    match check {
        Healthcheck::None => crate::oci::Healthcheck { test: vec!["NONE".to_owned()], ..Default::default() },
        Healthcheck::Cmd { command, interval, timeout, start_period, start_interval, retries } => crate::oci::Healthcheck {
            test: match command {
                Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text.clone()],
                Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
            },
            interval: nanoseconds(*interval),
            timeout: nanoseconds(*timeout),
            start_period: nanoseconds(*start_period),
            start_interval: nanoseconds(*start_interval),
            retries: retries.map_or(0, i64::from),
        },
    }
}

/// `path` from `working_dir`, clean and absolute.
pub fn absolute(working_dir: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{working_dir}/{path}") };
    crate::tree::TreePath::clamp(joined).to_string()
}

fn copy_history(keyword: &str, action: &CopyAction) -> String {
    let mut text = keyword.to_owned();
    let flags = [("--chown=", &action.chown), ("--chmod=", &action.chmod)];
    if action.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in flags.into_iter().filter_map(|(flag, value)| Some((flag, value.as_deref()?))) {
        text = format!("{text} {flag}{value}");
    }
    for source in &action.sources {
        match source {
            CopySource::Path(path) => text = format!("{text} {path}"),
            CopySource::Inline { name, .. } => text = format!("{text} <<{name}"),
        }
    }
    format!("{text} {} # buildkit", action.destination)
}

/// `["a" "b"]`, as Go prints a list of strings with `%q`.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}
