//! One file per command.

mod backends;
mod build;
mod results;

pub use build::{build, say};
