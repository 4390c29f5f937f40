//! From the text of a Dockerfile to its stages. Pure.

use std::sync::Arc;

use super::ast::{Dockerfile, Heredoc, Instruction, InstructionKind, Position, Source, Span, Stage};
use super::error::ParseError;
use super::instruction::{Line, Parsed};
use super::lines::{Lines, Unterminated};
use super::syntax;

/// More errors than this help nobody: they follow from one another.
const MAX_ERRORS: usize = 20;

/// Parses a Dockerfile.
///
/// # Errors
/// Every instruction that makes no sense, in the order of the file, up to twenty.
///
/// ```
/// let dockerfile = builder_core::dockerfile::parse("FROM scratch AS Base\nCOPY a /b\n").unwrap();
/// assert_eq!(dockerfile.stages[0].name.as_ref().unwrap().name, "base");
///
/// let errors = builder_core::dockerfile::parse("FROM scratch\nCOYP a /b\n").unwrap_err();
/// assert_eq!(errors[0].message, "unknown instruction: COYP");
/// assert_eq!(errors[0].hint.as_deref(), Some("did you mean COPY?"));
/// assert_eq!(errors[0].position.first_line, 2);
/// ```
pub fn parse(text: &str) -> Result<Dockerfile, Vec<ParseError>> {
    let source = text.strip_prefix('\u{feff}').unwrap_or(text);
    syntax::check(source).map_err(|error| vec![error])?;
    let mut lines = Lines::new(source);
    let Instructions { global, stages, mut errors } = read_all(&mut lines);
    errors.append(&mut lines.errors);
    if errors.is_empty() && stages.is_empty() {
        errors.push(without_stages(&global));
    }
    if !errors.is_empty() {
        errors.sort_by_key(|error| error.position.span.start);
        errors.truncate(MAX_ERRORS);
        return Err(errors);
    }
    Ok(Dockerfile { source: Arc::from(source), escape: lines.escape, directives: lines.directives, global_args: global, stages })
}

/// Parses a Dockerfile that may not be UTF-8.
///
/// Other bytes are tolerated in comments, where they are common and mean nothing.
///
/// # Errors
/// As [`parse`], and every line of an instruction that is not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Dockerfile, Vec<ParseError>> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(text),
        Err(_) => String::from_utf8_lossy(bytes),
    };
    let invalid_lines = bytes.split(|&byte| byte == b'\n').zip(text.split('\n')).enumerate();
    let invalid_lines = invalid_lines.filter(|(_, (line, _))| std::str::from_utf8(line).is_err());
    let mut errors = Vec::new();
    let is_body = body_lines(&text);
    for (index, (_, lossy)) in invalid_lines {
        if lossy.trim_start().starts_with('#') && !is_body(index + 1) {
            continue;
        }
        let column = lossy.find('\u{fffd}').unwrap_or(0);
        let before: usize = text.split_inclusive('\n').take(index).map(str::len).sum();
        let span = Span { start: before, end: before + lossy.len() };
        errors.push(ParseError {
            message: format!("line {} is not valid UTF-8 (column {})", index + 1, column + 1),
            hint: Some("save the file in UTF-8".to_owned()),
            position: Position { first_line: index + 1, last_line: index + 1, column: 1, span },
            focus: None,
        });
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    if errors.is_empty() { parse(&text) } else { Err(errors) }
}

/// Parses one instruction that an image carries as an `ONBUILD` trigger.
///
/// Its positions are those of `text`.
///
/// # Errors
/// The text is no instruction, more than one, or one that cannot be a trigger.
pub fn parse_trigger(text: &str) -> Result<Instruction, Vec<ParseError>> {
    let mut lines = Lines::new(text);
    let Instructions { mut global, stages, mut errors } = read_all_as_one_stage(&mut lines);
    errors.append(&mut lines.errors);
    let whole = Position { first_line: 1, last_line: lines.last().0.max(1), column: 1, span: Span { start: 0, end: text.len() } };
    let mut refuse = |message: String| {
        if errors.is_empty() {
            errors.push(ParseError { message, hint: None, position: whole, focus: None });
        }
    };
    match global.as_slice() {
        _ if !stages.is_empty() => refuse("FROM is not allowed as an ONBUILD trigger".to_owned()),
        [only] => match only.kind {
            InstructionKind::Onbuild(_) => refuse("ONBUILD is not allowed as an ONBUILD trigger".to_owned()),
            InstructionKind::Maintainer(_) => refuse("MAINTAINER is not allowed as an ONBUILD trigger".to_owned()),
            _ => {}
        },
        other => refuse(format!("an ONBUILD trigger must be one instruction, not {}", other.len())),
    }
    if errors.is_empty() { Ok(global.remove(0)) } else { Err(errors) }
}

