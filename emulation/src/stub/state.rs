//! What a process of the step knows: its own memory, copied by fork, carried over exec in a variable of the environment.

use super::arch::number as n;
use super::identity::Credentials;
use super::kernel::{self, Answer, call};
use super::signals::Action;
use super::text::{self, Text};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// The descriptor of the root directory, open in every process of the step. Programs can neither close it nor take its place.
///
/// One of the first 64, for which each process has room anyway: a higher one makes every fork copy a table up to there. High
/// among them, below those that bash counts down from for `<(…)`.
pub(crate) const ROOT_DESCRIPTOR: i32 = 59;
/// The variable that carries the state; always the last one, taken off before the program starts.
pub(crate) const VARIABLE: &[u8] = b"COFFERDAM_EMULATION=";

/// What a process may change for itself and for those that it makes.
#[derive(Clone)]
pub(crate) struct State {
    /// Where the root is on the host, or what a program has taken as its root below it.
    pub(crate) root: Short,
    /// The umask that the program has set; the kernel's leaves the owner everything.
    pub(crate) umask: u32,
    /// Whom the program takes itself for.
    pub(crate) credentials: Credentials,
    /// What the program has registered for SIGSYS.
    pub(crate) own_action: Action,
}

/// What stays as it is from one exec to the next.
pub(crate) struct Setting {
    /// Where the root of the step is on the host.
    pub(crate) base: Kept,
    /// Where the stub is on the host.
    pub(crate) stub: Kept,
    /// What the machine is called, in at most 64 bytes.
    pub(crate) host_name: Kept,
    /// Whether earlier steps gave several names to some files.
    pub(crate) has_links: bool,
    /// Who the process really is.
    pub(crate) real_uid: u32,
    /// Its real group.
    pub(crate) real_gid: u32,
    /// The program, on the host.
    pub(crate) program_real: Kept,
    /// The program, as it was asked for.
    pub(crate) program_shown: Kept,
}

/// A text where the kernel has put it for an exec, or the builder for a launch: it stays there.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    start: *const u8,
    length: usize,
}

impl Kept {
    const fn empty() -> Self {
        Self { start: c"".as_ptr().cast(), length: 0 }
    }

    /// A text that stays as long as the process.
    pub(crate) fn new(text: &[u8]) -> Self {
        Self { start: text.as_ptr(), length: text.len() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: it stays.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }

    /// For the kernel: only of what ends with zero, as `base` and `host_name` do not.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start
    }
}

/// A short text with its length.
#[derive(Clone)]
pub(crate) struct Fixed<const N: usize> {
    bytes: [u8; N],
    length: usize,
}
pub(crate) type Short = Fixed<512>;

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

struct Cell<T>(UnsafeCell<T>);
// SAFETY: threads of a program change its state only by calls that change the whole process; those that come at once are
// as undefined with the kernel.
unsafe impl<T> Sync for Cell<T> {}

/// What is lent to one at a time: a thread that comes meanwhile, or a handler in between, does without.
pub(crate) struct Lent<T> {
    taken: AtomicBool,
    content: UnsafeCell<T>,
}

// SAFETY: used only by whoever has set the flag.
unsafe impl<T> Sync for Lent<T> {}

impl<T> Lent<T> {
    pub(crate) const fn new(content: T) -> Self {
        Self { taken: AtomicBool::new(false), content: UnsafeCell::new(content) }
    }

    /// Lends it, unless somebody has it.
    pub(crate) fn with<R>(&self, then: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: the flag is ours.
        let result = then(unsafe { &mut *self.content.get() });
        self.taken.store(false, Ordering::Release);
        Some(result)
    }
}

static SETTING: Cell<Setting> = Cell(UnsafeCell::new(Setting::empty()));
static STATE: Cell<State> = Cell(UnsafeCell::new(State::empty()));

/// A child made by `vfork` runs in the memory of its parent until it executes something. What it changes meanwhile is kept
/// here, under its number.
struct Child {
    process: AtomicI32,
    /// It executes something: unless that fails, this is free again.
    leaves: AtomicBool,
    state: Cell<State>,
}

const CHILDREN: usize = 16;
#[unsafe(link_section = ".bss.large")]
static BORROWERS: [Child; CHILDREN] = [const {
    Child { process: AtomicI32::new(0), leaves: AtomicBool::new(false), state: Cell(UnsafeCell::new(State::empty())) }
}; CHILDREN];
/// How many of them are in use: mostly none, and then nobody has to ask who they are.
static BORROWER_COUNT: AtomicUsize = AtomicUsize::new(0);

