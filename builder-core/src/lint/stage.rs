//! Rules that need the state of a stage: its variables, its base, the working directory. They look at the stages of the
//! plan, and find the mistakes that a build of them would stop at, all at once. Pure.

use super::{Facts, Finding, Findings, Place, Rule, Subject, nearest};
use crate::dockerfile::{self, Command, Instruction, InstructionKind, Pairs, Position, Stage, Word};
use crate::evaluate::{Scope, State};
use crate::oci::{ImageConfig, Platform};
use crate::plan::{Plan, PlannedStage, Source};
use crate::tree::TreePath;
use std::collections::BTreeMap;

/// Arguments that speak to the builder and need no ARG to be used.
const BUILDER_ARGUMENTS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Words in a name that tell of a secret, and words that tell that it is none.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// A stage in the middle of its instructions.
#[derive(Clone)]
struct Course {
    state: State,
    /// Whether the base is known: if not, every variable may be set in it.
    base_is_known: bool,
    /// Whether a WORKDIR stood in this stage or in one that it starts from.
    has_workdir: bool,
}

pub(super) fn check(subject: Subject<'_>, plan: &Plan, findings: &mut Findings) {
    let mut ends: BTreeMap<usize, Course> = BTreeMap::new();
    for (index, planned) in &plan.stages {
        let stage = &subject.dockerfile.stages[*index];
        let mut course = match (&planned.base, subject.facts.bases.get(index)) {
            (Source::Scratch, _) => Course::new(State::scratch(&planned.platform), true),
            (Source::Stage(parent), _) => match ends.get(parent) {
                Some(end) => Course { state: end.state.inherited(), ..end.clone() },
                None => continue,
            },
            (Source::Image(name), Some(config)) => {
                base_platform(stage, name, config, planned, findings);
                Course::new(State::from_image(config.clone()), true)
            }
            (Source::Image(_) | Source::Context(_), _) => Course::new(State::from_image(ImageConfig::default()), false),
        };
        let scope = Scope {
            escape: subject.dockerfile.escape,
            build_args: &subject.options.build_args,
            global_args: &plan.global_args,
            platform_args: &plan.platform_args,
        };
        for trigger in course.state.take_triggers() {
            // They stand in another file: what is wrong with them is said when they run.
            if let Ok(trigger) = dockerfile::parse_trigger(&trigger) {
                let _ = course.state.apply(&trigger, scope);
            }
        }
        repeated(stage, findings);
        for instruction in &stage.instructions {
            course.step(instruction, scope, subject.facts, findings);
        }
        ends.insert(*index, course);
    }
}

impl Course {
    fn new(state: State, base_is_known: bool) -> Self {
        Self { state, base_is_known, has_workdir: false }
    }

    fn step(&mut self, instruction: &Instruction, scope: Scope<'_>, facts: &Facts, findings: &mut Findings) {
        let place = Place::from(instruction);
        let missing = self.missing(instruction, scope.escape);
        if self.base_is_known {
            self.undefined_variables(place, &missing, findings);
        }
        match &instruction.kind {
            InstructionKind::Arg(pairs) => {
                let names = pairs.iter().map(|pair| (pair.name.as_str(), pair.position));
                secrets(place, "ARG", names, findings);
            }
            InstructionKind::Env(pairs) => {
                legacy(place, "ENV", pairs, findings);
                secrets(place, "ENV", pairs.pairs.iter().map(|pair| (pair.key.text.as_str(), pair.key.position)), findings);
            }
            InstructionKind::Label(pairs) => legacy(place, "LABEL", pairs, findings),
            InstructionKind::Cmd(command) => self.shell_form(place, "CMD", command, findings),
            InstructionKind::Entrypoint(command) => self.shell_form(place, "ENTRYPOINT", command, findings),
            InstructionKind::Workdir(path) => self.workdir(place, path, scope.escape, findings),
            InstructionKind::Expose(ports) => self.expose(place, ports, scope.escape, findings),
            InstructionKind::Copy(copy) if copy.from.is_none() => {
                self.ignored_files(place, "COPY", &copy.sources, scope.escape, facts, findings);
            }
            InstructionKind::Add(add) => self.ignored_files(place, "ADD", &add.sources, scope.escape, facts, findings),
            _ => {}
        }
        if let Err(mistake) = self.state.apply(instruction, scope)
            // What an unknown base might have set is no mistake yet.
            && (self.base_is_known || missing.is_empty())
        {
            findings.report.mistakes.push(mistake);
        }
    }

