//! Work on CPU and disk: runs on threads that may block, and never outlives its build.

use super::{BuildError, ErrorKind};
use crate::isolation::CancelToken;
use std::{
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How long a build that is given up waits for its threads. They stop at their next piece of work; a thread that waits
/// for the network is told by its closed channel, and might not be told at all where the runtime has but one thread.
const PATIENCE: Duration = Duration::from_secs(10);

/// The threads of one build. When it is dropped, they are told to stop and waited for.
pub(super) struct Work {
    cancel: CancelToken,
    running: Arc<Running>,
}

#[derive(Default)]
struct Running {
    count: Mutex<usize>,
    done: Condvar,
}

/// Counts one thread; uncounts it on every way out, a panic included.
struct Counted(Arc<Running>);

impl Work {
    pub(super) fn new() -> Result<Self, BuildError> {
        let cancel =
            CancelToken::new().map_err(|error| BuildError::new(ErrorKind::Host, "cannot prepare the build").because(error))?;
        Ok(Self::under(cancel))
    }

    /// That somebody else may stop as well.
    pub(super) fn under(cancel: CancelToken) -> Self {
        Self { cancel, running: Arc::default() }
    }

    /// What a step asks whether to stop.
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let counted = Counted::new(&self.running);
        let cancel = self.cancel.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _counted = counted;
            if cancel.is_cancelled() {
                return Err(BuildError::new(ErrorKind::Internal, "the build was cancelled"));
            }
            work()
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(BuildError::new(ErrorKind::Internal, "a thread of the builder panicked")),
            Err(error) => Err(BuildError::new(ErrorKind::Internal, "a thread of the builder was lost").because(error)),
        }
    }
}

/// A reader that fails once the build is given up, so that a thread which works on many bytes soon ends.
pub(super) struct Stoppable<R> {
    from: R,
    cancel: CancelToken,
}

impl<R: Read> Stoppable<R> {
    pub(super) fn new(from: R, cancel: CancelToken) -> Self {
        Self { from, cancel }
    }
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        self.from.read(buffer)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.cancel.cancel();
        let count = self.running.count.lock().unwrap_or_else(PoisonError::into_inner);
        // The result says whether the patience ran out; there is nobody left to tell.
        drop(self.running.done.wait_timeout_while(count, PATIENCE, |count| *count > 0));
    }
}

impl Counted {
    fn new(running: &Arc<Running>) -> Self {
        *running.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(running.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.done.notify_all();
    }
}
