//! Ignore rules: the text of a `.dockerignore` and the patterns of `--exclude`. Pure.
//!
//! The rules are those of BuildKit: a pattern is anchored at the root, takes along all below what it matches, and the last
//! pattern that matches wins; `!` brings back. They are asked from the root downwards, and what a directory matched is carried to
//! what is in it ([`Verdict`]). One consequence is kept on purpose: a pattern that had nothing to say at a directory (`!d`, when `d`
//! was not excluded) is not held against what is below it.

use super::glob::{Glob, GlobError, Stars};
use crate::tree::TreePath;

/// Compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// `!`
    brings_back: bool,
    glob: Glob,
    /// Its parts up to the first one that may match across a slash, and whether there is such a one.
    parts: Vec<Glob>,
    spans_directories: bool,
}

/// A line that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A `!` without a pattern.
    #[error("line {line_number}: {pattern:?} brings nothing back: a pattern is missing after \"!\"")]
    Nothing {
        /// Counted from 1.
        line_number: usize,
        /// The pattern.
        pattern: String,
    },
    /// The pattern cannot be read.
    #[error("line {line_number}: {pattern:?} is no pattern")]
    Pattern {
        /// Counted from 1.
        line_number: usize,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: GlobError,
    },
}

/// What the rules say of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the path is left out.
    pub excluded: bool,
    /// For each pattern: whether it matched here or above.
    matched: Vec<bool>,
}

impl Rules {
    /// Reads an ignore file: `#` in the first column is a comment, blanks around a pattern do not count, a leading `/` neither.
    ///
    /// # Errors
    /// [`IgnoreError`] with the first line that is no pattern.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, IgnoreError> {
        let text = text.as_ref();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rules = Self::default();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.starts_with(b"#") {
                continue;
            }
            let line = trim(line);
            let (bang, pattern) = match line.strip_prefix(b"!") {
                Some(pattern) => (&b"!"[..], trim(pattern)),
                None => (&b""[..], line),
            };
            let pattern = if pattern.is_empty() { Vec::new() } else { clean(pattern) };
            let pattern = pattern.strip_prefix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(&pattern);
            rules.add(&[bang, pattern].concat(), at + 1)?;
        }
        Ok(rules)
    }

    /// The rules that the values of `--exclude` make. Unlike in a file, a leading `/` matches nothing.
    ///
    /// # Errors
    /// [`IgnoreError`] with the first value that is no pattern; its line number is the position.
    pub fn from_patterns(patterns: &[impl AsRef<[u8]>]) -> Result<Self, IgnoreError> {
        let mut rules = Self::default();
        for (at, pattern) in patterns.iter().enumerate() {
            rules.add(pattern.as_ref(), at + 1)?;
        }
        Ok(rules)
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What the rules say of the root: it is never left out.
    pub fn root(&self) -> Verdict {
        Verdict { excluded: false, matched: vec![false; self.patterns.len()] }
    }

    /// What they say of `path`, given what they said of the directory that it is in.
    pub fn judge(&self, path: &TreePath, parent: &Verdict) -> Verdict {
        let mut matched = vec![false; self.patterns.len()];
        let excluded = self.decide(path, parent, |at| matched[at] = true);
        Verdict { excluded, matched }
    }

    /// As [`judge`](Self::judge), where nothing is below the path.
    pub fn excludes(&self, path: &TreePath, parent: &Verdict) -> bool {
        self.decide(path, parent, |_| {})
    }

    /// Whether `path` is left out, asked without a walk.
    pub fn excluded(&self, path: &TreePath) -> bool {
        if path.is_root() {
            return false;
        }
        let parent = path.ancestors().fold(self.root(), |verdict, directory| self.judge(&directory, &verdict));
        self.excludes(path, &parent)
    }

    /// Whether something below an excluded directory might be brought back, so that it has to be entered.
    pub fn may_bring_back_below(&self, directory: &TreePath) -> bool {
        self.patterns.iter().any(|pattern| pattern.brings_back && pattern.may_match_below(directory))
    }

    /// Whether something below a directory might match, although the directory does not.
    pub(super) fn may_match_below(&self, directory: &TreePath) -> bool {
        self.patterns.iter().any(|pattern| pattern.may_match_below(directory))
    }

    fn decide(&self, path: &TreePath, parent: &Verdict, mut matches: impl FnMut(usize)) -> bool {
        let mut excluded = false;
        for (at, pattern) in self.patterns.iter().enumerate() {
            // A pattern that would not change the verdict is not asked.
            if parent.matched[at] || (pattern.brings_back == excluded && pattern.glob.matches(path.as_bytes())) {
                matches(at);
                excluded = !pattern.brings_back;
            }
        }
        excluded
    }

    fn add(&mut self, line: &[u8], line_number: usize) -> Result<(), IgnoreError> {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let line = trim(line);
        if line.is_empty() {
            return Ok(());
        }
        let line = clean(line);
        let (brings_back, text) = match line.strip_prefix(b"!") {
            Some([]) => return Err(IgnoreError::Nothing { line_number, pattern: shown() }),
            Some(text) => (true, text),
            None => (false, &line[..]),
        };
        let pattern =
            Pattern::parse(text, brings_back).map_err(|source| IgnoreError::Pattern { line_number, pattern: shown(), source })?;
        self.patterns.push(pattern);
        Ok(())
    }

    /// One pattern, `!` being no more than a character: what `--parents` selects by.
    pub(super) fn single(pattern: &[u8]) -> Result<Self, GlobError> {
        Ok(Self { patterns: vec![Pattern::parse(&clean(pattern), false)?] })
    }
}

