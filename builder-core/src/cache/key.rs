//! The key of a step: a framed digest of everything that its result depends on. Pure.
//!
//! Every part goes in with its name and its length, so that no two lists of parts give the same bytes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the meaning of keys: another one misses everything that was recorded before.
const VERSION: &str = "cofferdam step 1";

/// What a step's result is recorded under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key([u8; 32]);

/// Collects the parts of a key.
#[derive(Debug)]
pub struct KeyBuilder(blake3::Hasher);

impl Key {
    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl KeyBuilder {
    /// A key for an instruction (`RUN`, `COPY`, …) on what `parent` stands for.
    pub fn new(instruction: &str, parent: Option<Key>) -> Self {
        let mut builder = Self(blake3::Hasher::new());
        builder.part("version", VERSION).part("instruction", instruction);
        if let Some(parent) = parent {
            builder.part("parent", parent.0);
        }
        builder
    }

    /// Adds a part.
    pub fn part(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Adds a part that may be absent, which is not the same as empty.
    pub fn optional(&mut self, name: &str, value: Option<impl AsRef<[u8]>>) -> &mut Self {
        match value {
            Some(value) => self.part(name, value),
            None => self,
        }
    }

    /// The key of all parts.
    pub fn finish(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
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
}
