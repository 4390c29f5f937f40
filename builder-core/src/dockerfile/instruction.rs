//! From a logical line to a typed instruction. Pure.
//!
//! The pieces of a line are ranges of its text until they become words with positions. Every
//! instruction stops at its first error; the next instruction goes on.

use std::ops::Range;
use std::time::Duration;

use super::ast::{
    Add, ArgPair, Command, Copy, Healthcheck, Heredoc, Instruction, InstructionKind, Network, Onbuild, Pair, Pairs, Position,
    Run, Security, Source, Span, Stage, StageName, Word,
};
use super::error::{ParseError, nearest, nearest_of};
use super::flags::{Flag, FlagKind, FlagTable, split_flags};
use super::heredoc::{Marker, marker, markers};
use super::lines::LogicalLine;
use super::mount::{Mount, holds_variable};

/// What a logical line turns into.
pub(super) enum Parsed {
    Stage(Stage),
    Instruction(Instruction),
}

/// The instructions of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

const NAMES: [(&str, Name); 18] = [
    ("ADD", Name::Add),
    ("ARG", Name::Arg),
    ("CMD", Name::Cmd),
    ("COPY", Name::Copy),
    ("ENTRYPOINT", Name::Entrypoint),
    ("ENV", Name::Env),
    ("EXPOSE", Name::Expose),
    ("FROM", Name::From),
    ("HEALTHCHECK", Name::Healthcheck),
    ("LABEL", Name::Label),
    ("MAINTAINER", Name::Maintainer),
    ("ONBUILD", Name::Onbuild),
    ("RUN", Name::Run),
    ("SHELL", Name::Shell),
    ("STOPSIGNAL", Name::Stopsignal),
    ("USER", Name::User),
    ("VOLUME", Name::Volume),
    ("WORKDIR", Name::Workdir),
];

impl Name {
    fn of(word: &str) -> Option<Name> {
        NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, name)| *name)
    }

    /// The instruction that an unknown word was probably meant to be.
    fn nearest(word: &str) -> Option<&'static str> {
        nearest(word, NAMES.map(|(name, _)| name))
    }

    fn text(self) -> &'static str {
        NAMES[self as usize].0
    }

    fn flags(self) -> FlagTable {
        use FlagKind::{Bool, Text, Texts};
        match self {
            Name::Add => &[
                ("chown", Text),
                ("chmod", Text),
                ("checksum", Text),
                ("exclude", Texts),
                ("keep-git-dir", Bool),
                ("link", Bool),
                ("unpack", Bool),
            ],
            Name::Copy => {
                &[("from", Text), ("chown", Text), ("chmod", Text), ("exclude", Texts), ("link", Bool), ("parents", Bool)]
            }
            Name::From => &[("platform", Text)],
            Name::Healthcheck => {
                &[("interval", Text), ("timeout", Text), ("start-period", Text), ("start-interval", Text), ("retries", Text)]
            }
            Name::Run => &[("mount", Texts), ("network", Text), ("security", Text), ("device", Texts)],
            _ => &[],
        }
    }
}

/// A part of a logical line that holds one instruction: all of it, or what follows `ONBUILD`.
pub(super) struct Line<'a> {
    logical: &'a LogicalLine,
    escape: char,
    keyword: Range<usize>,
    flags: Vec<Flag>,
    /// The arguments behind the flags, without blanks around them.
    rest: Range<usize>,
}

impl<'a> Line<'a> {
    /// Splits a logical line into instruction, flags and arguments.
    pub(super) fn new(logical: &'a LogicalLine, escape: char) -> Self {
        Line::within(logical, escape, 0..logical.text.len())
    }

    fn within(logical: &'a LogicalLine, escape: char, range: Range<usize>) -> Self {
        let range = trim(&logical.text, range);
        let text = &logical.text[range.clone()];
        let keyword_length = text.find(is_blank).unwrap_or(text.len());
        let keyword = range.start..range.start + keyword_length;
        let (mut flags, begin) = split_flags(&logical.text[keyword.end..range.end], escape);
        for flag in &mut flags {
            flag.range = flag.range.start + keyword.end..flag.range.end + keyword.end;
        }
        let rest = trim(&logical.text, keyword.end + begin..range.end);
        Line { logical, escape, keyword, flags, rest }
    }

