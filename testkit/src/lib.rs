//! What the tests share: trees as text, images made from a few lines, real registries on loopback, a registry that
//! fails on cue, containers with the security settings of pods, and readers of images that are not ours.
//!
//! Everything here panics with the reason where something goes wrong: a test has nothing better to do with it.
//!
//! ```
//! use testkit::{Image, Registry};
//!
//! if !testkit::require(&["docker-registry", "skopeo"]) {
//!     return;
//! }
//! let registry = Registry::start();
//! let base = Image::new().layer("etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1 localhost\\n\"");
//! base.push(&registry, "base:latest");
//! // … build from it, then read the result with tools that are not ours …
//! assert_eq!(registry.pull("base:latest").tree(), "etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1 localhost\\n\"\n");
//! ```
#![expect(clippy::missing_panics_doc, reason = "every function here panics when its part of a test fails")]

mod certificates;
mod disk;
mod faulty;

mod http;
mod image;
mod registry;
mod tokens;
mod tools;
pub mod tree;

pub mod pod;

pub use certificates::{Authority, Certificate};

pub use disk::Disk;
pub use faulty::{Fault, FaultyRegistry, Rule};
pub use image::{Compression, Image, Layout, MediaTypes, push_index, sha256};
pub use registry::{Access, Endpoint, Registry, RegistryOptions};
pub use tokens::{TokenRequest, TokenServer};
pub use tools::{Bundle, Finished, require, require_root, run, static_cofferdam, target_directory};
