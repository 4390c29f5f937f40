//! x
mod key;
pub use key::{Key, KeyBuilder};