/// What a process knows of itself alone: the kernel wipes it in a child that gets a copy of the memory.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(align(65536)))]
struct OwnPage {
    /// Whose memory this is; zero in such a child.
    owner: AtomicI32,
    /// Places of the program, each with how often a call was trapped there.
    traps: [AtomicU64; TRAPS],
}
const TRAPS: usize = 256;
#[unsafe(link_section = ".bss.own")]
static OWN: OwnPage = OwnPage { owner: AtomicI32::new(0), traps: [const { AtomicU64::new(0) }; TRAPS] };

/// Where the memory of the stub ends, of which that page is the last.
pub(crate) fn end_of_stub() -> u64 {
    &raw const OWN as u64 + size_of::<OwnPage>() as u64
}

/// After an exec: the memory is this process's own, and the copy that a child gets of it will not be.
/// Gives what it knows, to be written before the program starts.
pub(crate) fn own_memory() -> (&'static mut State, &'static mut Setting) {
    const WIPE_ON_FORK: u64 = 18;
    call(n::MADVISE, [&raw const OWN as u64, size_of::<OwnPage>() as u64, WIPE_ON_FORK, 0, 0, 0]);
    OWN.owner.store(kernel::getpid(), Ordering::Relaxed);
    // SAFETY: there is one thread, and it keeps no reference.
    unsafe { (&mut *STATE.0.get(), &mut *SETTING.0.get()) }
}

/// At each call of the program: notes whose memory this is, should it be that of a new child.
pub(crate) fn see_owner() {
    // By an exchange that changes nothing, which counts as writing: the child needs a page of its own here, and would otherwise
    // have one fault for looking and one for that.
    if OWN.owner.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        adopt();
    }
}

/// Whether this is the process that the memory belongs to, and not one that borrows it.
pub(crate) fn owns_memory() -> bool {
    OWN.owner.load(Ordering::Relaxed) == kernel::getpid()
}

/// Counts a trap from a place of the program. Places may share a row: the one that traps more often keeps it.
pub(crate) fn count_trap(place: u64) -> u64 {
    const COUNT_BITS: u32 = 16;
    const MOST: u64 = (1 << COUNT_BITS) - 1;
    let row = &OWN.traps[(place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % TRAPS];
    let seen = row.load(Ordering::Relaxed);
    let (owner, count) = (seen >> COUNT_BITS, seen & MOST);
    if owner != place && count > 1 {
        row.store(seen - 1, Ordering::Relaxed);
        return 0;
    }
    let count = if owner == place { (count + 1).min(MOST) } else { 1 };
    row.store(place << COUNT_BITS | count, Ordering::Relaxed);
    count
}

/// This process got a copy of its parent's memory, and with it what the parent was.
#[cold]
fn adopt() {
    if BORROWER_COUNT.load(Ordering::Relaxed) > 0 {
        if let Some(parent) = borrower(call(n::GETPPID, [0; 6]) as i32) {
            // SAFETY: see `Cell`; the two are different.
            unsafe { *STATE.0.get() = (*parent.state.0.get()).clone() };
        }
        for child in &BORROWERS {
            child.process.store(0, Ordering::Relaxed);
        }
        BORROWER_COUNT.store(0, Ordering::Relaxed);
    }
    OWN.owner.store(kernel::getpid(), Ordering::Relaxed);
}

fn borrower(process: i32) -> Option<&'static Child> {
    BORROWERS.iter().find(|child| child.process.load(Ordering::Relaxed) == process && !child.leaves.load(Ordering::Relaxed))
}

/// The state of a process among those that share memory.
#[cold]
fn shared() -> *mut State {
    let own = kernel::getpid();
    let owner = OWN.owner.load(Ordering::Relaxed);
    if own == owner || owner == 0 {
        return STATE.0.get();
    }
    let found = borrower(own).or_else(|| borrower(call(n::GETPPID, [0; 6]) as i32));
    found.map_or(STATE.0.get(), |child| child.state.0.get())
}

/// The state of this process.
pub(crate) fn state() -> &'static State {
    let found = if BORROWER_COUNT.load(Ordering::Relaxed) == 0 { STATE.0.get() } else { shared() };
    // SAFETY: see `Cell`.
    unsafe { &*found }
}

