//! What a build tells while it runs. Pure values; the receiver decides what to show.

use super::Place;
use crate::dockerfile::Position;
use crate::oci::{Digest, Reference};
use std::time::Duration;

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The plan is known.
    Planned {
        /// Stages that will be built.
        stages: usize,
        /// Instructions in them, FROM included.
        steps: usize,
    },
    /// Which isolation RUN has, and why no stronger one. Told once, before the first RUN that is executed.
    Isolation {
        /// For people.
        description: String,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        step: StepId,
        /// Where it stands in the Dockerfile.
        position: Position,
        /// The instruction in one line.
        text: String,
    },
    /// A step's command has written something.
    StepOutput {
        /// Which.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// What: any bytes, not always whole lines.
        bytes: Vec<u8>,
    },
    /// A step is done.
    StepFinished {
        /// Which.
        step: StepId,
        /// How.
        outcome: StepOutcome,
        /// Its layer, if it made one.
        layer: Option<LayerSummary>,
        /// Since it began.
        duration: Duration,
    },
    /// A step is not known, and this is why; told if the request wants to know.
    CacheMissed {
        /// Which.
        step: StepId,
        /// What has changed, a sentence each.
        reasons: Vec<String>,
    },
    /// A layer of a base has to be read.
    PullStarted {
        /// The image.
        reference: Reference,
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
    },
    /// A layer of a base was read.
    PullFinished {
        /// The blob.
        digest: Digest,
    },
    /// A blob has been dealt with at a destination.
    BlobPushed {
        /// The destination.
        reference: Reference,
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// Whether it was already there, or could be mounted from another repository.
        reused: bool,
    },
    /// Something the user should know although the build goes on.
    Warning {
        /// One sentence.
        message: String,
        /// Where in the Dockerfile, if it is about that.
        place: Option<Box<Place>>,
    },
}

/// A step: the instruction of a stage. Triggers of the base come first, before those of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId {
    /// Index of the stage in the Dockerfile.
    pub stage: usize,
    /// The stage's name, or its index.
    pub stage_name: String,
    /// Counted from 1; FROM is the first.
    pub number: usize,
    /// Of how many in this stage.
    pub total: usize,
}

/// Where a command's output went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepOutcome {
    /// The work was done.
    Executed,
    /// The result of an earlier build was used.
    Cached,
    /// There was nothing to do but to note it down.
    Metadata,
}

/// A layer in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Digest of the blob.
    pub digest: Digest,
    /// Compressed size.
    pub size_bytes: u64,
}
