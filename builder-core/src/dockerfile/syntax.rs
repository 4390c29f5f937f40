//! Which language a file says it is written in. Takes the text, gives an error if it is not ours. Pure.
//!
//! `# syntax=docker/dockerfile:1` names the language that is built in, so it is accepted and nothing
//! is ever fetched for it. Every other frontend would be a program to download and run.

use super::ast::{Position, Span};
use super::error::ParseError;
use super::lines::split_directive;

/// Refuses a file that asks for another frontend.
pub(super) fn check(source: &str) -> Result<(), ParseError> {
    let Some((reference, position)) = detect(source) else {
        return Ok(());
    };
    if is_built_in(&reference) {
        return Ok(());
    }
    Err(ParseError {
        message: format!("unsupported syntax {reference:?}: only the Dockerfile language itself is built in"),
        hint: Some("remove the line, or name docker/dockerfile".to_owned()),
        position,
        focus: None,
    })
}

/// The value of the syntax directive: behind `#`, else behind `//`, else in a file that is all JSON.
/// A first line that begins with `#!` does not count.
fn detect(source: &str) -> Option<(String, Position)> {
    let offset = match source.strip_prefix("#!") {
        Some(_) => source.find('\n').map_or(source.len(), |newline| newline + 1),
        None => 0,
    };
    let first_line = if offset > 0 { 2 } else { 1 };
    for comment in ["#", "//"] {
        let mut start = offset;
        for (number, raw) in (first_line..).zip(source[offset..].split_inclusive('\n')) {
            let Some((key, value)) = raw.trim().strip_prefix(comment).and_then(split_directive) else { break };
            if key.eq_ignore_ascii_case("syntax") {
                let reference = value.split(' ').next().unwrap_or_default().to_owned();
                let span = Span { start, end: start + raw.trim_end().len() };
                return Some((reference, Position { first_line: number, last_line: number, column: 1, span }));
            }
            if !["escape", "check"].iter().any(|known| key.eq_ignore_ascii_case(known)) {
                break;
            }
            start += raw.len();
        }
    }
    let json = source[offset..].trim_start().starts_with('{').then_some(&source[offset..])?;
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    let reference = object.get("syntax")?.as_str()?.to_owned();
    let position = Position { first_line, last_line: first_line, column: 1, span: Span { start: offset, end: offset + 1 } };
    Some((reference, position))
}

/// Whether a reference names the Dockerfile frontend: in any version, from any registry or mirror.
fn is_built_in(reference: &str) -> bool {
    let name = reference.split('@').next().unwrap_or_default();
    let last_slash = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = match name[last_slash..].find(':') {
        Some(colon) => &name[..last_slash + colon],
        None => name,
    };
    let mut parts = name.rsplit('/');
    matches!(parts.next(), Some("dockerfile" | "dockerfile-upstream")) && parts.next() == Some("docker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_frontend_is_built_in_whatever_its_version_and_registry() {
        for reference in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile:1@sha256:0123",
            "docker/dockerfile-upstream:master",
            "mirror.example:5000/hub/docker/dockerfile:1",
        ] {
            assert!(is_built_in(reference), "{reference}");
        }
        for reference in ["tonistiigi/dockerfile:x", "docker/buildx", "dockerfile", "r2d4/mocker", "docker/dockerfile/x", ""] {
            assert!(!is_built_in(reference), "{reference}");
        }
    }

    #[test]
    fn another_frontend_is_refused_wherever_it_is_named() {
        for (source, line) in [
            ("# syntax=r2d4/mocker\nFROM a\n", 1),
            ("# escape=`\n#SYNTAX = r2d4/mocker  x\nFROM a\n", 2),
            ("#!/usr/bin/env x\n# syntax=r2d4/mocker\n", 2),
            ("//syntax=r2d4/mocker\n", 1),
            ("{\"syntax\": \"r2d4/mocker\"}\n", 1),
        ] {
            let error = check(source).unwrap_err();
            assert_eq!(error.position.first_line, line, "{source}");
            assert!(error.message.contains("\"r2d4/mocker\""), "{}", error.message);
        }
    }

    #[test]
    fn a_comment_that_looks_like_a_directive_is_none_below_other_lines() {
        for source in ["# about\n# syntax=r2d4/mocker\n", "\n# syntax=r2d4/mocker\n", "FROM a\n# syntax=r2d4/mocker\n"] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }
}
