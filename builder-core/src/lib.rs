//! Builds container images from Dockerfiles without a daemon.
//!
//! The modules stand in reading order: each uses only those above it (a test holds that).

// words: plain values, no I/O
pub mod oci;
pub mod tree;
pub mod image;

// pure: text and values in, values out
pub mod dockerfile;
pub mod plan;
pub mod evaluate;
pub mod copy;
pub mod lint;
pub mod outline;

// doors: each knows one medium, none knows the build
pub(crate) mod running;
pub mod http;
pub mod confined;
pub mod store;
pub mod registry;
pub mod context;
pub mod layer;
pub mod rootfs;
pub mod isolation;
pub mod cache;
pub mod export;

// the conductor: the only module that knows the others
pub mod build;

pub use build::build;
