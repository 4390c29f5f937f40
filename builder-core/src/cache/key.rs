//! The key of a step: a framed digest of everything that its result depends on. Pure.
//!
//! Every part goes in with its name and its length, so that no two lists of parts give the same bytes. Beside the key, the
//! parts are kept as short digests, so that a later build can say which of them has changed; of no value is more kept than that.

use super::FileParts;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the meaning of keys: another one misses everything that was recorded before.
const VERSION: &str = "cofferdam step 2";
/// The most parts of one step that are kept, files not counted.
const MOST_PARTS: usize = 5000;

/// What a step's result is recorded under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key([u8; 32]);

/// One part of a key: what it is called and a few bytes of the digest of its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// What it is called.
    pub name: String,
    /// Equal for equal values.
    pub value: [u8; 8],
}

impl Part {
    /// A part with this value, of which a digest is kept.
    pub fn new(name: &str, value: impl AsRef<[u8]>) -> Self {
        let digest = blake3::hash(value.as_ref());
        let (value, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        Self { name: name.to_owned(), value: *value }
    }
}

/// A key with its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepKey {
    /// The key.
    pub key: Key,
    /// Its parts, and finer ones of which one part is the sum.
    pub parts: Vec<Part>,
    /// The files of which one part is the sum.
    pub files: FileParts,
}

/// Collects the parts of a key.
#[derive(Debug)]
pub struct KeyBuilder {
    hasher: blake3::Hasher,
    parts: Vec<Part>,
    files: FileParts,
}

impl Key {
    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Reads 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl KeyBuilder {
    /// A key for an instruction (`RUN`, `COPY`, …) on what `parent` stands for.
    pub fn new(instruction: &str, parent: Option<Key>) -> Self {
        let mut builder = Self { hasher: blake3::Hasher::new(), parts: Vec::new(), files: FileParts::default() };
        builder.part("version", VERSION).part("instruction", instruction);
        if let Some(parent) = parent {
            builder.part("what is below", parent.0);
        }
        builder
    }

    /// Adds a part.
    pub fn part(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.frame(name, value.as_ref());
        self.note(name, value)
    }

    /// Adds a part with two names: of a kind of which there are many, as variables.
    pub fn named(&mut self, kind: &str, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.frame(kind, name.as_bytes());
        self.frame("value", value.as_ref());
        self.note(&format!("{kind} {name}"), value)
    }

    /// Adds a part that may be absent, which is not the same as empty.
    pub fn optional(&mut self, name: &str, value: Option<impl AsRef<[u8]>>) -> &mut Self {
        match value {
            Some(value) => self.part(name, value),
            None => self,
        }
    }

    /// Keeps a part for explanations alone: the key has it already, in the sum of others.
    pub fn note(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        if self.parts.len() < MOST_PARTS {
            self.parts.push(Part::new(name, value));
        }
        self
    }

    /// Keeps files for explanations alone, in the place of those kept before.
    pub fn note_files(&mut self, files: FileParts) -> &mut Self {
        self.files = files;
        self
    }

    fn frame(&mut self, name: &str, value: &[u8]) {
        for bytes in [name.as_bytes(), value] {
            self.hasher.update(&(bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        }
    }

    /// The key of all parts.
    pub fn finish(&self) -> Key {
        Key(*self.hasher.finalize().as_bytes())
    }

    /// The key with its parts.
    pub fn into_key(self) -> StepKey {
        StepKey { key: self.finish(), parts: self.parts, files: self.files }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |parts: &[(&str, &str)]| {
            let mut builder = KeyBuilder::new("RUN", None);
            for (name, value) in parts {
                builder.part(name, value);
            }
            builder.finish()
        };
        let different = [
            key(&[]),
            key(&[("a", "")]),
            key(&[("a", "b")]),
            key(&[("ab", "")]),
            key(&[("a", "b"), ("c", "")]),
            key(&[("a", "bc")]),
        ];
        for (at, one) in different.iter().enumerate() {
            assert!(different[at + 1..].iter().all(|other| other != one), "{at}");
        }
        assert_ne!(KeyBuilder::new("RUN", None).finish(), KeyBuilder::new("RUN", Some(key(&[]))).finish());
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = KeyBuilder::new("RUN", None).finish();
        assert_eq!(Key::from_hex(&key.hex()), Some(key));
        assert_eq!(Key::from_hex("00"), None);
    }

    #[test]
    fn notes_change_no_key_and_values_are_not_kept() {
        let mut noted = KeyBuilder::new("RUN", None);
        noted.note("file a", "very secret").named("variable", "A", "hidden");
        let mut bare = KeyBuilder::new("RUN", None);
        bare.named("variable", "A", "hidden");
        assert_eq!(noted.finish(), bare.finish());
        let shown = format!("{:?}", noted.into_key());
        assert!(shown.contains("variable A") && !shown.contains("hidden") && !shown.contains("secret"), "{shown}");
    }
}
