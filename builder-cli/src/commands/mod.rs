//! One file per command.

mod backends;
mod build;
mod inspect;
mod results;

pub use build::{build, say};
