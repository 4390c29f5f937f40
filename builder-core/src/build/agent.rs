//! An SSH agent of this machine, passed on into a step: a socket of our own, behind which only two questions are answered.
//!
//! A step may ask which keys there are and have something signed. Everything else that the protocol knows (taking keys out,
//! locking the agent) is refused here, so that a build cannot do harm to the agent of its user.

use crate::isolation::CancelToken;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// `SSH_AGENTC_REQUEST_IDENTITIES` and `SSH_AGENTC_SIGN_REQUEST` of the agent protocol.
const ALLOWED: [u8; 2] = [11, 13];
/// `SSH_AGENT_FAILURE`, as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// The longest message that OpenSSH's agent takes.
const MOST_BYTES: u32 = 256 << 10;
/// Connections at a time. A program has one.
const MOST_CONNECTIONS: usize = 64;

/// A socket that leads to an agent. When dropped, its connections are closed and its threads have ended.
pub(super) struct Agent {
    directory: tempfile::TempDir,
    stop: CancelToken,
    thread: Option<JoinHandle<()>>,
}

/// Who may use the socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// Its mode.
    pub(super) mode: u32,
    /// Its owner.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
}

impl Agent {
    /// The name of the socket in [`directory`](Self::directory).
    pub(super) const SOCKET: &'static str = "agent";

    /// Makes a socket in a new directory below `place` that leads to the one at `agent`.
    pub(super) fn pass_on(agent: &Path, place: &Path, access: Access) -> io::Result<Self> {
        if !fs::metadata(agent)?.file_type().is_socket() {
            return Err(io::Error::other("it is no socket"));
        }
        let directory = tempfile::Builder::new().prefix("agent-").tempdir_in(place)?;
        let opened = fs::File::open(directory.path())?;
        // The name of a socket has room for 108 bytes; that of a state directory may be longer.
        let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(Self::SOCKET);
        let listener = UnixListener::bind(&short)?;
        let path = directory.path().join(Self::SOCKET);
        if (access.uid, access.gid) != (0, 0) {
            std::os::unix::fs::chown(&path, Some(access.uid), Some(access.gid))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(access.mode))?;
        let stop = CancelToken::new()?;
        let (agent, stopped) = (agent.to_owned(), stop.clone());
        let thread = thread::Builder::new().name("ssh agent".to_owned()).spawn(move || serve(&listener, &agent, &stopped))?;
        Ok(Self { directory, stop, thread: Some(thread) })
    }

    /// The directory that holds the socket and nothing else.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, not even of a panic.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until it is told to stop, and then closes them.
fn serve(listener: &UnixListener, agent: &Path, stop: &CancelToken) {
    let open: Mutex<Vec<(usize, UnixStream)>> = Mutex::default();
    let streams = || open.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for number in 0.. {
            let mut ends = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            let waited = poll(&mut ends, None);
            if !ends[1].revents().is_empty() {
                break;
            }
            if waited.is_err() || ends[0].revents().is_empty() {
                continue;
            }
            let Ok((client, _)) = listener.accept() else {
                // Out of descriptors, perhaps; not for long.
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            if streams().len() >= 2 * MOST_CONNECTIONS {
                continue;
            }
            let Ok(server) = UnixStream::connect(agent) else { continue };
            let (Ok(client_end), Ok(server_end)) = (client.try_clone(), server.try_clone()) else { continue };
            streams().extend([(number, client_end), (number, server_end)]);
            let answer = move || {
                // Whatever ends the conversation, both sides see it closed.
                let _ = converse(&client, &server);
                streams().retain(|(other, _)| *other != number);
            };
            if thread::Builder::new().spawn_scoped(scope, answer).is_err() {
                streams().retain(|(other, _)| *other != number);
            }
        }
        for (_, stream) in &*streams() {
            // Ends the reads of the other threads.
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}

/// Hands questions and answers over, one at a time, until either side is done.
fn converse(mut client: &UnixStream, mut server: &UnixStream) -> io::Result<()> {
    loop {
        let question = message(&mut client)?;
        if question.get(4).is_some_and(|kind| ALLOWED.contains(kind)) {
            server.write_all(&question)?;
            client.write_all(&message(&mut server)?)?;
        } else {
            client.write_all(&FAILURE)?;
        }
    }
}

/// One message with its length, which stands before it.
fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length_bytes = u32::from_be_bytes(length);
    if length_bytes > MOST_BYTES {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut bytes = length.to_vec();
    from.take(length_bytes.into()).read_to_end(&mut bytes)?;
    if bytes.len() - length.len() < length_bytes as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    /// An agent that answers each question with itself, for one connection.
    fn echo(path: &Path) -> JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while let Ok(question) = message(&mut stream) {
                seen.push(question[4]);
                stream.write_all(&question).unwrap();
            }
            seen
        })
    }

    fn ask(stream: &mut UnixStream, question: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(question)?;
        message(stream)
    }

    #[test]
    fn a_step_may_list_keys_and_have_something_signed_and_no_more() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("real");
        let real = echo(&path);
        let access = Access { mode: 0o600, uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
        let agent = Agent::pass_on(&path, place.path(), access).unwrap();
        let socket = agent.directory().join(Agent::SOCKET);
        assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
        let mut stream = UnixStream::connect(&socket).unwrap();
        let list = [0, 0, 0, 1, 11];
        let sign = [0, 0, 0, 3, 13, 7, 7];
        let remove_all = [0, 0, 0, 1, 19];
        assert_eq!(ask(&mut stream, &list).unwrap(), list);
        assert_eq!(ask(&mut stream, &sign).unwrap(), sign);
        assert_eq!(ask(&mut stream, &remove_all).unwrap(), FAILURE);
        assert_eq!(ask(&mut stream, &[0, 0, 0, 0]).unwrap(), FAILURE);
        let directory = agent.directory().to_owned();
        drop(agent);
        assert!(ask(&mut stream, &list).is_err() && !directory.exists());
        assert_eq!(real.join().unwrap(), [11, 13]);
    }

    #[test]
    fn a_message_of_any_length_is_no_danger() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("real");
        let real = echo(&path);
        let agent = Agent::pass_on(&path, place.path(), Access { mode: 0o600, uid: 0, gid: 0 }).unwrap();
        let mut stream = UnixStream::connect(agent.directory().join(Agent::SOCKET)).unwrap();
        assert!(ask(&mut stream, &[0xff, 0xff, 0xff, 0xff, 11]).is_err());
        drop(agent);
        assert_eq!(real.join().unwrap(), [0; 0]);
    }

    #[test]
    fn a_key_file_is_no_agent() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("key"), "").unwrap();
        let access = Access { mode: 0o600, uid: 0, gid: 0 };
        let error = Agent::pass_on(&place.path().join("key"), place.path(), access).err().unwrap();
        assert_eq!(error.to_string(), "it is no socket");
    }
}
