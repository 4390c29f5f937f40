//! The files that a step reads, packed, so that a later build can say which of them has changed. Pure.

use crate::tree::TreePath;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A name shares at most so many bytes with the one before it: the number and one more fit a byte.
const MOST_SHARED: usize = 254;
/// Names of more bytes are not kept.
const MOST_BYTES: usize = 16 << 20;

/// Files, each with a few bytes of the digest of what counts of it, or only how many they are.
///
/// A step may read hundreds of thousands: of each name only that is kept which it does not share with the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileParts {
    count: u64,
    /// For each file, how many bytes the name shares and one more, which is never 0; the other bytes; 0.
    names: Vec<u8>,
    values: Vec<[u8; 4]>,
}

impl FileParts {
    /// Only that there are so many.
    pub fn counted(count: usize) -> Self {
        Self { count: count as u64, ..Self::default() }
    }

    /// These, in their order; only how many they are if their names are too long altogether.
    pub fn listed(files: impl IntoIterator<Item = (TreePath, [u8; 4])>) -> Self {
        let mut parts = Self::default();
        let mut last = TreePath::root();
        for (path, value) in files {
            parts.count += 1;
            if parts.names.len() > MOST_BYTES {
                continue;
            }
            let pairs = last.as_bytes().iter().zip(path.as_bytes()).take(MOST_SHARED);
            let shared = pairs.take_while(|(one, other)| one == other).count();
            parts.names.push(u8::try_from(shared + 1).unwrap_or(u8::MAX));
            parts.names.extend_from_slice(&path.as_bytes()[shared..]);
            parts.names.push(0);
            parts.values.push(value);
            last = path;
        }
        if parts.names.len() > MOST_BYTES { parts.without_names() } else { parts }
    }

    /// All of `parts` together; only how many there are if of some no more is known, or there are too many.
    pub fn joined(mut parts: Vec<Cow<'_, Self>>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0).into_owned();
        }
        let count = parts.iter().fold(0, |sum: u64, parts| sum.saturating_add(parts.count));
        if parts.iter().all(|parts| parts.is_listed()) {
            return Self::listed(parts.iter().flat_map(|parts| parts.iter()));
        }
        Self { count, ..Self::default() }
    }

    /// The same without what tells the files apart.
    #[must_use]
    pub fn without_names(&self) -> Self {
        Self { count: self.count, ..Self::default() }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it is known which they are.
    pub fn is_listed(&self) -> bool {
        self.values.len() as u64 == self.count
    }

    /// About what they take.
    pub fn size_bytes(&self) -> usize {
        self.names.len() + self.values.len() * 4
    }

    /// The files that are listed.
    pub fn iter(&self) -> impl Iterator<Item = (TreePath, [u8; 4])> {
        let mut name = Vec::new();
        let names = self.names.split(|byte| *byte == 0).filter_map(move |packed| {
            let (shared, rest) = packed.split_first()?;
            name.truncate(usize::from(*shared).saturating_sub(1));
            name.extend_from_slice(rest);
            Some(TreePath::clamp(&name))
        });
        names.zip(self.values.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_as_they_went_in_and_names_that_are_alike_cost_little() {
        let long = "x".repeat(300);
        let names = ["", "a", "a", "a/b", "a/bc", "d", &format!("{long}/1"), &format!("{long}/2"), "\u{1}"];
        let files: Vec<_> = (0..).zip(names).map(|(at, name)| (TreePath::clamp(name), [at; 4])).collect();
        let parts = FileParts::listed(files.clone());
        assert_eq!(parts.iter().collect::<Vec<_>>(), files);
        assert!(parts.is_listed() && parts.count() == 9 && parts.size_bytes() < 300 + 60 + 9 * 6);
        assert_eq!(FileParts::listed([]), FileParts::default());
    }

    #[test]
    fn files_of_several_sources_are_listed_if_all_are_known() {
        let file = |name: &str| FileParts::listed([(TreePath::clamp(name), [1; 4])]);
        let joined = |parts: &[FileParts]| FileParts::joined(parts.iter().map(Cow::Borrowed).collect());
        assert_eq!(joined(&[]), FileParts::default());
        let both = joined(&[file("a/b"), file("a/c")]);
        assert_eq!(both.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), ["/a/b", "/a/c"]);
        assert_eq!(joined(&[file("a"), FileParts::counted(7)]), FileParts::counted(8));
    }

    #[test]
    fn names_that_are_too_long_are_counted() {
        let names = (0..5000).map(|at| (TreePath::clamp(format!("{at:04}{}", "x".repeat(4000))), [0; 4]));
        let parts = FileParts::listed(names);
        assert!(!parts.is_listed());
        assert_eq!(parts, FileParts::counted(5000));
    }
}
