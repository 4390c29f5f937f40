//! Builds container images from Dockerfiles without a daemon.
//!
//! The modules stand in reading order: each uses only those above it (a test holds that).

// words: plain values, no I/O
pub mod image;
pub mod oci;
pub mod tree;

// pure: text and values in, values out
pub mod dockerfile;

// doors: each knows one medium, none knows the build
pub mod store;

// the conductor: the only module that knows the others