    /// The variables that an instruction uses, that have no value, and that are not declared either.
    fn missing(&self, instruction: &Instruction, escape: char) -> BTreeMap<String, Position> {
        let mut missing = BTreeMap::new();
        let is_known = |name: &String| self.state.declares(name) || BUILDER_ARGUMENTS.contains(&name.as_str());
        each_word(&instruction.kind, &mut |text, position, style| {
            if !text.contains('$') {
                return;
            }
            let found = match style {
                Style::Raw => dockerfile::expand_raw(text, &|name| self.value(name)).map(|expansion| expansion.missing),
                Style::Word => dockerfile::expand(text, escape, &|name| self.value(name)).map(|expansion| expansion.missing),
            };
            let found = found.unwrap_or_default().into_iter().filter(|name| !is_known(name));
            for name in found {
                missing.entry(name).or_insert(position);
            }
        });
        if let InstructionKind::Arg(pairs) = &instruction.kind {
            // A default sees the arguments to its left.
            missing.retain(|name, position| {
                let mut left = pairs.iter().take_while(|pair| pair.position.span.end <= position.span.start);
                !left.any(|pair| pair.name == *name)
            });
        }
        missing
    }

    fn value(&self, name: &str) -> Option<String> {
        self.state.variable(name).map(str::to_owned)
    }

    fn undefined_variables(&self, place: Place<'_>, missing: &BTreeMap<String, Position>, findings: &mut Findings) {
        for (name, position) in missing {
            let finding =
                Finding::new(Rule::UndefinedVar, format!("the variable '${name}' is used and not defined")).at(*position);
            findings.add(
                place,
                match nearest(name, self.state.variable_names()) {
                    Some(near) => finding.hint(format!("did you mean ${near}?")),
                    None => finding,
                },
            );
        }
    }

    fn shell_form(&self, place: Place<'_>, instruction: &str, command: &Command, findings: &mut Findings) {
        let has_shell = self.state.config.config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
        if let Command::Shell(text) = command
            && !has_shell
        {
            let message = format!("{instruction} in shell form: a signal to the container reaches the shell, not the command");
            let finding = Finding::new(Rule::JsonArgsRecommended, message).at(text.position);
            findings
                .add(place, finding.hint(format!("write {instruction} [\"program\", \"argument\"], or choose a SHELL above")));
        }
    }

    /// Only the first WORKDIR of a build can be wrong: those after it start from where it leads.
    fn workdir(&mut self, place: Place<'_>, path: &Word, escape: char, findings: &mut Findings) {
        let expansion = dockerfile::expand(&path.text, escape, &|name| self.value(name));
        let text = expansion.map(|expansion| expansion.text).unwrap_or_default();
        let is_first = !std::mem::replace(&mut self.has_workdir, true);
        // What an unknown base has set might be an absolute path.
        let is_sure = self.base_is_known || !path.text.contains('$');
        if is_first && is_sure && !text.is_empty() && !text.starts_with('/') {
            let message = format!("the relative directory {text:?} is another one if the base image changes");
            let finding = Finding::new(Rule::WorkdirRelativePath, message).at(path.position);
            findings.add(place, finding.hint("begin with an absolute WORKDIR"));
        }
    }

    fn expose(&self, place: Place<'_>, words: &[Word], escape: char, findings: &mut Findings) {
        for word in words {
            let expansion = dockerfile::expand_words(&word.text, escape, &|name| self.value(name));
            for port in expansion.map(|expansion| expansion.words).unwrap_or_default() {
                let (numbers, protocol) = port.rsplit_once('/').unwrap_or((&port, ""));
                if protocol != protocol.to_lowercase() {
                    let message = format!("the protocol of '{port}' should be lower case");
                    findings.add(place, Finding::new(Rule::ExposeProtoCasing, message).at(word.position));
                }
                if numbers.contains(':') {
                    let message = format!("EXPOSE takes no address and no port of the host: '{port}'");
                    findings.add(place, Finding::new(Rule::ExposeInvalidFormat, message).at(word.position));
                }
            }
        }
    }

    fn ignored_files(
        &self,
        place: Place<'_>,
        instruction: &str,
        sources: &[dockerfile::Source],
        escape: char,
        facts: &Facts,
        findings: &mut Findings,
    ) {
        let Some(rules) = facts.ignored.as_ref().filter(|rules| !rules.is_empty()) else { return };
        for source in sources {
            let dockerfile::Source::Path(word) = source else { continue };
            let Ok(expansion) = dockerfile::expand(&word.text, escape, &|name| self.value(name)) else { continue };
            if !expansion.missing.is_empty() || expansion.text.contains("://") || expansion.text.starts_with("git@") {
                continue;
            }
            let path = TreePath::clamp(&expansion.text);
            // A name that no pattern means but one that means everything.
            let asked = if path.is_root() { path.child(b"\x01\x01") } else { path.clone() };
            let before_wildcard = expansion.text.split(['*', '?', '[']).next().unwrap_or_default();
            let directory = if before_wildcard.len() == expansion.text.len() {
                path
            } else {
                TreePath::clamp(before_wildcard.rsplit_once('/').map_or("", |(directory, _)| directory))
            };
            if rules.excluded(&asked) && !rules.may_bring_back_below(&directory) {
                let message = format!("{instruction} names {:?}, which .dockerignore leaves out", expansion.text);
                findings.add(place, Finding::new(Rule::CopyIgnoredFile, message).at(word.position));
            }
        }
    }
}

