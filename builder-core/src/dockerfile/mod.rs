//! The Dockerfile language: text in, a [`Dockerfile`] with positions out.
//!
//! Pure: no file is read and no variable is known here. What BuildKit accepts is accepted, and means
//! the same. The way of a text:
//!
//! ```text
//! text ─ lines ─▶ directives, logical lines, heredoc bodies ─ instruction ─▶ ast
//! ```
//!
//! [`expand`], [`expand_words`] and [`expand_raw`] give the values of the words later, when the
//! variables are known.

mod ast;
mod comments;
mod error;
mod expand;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod parse;
mod pattern;
mod syntax;
#[cfg(test)]
mod tests;

pub use ast::*;
pub use comments::{description, directly_above};
pub use error::ParseError;
pub use expand::{ExpandError, Expansion, Lookup, SplitExpansion, expand, expand_raw, expand_words};
pub use mount::{
    BindMount, CacheMount, Mount, MountError, MountOption, ResolvedMount, SecretMount, Sharing, SshMount, TmpfsMount,
};
pub use parse::{parse, parse_bytes, parse_trigger};
pub use pattern::PatternError;
