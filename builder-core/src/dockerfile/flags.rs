//! The `--name=value` words between an instruction and its arguments. Takes text, gives flags. Pure.

use std::ops::Range;

/// A flag as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: String,
    /// Without quotes and escapes; `None` without `=`.
    pub(super) value: Option<String>,
    /// Where it stands in the text.
    pub(super) range: Range<usize>,
}

/// How often a flag may stand and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagKind {
    /// `--name`, `--name=true`, `--name=false`
    Bool,
    /// `--name=value`, once.
    Text,
    /// `--name=value`, any number of times.
    Texts,
}

/// The flags of one instruction.
pub(super) type FlagTable = &'static [(&'static str, FlagKind)];

/// Splits the flags off the beginning of `text`; gives them and where the arguments begin.
///
/// Quotes group and vanish, the escape character takes the next one as it is. A lone `--` ends the
/// flags and vanishes, too.
pub(super) fn split_flags(text: &str, escape: char) -> (Vec<Flag>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (word, end) = read_word(text, at, escape);
        if word == "--" {
            return (flags, end);
        }
        let word = word.strip_prefix("--").unwrap_or(&word);
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        };
        flags.push(Flag { name, value, range: at..end });
        at = end;
    }
}

/// Reads from `start` to the next blank outside quotes; gives the word unquoted and its end.
fn read_word(text: &str, start: usize, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut rest = text[start..].char_indices();
    while let Some((offset, character)) = rest.next() {
        match quote {
            None if character.is_whitespace() => return (word, start + offset),
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if character == open => quote = None,
            _ if character == escape => word.extend(rest.next().map(|(_, escaped)| escaped)),
            _ => word.push(character),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_split_from_the_arguments() {
        for (text, flags, arguments) in [
            ("a b", "", "a b"),
            ("--link a b", "link", "a b"),
            ("--from=x  --chown=1:2 a", "from=x|chown=1:2", "a"),
            ("--mount=\"type=bind, target=/a b\" make", "mount=type=bind, target=/a b", "make"),
            ("--a='x y'z\\ q b", "a=x yz q", "b"),
            ("-- --link b", "", " --link b"),
            ("-dash /x", "", "-dash /x"),
            ("--x", "x", ""),
            ("--x=", "x=", ""),
            ("--x=\"open", "x=open", ""),
            ("--grüße=ü a", "grüße=ü", "a"),
        ] {
            let (found, at) = split_flags(text, '\\');
            let show = |flag: &Flag| match &flag.value {
                Some(value) => format!("{}={value}", flag.name),
                None => flag.name.clone(),
            };
            let found = found.iter().map(show).collect::<Vec<_>>().join("|");
            assert_eq!((found.as_str(), &text[at..]), (flags, arguments), "{text}");
        }
    }
}
