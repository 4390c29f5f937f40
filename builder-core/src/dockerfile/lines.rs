//! From physical lines to logical ones: continuations joined, comments dropped, heredoc bodies taken.
//!
//! A [`LogicalLine`] remembers where each of its pieces stood, so that every byte of it has a
//! position in the source. Pure; each byte of the source is looked at a fixed number of times.

use std::ops::Range;

use super::ast::{Comment, Directive, DirectiveKey, Heredoc, Position, Span};
use super::error::ParseError;
use super::heredoc::Marker;

/// BuildKit reads lines through a buffer of 64 KiB.
const MAX_LINE_BYTES: usize = 65_535;

/// Reads a source line by line.
pub(super) struct Lines<'a> {
    source: &'a str,
    /// Where the next physical line begins.
    offset: usize,
    /// The number of the next physical line.
    number: usize,
    pub(super) escape: char,
    pub(super) directives: Vec<Directive>,
    /// Whether directives are still possible.
    at_top: bool,
    /// What is wrong with the lines themselves; they are read nevertheless.
    pub(super) errors: Vec<ParseError>,
}

/// One instruction, without its heredoc bodies.
#[derive(Debug)]
pub(super) struct LogicalLine {
    pub(super) text: String,
    pieces: Vec<Piece>,
    pub(super) comments: Vec<Comment>,
    pub(super) empty_continuation_lines: Vec<usize>,
}

/// A part of a logical line that is contiguous in the source.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it begins in the logical line.
    at: usize,
    /// Where it begins in the source.
    source: usize,
    line: usize,
    /// Where its line begins in the source.
    line_start: usize,
}

/// A line of the file.
#[derive(Clone, Copy)]
struct Physical<'a> {
    number: usize,
    start: usize,
    /// With its line end.
    raw: &'a str,
    /// Without it.
    text: &'a str,
}

