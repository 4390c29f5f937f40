//! Expands variables and removes quotes, the way a shell would and BuildKit does.
//!
//! Takes a raw word, the escape character and a look-up for variables; gives the text and the names
//! that were asked for, which the linter and the cache keys need. Pure. The input may be hostile:
//! depth and size are limited.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::pattern::{Pattern, PatternError, Reach};

/// Nested `${a:-${b:-…}}` deeper than this is refused: each level costs a frame of the stack.
const MAX_DEPTH: usize = 100;
/// Larger results are refused: a handful of `ENV A=$A$A` would otherwise exhaust the memory.
const MAX_BYTES: usize = 8 << 20;

/// The value of a variable, `None` if it is not set.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// An expanded word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The text, quotes and escapes removed.
    pub text: String,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
    /// Those of `unset` for which nothing stands in: `${x:-w}`, `${x:+w}` and `${x:?m}` say what then happens.
    pub missing: BTreeSet<String>,
}

/// A word that was split at the blanks of its expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SplitExpansion {
    /// The words; quoted blanks do not split.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
    /// Those of `unset` for which nothing stands in: `${x:-w}`, `${x:+w}` and `${x:?m}` say what then happens.
    pub missing: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `${X:?text}` or `${X?text}`, and it is not.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text, expanded, or a standard one.
        message: String,
    },
    /// `${X^^}` and other operators of richer shells.
    #[error("unsupported modifier ({modifier}) in substitution of ${{{name}}}")]
    UnsupportedModifier {
        /// The variable.
        name: String,
        /// The first characters of the operator.
        modifier: String,
    },
    /// `${}`, `${:x}`, `${{x}}`.
    #[error("bad substitution: {text:?} names no variable")]
    BadSubstitution {
        /// What was found behind the dollar sign.
        text: String,
    },
    /// The word ends inside `${…`.
    #[error("bad substitution: missing {expected:?} after ${{{name}")]
    Unclosed {
        /// The variable.
        name: String,
        /// What is missing.
        expected: char,
    },
    /// The word ends inside quotes.
    #[error("missing closing quote {quote}")]
    UnclosedQuote {
        /// Which one.
        quote: char,
    },
    /// The pattern of `${X#pattern}` or `${X/pattern/text}` makes no sense.
    #[error("invalid pattern {pattern:?} in substitution of ${{{name}}}")]
    Pattern {
        /// The variable.
        name: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// Substitutions are nested more than a hundred deep.
    #[error("substitutions are nested too deeply")]
    TooDeep,
    /// The result exceeds 8 MiB.
    #[error("the expansion is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

/// Expands `word` and removes its quotes and escapes; blanks are kept.
///
/// Operators: `$x ${x} ${x:-w} ${x-w} ${x:+w} ${x+w} ${x:?m} ${x?m} ${x#p} ${x##p} ${x%p} ${x%%p}
/// ${x/p/r} ${x//p/r}`. The positional and special parameters (`$1`, `$@`, `$$`) are looked up as
/// any other name, hence empty; a dollar sign before anything else is itself.
///
/// ```
/// let env = |name: &str| (name == "VERSION").then(|| "1.2".to_owned());
/// let expansion = builder_core::dockerfile::expand(r#""app-${VERSION%.*}" $OTHER"#, '\\', &env)?;
/// assert_eq!(expansion.text, "app-1 ");
/// assert!(expansion.used.contains("VERSION") && expansion.unset.contains("OTHER"));
/// # Ok::<(), builder_core::dockerfile::ExpandError>(())
/// ```
pub fn expand(word: &str, escape: char, env: &Lookup<'_>) -> Result<Expansion, ExpandError> {
    let mut lexer = Lexer::new(word, Style { escape, ..Style::WORD }, env);
    let text = lexer.run()?.0;
    Ok(Expansion { text, used: lexer.used, unset: lexer.unset, missing: lexer.missing })
}

/// Expands `word` as [`expand`] does and splits the result at its unquoted blanks, those that come
/// from variables included. `EXPOSE` is read this way.
pub fn expand_words(word: &str, escape: char, env: &Lookup<'_>) -> Result<SplitExpansion, ExpandError> {
    let mut lexer = Lexer::new(word, Style { escape, ..Style::WORD }, env);
    let words = lexer.run()?.1;
    Ok(SplitExpansion { words, used: lexer.used, unset: lexer.unset, missing: lexer.missing })
}

/// Expands the body of a `COPY` or `ADD` heredoc: quotes stay, `\` escapes every character.
pub fn expand_raw(text: &str, env: &Lookup<'_>) -> Result<Expansion, ExpandError> {
    let mut lexer = Lexer::new(text, Style { quotes: Quotes::Ordinary, ..Style::WORD }, env);
    let text = lexer.run()?.0;
    Ok(Expansion { text, used: lexer.used, unset: lexer.unset, missing: lexer.missing })
}

/// Splits a line into shell words and changes nothing in them: quotes, escapes and variables stay.
/// A `<<` takes the blanks behind it into its word, so that `<< EOF` is one word.
///
/// Gives `None` if a quote or a substitution is not closed.
pub(super) fn split_verbatim(line: &str) -> Option<Vec<String>> {
    let style = Style { quotes: Quotes::Kept, keep_escapes: true, keep_unset: true, ..Style::WORD };
    Some(Lexer::new(line, style, &|_| None).run().ok()?.1)
}

/// Splits the name of a heredoc into words, with and without the quotes.
pub(super) fn split_heredoc_name(name: &str) -> Option<(Vec<String>, Vec<String>)> {
    let plain = Style { keep_unset: true, ..Style::WORD };
    let quoted = Style { quotes: Quotes::Kept, ..plain };
    let split = |style| Some(Lexer::new(name, style, &|_| None).run().ok()?.1);
    Some((split(plain)?, split(quoted)?))
}

/// What the lexer does with the characters that mean something.
#[derive(Clone, Copy)]
struct Style {
    escape: char,
    quotes: Quotes,
    /// Escape characters stay in the result.
    keep_escapes: bool,
    /// Variables that are not set stay as they were written.
    keep_unset: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    /// They group and vanish.
    Removed,
    /// They group and stay.
    Kept,
    /// They are characters as any other.
    Ordinary,
}

impl Style {
    const WORD: Style = Style { escape: '\\', quotes: Quotes::Removed, keep_escapes: false, keep_unset: false };
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    style: Style,
    env: &'a Lookup<'a>,
    depth: usize,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Collects words while the text is read.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// A character of the word itself, which splits if it is a blank.
    fn splitting(&mut self, text: &str) {
        for character in text.chars() {
            if !character.is_whitespace() {
                self.current.push(character);
            } else if !self.current.is_empty() {
                self.done.push(std::mem::take(&mut self.current));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, style: Style, env: &'a Lookup<'a>) -> Self {
        let rest = text.chars().peekable();
        Lexer { rest, style, env, depth: 0, used: BTreeSet::new(), unset: BTreeSet::new(), missing: BTreeSet::new() }
    }

    fn run(&mut self) -> Result<(String, Vec<String>), ExpandError> {
        let mut words = Words::default();
        let text = self.until(None, self.style.keep_escapes, Some(&mut words))?;
        Ok((text, words.finish()))
    }

    /// Reads up to `stop`, which is taken but not given, or to the end if there is none.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool, mut words: Option<&mut Words>) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.style.keep_escapes, keep_escapes);
        let mut text = String::new();
        loop {
            let Some(&character) = self.rest.peek() else {
                let Some(expected) = stop else { break };
                return Err(ExpandError::Unclosed { name: String::new(), expected });
            };
            if Some(character) == stop {
                self.rest.next();
                break;
            }
            let start = text.len();
            let mut splits = false;
            match character {
                '$' => {
                    text.push_str(&self.dollar()?);
                    splits = true;
                }
                '\'' if self.style.quotes != Quotes::Ordinary => self.single_quoted(&mut text)?,
                '"' if self.style.quotes != Quotes::Ordinary => self.double_quoted(&mut text)?,
                '<' => self.possible_heredoc(&mut text),
                _ if character == self.style.escape => {
                    self.rest.next();
                    if keep_escapes {
                        text.push(character);
                    }
                    text.extend(self.rest.next());
                }
                _ => {
                    self.rest.next();
                    text.push(character);
                    splits = true;
                }
            }
            if text.len() > MAX_BYTES {
                return Err(ExpandError::TooLarge);
            }
            if let Some(words) = words.as_deref_mut() {
                if splits {
                    words.splitting(&text[start..]);
                } else {
                    words.current.push_str(&text[start..]);
                }
            }
        }
        self.style.keep_escapes = outer;
        Ok(text)
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), ExpandError> {
        let kept = self.style.quotes == Quotes::Kept;
        text.extend(self.rest.next().filter(|_| kept));
        loop {
            match self.rest.next() {
                None => return Err(ExpandError::UnclosedQuote { quote: '\'' }),
                Some('\'') => {
                    text.extend(kept.then_some('\''));
                    return Ok(());
                }
                Some(character) => text.push(character),
            }
        }
    }

    /// Between double quotes the escape character escapes only `"`, `$` and itself.
    fn double_quoted(&mut self, text: &mut String) -> Result<(), ExpandError> {
        let kept = self.style.quotes == Quotes::Kept;
        text.extend(self.rest.next().filter(|_| kept));
        loop {
            match self.rest.peek().copied() {
                None => return Err(ExpandError::UnclosedQuote { quote: '"' }),
                Some('"') => {
                    self.rest.next();
                    text.extend(kept.then_some('"'));
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                    if text.len() > MAX_BYTES {
                        return Err(ExpandError::TooLarge);
                    }
                }
                Some(character) if character == self.style.escape => {
                    self.rest.next();
                    if self.style.keep_escapes {
                        text.push(character);
                    }
                    match self.rest.peek().copied() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.style.escape => {
                            self.rest.next();
                            text.push(next);
                        }
                        Some(_) => text.push(character),
                    }
                }
                Some(character) => {
                    self.rest.next();
                    text.push(character);
                }
            }
        }
    }

    /// `<<` keeps the blanks behind it in its word, because `<< NAME` is a heredoc, too.
    fn possible_heredoc(&mut self, text: &mut String) {
        text.extend(self.rest.next());
        if self.rest.next_if_eq(&'<').is_none() {
            return;
        }
        text.push('<');
        while let Some(blank) = self.rest.next_if(|next| next.is_whitespace()) {
            text.push(blank);
        }
    }

    /// Reads from a dollar sign to the end of its substitution.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.rest.next();
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value_of(&name) {
                Some(value) => value,
                None if self.style.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        if self.depth == MAX_DEPTH {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// Reads from behind `${` to the closing brace.
    fn braces(&mut self) -> Result<String, ExpandError> {
        if let Some(&next) = self.rest.peek()
            && matches!(next, '{' | '}' | ':')
        {
            return Err(ExpandError::BadSubstitution { text: format!("${{{next}") });
        }
        let name = self.name();
        let unclosed = |expected| ExpandError::Unclosed { name: name.clone(), expected };
        let Some(mut operator) = self.rest.next() else {
            return Err(unclosed('}'));
        };
        let mut modifier = operator.to_string();
        let empty_counts_as_unset = operator == ':';
        if empty_counts_as_unset {
            operator = self.rest.next().ok_or_else(|| unclosed('}'))?;
            modifier.push(operator);
        }
        match operator {
            '}' if !empty_counts_as_unset => Ok(match self.value_of(&name) {
                Some(value) => value,
                None if self.style.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            '-' | '+' | '?' => {
                let missing = self.missing.clone();
                let word = self.operand('}', false, &name)?;
                let value = self.value_or_unset(&name);
                if value.is_none() && self.style.keep_unset {
                    return Ok(format!("${{{name}{modifier}{word}}}"));
                }
                let was_set = value.is_some();
                let value = value.filter(|value| !(empty_counts_as_unset && value.is_empty()));
                // What the word asks for counts only where the word does.
                if value.is_some() != (operator == '+') {
                    self.missing = missing;
                }
                match (operator, value) {
                    ('-', value) => Ok(value.unwrap_or(word)),
                    ('+', value) => Ok(value.map_or(String::new(), |_| word)),
                    (_, Some(value)) => Ok(value),
                    (_, None) => {
                        let standard = format!("is not allowed to be {}", if was_set { "empty" } else { "unset" });
                        let message = if word.is_empty() { standard } else { word };
                        Err(ExpandError::Required { name, message })
                    }
                }
            }
            '#' | '%' if !empty_counts_as_unset => {
                let word = self.operand('}', true, &name)?;
                let value = self.value_of(&name);
                if value.is_none() && self.style.keep_unset {
                    return Ok(format!("${{{name}{modifier}{word}}}"));
                }
                let (reach, text) = match word.strip_prefix(operator) {
                    Some(longer) => (Reach::Longest, longer),
                    None => (Reach::Shortest, word.as_str()),
                };
                let pattern = parse_pattern(text, &name)?;
                let value = value.unwrap_or_default();
                Ok(match operator {
                    '#' => pattern.strip_prefix(&value, reach),
                    _ => pattern.strip_suffix(&value, reach),
                })
            }
            '/' => {
                let all = self.rest.next_if_eq(&'/').is_some();
                let text = self.operand('/', true, &name)?;
                let replacement = self.operand('}', true, &name)?;
                let value = self.value_of(&name);
                if value.is_none() && self.style.keep_unset {
                    return Ok(format!("${{{name}/{text}/{replacement}}}"));
                }
                let pattern = parse_pattern(&text, &name)?;
                let value = value.unwrap_or_default();
                pattern.replace(&value, &replacement, all, MAX_BYTES).ok_or(ExpandError::TooLarge)
            }
            _ => Err(ExpandError::UnsupportedModifier { name, modifier }),
        }
    }

    /// Reads the word of an operator; it is expanded itself.
    fn operand(&mut self, stop: char, keep_escapes: bool, name: &str) -> Result<String, ExpandError> {
        self.until(Some(stop), keep_escapes, None).map_err(|error| match error {
            ExpandError::Unclosed { name: inner, expected } if inner.is_empty() => {
                ExpandError::Unclosed { name: name.to_owned(), expected }
            }
            other => other,
        })
    }

    /// Reads a name: letters, digits and `_`; only digits if it begins with one; or one special
    /// character. Empty if there is none.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek().copied() {
            Some(digit) if digit.is_ascii_digit() => {
                while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                while let Some(letter) = self.rest.next_if(|next| next.is_alphabetic() || next.is_ascii_digit() || *next == '_') {
                    name.push(letter);
                }
            }
        }
        name
    }

    fn value_of(&mut self, name: &str) -> Option<String> {
        let value = self.value_or_unset(name);
        if value.is_none() && !self.missing.contains(name) {
            self.missing.insert(name.to_owned());
        }
        value
    }

    fn value_or_unset(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let names = if value.is_some() { &mut self.used } else { &mut self.unset };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

fn parse_pattern(text: &str, name: &str) -> Result<Pattern, ExpandError> {
    Pattern::parse(text).map_err(|source| ExpandError::Pattern { name: name.to_owned(), pattern: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "X" => "x",
            "EMPTY" => "",
            "WORDS" => "one two",
            "FILE" => "/a/b/archive.tar.gz",
            "STARS" => "a***b*",
            "ÜMLAUT" => "ü",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn text(word: &str) -> String {
        match expand(word, '\\', &env) {
            Ok(expansion) => expansion.text,
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn quotes_and_escapes_vanish() {
        for (word, expected) in [
            ("plain", "plain"),
            (r#""a b" 'c d'"#, "a b c d"),
            (r#"one"two"'three'"#, "onetwothree"),
            (r"e\ f", "e f"),
            (r"a\nb", "anb"),
            (r#""a\nb \" \\ \$X""#, "a\\nb \" \\ $X"),
            (r"'a\nb $X'", "a\\nb $X"),
            (r"\$X \\$X", "$X \\x"),
            (r"end\", "end"),
            (r#""end\"#, "error: missing closing quote \""),
            ("it's", "error: missing closing quote '"),
            ("", ""),
        ] {
            assert_eq!(text(word), expected, "{word}");
        }
    }

    #[test]
    fn variables_are_replaced() {
        for (word, expected) in [
            ("$X ${X} \"$X\" x$X$X", "x x x xxx"),
            ("$NOT${NOT}|", "|"),
            ("$ÜMLAUT", "ü"),
            ("$X.y $X-y $Xy", "x.y x-y "),
            ("$1 $12a $@ $* $# $? $- $! $$|", " a       |"),
            ("$ $. $/ a$ \"b$ \" $", "$ $. $/ a$ b$  $"),
            ("${X", "error: bad substitution: missing '}' after ${X"),
            ("${", "error: bad substitution: missing '}' after ${"),
            ("${}", "error: bad substitution: \"${}\" names no variable"),
            ("${{X}}", "error: bad substitution: \"${{\" names no variable"),
            ("${:-x}", "error: bad substitution: \"${:\" names no variable"),
            ("${X^^}", "error: unsupported modifier (^) in substitution of ${X}"),
            ("${X=y}", "error: unsupported modifier (=) in substitution of ${X}"),
            ("${X:=y}", "error: unsupported modifier (:=) in substitution of ${X}"),
            ("${X:0:1}", "error: unsupported modifier (:0) in substitution of ${X}"),
            ("${X:#x}", "error: unsupported modifier (:#) in substitution of ${X}"),
        ] {
            assert_eq!(text(word), expected, "{word}");
        }
    }

    #[test]
    fn defaults_alternatives_and_requirements_depend_on_set_and_empty() {
        for (word, set, empty, unset) in [
            ("${V-d}", "x", "", "d"),
            ("${V:-d}", "x", "d", "d"),
            ("${V+a}", "a", "a", ""),
            ("${V:+a}", "a", "", ""),
            ("${V?why}", "x", "", "error: V: why"),
            ("${V:?why $X}", "x", "error: V: why x", "error: V: why x"),
            ("${V?}", "x", "", "error: V: is not allowed to be unset"),
            ("${V:?}", "x", "error: V: is not allowed to be empty", "error: V: is not allowed to be unset"),
            ("${V:-${NOT:-$X'} y'}}", "x", "x} y", "x} y"),
            ("${V:-\"q $X\"}", "x", "q x", "q x"),
        ] {
            for (name, expected) in [("X", set), ("EMPTY", empty), ("NOT", unset)] {
                let word = word.replacen("{V", &format!("{{{name}"), 1);
                assert_eq!(text(&word), expected.replace("V:", &format!("{name}:")), "{word}");
            }
        }
    }

    #[test]
    fn prefixes_suffixes_and_replacements_match_patterns() {
        for (word, expected) in [
            ("${FILE#*/}", "a/b/archive.tar.gz"),
            ("${FILE##*/}", "archive.tar.gz"),
            ("${FILE%.*}", "/a/b/archive.tar"),
            ("${FILE%%.*}", "/a/b/archive"),
            ("${FILE%/*}", "/a/b"),
            ("${FILE#nothing}", "/a/b/archive.tar.gz"),
            ("${FILE#}${FILE%%}", "/a/b/archive.tar.gz/a/b/archive.tar.gz"),
            ("${FILE#/?/}", "b/archive.tar.gz"),
            ("${FILE#[/]}", "/a/b/archive.tar.gz"),
            ("${STARS%%\\**}", "a"),
            ("${STARS%\\*}", "a***b"),
            ("${STARS#a\\*}", "**b*"),
            ("${FILE/a/X}", "/X/b/archive.tar.gz"),
            ("${FILE//a/X}", "/X/b/XrchiveXtXr.gz".replace("XtXr", ".tXr").as_str()),
            ("${FILE//\\//_}", "_a_b_archive.tar.gz"),
            ("${FILE/\\/a\\//\\/}", "\\/b/archive.tar.gz"),
            ("${FILE/a*r/-}", "/-.gz"),
            ("${STARS#a\\*\\*\\*$NOT}${STARS##*[}$}", "b*a***b*$}"),
            ("${FILE//?/-}", "-------------------"),
            ("${X//*/y}", "y"),
            ("${X//nothing/y}", "x"),
            ("${WORDS/ /$X}", "onextwo"),
            ("${NOT#a}${NOT/a/b}", ""),
            ("${X/a}", "error: bad substitution: missing '/' after ${X"),
            ("${X/a/b", "error: bad substitution: missing '}' after ${X"),
            ("${X#a\\b}", "error: invalid pattern \"a\\\\b\" in substitution of ${X}"),
        ] {
            assert_eq!(text(word), expected, "{word}");
        }
    }

    #[test]
    fn names_are_reported_as_used_or_unset() {
        let expansion = expand("${X:-$A} '$B' \\$C ${D:-${WORDS}}", '\\', &env).unwrap();
        let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(list(expansion.used), "WORDS X");
        assert_eq!(list(expansion.unset), "A D");
    }

    #[test]
    fn the_escape_character_follows_the_directive() {
        let text = |word| expand(word, '`', &env).unwrap().text;
        assert_eq!(text("C:\\tools\\bin"), "C:\\tools\\bin");
        assert_eq!(text("\"a`\"b\" `$X \\$X"), "a\"b $X \\x");
    }

    #[test]
    fn words_are_split_after_the_expansion() {
        for (word, expected) in [
            ("80 443", "80|443"),
            ("$WORDS three", "one|two|three"),
            ("\"$WORDS\" three", "one two|three"),
            ("a$WORDS'b c'", "aone|twob c"),
            ("  a\\ b\t'' c ", "a b|c"),
            ("$NOT", ""),
        ] {
            let words = expand_words(word, '\\', &env).unwrap().words;
            assert_eq!(words.join("|"), expected, "{word}");
        }
    }

    #[test]
    fn quotes_of_a_heredoc_body_stay() {
        let body = "\"$X\" 'it''s $X' \\$X $$ ${NOT:-a \"b\"} it's \\n\n";
        assert_eq!(expand_raw(body, &env).unwrap().text, "\"x\" 'it''s x' $X  a \"b\" it's n\n");
    }

    #[test]
    fn depth_and_size_are_limited() {
        let nested = |depth: usize| "${A:-".repeat(depth) + &"}".repeat(depth);
        assert_eq!(text(&nested(MAX_DEPTH)), "");
        assert_eq!(text(&nested(MAX_DEPTH + 1)), "error: substitutions are nested too deeply");
        let large = |_: &str| Some("x".repeat(MAX_BYTES));
        for word in ["a$A", "\"a$A\"", "${A//x/xx}"] {
            assert_eq!(expand(word, '\\', &large), Err(ExpandError::TooLarge), "{word}");
        }
    }

    proptest! {
        #[test]
        fn expansion_never_panics(word in "[-$\\{\\}:+?#%/*'\"`\\\\ <\\n1Xaé]{0,40}", backtick: bool) {
            let escape = if backtick { '`' } else { '\\' };
            let _ = expand(&word, escape, &env);
            let _ = expand_words(&word, escape, &env);
            let _ = expand_raw(&word, &env);
            let _ = split_verbatim(&word);
        }

        #[test]
        fn a_text_in_single_quotes_is_itself(text in "[^']*") {
            prop_assert_eq!(expand(&format!("'{text}'"), '\\', &env).unwrap().text, text);
        }

        #[test]
        fn an_escaped_text_is_itself(text in ".{0,30}") {
            let escaped: String = text.chars().flat_map(|character| ['\\', character]).collect();
            prop_assert_eq!(expand(&escaped, '\\', &env).unwrap().text, text);
        }
    }
}