    /// The heredocs whose bodies follow this line.
    pub(super) fn heredoc_markers(&self) -> Vec<Marker> {
        if !self.logical.text.contains("<<") {
            return Vec::new();
        }
        let holds_heredocs = |line: &Line<'_>| {
            let word = line.text(line.keyword.clone());
            // The body of a misspelt instruction should not be read as instructions, too.
            let name = Name::of(word).or_else(|| Name::nearest(word).and_then(Name::of));
            matches!(name, Some(Name::Run | Name::Copy | Name::Add)) && matches!(line.json(), Ok(None))
        };
        let found = match Name::of(self.text(self.keyword.clone())) {
            Some(Name::Onbuild) => holds_heredocs(&Line::within(self.logical, self.escape, self.rest.clone())),
            _ => holds_heredocs(self),
        };
        if found { markers(&self.logical.text) } else { Vec::new() }
    }

    /// Whether the instruction is one that exists.
    pub(super) fn is_known(&self) -> bool {
        Name::of(self.text(self.keyword.clone())).is_some()
    }

    /// Reads the instruction; `position` is all of it, `heredocs` are the bodies below it.
    pub(super) fn parse(self, position: Position, heredocs: Vec<Heredoc>) -> Result<Parsed, ParseError> {
        let name = self.name(position)?;
        if name == Name::From {
            return Ok(Parsed::Stage(self.from(position)?));
        }
        let original = self.logical.text.clone();
        let mut instruction = self.instruction(name, original, position, heredocs)?;
        instruction.comments.clone_from(&self.logical.comments);
        instruction.empty_continuation_lines.clone_from(&self.logical.empty_continuation_lines);
        Ok(Parsed::Instruction(instruction))
    }

    fn name(&self, position: Position) -> Result<Name, ParseError> {
        let word = self.text(self.keyword.clone());
        Name::of(word).ok_or_else(|| {
            let message = if word.is_empty() {
                "a line continuation without an instruction".to_owned()
            } else {
                format!("unknown instruction: {}", shorten(word))
            };
            let hint = Name::nearest(word).map(|near| format!("did you mean {near}?"));
            ParseError { message, hint, position, focus: Some(self.logical.position(self.keyword.clone())) }
        })
    }

    /// Reads every instruction but `FROM`.
    fn instruction(
        &self,
        name: Name,
        original: String,
        position: Position,
        heredocs: Vec<Heredoc>,
    ) -> Result<Instruction, ParseError> {
        let at = At { line: self, name, position };
        let flags = at.flags()?;
        let kind = match name {
            Name::From => return Err(at.error("FROM is not allowed here")),
            Name::Add => InstructionKind::Add(at.add(&flags, heredocs)?),
            Name::Arg => InstructionKind::Arg(at.arg()?),
            Name::Cmd => InstructionKind::Cmd(at.command(self.rest.clone())?),
            Name::Copy => InstructionKind::Copy(at.copy(&flags, heredocs)?),
            Name::Entrypoint => InstructionKind::Entrypoint(at.command(self.rest.clone())?),
            Name::Env => InstructionKind::Env(at.pairs()?),
            Name::Expose => InstructionKind::Expose(at.words_at_least_one()?),
            Name::Healthcheck => InstructionKind::Healthcheck(at.healthcheck(&flags)?),
            Name::Label => InstructionKind::Label(at.pairs()?),
            Name::Maintainer => InstructionKind::Maintainer(at.only_word()?),
            Name::Onbuild => InstructionKind::Onbuild(at.onbuild(heredocs)?),
            Name::Run => InstructionKind::Run(at.run(&flags, heredocs)?),
            Name::Shell => InstructionKind::Shell(at.shell()?),
            Name::Stopsignal => InstructionKind::Stopsignal(at.only_word()?),
            Name::User => InstructionKind::User(at.only_word()?),
            Name::Volume => InstructionKind::Volume(at.volume()?),
            Name::Workdir => InstructionKind::Workdir(at.only_word()?),
        };
        Ok(Instruction {
            position,
            keyword: self.word(self.keyword.clone()),
            original,
            comments: Vec::new(),
            empty_continuation_lines: Vec::new(),
            kind,
        })
    }

    fn from(&self, position: Position) -> Result<Stage, ParseError> {
        let at = At { line: self, name: Name::From, position };
        let flags = at.flags()?;
        let (base, name) = match self.split_blanks().as_slice() {
            [base] => (base.clone(), None),
            [base, as_keyword, name] if self.text(as_keyword.clone()).eq_ignore_ascii_case("as") => {
                (base.clone(), Some(at.stage_name(self.word(as_keyword.clone()), self.word(name.clone()))?))
            }
            _ => {
                return Err(at
                    .error("FROM requires either one or three arguments")
                    .with_hint("write FROM image, or FROM image AS name"));
            }
        };
        Ok(Stage {
            position,
            keyword: self.word(self.keyword.clone()),
            original: self.logical.text.clone(),
            comments: self.logical.comments.clone(),
            empty_continuation_lines: self.logical.empty_continuation_lines.clone(),
            base: self.word(base),
            platform: flags.text("platform"),
            name,
            instructions: Vec::new(),
        })
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        &self.logical.text[range]
    }

    fn word(&self, range: Range<usize>) -> Word {
        Word { text: self.text(range.clone()).to_owned(), position: self.logical.position(range) }
    }

    /// The arguments as a JSON array of strings; `Ok(None)` if they are none, which is no error.
    fn json(&self) -> Result<Option<Vec<String>>, NotStrings> {
        json_array(self.text(self.rest.clone()))
    }

    /// The arguments split at blanks, without regard to quotes.
    fn split_blanks(&self) -> Vec<Range<usize>> {
        let mut words = Vec::new();
        let mut start = self.rest.start;
        for (offset, blank) in self.text(self.rest.clone()).match_indices(is_blank) {
            words.push(start..self.rest.start + offset);
            start = self.rest.start + offset + blank.len();
        }
        words.push(start..self.rest.end);
        words.retain(|word| !word.is_empty());
        words
    }

    /// The arguments split at blanks outside quotes; the quotes stay. A trailing escape vanishes.
    fn split_quoted(&self) -> Vec<Range<usize>> {
        let text = self.text(self.rest.clone());
        let mut words = Vec::new();
        let mut start = None;
        let mut quote = None;
        let mut characters = text.char_indices();
        while let Some((offset, character)) = characters.next() {
            if quote.is_none() && character.is_whitespace() {
                words.extend(start.take().map(|start| start..offset));
                continue;
            }
            start.get_or_insert(offset);
            match quote {
                None if matches!(character, '\'' | '"') => quote = Some(character),
                Some(open) if character == open => quote = None,
                Some('\'') => {}
                _ if character == self.escape => {
                    let escaped = characters.next();
                    if escaped.is_none() {
                        // An escape character that escapes nothing does not belong to the word.
                        words.extend(start.take().filter(|start| *start < offset).map(|start| start..offset));
                    }
                }
                _ => {}
            }
        }
        words.extend(start.map(|start| start..text.len()));
        words.into_iter().map(|word| self.rest.start + word.start..self.rest.start + word.end).collect()
    }
}

