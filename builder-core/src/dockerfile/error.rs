//! What is wrong with a Dockerfile, and what was probably meant.

use super::ast::Position;

/// An error of a Dockerfile: enough to show the line, mark the word and suggest a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong: lower case, no full stop, names the offending word.
    pub message: String,
    /// What was probably meant or what to do.
    pub hint: Option<String>,
    /// The instruction. Its first line is the line to report.
    pub position: Position,
    /// The word that is wrong, if it is one.
    pub focus: Option<Position>,
}

impl ParseError {
    /// With the word that is wrong.
    #[must_use]
    pub fn at(mut self, focus: Position) -> Self {
        self.focus = Some(focus);
        self
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        ParseError { hint: Some(hint.into()), ..self }
    }
}

/// The known word that `word` was probably meant to be.
pub(super) fn nearest<const N: usize>(word: &str, known: [&'static str; N]) -> Option<&'static str> {
    nearest_of(word, &known)
}

/// As [`nearest`], for a list whose length is not known to the compiler.
pub(super) fn nearest_of(word: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer words would only cost time: nothing known is near them.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_lowercase());
    let near = known.iter().map(|known| (distance(known), *known)).min()?;
    // Two slips, but not so many that nothing of a short word is left.
    (near.0 <= 2 && near.0 * 2 <= near.1.len()).then_some(near.1)
}
