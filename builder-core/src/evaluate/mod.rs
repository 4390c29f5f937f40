//! What one instruction means: `(State, Instruction) → (State', Action)`.
//!
//! The state is the image config that grows and the variables in scope. Metadata instructions are done when they are
//! evaluated; the others come out as an [`Action`] in which every variable is expanded, for somebody with a tree, a disk
//! or a kernel. History entries are written here, in BuildKit's words. Pure.

mod ports;
mod signals;
#[cfg(test)]
mod tests;

use crate::dockerfile::{
    self, Add, Command, Copy, ExpandError, Healthcheck, Instruction, InstructionKind, Network, Pairs, ParseError, Position,
    ResolvedMount, Run, RunScript, Security, Word,
};
use crate::oci::{History, ImageConfig, Platform};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What PATH is in an image that does not say (BuildKit's value).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that reach RUN without an ARG, in either case, and stay out of the history and of cache keys unless an ARG
/// names them.
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
    /// What an instruction sees: ENV and ARG alike, the later word counts. All of the config's ENV is in it. Shared with
    /// the actions, which are many and seldom see a change.
    variables: Arc<BTreeMap<String, String>>,
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
    /// A script that the step needs as a file: the shell is given its path below `/dev/pipes`.
    pub script: Option<ScriptFile>,
    /// ENV and ARG as they stand, by name.
    pub environment: Arc<BTreeMap<String, String>>,
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
    /// Its name: one component of a path.
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
    /// With a `/` at the end if it is meant as a directory; that is also what `.` and nothing mean.
    pub destination: String,
    /// What a relative destination is relative to.
    pub working_dir: String,
    /// `--chown`; `None` if it expands to nothing.
    pub chown: Option<String>,
    /// `--chmod`; `None` if it expands to nothing.
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
        /// Its name: one component of a path.
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
    /// Absolute, as written.
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
        if !config.config.env.iter().any(|pair| name_and_value(pair).0 == "PATH") {
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        if !config.config.working_dir.is_empty() {
            config.config.working_dir = absolute("/", &config.config.working_dir);
        }
        let mut state = Self {
            foreign_history: config.history.len(),
            config,
            variables: Arc::default(),
            declared: Vec::new(),
            has_command: false,
        };
        state.see_environment();
        state
    }

    /// FROM an earlier stage: its ARGs stay in scope, below the ENV of its image.
    #[must_use]
    pub fn inherited(&self) -> Self {
        let mut state = Self { has_command: false, ..self.clone() };
        state.see_environment();
        state
    }

    /// Brings the ENV of the config into the variables.
    fn see_environment(&mut self) {
        let pairs = self.config.config.env.iter().map(|pair| name_and_value(pair));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Arc::make_mut(&mut self.variables).extend(pairs);
    }

    /// The ONBUILD triggers of the base, which run now and are gone from the result.
    pub fn take_triggers(&mut self) -> Vec<String> {
        std::mem::take(&mut self.config.config.on_build)
    }

    /// The directory that relative paths start from.
    pub fn working_dir(&self) -> &str {
        if self.config.config.working_dir.is_empty() { "/" } else { &self.config.config.working_dir }
    }

    /// What the variable `name` is worth to the next instruction.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The names of all variables that have a value.
    pub fn variable_names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// Whether an ARG of this stage, or of those below it, names the variable, with a value or without one.
    pub fn declares(&self, name: &str) -> bool {
        self.declared.iter().any(|declared| declared == name)
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
        let shell = self.config.config.shell.clone().filter(|shell| !shell.is_empty());
        shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }
}

/// The parts of `NAME=value`; a config made elsewhere may hold a name alone.
fn name_and_value(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

impl State {
    /// Evaluates one instruction in place: a file of thousands of lines copies no state.
    ///
    /// # Errors
    /// An expansion that fails, or a value that makes no sense after it. The state is then as it was.
    pub fn apply(&mut self, instruction: &Instruction, scope: Scope<'_>) -> Result<Action, ParseError> {
        Step { state: self, instruction, scope }.apply()
    }
}

/// One instruction, with what it sees and changes. Every word is expanded before anything is changed, because an
/// instruction sees the state of before itself.
struct Step<'a> {
    state: &'a mut State,
    instruction: &'a Instruction,
    scope: Scope<'a>,
}

