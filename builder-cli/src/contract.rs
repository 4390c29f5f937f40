//! What the command asks of `builder_core::build`: the request, the events and the error, as plain types.
//!
//! Every other file of this crate takes these words from here, so one file changes when the library's own replace them.

use crate::args::IsolationChoice;
use crate::request::RegistrySettings;
use builder_core::oci::{Compression, Digest, Platform, Reference};
use std::path::{Path, PathBuf};
use std::{ops::Range, time::Duration};
use tokio::sync::mpsc::UnboundedSender;

/// Everything that decides the result of a build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Where COPY and ADD read.
    pub context: ContextSource,
    /// What is built.
    pub dockerfile: DockerfileSource,
    /// Values of ARG, in the order typed.
    pub build_args: Vec<(String, String)>,
    /// The stage that becomes the image; `None` is the last.
    pub target: Option<String>,
    /// Labels added to the config.
    pub labels: Vec<(String, String)>,
    /// The platform built for; `None` is the host's.
    pub platform: Option<Platform>,
    /// Names of the image.
    pub destinations: Vec<Reference>,
    /// Files that receive the image.
    pub exports: Vec<Export>,
    /// Whether the destinations are pushed to.
    pub push: bool,
    /// Named contexts: name and location.
    pub build_contexts: Vec<(String, String)>,
    /// What `RUN --mount=type=secret` may read.
    pub secrets: Vec<SecretSpec>,
    /// Latest time that the image may mention.
    pub source_date_epoch: Option<i64>,
    /// Whether results of earlier builds are used.
    pub cache: bool,
    /// How many things are done side by side.
    pub jobs: usize,
    /// How new layers are compressed.
    pub compression: Compression,
    /// The level, in the compressor's own scale; `None` is its default.
    pub compression_level: Option<i32>,
    /// The most bytes that one layer may unpack to.
    pub max_unpacked_bytes: u64,
}

/// Where the context lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory, read in place and never written.
    Directory(PathBuf),
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A file.
    Path(PathBuf),
    /// A text, with the name that messages give it.
    Inline {
        /// The name.
        name: String,
        /// The text.
        text: String,
    },
}

/// A file or directory that receives the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Export {
    /// An OCI image layout.
    OciLayout(PathBuf),
    /// A tar as `docker save` writes it.
    DockerTar(PathBuf),
}

/// A build secret. It has no way into a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("(hidden)")
    }
}

/// A secret under the name by which a Dockerfile asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// The name.
    pub id: String,
    /// Where the bytes are.
    pub source: SecretSource,
}

/// Where the bytes of a secret are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file that is read when a step wants it.
    File(PathBuf),
    /// Here.
    Value(Secret),
}

/// Names a step: the stage and the instruction in it, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId {
    /// The stage.
    pub stage: usize,
    /// The instruction in the stage.
    pub index: usize,
}

/// Which of its two streams a command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// How the result of a step came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It was done.
    Executed,
    /// It was known.
    Cached,
    /// It changes the config only.
    Metadata,
}

/// A layer that a step made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// The compressed blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// How far a transfer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The image concerned.
    pub reference: Reference,
    /// The blob concerned.
    pub blob: Digest,
    /// Bytes moved.
    pub done_bytes: u64,
    /// Bytes to move.
    pub total_bytes: u64,
}

/// What happens during a build.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A stage begins.
    StageStarted {
        /// The stage.
        stage: usize,
        /// Its name, if the Dockerfile gives one.
        name: Option<String>,
    },
    /// A step begins.
    StepStarted {
        /// The step.
        step: StepId,
        /// The instruction as written.
        text: String,
        /// Line of the instruction.
        line: usize,
        /// Its place among all steps of its stage, from 1.
        number: usize,
        /// How many steps the stage has.
        total: usize,
    },
    /// A command wrote.
    StepOutput {
        /// The step.
        step: StepId,
        /// The stream.
        stream: Stream,
        /// What it wrote, lines broken anywhere.
        bytes: Vec<u8>,
    },
    /// A step succeeded.
    StepFinished {
        /// The step.
        step: StepId,
        /// How.
        outcome: StepOutcome,
        /// The time it took.
        duration: Duration,
        /// The layer it made, if any.
        layer: Option<LayerSummary>,
    },
    /// A blob is being downloaded.
    Pull(Transfer),
    /// A blob is being uploaded.
    Push(Transfer),
    /// Something that the user should know.
    Warning {
        /// What.
        message: String,
        /// Line of the Dockerfile.
        line: Option<usize>,
    },
}

/// Which part of the world has to change for the build to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The Dockerfile.
    Dockerfile,
    /// The context.
    Context,
    /// The request.
    Request,
    /// A registry that is read from.
    Registry,
    /// A command of the Dockerfile.
    Step {
        /// Its exit code; 128 and the number of the signal if it was killed.
        exit_code: i32,
    },
    /// The host, which does not permit a step to run.
    Host,
    /// A registry or file that the image is written to.
    Push,
    /// The state directory.
    Cache,
    /// This program.
    Internal,
}

/// A place in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the file, as the user knows it.
    pub dockerfile: String,
    /// The whole text.
    pub source: String,
    /// The bytes concerned.
    pub span: Range<usize>,
}

/// Why a build failed.
#[derive(Debug)]
pub struct BuildError {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// Where, if in a Dockerfile.
    pub position: Option<Position>,
    /// What may help.
    pub hint: Option<String>,
    /// What was being done, with its causes.
    pub error: Box<dyn std::error::Error + Send + Sync>,
}

/// What a build made.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of all blobs and the manifest.
    pub size_bytes: u64,
    /// Where it went.
    pub pushed: Vec<Pushed>,
}

/// One destination that has received the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// The destination.
    pub reference: Reference,
    /// Digest of the manifest there.
    pub digest: Digest,
    /// Bytes of the image.
    pub size_bytes: u64,
    /// Layers that were there already.
    pub layers_reused: usize,
    /// Layers that were uploaded.
    pub layers_new: usize,
}

/// The media of a build.
#[derive(Debug)]
pub struct Backends;

impl Backends {
    /// Opens the state directory, the way to registries and the isolation.
    pub fn open(_state: &Path, _registry: &RegistrySettings, _isolation: IsolationChoice) -> Result<Self, BuildError> {
        Ok(Self)
    }
}

/// Enters a user namespace in which we are root, unless we are.
pub fn enter_user_namespace() -> std::io::Result<()> {
    Ok(())
}

/// Builds.
pub async fn build(_: BuildRequest, _: Backends, _: UnboundedSender<Event>) -> Result<Outcome, BuildError> {
    Err(BuildError {
        kind: ErrorKind::Internal,
        position: None,
        hint: None,
        error: "the library's build is not connected".into(),
    })
}
