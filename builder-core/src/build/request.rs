//! What is to be built, as plain data. Pure.

use crate::context::GitSource;
use crate::http::Secret;
use crate::oci::{Compression, Platform, Reference};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::PathBuf,
};

/// One build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildRequest {
    /// Where COPY and ADD take their files from.
    pub context: ContextSource,
    /// A directory of the context that stands for all of it. That of a repository is said in its [`GitSource`], that of a
    /// directory in its path.
    #[serde(default)]
    pub context_directory: Option<PathBuf>,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// `--build-arg`, by name.
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// The stage that becomes the image; the last one if not given.
    #[serde(default)]
    pub target: Option<String>,
    /// Labels that the image gets beside those of the Dockerfile; they win.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the image is for.
    #[serde(default = "Platform::linux_amd64")]
    pub platform: Platform,
    /// What the config says of the platform.
    #[serde(default)]
    pub config_platform: ConfigPlatform,
    /// Names of the image.
    #[serde(default)]
    pub destinations: Vec<Reference>,
    /// Whether the image is pushed under its names; they stand in exports also if not.
    #[serde(default = "yes")]
    pub push: bool,
    /// Places on disk to write the image to.
    #[serde(default)]
    pub exports: Vec<Export>,
    /// Named contexts.
    #[serde(default)]
    pub build_contexts: BTreeMap<String, ContextSource>,
    /// The secrets that `RUN --mount=type=secret` may ask for, by id.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSource>,
    /// The sockets of the SSH agents that `RUN --mount=type=ssh` may talk to, by id.
    #[serde(default)]
    pub ssh: BTreeMap<String, PathBuf>,
    /// What steps may do beyond the usual, if they ask for it.
    #[serde(default)]
    pub allowed: BTreeSet<Entitlement>,
    /// `SOURCE_DATE_EPOCH` in seconds: the time of the image and of everything that the build makes or RUN writes.
    #[serde(default)]
    pub source_date_epoch: Option<i64>,
    /// Whether the results of steps are looked up.
    #[serde(default)]
    pub use_cache: CacheUse,
    /// Where results are found and kept beside the store of this machine.
    #[serde(default)]
    pub cache: CacheRequest,
    /// Where the caches of RUN come from and go to, beside the state directory.
    #[serde(default)]
    pub cache_mounts: Option<CacheMounts>,
    /// Most bytes that one layer of a base or one archive may unpack to.
    #[serde(default = "default_unpacked_bytes")]
    pub max_unpacked_bytes: u64,
    /// How layers that the build makes are compressed. A layer that is known from an earlier build stays as it is.
    #[serde(default = "gzip")]
    pub compression: Compression,
    /// The compressor's level, as in [`PackOptions::level`](crate::layer::write::PackOptions::level).
    #[serde(default)]
    pub compression_level: Option<i32>,
    /// Steps that are executed at a time, of all stages; no limit if not given.
    #[serde(default)]
    pub jobs: Option<NonZeroUsize>,
    /// A RUN that takes longer is ended; no limit if not given.
    #[serde(default)]
    pub step_timeout_seconds: Option<u64>,
}

/// Which platform an image is said to be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigPlatform {
    /// That of its base.
    #[default]
    Base,
    /// That of the request, whatever the base says: somebody asked for it.
    Request,
}

/// Where files are, or an image. Rules of a `.dockerignore` count in a directory of this machine only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContextSource {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A tar on this machine, perhaps compressed.
    Archive(PathBuf),
    /// What [`Backends::input`](super::Backends::input) gives: a tar, perhaps compressed. Where it is something else it
    /// is the Dockerfile.
    Input,
    /// What is at an `http` or `https` address: a tar, perhaps compressed, or one file. As the context of the build that
    /// file is the Dockerfile.
    Url(String),
    /// A Git repository.
    Git(GitSource),
    /// An image in an OCI layout on this machine.
    OciLayout {
        /// The directory of the layout.
        path: PathBuf,
        /// A tag or a digest; the only image, or the one with the tag `latest`, if not given.
        image: Option<String>,
    },
    /// An image of a registry.
    Image(Reference),
    /// No files at all.
    Empty,
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DockerfileSource {
    /// A file on this machine; a relative path that does not exist is also looked for in the context. Where the context is
    /// no directory of this machine, a relative path is one of the context.
    Path(PathBuf),
    /// What is at an `http` or `https` address.
    Url(String),
    /// The text itself, with the name that messages call it by.
    Inline {
        /// For messages.
        name: String,
        /// The text.
        text: String,
    },
}