/// How the variables of a text are found.
#[derive(Clone, Copy)]
enum Style {
    /// Quotes mean something.
    Word,
    /// They do not: bodies of heredocs.
    Raw,
}

/// Everything of an instruction in which the builder expands variables.
fn each_word(kind: &InstructionKind, see: &mut dyn FnMut(&str, Position, Style)) {
    let mut word = |word: &Word| see(&word.text, word.position, Style::Word);
    match kind {
        InstructionKind::Arg(pairs) => pairs.iter().filter_map(|pair| pair.value.as_ref()).for_each(word),
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            for pair in &pairs.pairs {
                word(&pair.key);
                word(&pair.value);
            }
        }
        InstructionKind::Workdir(text) | InstructionKind::User(text) | InstructionKind::Stopsignal(text) => word(text),
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => words.iter().for_each(word),
        InstructionKind::Copy(copy) => {
            [Some(&copy.destination), copy.chown.as_ref(), copy.chmod.as_ref()].into_iter().flatten().for_each(word);
            each_source(&copy.sources, see);
        }
        InstructionKind::Add(add) => {
            let flags = [add.chown.as_ref(), add.chmod.as_ref(), add.checksum.as_ref()];
            std::iter::once(&add.destination).chain(flags.into_iter().flatten()).for_each(word);
            each_source(&add.sources, see);
        }
        InstructionKind::Run(run) => {
            for mount in &run.mounts {
                // Only the words count here: what they make of the mount is the evaluation's business.
                let _ = mount.resolve(&mut |text| {
                    see(text, mount.position, Style::Word);
                    Ok(text.to_owned())
                });
            }
        }
        InstructionKind::Cmd(_)
        | InstructionKind::Entrypoint(_)
        | InstructionKind::Shell(_)
        | InstructionKind::Healthcheck(_)
        | InstructionKind::Onbuild(_)
        | InstructionKind::Maintainer(_) => {}
    }
}

fn each_source(sources: &[dockerfile::Source], see: &mut dyn FnMut(&str, Position, Style)) {
    for source in sources {
        match source {
            dockerfile::Source::Path(word) => see(&word.text, word.position, Style::Word),
            dockerfile::Source::Heredoc(heredoc) if heredoc.expand => see(&heredoc.content, heredoc.position, Style::Raw),
            dockerfile::Source::Heredoc(_) => {}
        }
    }
}

fn base_platform(stage: &Stage, name: &str, config: &ImageConfig, planned: &PlannedStage, findings: &mut Findings) {
    let found = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    if planned.platform.distance(&found).is_none() {
        let message = format!("the base image {name} is for {found}, and this build is for {}", planned.platform);
        findings.add(stage.into(), Finding::new(Rule::InvalidBaseImagePlatform, message).at(stage.base.position));
    }
}

/// Of several CMD, ENTRYPOINT or HEALTHCHECK those before the last have no effect.
fn repeated(stage: &Stage, findings: &mut Findings) {
    let mut last: BTreeMap<&str, &Instruction> = BTreeMap::new();
    for instruction in &stage.instructions {
        let name = match instruction.kind {
            InstructionKind::Cmd(_) => "CMD",
            InstructionKind::Entrypoint(_) => "ENTRYPOINT",
            InstructionKind::Healthcheck(_) => "HEALTHCHECK",
            _ => continue,
        };
        if let Some(earlier) = last.insert(name, instruction) {
            let message = format!("this {name} has no effect: line {} replaces it", instruction.position.first_line);
            findings.add(earlier.into(), Finding::new(Rule::MultipleInstructionsDisallowed, message));
        }
    }
}

fn legacy(place: Place<'_>, instruction: &str, pairs: &Pairs, findings: &mut Findings) {
    if pairs.legacy {
        let message = format!("{instruction} key=value should be written instead of {instruction} key value");
        findings.add(place, Finding::new(Rule::LegacyKeyValueFormat, message));
    }
}

fn secrets<'a>(place: Place<'_>, instruction: &str, names: impl Iterator<Item = (&'a str, Position)>, findings: &mut Findings) {
    for (name, position) in names.filter(|(name, _)| is_secret(name)) {
        let message = format!("{instruction} {name} looks like a secret, and would stay in the image");
        let finding = Finding::new(Rule::SecretsUsedInArgOrEnv, message).at(position);
        findings.add(place, finding.hint("give it with RUN --mount=type=secret"));
    }
}

fn is_secret(name: &str) -> bool {
    let any_of = |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    any_of(&SECRET_WORDS) && !any_of(&HARMLESS_WORDS)
}