/// The state of this process, to change.
pub(crate) fn change() -> &'static mut State {
    see_owner();
    let own = kernel::getpid();
    if OWN.owner.load(Ordering::Relaxed) == own {
        // SAFETY: see `Cell`; no reference is kept across a call that changes.
        return unsafe { &mut *STATE.0.get() };
    }
    let child = borrower(own).unwrap_or_else(|| borrow(own));
    // SAFETY: as above; no other process looks at this one.
    unsafe { &mut *child.state.0.get() }
}

/// Makes a state for a child that has none of its own yet.
fn borrow(own: i32) -> &'static Child {
    let state = state().clone();
    let is_gone = |process: i32| call(n::KILL, [process as u64, 0, 0, 0, 0, 0]) < 0;
    let is_free = |child: &Child| child.leaves.load(Ordering::Relaxed) || child.process.load(Ordering::Relaxed) == 0;
    let child = BORROWERS.iter().find(|child| is_free(child)).unwrap_or_else(|| {
        BORROWER_COUNT.fetch_sub(1, Ordering::Relaxed);
        // One that ended without executing anything.
        let gone = BORROWERS.iter().find(|child| is_gone(child.process.load(Ordering::Relaxed)));
        gone.unwrap_or(&BORROWERS[own as usize % CHILDREN])
    });
    // SAFETY: nobody uses it any more.
    unsafe { *child.state.0.get() = state };
    child.process.store(own, Ordering::Relaxed);
    child.leaves.store(false, Ordering::Relaxed);
    BORROWER_COUNT.fetch_add(1, Ordering::Relaxed);
    child
}

/// Executes something by `execute`, which comes back only if it fails: afterwards the memory may be somebody else's.
pub(crate) fn leave(execute: impl FnOnce() -> Answer) -> Answer {
    let own = if BORROWER_COUNT.load(Ordering::Relaxed) == 0 { None } else { borrower(kernel::getpid()) };
    if let Some(child) = own {
        child.leaves.store(true, Ordering::Relaxed);
        BORROWER_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
    let failed = execute();
    if let Some(child) = own {
        child.leaves.store(false, Ordering::Relaxed);
        BORROWER_COUNT.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

/// What stays as it is.
pub(crate) fn setting() -> &'static Setting {
    // SAFETY: written only before the program starts.
    unsafe { &*SETTING.0.get() }
}

impl Setting {
    const fn empty() -> Self {
        Self {
            base: Kept::empty(),
            stub: Kept::empty(),
            host_name: Kept::empty(),
            has_links: false,
            real_uid: 0,
            real_gid: 0,
            program_real: Kept::empty(),
            program_shown: Kept::empty(),
        }
    }
}

impl State {
    const fn empty() -> Self {
        Self { root: Fixed::empty(), umask: 0, credentials: Credentials::NOBODY, own_action: Action::DEFAULT }
    }

    /// Whether /proc, /sys and /dev are the host's: not inside a root that the program itself has chosen.
    pub(crate) fn passes(&self) -> bool {
        self.root.length == setting().base.length
    }

    /// A path on the host as the program sees it.
    pub(crate) fn shown<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match path.strip_prefix(self.root.as_bytes()) {
            Some(b"") => b"/",
            Some(rest) if rest[0] == b'/' => rest,
            _ => path,
        }
    }
}

/// How a program begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// It gained rights by its file.
    pub(crate) secure: bool,
    /// An open descriptor of it.
    pub(crate) program: i32,
    /// One of its interpreter, if it names one at its start.
    pub(crate) interpreter: Option<i32>,
}

/// Writes what has to survive an exec: numbers, then texts with their lengths.
pub(crate) fn encode(
    (state, setting): (&State, &Setting),
    credentials: &Credentials,
    begin: Begin,
    (real, shown): (&[u8], &[u8]),
    text: &mut Text<'_>,
) {
    text.put(VARIABLE);
    let interpreter = begin.interpreter.map_or(0, |descriptor| u64::from(descriptor.unsigned_abs()) + 1);
    for number in [u64::from(begin.secure), u64::from(begin.program.unsigned_abs()), interpreter] {
        text.number(number).put(b",");
    }
    text.number(u64::from(setting.has_links)).put(b",").number(u64::from(state.umask)).put(b",");
    let mut numbers = [0; Credentials::MAX_NUMBERS];
    let count = credentials.numbers(&mut numbers);
    for number in &numbers[..count] {
        text.number(*number).put(b",");
    }
    let (base, host_name, stub) = (setting.base.as_bytes(), setting.host_name.as_bytes(), setting.stub.as_bytes());
    for part in [state.root.as_bytes(), base, host_name, real, stub, shown] {
        text.number(part.len() as u64).put(b":").put(part);
    }
}