/// A line with the name of its instruction: what its errors speak of.
struct At<'l, 'a> {
    line: &'l Line<'a>,
    name: Name,
    position: Position,
}

/// A flag's value, found by its name.
struct Flags<'l> {
    flags: Vec<(&'l Flag, Position)>,
}

impl Flags<'_> {
    fn all(&self, name: &str) -> Vec<Word> {
        let named = self.flags.iter().filter(|(flag, _)| flag.name == name);
        named.map(|(flag, position)| Word { text: flag.value.clone().unwrap_or_default(), position: *position }).collect()
    }

    fn text(&self, name: &str) -> Option<Word> {
        self.all(name).pop().filter(|word| !word.text.is_empty())
    }

    fn bool(&self, name: &str) -> Option<bool> {
        let (flag, _) = self.flags.iter().find(|(flag, _)| flag.name == name)?;
        Some(flag.value.as_ref().is_none_or(|value| value.eq_ignore_ascii_case("true")))
    }
}

impl<'l> At<'l, '_> {
    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { message: message.into(), hint: None, position: self.position, focus: None }
    }

    fn at_least_one(&self) -> ParseError {
        self.error(format!("{} requires at least one argument", self.name.text()))
    }

    /// Checks the flags against those of the instruction.
    fn flags(&self) -> Result<Flags<'l>, ParseError> {
        let table = self.name.flags();
        let instruction = self.name.text();
        let mut flags: Vec<(&Flag, Position)> = Vec::new();
        for flag in &self.line.flags {
            let position = self.line.logical.position(flag.range.clone());
            let name = &flag.name;
            let refuse = |message: String| self.error(message).at(position);
            let Some((_, kind)) = table.iter().find(|(known, _)| known == name) else {
                let known: Vec<&'static str> = table.iter().map(|(known, _)| *known).collect();
                let error = refuse(format!("unknown flag --{} for {instruction}", shorten(name)));
                return Err(match nearest_of(name, &known) {
                    Some(near) => error.with_hint(format!("did you mean --{near}?")),
                    None if known.is_empty() => error.with_hint(format!("{instruction} has no flags")),
                    None => error.with_hint(format!("{instruction} has --{}", known.join(", --"))),
                });
            };
            if *kind != FlagKind::Texts && flags.iter().any(|(earlier, _)| earlier.name == *name) {
                return Err(refuse(format!("duplicate flag --{name}: it can be given only once")));
            }
            match (kind, flag.value.as_deref()) {
                (FlagKind::Bool, None) => {}
                (FlagKind::Bool, Some(value)) if ["true", "false"].iter().any(|b| b.eq_ignore_ascii_case(value)) => {}
                (FlagKind::Bool, Some("")) | (_, None) => {
                    let example = if *kind == FlagKind::Bool { "true" } else { "value" };
                    return Err(
                        refuse(format!("missing a value on flag --{name}")).with_hint(format!("write --{name}={example}"))
                    );
                }
                (FlagKind::Bool, Some(value)) => {
                    return Err(refuse(format!("expected true or false for flag --{name}, not {:?}", shorten(value))));
                }
                _ => {}
            }
            flags.push((flag, position));
        }
        Ok(Flags { flags })
    }

    fn stage_name(&self, as_keyword: Word, written: Word) -> Result<StageName, ParseError> {
        let name = written.text.to_lowercase();
        let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
        if valid {
            return Ok(StageName { name, written, as_keyword });
        }
        Err(self
            .error(format!("invalid name for build stage: {:?}", shorten(&written.text)))
            .at(written.position)
            .with_hint("a name begins with a letter and holds letters, digits, '-', '_' and '.'"))
    }

    /// The rest of the line as one word, which must not be empty.
    fn only_word(&self) -> Result<Word, ParseError> {
        if self.line.rest.is_empty() {
            return Err(self.error(format!("{} requires exactly one argument", self.name.text())));
        }
        Ok(self.line.word(self.line.rest.clone()))
    }

    fn words_at_least_one(&self) -> Result<Vec<Word>, ParseError> {
        let words = self.line.split_blanks();
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        Ok(words.into_iter().map(|word| self.line.word(word)).collect())
    }

    /// A list of words: a JSON array, or split at blanks.
    fn json_or_words(&self) -> Result<Vec<Word>, ParseError> {
        let line = self.line;
        let Some(texts) = line.json().map_err(|NotStrings| self.not_strings())? else {
            return Ok(line.split_blanks().into_iter().map(|word| line.word(word)).collect());
        };
        let ranges = json_strings(line.text(line.rest.clone()));
        let position = |range: Range<usize>| line.logical.position(line.rest.start + range.start..line.rest.start + range.end);
        Ok(texts.into_iter().zip(ranges).map(|(text, range)| Word { text, position: position(range) }).collect())
    }

    fn not_strings(&self) -> ParseError {
        self.error(format!("the JSON array of {} must hold strings only", self.name.text()))
            .at(self.line.logical.position(self.line.rest.clone()))
            .with_hint("put every element into double quotes")
    }

    fn command(&self, range: Range<usize>) -> Result<Command, ParseError> {
        match json_array(self.line.text(range.clone())) {
            Ok(Some(arguments)) => Ok(Command::Exec(arguments)),
            Ok(None) => Ok(Command::Shell(self.line.word(range))),
            Err(NotStrings) => Err(self.not_strings()),
        }
    }

    fn arg(&self) -> Result<Vec<ArgPair>, ParseError> {
        let words = self.line.split_quoted();
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        let pair = |word: Range<usize>| {
            let text = self.line.text(word.clone());
            let position = self.line.logical.position(word.clone());
            let (name, value) = match text.split_once('=') {
                Some((name, _)) => (name, Some(self.line.word(word.start + name.len() + 1..word.end))),
                None => (text, None),
            };
            if name.is_empty() {
                return Err(self.blank_name().at(position));
            }
            Ok(ArgPair { name: name.to_owned(), value, position })
        };
        words.into_iter().map(pair).collect()
    }

    fn blank_name(&self) -> ParseError {
        self.error(format!("a name of {} is blank", self.name.text())).with_hint("write name=value, without a blank before '='")
    }

    /// The pairs of `ENV` and `LABEL`; the first word decides which of the two forms it is.
    fn pairs(&self) -> Result<Pairs, ParseError> {
        let line = self.line;
        let words = line.split_quoted();
        let Some(first) = words.first() else {
            return Err(self.at_least_one());
        };
        if !line.text(first.clone()).contains('=') {
            return self.legacy_pair();
        }
        let pair = |word: Range<usize>| {
            let text = line.text(word.clone());
            let position = line.logical.position(word.clone());
            let Some((key, _)) = text.split_once('=') else {
                let message =
                    format!("{}: cannot find = in {:?}, must be of the form name=value", self.name.text(), shorten(text));
                return Err(self.error(message).at(position).with_hint("put a value with blanks into double quotes"));
            };
            if key.is_empty() {
                return Err(self.blank_name().at(position));
            }
            let key_end = word.start + key.len();
            Ok(Pair { key: line.word(word.start..key_end), value: line.word(key_end + 1..word.end) })
        };
        Ok(Pairs { pairs: words.into_iter().map(pair).collect::<Result<_, _>>()?, legacy: false })
    }

    fn legacy_pair(&self) -> Result<Pairs, ParseError> {
        let line = self.line;
        let text = line.text(line.rest.clone());
        let Some(blank) = text.find(is_blank) else {
            let message = format!("{} {} has no value, must be of the form name=value", self.name.text(), shorten(text));
            return Err(self.error(message).at(line.logical.position(line.rest.clone())));
        };
        let key_end = line.rest.start + blank;
        let value_start = line.rest.end - text[blank..].trim_start_matches(is_blank).len();
        let pair = Pair { key: line.word(line.rest.start..key_end), value: line.word(value_start..line.rest.end) };
        Ok(Pairs { pairs: vec![pair], legacy: true })
    }

    fn volume(&self) -> Result<Vec<Word>, ParseError> {
        let mut words = self.json_or_words()?;
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        for word in &mut words {
            word.text = word.text.trim().to_owned();
            if word.text.is_empty() {
                return Err(self.error("a path of VOLUME is an empty string").at(word.position));
            }
        }
        Ok(words)
    }

    fn shell(&self) -> Result<Vec<String>, ParseError> {
        if self.line.rest.is_empty() {
            return Err(self.at_least_one());
        }
        match self.command(self.line.rest.clone())? {
            Command::Exec(arguments) if arguments.is_empty() => Err(self.at_least_one()),
            Command::Exec(arguments) => Ok(arguments),
            Command::Shell(word) => Err(self
                .error("SHELL requires the arguments to be in JSON form")
                .at(word.position)
                .with_hint(r#"write SHELL ["/bin/sh", "-c"]"#)),
        }
    }

    fn healthcheck(&self, flags: &Flags<'_>) -> Result<Healthcheck, ParseError> {
        let line = self.line;
        let Some(kind) = line.split_blanks().into_iter().next() else {
            return Err(self.at_least_one());
        };
        let command = trim(&line.logical.text, kind.end..line.rest.end);
        let word = line.text(kind.clone());
        if word.eq_ignore_ascii_case("NONE") {
            if command.is_empty() {
                return Ok(Healthcheck::None);
            }
            return Err(self.error("HEALTHCHECK NONE takes no arguments").at(line.logical.position(command)));
        }
        if !word.eq_ignore_ascii_case("CMD") {
            return Err(self
                .error(format!("unknown type {:?} of HEALTHCHECK: it must be CMD or NONE", shorten(word)))
                .at(line.logical.position(kind))
                .with_hint("write HEALTHCHECK [flags] CMD command"));
        }
        let command = match self.command(command)? {
            Command::Exec(arguments) if arguments.is_empty() => None,
            Command::Shell(text) if text.text.is_empty() => None,
            command => Some(command),
        };
        let Some(command) = command else {
            return Err(self.error("missing command after HEALTHCHECK CMD"));
        };
        let duration = |name: &str| flags.text(name).map(|word| self.duration(name, &word)).transpose();
        let retries = flags.text("retries").map(|word| match word.text.parse::<i32>().map(u32::try_from) {
            Ok(Ok(retries)) => Ok(retries),
            _ => Err(self
                .error(format!("invalid value for --retries: {:?} is not a number from 0", shorten(&word.text)))
                .at(word.position)),
        });
        Ok(Healthcheck::Cmd {
            command,
            interval: duration("interval")?,
            timeout: duration("timeout")?,
            start_period: duration("start-period")?,
            start_interval: duration("start-interval")?,
            retries: retries.transpose()?,
        })
    }

    fn duration(&self, name: &str, word: &Word) -> Result<Duration, ParseError> {
        let refuse = |reason: &str| {
            let message = format!("invalid duration for --{name}: {:?} {reason}", shorten(&word.text));
            self.error(message).at(word.position)
        };
        match parse_duration(&word.text) {
            None => Err(refuse("is no duration").with_hint("write 30s, 1m30s or 500ms")),
            Some(nanoseconds) if nanoseconds != 0 && nanoseconds < 1_000_000 => Err(refuse("is less than 1ms")),
            Some(nanoseconds) => Ok(Duration::from_nanos(nanoseconds.unsigned_abs())),
        }
    }

    fn onbuild(&self, heredocs: Vec<Heredoc>) -> Result<Onbuild, ParseError> {
        let line = self.line;
        if line.rest.is_empty() {
            return Err(self.at_least_one());
        }
        let inner = Line::within(line.logical, line.escape, line.rest.clone());
        let name = inner.name(self.position)?;
        let focus = line.logical.position(inner.keyword.clone());
        match name {
            Name::Onbuild => {
                return Err(self.error("ONBUILD cannot be chained: ONBUILD ONBUILD is not allowed").at(focus));
            }
            Name::From | Name::Maintainer => {
                return Err(self.error(format!("{} is not allowed as an ONBUILD trigger", name.text())).at(focus));
            }
            _ => {}
        }
        // What the image records is the line as it is, trailing blanks included.
        let text = &line.logical.text[inner.keyword.start..];
        let mut trigger = text.to_owned();
        for heredoc in &heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        let instruction = inner.instruction(name, text.to_owned(), self.position, heredocs)?;
        Ok(Onbuild { trigger, instruction: Box::new(instruction) })
    }

    fn run(&self, flags: &Flags<'_>, heredocs: Vec<Heredoc>) -> Result<Run, ParseError> {
        let mount = |word: Word| {
            Mount::parse(&word.text, word.position).map_err(|error| {
                // A cause behind the error would not be shown: an expansion's is part of the message.
                let hint = error.hint();
                let error = self.error(error.to_string()).at(word.position);
                ParseError { hint, ..error }
            })
        };
        let network = self.one_of(
            flags.text("network"),
            "network",
            [("default", Network::Default), ("none", Network::None), ("host", Network::Host)],
        )?;
        let security =
            self.one_of(flags.text("security"), "security", [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)])?;
        Ok(Run {
            command: self.command(self.line.rest.clone())?,
            heredocs,
            mounts: flags.all("mount").into_iter().map(mount).collect::<Result<_, _>>()?,
            network,
            security,
            devices: flags.all("device"),
        })
    }

    fn one_of<T: std::marker::Copy, const N: usize>(
        &self,
        word: Option<Word>,
        flag: &str,
        known: [(&'static str, T); N],
    ) -> Result<Option<T>, ParseError> {
        let Some(word) = word else { return Ok(None) };
        if let Some((_, value)) = known.iter().find(|(name, _)| *name == word.text) {
            return Ok(Some(*value));
        }
        let names = known.map(|(name, _)| name);
        let hint = match nearest(&word.text, names) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("it can be {}", names.join(", ")),
        };
        let message = format!("unsupported --{flag} {:?}", shorten(&word.text));
        Err(self.error(message).at(word.position).with_hint(hint))
    }

    fn copy(&self, flags: &Flags<'_>, heredocs: Vec<Heredoc>) -> Result<Copy, ParseError> {
        let (sources, destination) = self.sources(heredocs)?;
        let from = flags.text("from");
        if let Some(from) = from.as_ref().filter(|from| holds_variable(&from.text)) {
            return Err(self
                .error(format!("variable expansion is not supported for --from: {:?}", shorten(&from.text)))
                .at(from.position)
                .with_hint("define a stage with FROM and a global ARG, and name that stage"));
        }
        Ok(Copy {
            sources,
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.bool("link").unwrap_or(false),
            parents: flags.bool("parents").unwrap_or(false),
            exclude: flags.all("exclude"),
        })
    }

    fn add(&self, flags: &Flags<'_>, heredocs: Vec<Heredoc>) -> Result<Add, ParseError> {
        let (sources, destination) = self.sources(heredocs)?;
        Ok(Add {
            sources,
            destination,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            checksum: flags.text("checksum"),
            link: flags.bool("link").unwrap_or(false),
            exclude: flags.all("exclude"),
            keep_git_dir: flags.bool("keep-git-dir"),
            unpack: flags.bool("unpack"),
        })
    }

    /// Sources and destination of `COPY` and `ADD`.
    fn sources(&self, heredocs: Vec<Heredoc>) -> Result<(Vec<Source>, Word), ParseError> {
        let instruction = self.name.text();
        let mut words = self.json_or_words()?;
        if !heredocs.is_empty() {
            join_split_markers(&mut words);
        }
        let destination = words.pop();
        let (Some(destination), false) = (destination, words.is_empty()) else {
            let message = format!("{instruction} requires at least two arguments: the destination could not be determined");
            return Err(self.error(message).with_hint(format!("write {instruction} source … destination")));
        };
        let mut bodies = heredocs.into_iter().peekable();
        if marker(&destination.text).is_some() && bodies.peek().is_some() {
            let message = format!("{instruction} cannot accept a heredoc as a destination: {}", shorten(&destination.text));
            return Err(self.error(message).at(destination.position));
        }
        let mut sources = Vec::with_capacity(words.len());
        let mut files = Vec::new();
        for word in words {
            let is_next = |heredoc: &Heredoc| marker(&word.text).is_some_and(|marker| marker.name == heredoc.name);
            match bodies.next_if(is_next) {
                Some(heredoc) => files.push(Source::Heredoc(heredoc)),
                None => sources.push(Source::Path(word)),
            }
        }
        if let Some(heredoc) = bodies.next() {
            let message = format!("{instruction} takes a heredoc only as a source of its own: <<{}", shorten(&heredoc.name));
            return Err(self.error(message).with_hint("give it a name without blanks and quotes inside"));
        }
        sources.append(&mut files);
        Ok((sources, destination))
    }
}

/// Joins `<<` with the word behind it: `<< NAME` is a heredoc as `<<NAME` is.
fn join_split_markers(words: &mut Vec<Word>) {
    let mut joined: Vec<Word> = Vec::with_capacity(words.len());
    for word in words.drain(..) {
        match joined.last_mut() {
            Some(open) if open.text.trim_start_matches(|c: char| c.is_ascii_digit()) == "<<" => {
                open.text.push_str(&word.text);
                let Position { first_line, column, span: Span { start, .. }, .. } = open.position;
                let Position { last_line, span: Span { end, .. }, .. } = word.position;
                open.position = Position { first_line, last_line, column, span: Span { start, end } };
            }
            _ => joined.push(word),
        }
    }
    *words = joined;
}

/// A JSON array holds something else than strings.
struct NotStrings;

/// Reads a JSON array of strings; `Ok(None)` if the text is no JSON array.
fn json_array(text: &str) -> Result<Option<Vec<String>>, NotStrings> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let string = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(NotStrings),
    };
    values.into_iter().map(string).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Where the strings of a JSON array of strings stand.
fn json_strings(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, start) {
            (b'"', None) => start = Some(at),
            (b'"', Some(begin)) => {
                ranges.push(begin..at + 1);
                start = None;
            }
            (b'\\', Some(_)) => drop(bytes.next()),
            _ => {}
        }
    }
    ranges
}

/// Reads `1h2m3.5s` into nanoseconds, as Go does.
fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let number_length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_length);
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let nanoseconds = match unit {
            "ns" => 1_i64,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
        let mut part = i128::from(whole.checked_mul(nanoseconds)?);
        let (mut digits, mut scale) = (0_i128, 1_i128);
        for digit in fraction.bytes().take(18) {
            digits = digits * 10 + i128::from(digit - b'0');
            scale *= 10;
        }
        part += digits * i128::from(nanoseconds) / scale;
        total = total.checked_add(i64::try_from(part).ok()?)?;
        rest = after;
    }
    Some(sign * total)
}

/// What parts the words of an instruction.
fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// A word that is short enough for a message.
fn shorten(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