impl Pattern {
    fn parse(text: &[u8], brings_back: bool) -> Result<Self, GlobError> {
        let glob = Glob::parse(text, Stars::Directories)?;
        let has = |text: &[u8], pair: &[u8]| text.windows(2).any(|found| found == pair);
        let mut parts = Vec::new();
        let mut spans_directories = false;
        for part in text.split(|byte| *byte == b'/') {
            match Glob::parse(part, Stars::Single) {
                // A negated class takes a slash too, and `[a/b]` is cut in two here.
                Ok(glob) if !has(part, b"**") && !has(part, b"[^") => parts.push(glob),
                _ => {
                    spans_directories = true;
                    break;
                }
            }
        }
        Ok(Self { brings_back, glob, parts, spans_directories })
    }

    fn may_match_below(&self, directory: &TreePath) -> bool {
        let mut parts = self.parts.iter();
        for name in directory.parts() {
            match parts.next() {
                Some(part) if part.matches(name) => {}
                Some(_) => return false,
                None => return self.spans_directories,
            }
        }
        self.spans_directories || parts.next().is_some()
    }
}

/// Without the white space around it, as Unicode understands it.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// The shortest path that means the same, by its text alone: `a//b/../c/.` is `a/c`, nothing is `.`.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join(&b'/')) {
        (false, path) if path.is_empty() => b".".to_vec(),
        (false, path) => path,
        (true, path) => [b"/", &path[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left(rules: &str, paths: &str) -> String {
        let rules = Rules::parse(rules).unwrap();
        let left: Vec<&str> = paths.split(' ').filter(|path| !rules.excluded(&TreePath::clamp(path))).collect();
        left.join(" ")
    }

    const FILES: &str = "a.txt b.md c.go lib/a.so lib/keep.so d/x.md d/a.txt d/e/y.go d/e/a.txt";

    #[test]
    fn names_and_a_star_match_in_the_root_only() {
        assert_eq!(left("a.txt\n*.md\n", FILES), "c.go lib/a.so lib/keep.so d/x.md d/a.txt d/e/y.go d/e/a.txt");
    }

    #[test]
    fn comments_blanks_and_a_leading_slash() {
        let rules = "\u{feff}# a.txt\n\n  b.md  \r\n/c.go\n/d/e\n #nocomment\n";
        assert_eq!(left(rules, &format!("{FILES} #nocomment")), "a.txt lib/a.so lib/keep.so d/x.md d/a.txt");
    }

    #[test]
    fn two_stars_match_at_any_depth() {
        assert_eq!(left("**/a.txt\n**/*.go", FILES), "b.md lib/a.so lib/keep.so d/x.md");
    }

    #[test]
    fn the_last_match_wins() {
        assert_eq!(left("*\n!a.txt\n!d\nd/e\n!d/e/y.go", FILES), "a.txt d/x.md d/a.txt d/e/y.go");
        assert_eq!(left("**\n!d/e/a.txt\n!lib/keep.so", FILES), "lib/keep.so d/e/a.txt");
        assert_eq!(left("!a.txt\n*.txt", "a.txt"), "");
    }

    #[test]
    fn question_marks_classes_and_escapes() {
        let files = format!("{FILES} ab.txt !bang");
        assert_eq!(left("?.txt\n[bc].*\nd/[!a]*\n\\!bang\n", &files), "lib/a.so lib/keep.so d/x.md d/e/y.go d/e/a.txt ab.txt");
    }

    #[test]
    fn everything_below_a_match_goes_with_it() {
        assert_eq!(left("d", FILES), "a.txt b.md c.go lib/a.so lib/keep.so");
        assert_eq!(left("d/*", "d d/f d/e/f"), "d");
        assert_eq!(left("./d/../lib/", FILES), "a.txt b.md c.go d/x.md d/a.txt d/e/y.go d/e/a.txt");
    }

    #[test]
    fn a_pattern_that_had_nothing_to_say_above_is_not_asked_again() {
        assert_eq!(left("**/x\n!d", "x d d/x d/y"), "d d/y");
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_line() {
        for (text, line_number, shown) in [("ok\n[a-\n", 2, "[a-"), ("a\\", 1, "a\\"), ("\n\n!\n", 3, "!")] {
            let error = Rules::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("line {line_number}: ")) && error.contains(&shown.escape_debug().to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn an_excluded_directory_is_entered_only_if_something_may_come_back() {
        for (rules, directory, expected) in [
            ("d", "d", false),
            ("d\n!d/e/f", "d", true),
            ("d\n!d/e/f", "d/e", true),
            ("d\n!d/e/f", "d/x", false),
            ("d\n!d/*/f", "d/x", true),
            ("d\n!d/*/f", "d/x/f", false),
            ("d\n!**/f", "d/x", true),
            ("d\n!d/**/f", "d/x/y", true),
            ("d\n!e/**/f", "d/x/y", false),
            ("d\n!e", "d", false),
        ] {
            assert_eq!(
                Rules::parse(rules).unwrap().may_bring_back_below(&TreePath::clamp(directory)),
                expected,
                "{rules} {directory}"
            );
        }
    }

    #[test]
    fn excludes_are_patterns_as_they_are() {
        let rules = Rules::from_patterns(&["*.txt", "!a.txt", "/d"]).unwrap();
        let excluded = |path: &str| rules.excluded(&TreePath::clamp(path));
        assert!(excluded("b.txt") && !excluded("a.txt") && !excluded("d") && !excluded("d/b.txt"));
    }

    /// The slow and obvious matcher: all ways to split the path, one after the other.
    fn obvious(pattern: &[char], path: &[char]) -> bool {
        match pattern {
            [] => path.is_empty(),
            ['*', '*'] => true,
            ['*', '*', '/', rest @ ..] | ['*', '*', rest @ ..] => {
                obvious(rest, path) || (0..path.len()).any(|at| path[at] == '/' && obvious(rest, &path[at + 1..]))
            }
            ['*', rest @ ..] => {
                let part = path.iter().take_while(|char| **char != '/').count();
                (0..=part).any(|taken| obvious(rest, &path[taken..]))
            }
            ['?', rest @ ..] => matches!(path, [char, ..] if *char != '/') && obvious(rest, &path[1..]),
            [char, rest @ ..] => path.first() == Some(char) && obvious(rest, &path[1..]),
        }
    }

    fn obvious_verdict(rules: &[String], path: &str) -> bool {
        let mut above = vec![false; rules.len()];
        let mut excluded = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            excluded = false;
            let path: Vec<char> = path[..end].chars().collect();
            for (rule, above) in rules.iter().zip(&mut above) {
                let (back, pattern) = rule.strip_prefix('!').map_or((false, &rule[..]), |pattern| (true, pattern));
                let pattern: Vec<char> = pattern.chars().collect();
                *above |= back == excluded && obvious(&pattern, &path);
                if *above {
                    excluded = !back;
                }
            }
        }
        excluded
    }

    fn part() -> impl Strategy<Value = String> {
        proptest::sample::select(vec!["a", "b", "ab", "*", "?", "a*", "*b", "**", "a?"]).prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn rules_equal_the_obvious_reference(
            rules in proptest::collection::vec((any::<bool>(), proptest::collection::vec(part(), 1..4)), 1..5),
            path in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "ab", "abb", "c"]), 1..5),
        ) {
            let rules: Vec<String> =
                rules.iter().map(|(back, parts)| format!("{}{}", if *back { "!" } else { "" }, parts.join("/"))).collect();
            let path = path.join("/");
            let compiled = Rules::parse(rules.join("\n")).unwrap();
            prop_assert_eq!(compiled.excluded(&TreePath::clamp(&path)), obvious_verdict(&rules, &path));
        }

        /// The shortcut of the walk: below a directory that need not be entered, nothing is brought back.
        #[test]
        fn a_directory_that_is_not_entered_hides_nothing(
            rules in proptest::collection::vec((any::<bool>(), proptest::collection::vec(part(), 1..4)), 1..5),
            path in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "ab", "abb", "c"]), 2..5),
        ) {
            let rules: Vec<String> =
                rules.iter().map(|(back, parts)| format!("{}{}", if *back { "!" } else { "" }, parts.join("/"))).collect();
            let rules = Rules::parse(rules.join("\n")).unwrap();
            let path = TreePath::clamp(path.join("/"));
            for directory in path.ancestors() {
                if rules.excluded(&directory) && !rules.may_bring_back_below(&directory) {
                    prop_assert!(rules.excluded(&path), "{} below {}", path, directory);
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: Vec<u8>, path: Vec<u8>) {
            if let Ok(rules) = Rules::parse(text) {
                rules.excluded(&TreePath::clamp(path));
            }
        }
    }
}
