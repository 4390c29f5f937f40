//! A program that we have started: it ends when nobody waits for it any more. Knows processes and nothing else.

use std::process::Child;

/// A process that is ended with its children and reaped when it is dropped. It has to be the leader of its process group.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Once the process is reaped its number may be another's.
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}
