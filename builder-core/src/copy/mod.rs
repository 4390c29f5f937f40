//! COPY, ADD and WORKDIR on values: select the sources, decide where they go, yield the changes of a layer. Pure.
//!
//! [`select`](fn@select) finds what a source names in a tree that can be listed, leaving out what [`Rules`] exclude;
//! [`place`](fn@place) puts the selections onto a [`Tree`](crate::tree::Tree). Nothing is read but names and attributes: the bytes are
//! fetched when the layer is written. [`Accounts`] and [`Chmod`] say what `--chown`, `USER` and `--chmod` mean.

mod accounts;
mod chmod;
mod glob;
mod ignore;
mod place;
mod select;
#[cfg(test)]
mod tests;

pub use accounts::{AccountError, Accounts, User};
pub use chmod::{Chmod, ChmodError};
pub use glob::GlobError;
pub use ignore::{IgnoreError, Rules, Verdict};
pub use place::{Ground, Item, PlaceError, Placement, check_destination, place, workdir};
pub use select::{
    Child, Identified, Kind, Listing, SelectError, Selected, Selection, content_digest, file_digests, select, select_path,
};
