//! When a step is ended that does not end by itself: at its time limit, and when the build is cancelled. Takes the time and the
//! token, says what to do; the back ends do it.
//!
//! A signal that cancels the build goes on to the command, as Ctrl-C at a terminal would have reached it: to its process group,
//! by way of the first process of the step. A shell runs a `trap` only when the program that it waits for has ended, so that one
//! needs the signal as well.

use super::{CancelToken, RunError, StopSignal};
use rustix::event::Timespec;
use std::{
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

/// How long a command may take to end after a signal. Whoever stops a container kills it soon after, Docker after 10 seconds,
/// and until then the root file systems have to be removed as well.
const GRACE: Duration = Duration::from_secs(2);

/// Watches one step.
pub(super) struct Watch<'a> {
    cancel: &'a CancelToken,
    limit: Option<(Duration, Instant)>,
    /// Until when a command that was sent a signal has time.
    grace: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// The time begins now.
    pub(super) fn new(time_limit: Option<Duration>, cancel: &'a CancelToken) -> Self {
        Self { cancel, limit: time_limit.map(|limit| (limit, Instant::now() + limit)), grace: None }
    }

    /// Becomes readable when there is something to [`check`](Self::check).
    pub(super) fn event(&self) -> BorrowedFd<'a> {
        let flag = if self.grace.is_some() { &self.cancel.0.hurried } else { &self.cancel.0.cancelled };
        flag.event.as_fd()
    }

    /// After which time there is something to check, if not before.
    pub(super) fn timeout(&self) -> Option<Timespec> {
        let end = self.grace.or(self.limit.map(|(_, end)| end))?;
        let left = end.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() })
    }

    /// Hands a signal on with `pass_on`, once.
    ///
    /// # Errors
    /// The step is to be killed, for this reason.
    pub(super) fn check(&mut self, pass_on: impl FnOnce(StopSignal)) -> Result<(), RunError> {
        let now = Instant::now();
        match (self.grace, self.cancel.signal(), self.limit) {
            _ if self.cancel.0.hurried.is_set() => Err(RunError::Cancelled),
            (Some(grace), ..) if now >= grace => Err(RunError::Cancelled),
            (Some(_), ..) => Ok(()),
            (None, Some(signal), _) if self.cancel.is_cancelled() => {
                pass_on(signal);
                self.grace = Some(now + GRACE);
                Ok(())
            }
            _ if self.cancel.is_cancelled() => Err(RunError::Cancelled),
            (None, _, Some((time_limit, end))) if now >= end => Err(RunError::TimedOut { time_limit }),
            _ => Ok(()),
        }
    }

    /// Whether the step has ended because it was asked to, as far as one can know.
    ///
    /// # Errors
    /// Then it was cancelled, whatever its command says.
    pub(super) fn ended(&self) -> Result<(), RunError> {
        if self.grace.is_some() { Err(RunError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is decided, and the signal that is handed on.
    fn check(watch: &mut Watch<'_>) -> (Option<RunError>, Option<StopSignal>) {
        let mut passed_on = None;
        (watch.check(|signal| passed_on = Some(signal)).err(), passed_on)
    }

    #[test]
    fn a_signal_is_handed_on_once_and_a_hurry_kills() {
        let cancel = CancelToken::new().unwrap();
        let mut watch = Watch::new(None, &cancel);
        assert!(matches!(check(&mut watch), (None, None)));
        assert!(watch.timeout().is_none() && watch.ended().is_ok());
        cancel.interrupt(StopSignal::Terminate);
        // As the end of the build does, and as another signal would.
        cancel.cancel();
        cancel.interrupt(StopSignal::Interrupt);
        assert!(matches!(check(&mut watch), (None, Some(StopSignal::Terminate))));
        assert!(matches!(check(&mut watch), (None, None)));
        assert!(watch.timeout().is_some() && matches!(watch.ended(), Err(RunError::Cancelled)));
        cancel.hurry();
        assert!(matches!(check(&mut watch), (Some(RunError::Cancelled), None)));
    }

    #[test]
    fn a_signal_gives_time_and_no_more() {
        let cancel = CancelToken::new().unwrap();
        let mut watch = Watch::new(None, &cancel);
        cancel.interrupt(StopSignal::HangUp);
        assert!(matches!(check(&mut watch), (None, Some(StopSignal::HangUp))));
        watch.grace = Some(Instant::now());
        assert!(matches!(check(&mut watch), (Some(RunError::Cancelled), None)));
    }

    #[test]
    fn without_a_signal_there_is_no_time() {
        let cancel = CancelToken::new().unwrap();
        let mut watch = Watch::new(Some(Duration::ZERO), &cancel);
        assert!(matches!(check(&mut watch), (Some(RunError::TimedOut { time_limit: Duration::ZERO }), None)));
        cancel.cancel();
        assert!(matches!(check(&mut watch), (Some(RunError::Cancelled), None)));
    }
}
