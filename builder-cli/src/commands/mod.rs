//! One file per command.

mod build;
mod results;

pub use build::{build, say};