/// The body of a heredoc has no end.
pub(super) struct Unterminated {
    pub(super) name: String,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Lines { source, offset: 0, number: 1, escape: '\\', directives: Vec::new(), at_top: true, errors: Vec::new() }
    }

    /// The next instruction, `None` at the end.
    pub(super) fn next_logical(&mut self) -> Option<LogicalLine> {
        let mut comments = Vec::new();
        loop {
            let line = self.next_physical()?;
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                if !self.take_directive(line, comment) {
                    let comment = comment.trim();
                    // An empty comment parts a block of comments from what follows.
                    if comment.is_empty() {
                        comments.clear();
                    } else {
                        comments.push(Comment { text: comment.to_owned(), line: line.number });
                    }
                }
                continue;
            }
            self.at_top = false;
            if !text.is_empty() {
                return Some(self.join(line, text, comments));
            }
        }
    }

    /// Joins a line with those that continue it.
    fn join(&mut self, first: Physical<'a>, text: &'a str, comments: Vec<Comment>) -> LogicalLine {
        let mut logical = LogicalLine { text: String::new(), pieces: Vec::new(), comments, empty_continuation_lines: Vec::new() };
        let (content, mut continues) = self.strip_continuation(text);
        logical.push(first, first.text.len() - text.len(), content);
        while continues {
            let Some(line) = self.next_physical() else { break };
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.empty_continuation_lines.push(line.number);
                continue;
            }
            let content;
            (content, continues) = self.strip_continuation(line.text);
            logical.push(line, 0, content);
        }
        logical
    }

    /// Takes the bodies of the heredocs, which begin with the next line.
    pub(super) fn take_bodies(&mut self, markers: Vec<Marker>) -> Result<Vec<Heredoc>, Unterminated> {
        markers.into_iter().map(|marker| self.take_body(marker)).collect()
    }

    fn take_body(&mut self, marker: Marker) -> Result<Heredoc, Unterminated> {
        let (start, first_line) = (self.offset, self.number);
        while let Some(line) = self.next_physical() {
            let text = if marker.strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if text != marker.name {
                continue;
            }
            return Ok(Heredoc {
                content: self.source[start..line.start].to_owned(),
                name: marker.name,
                expand: marker.expand,
                strip_tabs: marker.strip_tabs,
                file_descriptor: marker.file_descriptor,
                position: Position {
                    first_line,
                    last_line: line.number.saturating_sub(1).max(first_line),
                    column: 1,
                    span: Span { start, end: line.start },
                },
            });
        }
        Err(Unterminated { name: marker.name })
    }

    /// Where reading stands, to come back with [`Lines::rewind`].
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.offset, self.number)
    }

    pub(super) fn rewind(&mut self, mark: (usize, usize)) {
        (self.offset, self.number) = mark;
    }

    /// The number of the line that was read last, and where its text ends.
    pub(super) fn last(&self) -> (usize, usize) {
        let end = self.source[..self.offset].trim_end_matches(['\r', '\n']).len();
        (self.number - 1, end)
    }

    fn next_physical(&mut self) -> Option<Physical<'a>> {
        let rest = &self.source[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let raw = &rest[..length];
        let text = raw.trim_end_matches(['\r', '\n']);
        let line = Physical { number: self.number, start: self.offset, raw, text };
        self.offset += length;
        self.number += 1;
        if raw.strip_suffix('\n').unwrap_or(raw).len() > MAX_LINE_BYTES {
            let message = format!("line {} is longer than the {MAX_LINE_BYTES} bytes allowed", line.number);
            self.errors.push(ParseError {
                message,
                hint: Some("break it with a line continuation, or put the text into a file".to_owned()),
                position: line.position(),
                focus: None,
            });
        }
        Some(line)
    }

    /// What a line says before a trailing escape character, and whether there is one.
    fn strip_continuation<'t>(&self, text: &'t str) -> (&'t str, bool) {
        let trimmed = text.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(content) if !content.ends_with(self.escape) => (content, true),
            _ => (text, false),
        }
    }

    /// Reads a comment as a directive, as long as nothing but directives stands above it.
    fn take_directive(&mut self, line: Physical<'_>, comment: &str) -> bool {
        if !self.at_top {
            return false;
        }
        let Some((key, value)) = split_directive(comment) else {
            self.at_top = false;
            return false;
        };
        let key = match key.to_ascii_lowercase().as_str() {
            "syntax" => DirectiveKey::Syntax,
            "escape" => DirectiveKey::Escape,
            "check" => DirectiveKey::Check,
            _ => {
                self.at_top = false;
                return false;
            }
        };
        let position = line.position();
        let mut refuse = |message| {
            self.errors.push(ParseError { message, hint: None, position, focus: None });
        };
        if self.directives.iter().any(|directive| directive.key == key) {
            refuse(format!("only one {} parser directive can be used", key.name()));
        } else if key == DirectiveKey::Escape {
            match value {
                "\\" => self.escape = '\\',
                "`" => self.escape = '`',
                _ => refuse(format!("invalid escape token {value:?}: it must be ` or \\")),
            }
        }
        self.directives.push(Directive { key, value: value.to_owned(), position });
        true
    }
}

impl DirectiveKey {
    /// The key in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DirectiveKey::Syntax => "syntax",
            DirectiveKey::Escape => "escape",
            DirectiveKey::Check => "check",
        }
    }
}

/// Splits `key = value`; the key is one word of ASCII letters and digits, the value not empty.
pub(super) fn split_directive(comment: &str) -> Option<(&str, &str)> {
    let (key, value) = comment.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_word && !value.is_empty()).then_some((key, value))
}

impl Physical<'_> {
    fn position(&self) -> Position {
        let span = Span { start: self.start, end: self.start + self.text.len() };
        Position { first_line: self.number, last_line: self.number, column: 1, span }
    }
}

impl LogicalLine {
    /// Appends `content`, which begins `indent` bytes into its line.
    fn push(&mut self, line: Physical<'_>, indent: usize, content: &str) {
        debug_assert!(line.raw[indent..].starts_with(content));
        self.pieces.push(Piece { at: self.text.len(), source: line.start + indent, line: line.number, line_start: line.start });
        self.text.push_str(content);
    }

    /// Where a part of the logical line stands in the source.
    pub(super) fn position(&self, range: Range<usize>) -> Position {
        let piece_of = |at: usize| {
            let index = self.pieces.partition_point(|piece| piece.at <= at);
            self.pieces[index.saturating_sub(1)]
        };
        let first = piece_of(range.start);
        let start = first.source + (range.start - first.at);
        let last = if range.is_empty() { first } else { piece_of(range.end - 1) };
        let end = if range.is_empty() { start } else { last.source + (range.end - last.at) };
        Position { first_line: first.line, last_line: last.line, column: start - first.line_start + 1, span: Span { start, end } }
    }

    /// Where the whole line stands.
    pub(super) fn whole(&self) -> Position {
        self.position(0..self.text.len())
    }
}
