//! As the first process of a container: starts this program again below itself, hands signals on, and reaps whatever ends.
//!
//! The kernel keeps signals without a handler from a first process, and makes it the parent of all that lose theirs. A build
//! knows only its own children, so the two are different processes.

use builder_core::isolation::conceal_process;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};
use tokio::signal::unix::{SignalKind, signal};

/// What is handed on.
const SIGNALS: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Runs the program to its end, and gives its exit code. `None`: it cannot be started again, and has to do its work here.
pub fn look_after() -> Option<ExitCode> {
    // It has the same secrets in its environment.
    conceal_process().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::child()).ok()?;
        let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
        for kind in SIGNALS {
            let mut stream = signal(SignalKind::from_raw(kind.as_raw())).ok()?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let _ = sender.send(kind);
                }
            });
        }
        let mut words = std::env::args_os();
        let mut command = Command::new("/proc/self/exe");
        command.arg0(words.next()?);
        let started = command.args(words).spawn().ok()?;
        let program = Pid::from_raw(i32::try_from(started.id()).ok()?)?;
        loop {
            tokio::select! {
                _ = ended.recv() => {}
                Some(kind) = received.recv() => {
                    // Only we reap it, so the number is still its own.
                    let _ = kill_process(program, kind);
                }
            }
            while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
                if process == program {
                    return Some(ExitCode::from(exit_code(status)));
                }
            }
        }
    })
}

/// As a shell says it.
fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