/// Reads what [`encode`] wrote, behind the name of the variable.
///
/// # Safety
/// The text can be written to, stays as long as the process, and is nobody else's: what the kernel is to read ends with a zero
/// afterwards, the first of them behind the program.
pub(crate) unsafe fn decode(text: &[u8], state: &mut State, setting: &mut Setting) -> Option<Begin> {
    let mut rest = text;
    let mut next = || {
        let (value, after) = text::number(rest);
        rest = after.strip_prefix(b",")?;
        Some(value)
    };
    let (secure, program, interpreter) = (next()? != 0, next()? as i32, next()?);
    let begin = Begin { secure, program, interpreter: interpreter.checked_sub(1).map(|descriptor| descriptor as i32) };
    setting.has_links = next()? != 0;
    state.umask = next()? as u32;
    state.credentials = Credentials::from_numbers(&mut next)?;
    let mut next = || {
        let (length, after) = text::number(rest);
        let part = after.strip_prefix(b":")?.get(..usize::try_from(length).ok()?)?;
        rest = &after[1 + part.len()..];
        Some(part)
    };
    let fits = state.root.set(next()?);
    setting.base = Kept::new(next()?);
    setting.host_name = Kept::new(next()?);
    setting.program_real = Kept::new(next()?);
    setting.stub = Kept::new(next()?);
    setting.program_shown = Kept::new(next()?);
    for text in [&setting.program_real, &setting.stub, &setting.program_shown] {
        // SAFETY: behind a text is the length of the next, or the zero of the last one.
        unsafe { text.start.add(text.length).cast_mut().write(0) };
    }
    fits.then_some(begin)
}

/// The program on the host that an encoded state, behind the name of the variable, speaks of.
pub(crate) fn program_of(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    // Numbers end with commas, texts have colons; the fourth text is the program.
    for _ in 0..6 + Credentials::MAX_NUMBERS {
        let (_, after) = text::number(rest);
        match after.strip_prefix(b",") {
            Some(after) => rest = after,
            None => break,
        }
    }
    let mut part = None;
    for _ in 0..4 {
        let (length, after) = text::number(rest);
        let found = after.strip_prefix(b":")?.get(..usize::try_from(length).ok()?)?;
        rest = &after[1 + found.len()..];
        part = Some(found);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_survives_an_exec() {
        let (mut state, mut setting) = (State::empty(), Setting::empty());
        state.umask = 0o077;
        state.root.set(b"/a:b,c");
        setting.has_links = true;
        (setting.base, setting.stub, setting.host_name) = (Kept::new(b"/a"), Kept::new(b"/s"), Kept::new(b"7,h"));
        let mut credentials = Credentials::ROOT;
        credentials.user.effective = 33;
        credentials.set_groups(&[1, 2, u32::MAX]);
        let mut buffer = [0; 1024];
        let mut text = Text::new(&mut buffer);
        let begin = Begin { secure: true, program: 3, interpreter: Some(0) };
        encode((&state, &setting), &credentials, begin, (b"/a:b,c/bin/sh", b"/bin/sh"), &mut text);
        assert!(text.fits());
        let encoded = &text.as_bytes()[VARIABLE.len()..];
        let (mut after, mut found) = (State::empty(), Setting::empty());
        assert_eq!(program_of(encoded), Some(&b"/a:b,c/bin/sh"[..]));
        // SAFETY: memory of this test.
        assert_eq!(unsafe { decode(encoded, &mut after, &mut found) }, Some(begin));
        assert_eq!((after.umask, after.root.as_bytes(), found.base.as_bytes()), (0o077, &b"/a:b,c"[..], &b"/a"[..]));
        assert_eq!((after.credentials, found.has_links), (credentials, true));
        assert_eq!((found.program_shown.as_bytes(), found.host_name.as_bytes()), (&b"/bin/sh"[..], &b"7,h"[..]));
        assert_eq!(after.shown(b"/a:b,c"), b"/");
        assert_eq!(after.shown(b"/a:b,c/x"), b"/x");
        assert_eq!(after.shown(b"/a:b,cd"), b"/a:b,cd");
        // SAFETY: as above; nothing is written.
        assert_eq!(unsafe { decode(b"1,2", &mut after, &mut found) }, None);
        let zero = encoded.iter().position(|byte| *byte == 0);
        assert_eq!(program_of(&encoded[..zero.unwrap_or(0)]), Some(&b"/a:b,c/bin/sh"[..]));
        assert_eq!(program_of(b"1,2,3"), None);
    }
}
