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

// doors: each knows one medium, none knows the build
pub mod confined;
pub mod store;
pub mod rootfs;
pub mod cache;
pub mod export;
pub mod http;
pub mod registry;
pub mod layer;

// the conductor: the only module that knows the others
pub mod build;