/// A place on disk for the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Export {
    /// An OCI image layout, a directory.
    OciLayout(PathBuf),
    /// A tar that `docker load` reads.
    DockerTar(PathBuf),
}

/// Where a secret's bytes are. Those of a file are read when a step asks; neither is ever stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretSource {
    /// A file on this machine.
    File(PathBuf),
    /// The bytes themselves; not part of a serialised request.
    #[serde(skip)]
    Value(Secret),
}

/// Something that a step may do only where the user allows it. (The network of the builder every step may use.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Entitlement {
    /// `RUN --security=insecure`: whatever the builder may do.
    #[serde(rename = "security.insecure")]
    SecurityInsecure,
}

/// What the cache of earlier results is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheUse {
    /// Results are looked up and recorded.
    #[default]
    On,
    /// Results are recorded, not looked up: `--no-cache`.
    WriteOnly,
}

/// Where the contents of `RUN --mount=type=cache` are kept for other machines: each cache is an image of one layer, under
/// a tag that its id, namespace, mode, owner and first content decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMounts {
    /// The place.
    pub place: CacheMountsPlace,
    /// Whether a cache that the state directory lacks is taken from there.
    pub imports: bool,
    /// Whether a cache that a successful build has changed is put there.
    pub exports: bool,
    /// A cache with more bytes is neither taken nor put.
    pub max_bytes: u64,
}

/// A place for caches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMountsPlace {
    /// A repository. A tag other than `latest` begins all tags.
    Registry(Reference),
    /// An OCI layout, a directory that may not exist yet.
    Layout(PathBuf),
}

/// Caches that builds of different machines share. The store of this machine is looked into before them, and always kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheRequest {
    /// Where results are looked up, in this order.
    pub from: Vec<CachePlace>,
    /// Where they are kept.
    pub to: Vec<CacheTarget>,
    /// Results that were made longer ago do not count. If not given, those of shared caches do not after two weeks, and those
    /// of this machine always do.
    pub ttl_seconds: Option<u64>,
    /// Whether layers of COPY and ADD are looked up and kept there.
    pub copy_layers: bool,
    /// Whether layers of RUN and WORKDIR are.
    pub run_layers: bool,
    /// Whether to say of each step that is not known what has changed since the last build ([`Event::CacheMissed`](super::Event::CacheMissed)).
    pub explain: bool,
}

impl Default for CacheRequest {
    fn default() -> Self {
        let (from, to) = (Vec::new(), Vec::new());
        Self { from, to, ttl_seconds: None, copy_layers: true, run_layers: true, explain: false }
    }
}

/// A cache that builds share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachePlace {
    /// A repository of a registry. Its tag, if it is not `latest`, sets caches in one repository apart.
    Registry(Reference),
    /// An OCI layout in a directory.
    Layout(PathBuf),
    /// An image that was built with [`CachePlace::Inline`] in [`CacheRequest::to`]; there the reference does not matter.
    Inline(Option<Reference>),
}

/// Where results are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTarget {
    /// The place.
    pub place: CachePlace,
    /// Of what.
    pub layers: CacheLayers,
}

/// Whose layers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheLayers {
    /// Those of the image.
    Min,
    /// Those of all stages.
    Max,
}

fn yes() -> bool {
    true
}

fn gzip() -> Compression {
    Compression::Gzip
}

fn default_unpacked_bytes() -> u64 {
    64 << 30
}

impl BuildRequest {
    /// A build of a context directory with the Dockerfile in it, that pushes nothing and writes nothing.
    pub fn new(context: impl Into<PathBuf>) -> Self {
        let context = context.into();
        Self {
            dockerfile: DockerfileSource::Path(context.join("Dockerfile")),
            context: ContextSource::Directory(context),
            context_directory: None,
            build_args: BTreeMap::new(),
            target: None,
            labels: BTreeMap::new(),
            platform: Platform::linux_amd64(),
            config_platform: ConfigPlatform::Base,
            destinations: Vec::new(),
            push: true,
            exports: Vec::new(),
            build_contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            allowed: BTreeSet::new(),
            source_date_epoch: None,
            use_cache: CacheUse::On,
            cache: CacheRequest::default(),
            cache_mounts: None,
            max_unpacked_bytes: default_unpacked_bytes(),
            compression: gzip(),
            compression_level: None,
            jobs: None,
            step_timeout_seconds: None,
        }
    }
}
