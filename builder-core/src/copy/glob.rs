//! Wildcard patterns over paths: `*`, `?`, `[a-z]`, `\x`, and `**` where the language has it. Pure.
//!
//! Two dialects share the syntax (that of Go's `filepath.Match`): in a source of COPY `**` is two stars, in ignore rules it
//! spans directories. A pattern is compiled once; matching is linear in the length of the path for any pattern.

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// `[` without its `]`, or with nothing in it.
    #[error("a character class is not closed, or is empty or malformed")]
    Class,
    /// A backslash with nothing behind it.
    #[error("it ends with a backslash that escapes nothing")]
    Escape,
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    form: Form,
}

/// The forms that most patterns have are compared without a search.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// No wildcard.
    Exact(Vec<u8>),
    /// `text**`
    Prefix(Vec<u8>),
    /// `**text`: the end of a path, at any place; with a leading `/` also the whole path without it.
    Suffix(Vec<u8>),
    /// Everything else, with the plain text that it begins and ends with, and the longest that it holds: most paths fail on these.
    Search { tokens: Vec<Token>, head: Vec<u8>, tail: Vec<u8>, needle: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// One character.
    Char(u32),
    /// `?`: one character, but `/`.
    Any,
    /// `*`: any number of characters, but `/`.
    Star,
    /// `[…]`: one character. A negated class takes `/` too, as in Go.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    /// `**/`: nothing, or anything up to a `/`.
    Directories,
    /// `**` at the end: anything.
    Rest,
}

/// What `**` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stars {
    /// The same as one star.
    Single,
    /// Any number of directories.
    Directories,
}

impl Glob {
    pub(super) fn parse(pattern: &[u8], stars: Stars) -> Result<Self, GlobError> {
        let tokens = tokens(pattern, stars)?;
        let text = |tokens: &[Token]| tokens.iter().map(Token::as_char).collect::<Option<Vec<u32>>>().map(|text| encode(&text));
        let form = match &tokens[..] {
            all if text(all).is_some() => Form::Exact(text(all).unwrap_or_default()),
            [before @ .., Token::Rest] if text(before).is_some() && !before.is_empty() => {
                Form::Prefix(text(before).unwrap_or_default())
            }
            [Token::Directories, after @ ..] if text(after).is_some() => {
                // `**x` without the slash ends with x wherever, `**/x` only after a slash.
                let slash = if pattern.starts_with(b"**/") { &b"/"[..] } else { b"" };
                Form::Suffix([slash, &text(after).unwrap_or_default()].concat())
            }
            _ => {
                let is_text = |token: &&Token| token.as_char().is_some();
                let head = tokens.iter().take_while(is_text).count();
                let tail = tokens.iter().rev().take_while(is_text).count();
                let (head, tail) = (text(&tokens[..head]), text(&tokens[tokens.len() - tail..]));
                let texts = tokens.split(|token| token.as_char().is_none());
                let needle = texts.max_by_key(|tokens| tokens.len()).and_then(text);
                Form::Search {
                    head: head.unwrap_or_default(),
                    tail: tail.unwrap_or_default(),
                    needle: needle.unwrap_or_default(),
                    tokens,
                }
            }
        };
        Ok(Self { form })
    }

    /// Whether the whole of `path` fits.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.form {
            Form::Exact(text) => path == text,
            Form::Prefix(text) => path.starts_with(text),
            Form::Suffix(text) => ends_with(path, text) || text.strip_prefix(b"/").is_some_and(|text| path == text),
            Form::Search { tokens, head, tail, needle } => {
                path.starts_with(head) && ends_with(path, tail) && holds(path, needle) && search(tokens, path)
            }
        }
    }
}

impl Token {
    fn as_char(&self) -> Option<u32> {
        if let Self::Char(char) = self { Some(*char) } else { None }
    }
}

/// Whether a text has a character that makes it a pattern. A backslash takes that from the next one.
pub(super) fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

