//! One file per command.

mod backends;
mod build;
mod cache;
mod doctor;
mod inspect;
mod results;
mod warm;

pub use build::{build, say};
pub use cache::cache;
pub use doctor::doctor;
pub use warm::warm;
