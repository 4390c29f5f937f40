//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and backslash escapes, no brackets.
//!
//! Takes a pattern and a value, gives what is left of the value. Pure. A wildcard does not match a
//! line break. Matching needs no backtracking, so hostile patterns cost no more than others.

use std::collections::VecDeque;

/// A pattern, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The pieces between the stars; at least one. Matching a pattern means to find them in order.
    pieces: Vec<Vec<Element>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Literal(char),
    /// `?`
    Any,
}

/// How much a pattern takes where it has a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A backslash before a character that needs none.
    #[error("invalid escape \\{escaped}")]
    InvalidEscape {
        /// The character.
        escaped: char,
    },
    /// A backslash at the end.
    #[error("a backslash at the end escapes nothing")]
    TrailingEscape,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern, PatternError> {
        let mut pieces = VecDeque::from([Vec::new()]);
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            let element = match character {
                '*' => {
                    pieces.push_back(Vec::new());
                    continue;
                }
                '?' => Element::Any,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Element::Literal(escaped),
                    Some(escaped) => return Err(PatternError::InvalidEscape { escaped }),
                    None => return Err(PatternError::TrailingEscape),
                },
                other => Element::Literal(other),
            };
            pieces.back_mut().expect("there is always a piece").push(element);
        }
        Ok(Pattern { pieces: pieces.into() })
    }

    /// The value without what the pattern matches at its beginning.
    pub(super) fn strip_prefix(&self, value: &str, reach: Reach) -> String {
        let characters: Vec<char> = value.chars().collect();
        let end = self.match_at(&characters, 0, reach).unwrap_or(0);
        characters[end..].iter().collect()
    }

    /// The value without what the pattern matches at its end.
    pub(super) fn strip_suffix(&self, value: &str, reach: Reach) -> String {
        let mut characters: Vec<char> = value.chars().rev().collect();
        let mut pieces = self.pieces.clone();
        pieces.reverse();
        for piece in &mut pieces {
            piece.reverse();
        }
        let end = Pattern { pieces }.match_at(&characters, 0, reach).unwrap_or(0);
        characters.drain(..end);
        characters.iter().rev().collect()
    }

    /// The value with the first match, or all of them, replaced; a match is as long as possible.
    /// `None` if the result exceeds `limit_bytes`.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool, limit_bytes: usize) -> Option<String> {
        let characters: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        let mut previous_end = None;
        let mut searching = true;
        // A match whose later pieces are missing is missing for every start up to the line's end;
        // knowing that keeps the search linear.
        let mut hopeless_until = 0;
        while at <= characters.len() && result.len() <= limit_bytes {
            let mut end = None;
            if searching && at >= hopeless_until {
                end = self.match_at(&characters, at, Reach::Longest);
                if end.is_none() && piece_matches(&self.pieces[0], &characters, at) {
                    hopeless_until = end_of_line(&characters, at) + 1;
                }
            }
            match end {
                // An empty match right behind another match is none.
                Some(end) if !(end == at && previous_end == Some(at)) => {
                    result.push_str(replacement);
                    searching = all;
                    previous_end = Some(end);
                    if end > at {
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            result.extend(characters.get(at));
            at += 1;
        }
        (result.len() <= limit_bytes).then_some(result)
    }

    /// Where a match that begins at `start` ends.
    fn match_at(&self, value: &[char], start: usize, reach: Reach) -> Option<usize> {
        let (first, rest) = self.pieces.split_first().expect("there is always a piece");
        if !piece_matches(first, value, start) {
            return None;
        }
        let mut at = start + first.len();
        for (index, piece) in rest.iter().enumerate() {
            // The star before the piece reaches to the end of the line at most.
            let mut places = at..=end_of_line(value, at);
            let last = index + 1 == rest.len();
            let place = if last && reach == Reach::Longest {
                places.rfind(|&place| piece_matches(piece, value, place))
            } else {
                places.find(|&place| piece_matches(piece, value, place))
            };
            at = place? + piece.len();
        }
        Some(at)
    }
}

fn end_of_line(value: &[char], from: usize) -> usize {
    let line = value.get(from..).unwrap_or_default();
    line.iter().position(|&c| c == '\n').map_or(value.len(), |length| from + length)
}

fn piece_matches(piece: &[Element], value: &[char], at: usize) -> bool {
    value.get(at..at + piece.len()).is_some_and(|part| {
        piece.iter().zip(part).all(|(element, &character)| match element {
            Element::Literal(literal) => *literal == character,
            Element::Any => character != '\n',
        })
    })
}