fn tokens(pattern: &[u8], stars: Stars) -> Result<Vec<Token>, GlobError> {
    let units = decode(pattern);
    let mut left = &units[..];
    let mut tokens = Vec::new();
    while let [first, rest @ ..] = left {
        left = rest;
        match char::from_u32(*first) {
            Some('*') if stars == Stars::Directories && rest.first() == Some(&STAR) => {
                left = &rest[1..];
                if left.first() == Some(&SLASH) {
                    left = &left[1..];
                }
                tokens.push(if left.is_empty() && !tokens.is_empty() { Token::Rest } else { Token::Directories });
            }
            Some('*') => tokens.push(Token::Star),
            Some('?') => tokens.push(Token::Any),
            Some('\\') => {
                let (escaped, rest) = left.split_first().ok_or(GlobError::Escape)?;
                tokens.push(Token::Char(*escaped));
                left = rest;
            }
            Some('[') => tokens.push(class(&mut left)?),
            _ => tokens.push(Token::Char(*first)),
        }
    }
    Ok(tokens)
}

const STAR: u32 = b'*' as u32;
const SLASH: u32 = b'/' as u32;

/// Reads a class behind its `[`.
fn class(left: &mut &[u32]) -> Result<Token, GlobError> {
    let negated = left.first() == Some(&u32::from(b'^'));
    if negated {
        *left = &left[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if let [close, rest @ ..] = left
            && *close == u32::from(b']')
            && !ranges.is_empty()
        {
            *left = rest;
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_member(left)?;
        let mut high = low;
        if left.first() == Some(&u32::from(b'-')) {
            *left = &left[1..];
            high = class_member(left)?;
        }
        ranges.push((low, high));
    }
}

fn class_member(left: &mut &[u32]) -> Result<u32, GlobError> {
    let (mut member, mut rest) = left.split_first().ok_or(GlobError::Class)?;
    match char::from_u32(*member) {
        Some('-' | ']') => return Err(GlobError::Class),
        Some('\\') => (member, rest) = rest.split_first().ok_or(GlobError::Escape)?,
        _ => {}
    }
    *left = rest;
    Ok(*member)
}

// Both look at one byte before they compare: nearly every pair of path and pattern is told apart by that.

fn ends_with(path: &[u8], text: &[u8]) -> bool {
    text.is_empty() || (path.last() == text.last() && path.ends_with(text))
}

fn holds(path: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    path.windows(text.len()).any(|part| part[0] == *first && part == text)
}

/// Walks all ways through the tokens at once, so that no pattern makes it slow.
fn search(tokens: &[Token], path: &[u8]) -> bool {
    let end = tokens.len();
    let mut active = vec![false; end + 1];
    let mut next = vec![false; end + 1];
    reach(tokens, &mut active, 0);
    for unit in Units(path) {
        next.fill(false);
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| active[*at]) {
            match token {
                Token::Char(char) if *char == unit => reach(tokens, &mut next, at + 1),
                Token::Any if unit != SLASH => reach(tokens, &mut next, at + 1),
                Token::Class { negated, ranges }
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&unit)) != *negated =>
                {
                    reach(tokens, &mut next, at + 1);
                }
                Token::Star if unit != SLASH => reach(tokens, &mut next, at),
                Token::Rest => reach(tokens, &mut next, at),
                Token::Directories => {
                    // Not `reach`: only behind a slash may what follows begin. What comes from the left has been marked before.
                    next[at] = true;
                    if unit == SLASH {
                        reach(tokens, &mut next, at + 1);
                    }
                }
                _ => {}
            }
        }
        std::mem::swap(&mut active, &mut next);
    }
    active[end]
}

/// Marks a token as reached, and what follows it where it may take nothing.
fn reach(tokens: &[Token], states: &mut [bool], at: usize) {
    let mut at = at;
    while !states[at] {
        states[at] = true;
        match tokens.get(at) {
            Some(Token::Star | Token::Rest | Token::Directories) => at += 1,
            _ => return,
        }
    }
}

