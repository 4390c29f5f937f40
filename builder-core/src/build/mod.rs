//! x
mod error;
mod events;
mod request;
pub use error::{BuildError, ErrorKind, Place};
pub use events::{Event, LayerSummary, StepId, StepOutcome, Stream};
pub use request::{BuildRequest, CacheUse, ContextSource, DockerfileSource, Export, SecretSource};
