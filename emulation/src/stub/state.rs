//! What a process of the step knows: its own memory, copied by fork, carried over exec in a variable of the environment.

use super::identity::Credentials;
use super::kernel::PATH_MAX;
use super::text::{self, Text};
use core::cell::UnsafeCell;

/// The descriptor of the root directory, open in every process of the step. Programs can neither close it nor take its place.
pub(crate) const ROOT_DESCRIPTOR: i32 = 1023;
/// The variable that carries the state; always the last one, taken off before the program starts.
pub(crate) const VARIABLE: &[u8] = b"COFFERDAM_EMULATION=";

/// The state.
pub(crate) struct State {
    /// Where the root is on the host, or what a program has taken as its root below it.
    pub(crate) root: Short,
    /// Where the root of the step is on the host.
    pub(crate) base: Short,
    /// Where the stub is on the host.
    pub(crate) stub: Short,
    /// Who the process really is.
    pub(crate) real_uid: u32,
    /// Its real group.
    pub(crate) real_gid: u32,
    /// The umask that the program has set; the kernel's leaves the owner everything.
    pub(crate) umask: u32,
    /// Whom the program takes itself for.
    pub(crate) credentials: Credentials,
    /// The program, on the host.
    pub(crate) program_real: Long,
    /// The program, as it was asked for.
    pub(crate) program_shown: Long,
    /// What the program has registered for SIGSYS.
    pub(crate) own_action: [u64; 4],
}

/// A short text with its length.
pub(crate) struct Fixed<const N: usize> {
    bytes: [u8; N],
    length: usize,
}
pub(crate) type Short = Fixed<512>;
pub(crate) type Long = Fixed<PATH_MAX>;

impl<const N: usize> Fixed<N> {
    const fn empty() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Takes another text. Says whether it had room.
    pub(crate) fn set(&mut self, text: &[u8]) -> bool {
        if text.len() >= N {
            return false;
        }
        self.bytes[..text.len()].copy_from_slice(text);
        self.bytes[text.len()] = 0;
        self.length = text.len();
        true
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

struct Cell(UnsafeCell<State>);
// SAFETY: threads of a program change its state only by calls that change the whole process; those that come at once are
// as undefined with the kernel.
unsafe impl Sync for Cell {}

static STATE: Cell = Cell(UnsafeCell::new(State {
    root: Fixed::empty(),
    base: Fixed::empty(),
    stub: Fixed::empty(),
    real_uid: 0,
    real_gid: 0,
    umask: 0o022,
    credentials: Credentials::ROOT,
    program_real: Fixed::empty(),
    program_shown: Fixed::empty(),
    own_action: [0; 4],
}));

/// The state of this process.
pub(crate) fn state() -> &'static State {
    // SAFETY: see `Cell`.
    unsafe { &*STATE.0.get() }
}

/// The state of this process, to change.
pub(crate) fn change() -> &'static mut State {
    // SAFETY: see `Cell`; no reference is kept across a call that changes.
    unsafe { &mut *STATE.0.get() }
}

impl State {
    /// Whether /proc, /sys and /dev are the host's: not inside a root that the program itself has chosen.
    pub(crate) fn passes(&self) -> bool {
        self.root.length == self.base.length
    }

    /// A path on the host as the program sees it.
    pub(crate) fn shown<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match path.strip_prefix(self.root.as_bytes()) {
            Some(b"") => b"/",
            Some(rest) if rest[0] == b'/' => rest,
            _ => path,
        }
    }

    /// Writes what has to survive an exec: numbers, then texts with their lengths.
    pub(crate) fn encode(&self, credentials: &Credentials, secure: bool, real: &[u8], shown: &[u8], text: &mut Text<'_>) {
        text.put(VARIABLE).number(u64::from(secure)).put(b",").number(u64::from(self.umask)).put(b",");
        for number in credentials.numbers() {
            text.number(u64::from(number)).put(b",");
        }
        for part in [self.root.as_bytes(), self.base.as_bytes(), self.stub.as_bytes(), real, shown] {
            text.number(part.len() as u64).put(b":").put(part);
        }
    }

    /// Reads what `encode` wrote, behind the name of the variable. Gives whether the program gained rights by its file.
    pub(crate) fn decode(&mut self, text: &[u8]) -> Option<bool> {
        let comma = |text: &[u8]| text.first() == Some(&b',');
        let (secure, rest) = text::number(text);
        let (umask, mut rest) = text::number(comma(rest).then(|| &rest[1..])?);
        self.umask = umask as u32;
        let mut numbers = [0_u32; Credentials::NUMBERS];
        for number in &mut numbers {
            let (value, after) = text::number(comma(rest).then(|| &rest[1..])?);
            (*number, rest) = (value as u32, after);
        }
        self.credentials = Credentials::from_numbers(&numbers);
        rest = rest.get(1..)?;
        let mut next = || {
            let (length, after) = text::number(rest);
            let part = after.get(1..=length as usize)?;
            rest = &after[1 + length as usize..];
            Some(part)
        };
        let fits = self.root.set(next()?) & self.base.set(next()?) & self.stub.set(next()?);
        let fits = fits & self.program_real.set(next()?) & self.program_shown.set(next()?);
        fits.then_some(secure != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_survives_an_exec() {
        let mut before = State {
            root: Fixed::empty(),
            base: Fixed::empty(),
            stub: Fixed::empty(),
            real_uid: 0,
            real_gid: 0,
            umask: 0o077,
            credentials: Credentials::ROOT,
            program_real: Fixed::empty(),
            program_shown: Fixed::empty(),
            own_action: [0; 4],
        };
        before.root.set(b"/a:b,c");
        before.base.set(b"/a");
        before.stub.set(b"/s");
        let mut credentials = Credentials::ROOT;
        credentials.user.effective = 33;
        credentials.set_groups(&[1, 2, u32::MAX]);
        let mut buffer = [0; 1024];
        let mut text = Text::new(&mut buffer);
        before.encode(&credentials, true, b"/a:b,c/bin/sh", b"/bin/sh", &mut text);
        assert!(text.fits());
        let mut after = State { root: Fixed::empty(), base: Fixed::empty(), stub: Fixed::empty(), umask: 0, ..before };
        let encoded = &text.as_bytes()[VARIABLE.len()..];
        assert_eq!(after.decode(encoded), Some(true));
        assert_eq!((after.umask, after.root.as_bytes(), after.base.as_bytes()), (0o077, &b"/a:b,c"[..], &b"/a"[..]));
        assert_eq!(after.credentials, credentials);
        assert_eq!(after.program_shown.as_bytes(), b"/bin/sh");
        assert_eq!(after.shown(b"/a:b,c"), b"/");
        assert_eq!(after.shown(b"/a:b,c/x"), b"/x");
        assert_eq!(after.shown(b"/a:b,cd"), b"/a:b,cd");
        assert_eq!(after.decode(b"1,2"), None);
    }
}