/// What was read so far.
struct Instructions {
    /// Before the first `FROM`.
    global: Vec<Instruction>,
    stages: Vec<Stage>,
    errors: Vec<ParseError>,
}

/// Reads a file, in which only `ARG` may stand before the first `FROM`.
fn read_all(lines: &mut Lines<'_>) -> Instructions {
    let mut read = read_all_as_one_stage(lines);
    let misplaced = |instruction: &&Instruction| !matches!(instruction.kind, InstructionKind::Arg(_));
    if let Some(first) = read.global.iter().find(misplaced) {
        let message = format!("no build stage yet: {} stands before the first FROM", first.keyword.text);
        read.errors.push(ParseError {
            message,
            hint: Some("only ARG may stand before FROM".to_owned()),
            position: first.position,
            focus: Some(first.keyword.position),
        });
    }
    read
}

fn read_all_as_one_stage(lines: &mut Lines<'_>) -> Instructions {
    let mut read = Instructions { global: Vec::new(), stages: Vec::new(), errors: Vec::new() };
    while let Some(logical) = lines.next_logical() {
        let line = Line::new(&logical, lines.escape);
        let mut position = logical.whole();
        let markers = line.heredoc_markers();
        let mark = lines.mark();
        let heredocs = match lines.take_bodies(markers) {
            Ok(heredocs) => heredocs,
            // An unknown instruction may have no heredocs at all.
            Err(Unterminated { .. }) if !line.is_known() => {
                lines.rewind(mark);
                Vec::new()
            }
            Err(Unterminated { name }) => {
                read.errors.push(ParseError {
                    message: format!("unterminated heredoc: no line {name:?} ends it before the end of the file"),
                    hint: Some("the end line must hold the name alone, without blanks around it".to_owned()),
                    position,
                    focus: None,
                });
                break;
            }
        };
        let (last_line, end) = lines.last();
        // Comments and blank lines behind a last continuation do not belong to the instruction.
        if !heredocs.is_empty() {
            position.last_line = last_line;
            position.span.end = end;
        }
        match line.parse(position, heredocs) {
            Ok(Parsed::Stage(stage)) => read.stages.push(stage),
            Ok(Parsed::Instruction(instruction)) => match read.stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None => read.global.push(instruction),
            },
            Err(error) => read.errors.push(error),
        }
        if read.errors.len() == MAX_ERRORS {
            break;
        }
    }
    read
}

fn without_stages(global: &[Instruction]) -> ParseError {
    let (message, position) = match global.last() {
        Some(last) => ("the Dockerfile has no build stage: there is no FROM", last.position),
        None => (
            "the Dockerfile is empty: it has no instruction and no build stage",
            Position { first_line: 1, last_line: 1, column: 1, ..Position::default() },
        ),
    };
    ParseError { message: message.to_owned(), hint: Some("begin with FROM image".to_owned()), position, focus: None }
}

/// Tells which lines belong to the bodies of heredocs.
fn body_lines(text: &str) -> impl Fn(usize) -> bool {
    let read = read_all_as_one_stage(&mut Lines::new(text));
    let instructions = read.stages.into_iter().flat_map(|stage| stage.instructions).chain(read.global);
    let mut bodies: Vec<(usize, usize)> = instructions.flat_map(|instruction| bodies_of(&instruction.kind)).collect();
    bodies.sort_unstable();
    move |line| {
        let after = bodies.partition_point(|(first, _)| *first <= line);
        after > 0 && bodies[after - 1].1 >= line
    }
}

fn bodies_of(kind: &InstructionKind) -> Vec<(usize, usize)> {
    let lines = |heredoc: &Heredoc| (heredoc.position.first_line, heredoc.position.last_line);
    let of_source = |source: &Source| match source {
        Source::Heredoc(heredoc) => Some(lines(heredoc)),
        Source::Path(_) => None,
    };
    match kind {
        InstructionKind::Run(run) => run.heredocs.iter().map(lines).collect(),
        InstructionKind::Copy(copy) => copy.sources.iter().filter_map(of_source).collect(),
        InstructionKind::Add(add) => add.sources.iter().filter_map(of_source).collect(),
        InstructionKind::Onbuild(onbuild) => bodies_of(&onbuild.instruction.kind),
        _ => Vec::new(),
    }
}
