//! One file per command.

mod backends;
mod build;
mod doctor;
mod inspect;
mod results;

pub use build::{build, say};
pub use doctor::doctor;