impl Step<'_> {
    fn apply(mut self) -> Result<Action, ParseError> {
        match &self.instruction.kind {
            InstructionKind::Arg(pairs) => self.arg(pairs)?,
            InstructionKind::Env(pairs) => self.env(pairs)?,
            InstructionKind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                self.state.history(format!("LABEL {}", joined(&pairs)), false);
                self.state.config.config.labels.extend(pairs);
            }
            InstructionKind::Run(run) => return self.run(run).map(Action::Run),
            InstructionKind::Copy(copy) => return self.copy(copy).map(Action::Copy),
            InstructionKind::Add(add) => return self.add(add).map(Action::Copy),
            InstructionKind::Workdir(path) => return self.workdir(path),
            InstructionKind::User(user) => {
                let user = self.expand(user)?;
                self.state.history(format!("USER {user}"), false);
                self.state.config.config.user = user;
            }
            InstructionKind::Cmd(command) => {
                let argv = self.command(command);
                self.state.history(format!("CMD {}", quoted(&argv)), false);
                self.state.config.config.cmd = Some(argv).filter(|argv| !argv.is_empty());
                self.state.config.config.args_escaped = true;
                self.state.has_command = true;
            }
            InstructionKind::Entrypoint(command) => {
                let argv = self.command(command);
                self.state.history(format!("ENTRYPOINT {}", quoted(&argv)), false);
                self.state.config.config.entrypoint = Some(argv).filter(|argv| !argv.is_empty());
                if !self.state.has_command {
                    self.state.config.config.cmd = None;
                }
            }
            InstructionKind::Expose(words) => self.expose(words)?,
            InstructionKind::Volume(words) => self.volume(words)?,
            InstructionKind::Stopsignal(word) => self.stopsignal(word)?,
            InstructionKind::Shell(shell) => {
                self.state.history(format!("SHELL [{}]", shell.join(" ")), false);
                self.state.config.config.shell = Some(shell.clone());
            }
            InstructionKind::Healthcheck(check) => {
                let check = healthcheck(check);
                self.state.history(format!("HEALTHCHECK {}", quoted(&check.test)), false);
                self.state.config.config.healthcheck = Some(check);
            }
            // It leaves no line in the history.
            InstructionKind::Onbuild(onbuild) => self.state.config.config.on_build.push(onbuild.trigger.clone()),
            InstructionKind::Maintainer(name) => {
                self.state.config.author = Some(name.text.clone());
                self.state.history(format!("MAINTAINER {}", name.text), false);
            }
        }
        Ok(Action::Metadata)
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.state.variables.get(name).cloned()
    }

    fn expand(&self, word: &Word) -> Result<String, ParseError> {
        self.expand_with(word, &|name| self.lookup(name))
    }

    fn expand_with(&self, word: &Word, lookup: &dockerfile::Lookup<'_>) -> Result<String, ParseError> {
        let expansion = dockerfile::expand(&word.text, self.scope.escape, lookup);
        expansion.map(|expansion| expansion.text).map_err(|error| self.unexpandable(&error, word.position))
    }

    /// An option that expands to nothing is not given.
    fn expand_option(&self, word: Option<&Word>) -> Result<Option<String>, ParseError> {
        let text = word.map(|word| self.expand(word)).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn unexpandable(&self, error: &ExpandError, focus: Position) -> ParseError {
        self.mistake(error.to_string(), focus)
    }

    fn mistake(&self, message: String, focus: Position) -> ParseError {
        ParseError { message, hint: None, position: self.instruction.position, focus: Some(focus) }
    }

    fn arg(&mut self, pairs: &[dockerfile::ArgPair]) -> Result<(), ParseError> {
        let mut words = Vec::new();
        let mut values: BTreeMap<&str, String> = BTreeMap::new();
        for pair in pairs {
            let value = match (&pair.value, self.scope.build_args.get(&pair.name)) {
                (_, Some(given)) => Some(given.clone()),
                (Some(default), None) => {
                    // A default sees the arguments before it, those of the same line too.
                    let lookup = |name: &str| values.get(name).cloned().or_else(|| self.lookup(name));
                    Some(self.expand_with(default, &lookup)?)
                }
                (None, None) => {
                    self.scope.global_args.get(&pair.name).or_else(|| self.scope.platform_args.get(&pair.name)).cloned()
                }
            };
            words.push(match &value {
                Some(value) => format!("{}={value}", pair.name),
                None => pair.name.clone(),
            });
            values.extend(value.map(|value| (pair.name.as_str(), value)));
        }
        for pair in pairs {
            if !self.state.declared.contains(&pair.name) {
                self.state.declared.push(pair.name.clone());
            }
        }
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value));
        Arc::make_mut(&mut self.state.variables).extend(values);
        self.state.history(format!("ARG {}", words.join(" ")), false);
        Ok(())
    }

    fn pairs(&self, pairs: &Pairs) -> Result<Vec<(String, String)>, ParseError> {
        let mut expanded = Vec::new();
        for pair in &pairs.pairs {
            let key = self.expand(&pair.key)?;
            if key.is_empty() {
                let instruction = self.instruction.keyword.text.to_uppercase();
                let message = format!("{instruction} names can not be blank: {} expands to nothing", pair.key.text);
                return Err(self.mistake(message, pair.key.position));
            }
            expanded.push((key, self.expand(&pair.value)?));
        }
        Ok(expanded)
    }

    fn env(&mut self, pairs: &Pairs) -> Result<(), ParseError> {
        let pairs = self.pairs(pairs)?;
        self.state.history(format!("ENV {}", joined(&pairs)), false);
        let environment = &mut self.state.config.config.env;
        let variables = Arc::make_mut(&mut self.state.variables);
        for (name, value) in pairs {
            let line = format!("{name}={value}");
            // What is in the environment is a variable, too; to search the list for every new name would be slow.
            let is_new = variables.insert(name.clone(), value).is_none();
            match environment.iter_mut().filter(|_| !is_new).find(|known| name_and_value(known).0 == name) {
                Some(known) => *known = line,
                None => environment.push(line),
            }
        }
        Ok(())
    }

    /// The words to execute: the exec form as it is, the shell form behind the shell.
    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => self.in_shell(&text.text),
        }
    }

    fn in_shell(&self, text: &str) -> Vec<String> {
        let mut argv = self.state.shell();
        argv.push(text.to_owned());
        argv
    }

    fn run(&mut self, run: &Run) -> Result<RunAction, ParseError> {
        let (argv, script) = match run.script() {
            RunScript::Exec(words) => (words.to_vec(), None),
            RunScript::Shell(text) => (self.in_shell(&text), None),
            RunScript::File { name, body } => {
                let name = self.file_name(name)?;
                (self.in_shell(&format!("/dev/pipes/{name}")), Some(ScriptFile { name, content: body.into_owned().into_bytes() }))
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
        self.state.history(format!("RUN {}{} # buildkit", self.arguments(), argv.join(" ")), true);
        Ok(RunAction {
            argv,
            script,
            environment: Arc::clone(&self.state.variables),
            proxies: self.proxies(),
            working_dir: self.state.working_dir().to_owned(),
            user: self.state.config.config.user.clone(),
            mounts,
            network: run.network,
            security: run.security,
            devices: run.devices.iter().map(|device| device.text.clone()).collect(),
        })
    }

    /// What the history says of the ARGs that a RUN sees: `|2 A=1 B= `.
    fn arguments(&self) -> String {
        let value = |name: &String| self.state.variables.get(name).map_or("", String::as_str);
        let arguments: Vec<String> = self.state.declared.iter().map(|name| format!("{name}={}", value(name))).collect();
        if arguments.is_empty() { String::new() } else { format!("|{} {} ", arguments.len(), arguments.join(" ")) }
    }

    /// The proxies of `--build-arg`, each in both cases, because programs do not agree which one to read.
    fn proxies(&self) -> BTreeMap<String, String> {
        let given = |name: &str| {
            let other_case = || self.scope.build_args.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
            let value = self.scope.build_args.get(name).or_else(|| other_case().map(|(_, value)| value))?;
            Some((name.to_owned(), value.clone())).filter(|(_, value)| !value.is_empty())
        };
        let names = PROXY_ARGS.into_iter().filter(|name| !self.state.variables.contains_key(*name));
        names.filter_map(given).collect()
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
                    CopySource::Inline { name: self.file_name(&heredoc.name)?, content: content.into_bytes() }
                }
            })
        };
        sources.iter().map(source).collect()
    }

    /// The name of a heredoc as the name of a file, which leads nowhere else.
    fn file_name(&self, heredoc: &str) -> Result<String, ParseError> {
        let name = crate::tree::TreePath::clamp(heredoc).to_string();
        match name.trim_start_matches('/') {
            name if !name.is_empty() && !name.contains('/') => Ok(name.to_owned()),
            _ => Err(self.mistake(format!("the heredoc {heredoc:?} is no name of a file"), self.instruction.position)),
        }
    }

    fn copy(&mut self, copy: &Copy) -> Result<CopyAction, ParseError> {
        let action = CopyAction {
            from: copy.from.clone(),
            sources: self.sources(&copy.sources)?,
            destination: self.expand(&copy.destination)?,
            working_dir: self.state.working_dir().to_owned(),
            chown: self.expand_option(copy.chown.as_ref())?,
            chmod: self.expand_option(copy.chmod.as_ref())?,
            link: copy.link,
            parents: copy.parents,
            excludes: copy.exclude.iter().map(|word| word.text.clone()).collect(),
            add: None,
        };
        self.copied("COPY", action, copy.chown.as_ref())
    }

    fn add(&mut self, add: &Add) -> Result<CopyAction, ParseError> {
        let action = CopyAction {
            from: None,
            sources: self.sources(&add.sources)?,
            destination: self.expand(&add.destination)?,
            working_dir: self.state.working_dir().to_owned(),
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
        self.copied("ADD", action, add.chown.as_ref())
    }

    fn copied(&mut self, keyword: &str, action: CopyAction, chown: Option<&Word>) -> Result<CopyAction, ParseError> {
        // A layer of its own knows no accounts. With --chmod, --link is a copy like any other (BuildKit).
        if let (true, None, Some(owner), Some(word)) = (action.link, &action.chmod, &action.chown, chown)
            && let Some(name) = owner.splitn(2, ':').find(|id| *id != "root" && id.bytes().any(|byte| !byte.is_ascii_digit()))
        {
            return Err(ParseError {
                hint: Some("use numeric ids, or leave --link out".to_owned()),
                ..self.mistake(format!("with --link, --chown takes no name as {name:?}"), word.position)
            });
        }
        self.state.history(copy_history(keyword, &action), true);
        Ok(match action.destination.as_str() {
            "" | "." => CopyAction { destination: "./".to_owned(), ..action },
            _ => action,
        })
    }

    fn workdir(&mut self, word: &Word) -> Result<Action, ParseError> {
        // What expands to nothing leaves the directory as it is, as with BuildKit.
        let path = absolute(self.state.working_dir(), &self.expand(word)?);
        self.state.config.config.working_dir.clone_from(&path);
        let makes_layer = path != "/";
        self.state.history(format!("WORKDIR {path}"), makes_layer);
        if !makes_layer {
            return Ok(Action::Metadata);
        }
        Ok(Action::Workdir(WorkdirAction { path, user: self.state.config.config.user.clone() }))
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), ParseError> {
        let mut shown = Vec::new();
        for word in words {
            let expansion = dockerfile::expand_words(&word.text, self.scope.escape, &|name| self.lookup(name));
            for port in expansion.map_err(|error| self.unexpandable(&error, word.position))?.words {
                let parsed = ports::parse(&port).map_err(|error| ParseError {
                    hint: Some("EXPOSE takes ports as in 80, 80/udp or 8000-8010/tcp".to_owned()),
                    ..self.mistake(error.to_string(), word.position)
                })?;
                shown.extend(parsed);
            }
        }
        shown.sort();
        shown.dedup();
        self.state.config.config.exposed_ports.extend(shown.iter().map(|port| (port.clone(), json!({}))));
        self.state.history(format!("EXPOSE [{}]", shown.join(" ")), false);
        Ok(())
    }

    fn volume(&mut self, words: &[Word]) -> Result<(), ParseError> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(self.mistake(format!("VOLUME names no path: {} expands to nothing", word.text), word.position));
            }
            volumes.push(volume);
        }
        self.state.history(format!("VOLUME [{}]", volumes.join(" ")), false);
        self.state.config.config.volumes.extend(volumes.into_iter().map(|volume| (volume, json!({}))));
        Ok(())
    }

    fn stopsignal(&mut self, word: &Word) -> Result<(), ParseError> {
        let signal = self.expand(word)?;
        if !signals::is_signal(&signal) {
            return Err(ParseError {
                hint: Some("STOPSIGNAL takes a name as in SIGTERM or SIGRTMIN+3, or a number".to_owned()),
                ..self.mistake(format!("{signal:?} is no signal"), word.position)
            });
        }
        self.state.history(format!("STOPSIGNAL {signal}"), false);
        self.state.config.config.stop_signal = Some(signal);
        Ok(())
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

/// `path` from `working_dir`. BuildKit cleans what it joins, and leaves an absolute path as it is written.
pub fn absolute(working_dir: &str, path: &str) -> String {
    match path {
        "" => working_dir.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => crate::tree::TreePath::clamp(format!("{working_dir}/{path}")).to_string(),
    }
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
    let character = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        control if control.is_ascii_control() => format!("\\x{:02x}", u32::from(control)),
        other => other.to_string(),
    };
    let words: Vec<String> =
        words.iter().map(|word| format!("\"{}\"", word.chars().map(character).collect::<String>())).collect();
    format!("[{}]", words.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}