/// The characters of a text; a byte that is no UTF-8 stands for itself, beyond all characters.
fn decode(text: &[u8]) -> Vec<u32> {
    Units(text).collect()
}

const INVALID: u32 = 0x0011_0000;

fn encode(units: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in units {
        match char::from_u32(*unit) {
            Some(char) => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            None => bytes.push(u8::try_from(unit - INVALID).expect("beyond the characters there are only bytes")),
        }
    }
    bytes
}

struct Units<'a>(&'a [u8]);

impl Iterator for Units<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let first = *self.0.first()?;
        if first.is_ascii() {
            self.0 = &self.0[1..];
            return Some(u32::from(first));
        }
        let text = &self.0[..self.0.len().min(4)];
        let valid = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        };
        let Some(char) = valid.chars().next() else {
            self.0 = &self.0[1..];
            return Some(INVALID + u32::from(first));
        };
        self.0 = &self.0[char.len_utf8()..];
        Some(u32::from(char))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, path, single, directories) in [
            ("abc", "abc", true, true),
            ("abc", "ab", false, false),
            ("*", "abc", true, true),
            ("*", "", true, true),
            ("*c", "abc", true, true),
            ("a*", "ab/c", false, false),
            ("a*/b", "abc/b", true, true),
            ("a*/b", "a/c/b", false, false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true, true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true, true),
            ("ab[c]", "abc", true, true),
            ("ab[e-g]", "abc", false, false),
            ("ab[^c]", "abc", false, false),
            ("ab[^e-g]", "abc", true, true),
            ("a\\*b", "a*b", true, true),
            ("a\\*b", "ab", false, false),
            ("a?b", "a☺b", true, true),
            ("a???b", "a☺b", false, false),
            ("a[^a]b", "a☺b", true, true),
            ("[a-ζ]*", "α", true, true),
            ("*x", "xxx", true, true),
            ("[!a]x", "!x", true, true),
            ("[!a]x", "bx", false, false),
            ("[\\]a]", "]", true, true),
            ("[x\\-]", "-", true, true),
            ("a?b", "a/b", false, false),
            ("**/x", "x", false, true),
            ("**/x", "d/x", true, true),
            ("**/x", "d/e/x", false, true),
            ("**/x", "dx", false, false),
            ("**x", "dx", true, true),
            ("**x", "d/ex", false, true),
            ("**/*.go", "a.go", false, true),
            ("**/*.go", "d/e/a.go", false, true),
            ("a/**", "a/b/c", false, true),
            ("a/**", "a", false, false),
            ("a/**/b", "a/b", false, true),
            ("a/**/b", "a/x/y/b", false, true),
            ("a/**/b", "a/xb", false, false),
            ("**", "a/b", false, true),
            ("**/**", "a/b", true, true),
            ("a**c", "abc", true, false),
            ("a**c", "ab/c", false, true),
            ("\u{fffd}", "\u{fffd}", true, true),
        ] {
            for (stars, expected) in [(Stars::Single, single), (Stars::Directories, directories)] {
                let glob = Glob::parse(pattern.as_bytes(), stars).unwrap();
                assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path} {stars:?}");
            }
        }
        assert!(Glob::parse(b"a?\xff", Stars::Single).unwrap().matches(b"a\xfe\xff"));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[^", "[^bc", "a[", "\\", "a\\", "[a\\", "[a-", "*[a-"] {
            assert!(Glob::parse(pattern.as_bytes(), Stars::Directories).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_are_not_slow() {
        let glob = Glob::parse(&b"*a".repeat(60), Stars::Single).unwrap();
        assert!(!glob.matches(&[&b"a".repeat(59)[..], b"b"].concat()));
        assert!(!glob.matches(&[&b"a".repeat(4000)[..], b"b"].concat()));
    }
}
