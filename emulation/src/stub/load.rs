//! Puts a program and its interpreter into memory, as the kernel would have done.

use super::arch::{self, ADDRESS_LIMIT, number as n};
use super::kernel::{self, AT_FDCWD, Answer, EBADF, ENOEXEC, ENOMEM, O_CLOEXEC, call};
use super::path;
use super::text::DescriptorPath;
use core::sync::atomic::{AtomicU64, Ordering};

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const HEADERS: u32 = 6;
const HEADER_LENGTH: usize = 56;

/// Bytes of a page, as the kernel has told; ARM has several sizes.
static PAGE: AtomicU64 = AtomicU64::new(4096);

fn page() -> u64 {
    PAGE.load(Ordering::Relaxed)
}

/// Takes note of the size of a page.
pub(crate) fn set_page(bytes: u64) {
    PAGE.store(bytes, Ordering::Relaxed);
}

/// The head of an ELF file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    is_movable: bool,
    entry: u64,
    offset: u64,
    count: u16,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
    alignment: u64,
}

impl Segment {
    /// The address in the file of its first page.
    fn page_start(&self) -> u64 {
        self.address & !(page() - 1)
    }

    /// Bytes of the pages of which the file has something.
    fn file_pages(&self) -> u64 {
        (self.address + self.in_file).next_multiple_of(page()) - self.page_start()
    }

    fn protection(&self) -> u64 {
        u64::from(self.flags >> 2 & 1 | self.flags & 2 | (self.flags & 1) << 2)
    }

    /// Maps so many bytes of the file, from its first page on.
    fn map(&self, file: Answer, address: u64, length: u64, flags: u64) -> Answer {
        const PRIVATE: u64 = 2;
        let offset = self.offset & !(page() - 1);
        call(n::MMAP, [address, length, self.protection(), PRIVATE | flags, file as u64, offset])
    }

    /// Makes what is in memory alone zeros.
    fn clear_rest(&self, bias: u64) -> Result<(), Answer> {
        const FIXED_ANONYMOUS: u64 = 0x32;
        const WRITE: u64 = 2;
        let address = bias.wrapping_add(self.address);
        let (file_end, end) = (address + self.in_file, address + self.in_memory);
        let mapped_end = if self.in_file > 0 { file_end.next_multiple_of(page()) } else { address & !(page() - 1) };
        if self.in_file > 0 && end > file_end && self.protection() & WRITE != 0 {
            let clear_end = mapped_end.min(end.next_multiple_of(page()));
            // SAFETY: the rest of the last page, which was just mapped to write.
            unsafe { core::ptr::write_bytes(file_end as *mut u8, 0, (clear_end - file_end) as usize) };
        }
        if end > mapped_end {
            let length = end.next_multiple_of(page()) - mapped_end;
            let mapped = call(n::MMAP, [mapped_end, length, self.protection(), FIXED_ANONYMOUS, u64::MAX, 0]);
            if kernel::is_error(mapped) {
                return Err(mapped);
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Head {
    /// Reads the head of a program of this architecture. `bytes` is the start of the file.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        if bytes.get(..6)? != b"\x7fELF\x02\x01" || short(18)? != arch::ELF_MACHINE || short(54)? as usize != HEADER_LENGTH {
            return None;
        }
        let is_movable = match short(16)? {
            2 => false,
            3 => true,
            _ => return None,
        };
        let head = Self { is_movable, entry: word(bytes, 24)?, offset: word(bytes, 32)?, count: short(56)? };
        // All headers are in the start of the file, with every linker there is.
        (head.count > 0 && head.segment(bytes, head.count - 1).is_some()).then_some(head)
    }

    fn segment(&self, bytes: &[u8], index: u16) -> Option<Segment> {
        let at = usize::try_from(self.offset).ok()?.checked_add(usize::from(index) * HEADER_LENGTH)?;
        let at = |offset: usize| at + offset;
        Some(Segment {
            kind: half(bytes, at(0))?,
            flags: half(bytes, at(4))?,
            offset: word(bytes, at(8))?,
            address: word(bytes, at(16))?,
            in_file: word(bytes, at(32))?,
            in_memory: word(bytes, at(40))?,
            alignment: word(bytes, at(48))?,
        })
    }

    fn segments(self, bytes: &[u8]) -> impl DoubleEndedIterator<Item = Segment> + '_ {
        (0..self.count).filter_map(move |index| self.segment(bytes, index))
    }

    /// Those that are loaded, in their order.
    fn loaded(self, bytes: &[u8]) -> impl DoubleEndedIterator<Item = Segment> + '_ {
        self.segments(bytes).filter(|segment| segment.kind == LOAD)
    }

    /// Where in the file the name of the interpreter is, and its length.
    pub(crate) fn interpreter(self, bytes: &[u8]) -> Option<(usize, usize)> {
        let segment = self.segments(bytes).find(|segment| segment.kind == INTERPRETER)?;
        Some((usize::try_from(segment.offset).ok()?, usize::try_from(segment.in_file).ok()?.min(kernel::PATH_MAX)))
    }
}

/// What the program finds in its auxiliary vector.
pub(crate) struct Loaded {
    pub(crate) entry: u64,
    pub(crate) start: u64,
    pub(crate) interpreter_base: u64,
    pub(crate) headers: u64,
    pub(crate) header_count: u64,
}

/// Loads the program that `program` names, a descriptor, and the interpreter of another one; closes both.
pub(crate) fn load(program: i32, interpreter: Option<i32>) -> Result<Loaded, Answer> {
    let mut bytes = [0; 2048];
    let mut file = Answer::from(program);
    let length = match read(file, &mut bytes, 0) {
        // Only a name.
        Err(EBADF) => {
            file = kernel::openat(AT_FDCWD, DescriptorPath::new(program).as_ptr(), O_CLOEXEC, 0);
            kernel::close(program);
            read(file, &mut bytes, 0)?
        }
        length => length?,
    };
    let bytes = &bytes[..length];
    let head = Head::parse(bytes).ok_or(ENOEXEC)?;
    let bias = map(file, head, bytes)?;
    let named = head.segments(bytes).find(|segment| segment.kind == HEADERS).map(|segment| segment.address);
    let covered = head.segments(bytes).find(|segment| {
        segment.kind == LOAD && segment.offset <= head.offset && head.offset < segment.offset.wrapping_add(segment.in_file)
    });
    let headers = named.or(covered.map(|segment| segment.address.wrapping_add(head.offset - segment.offset)));
    let entry = bias.wrapping_add(head.entry);
    let mut loaded = Loaded {
        entry,
        start: entry,
        interpreter_base: 0,
        headers: headers.map_or(0, |headers| bias.wrapping_add(headers)),
        header_count: u64::from(head.count),
    };
    if let Some((offset, length)) = head.interpreter(bytes) {
        let (base, start) = match interpreter {
            Some(interpreter) => load_interpreter(interpreter.into())?,
            None => load_far_interpreter(file, offset, length)?,
        };
        (loaded.interpreter_base, loaded.start) = (base, start);
    }
    kernel::close(file as i32);
    Ok(loaded)
}

/// One whose name is not in the start of the file.
#[inline(never)]
fn load_far_interpreter(file: Answer, offset: usize, length: usize) -> Result<(u64, u64), Answer> {
    let mut name = [0; kernel::PATH_MAX + 1];
    read(file, &mut name[..length], offset as u64)?;
    load_interpreter(path::open(AT_FDCWD, name.as_ptr(), O_CLOEXEC))
}

/// Loads what was opened, or failed to be.
#[inline(never)]
fn load_interpreter(file: Answer) -> Result<(u64, u64), Answer> {
    if file < 0 {
        return Err(file);
    }
    let mut bytes = [0; 2048];
    let length = read(file, &mut bytes, 0)?;
    let head = Head::parse(&bytes[..length]).ok_or(ENOEXEC)?;
    let bias = map(file, head, &bytes[..length])?;
    kernel::close(file as i32);
    Ok((bias, bias.wrapping_add(head.entry)))
}

fn read(file: Answer, buffer: &mut [u8], offset: u64) -> Result<usize, Answer> {
    let length = call(n::PREAD64, [file as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, offset, 0, 0]);
    if length < 0 { Err(length) } else { Ok(length as usize) }
}

/// Maps all segments; gives what is to be added to the addresses in the file.
fn map(file: Answer, head: Head, bytes: &[u8]) -> Result<u64, Answer> {
    let (mut low, mut high, mut alignment) = (u64::MAX, 0, page());
    for segment in head.loaded(bytes) {
        let end = segment.address.checked_add(segment.in_memory).filter(|end| *end < ADDRESS_LIMIT).ok_or(ENOEXEC)?;
        if segment.in_file > segment.in_memory || segment.address & (page() - 1) != segment.offset & (page() - 1) {
            return Err(ENOEXEC);
        }
        (low, high) = (low.min(segment.address), high.max(end));
        if segment.alignment.is_power_of_two() && segment.alignment < 1 << 30 {
            alignment = alignment.max(segment.alignment);
        }
    }
    if low >= high {
        return Err(ENOEXEC);
    }
    let (low, high) = (low & !(page() - 1), high.next_multiple_of(page()));
    let mut bias = 0;
    if head.is_movable {
        if alignment == page()
            && let Some(bias) = map_downwards(file, head, bytes, low)?
        {
            return Ok(bias);
        }
        bias = reserve(low, high - low, alignment)?;
    }
    for segment in head.loaded(bytes) {
        if segment.in_file > 0 {
            const FIXED: u64 = 0x10;
            let mapped = segment.map(file, bias.wrapping_add(segment.page_start()), segment.file_pages(), FIXED);
            if kernel::is_error(mapped) {
                return Err(mapped);
            }
        }
        segment.clear_rest(bias)?;
    }
    Ok(bias)
}

/// The same from the last one down, below which there is mostly room, if they stand in their order without a page between two: for
/// less than half of what it costs to find room for all of them first and to map over that. `None` if there was none.
fn map_downwards(file: Answer, head: Head, bytes: &[u8], low: u64) -> Result<Option<u64>, Answer> {
    const NOT_OVER_OTHERS: u64 = 0x10_0000;
    let mut end = Some(low);
    for segment in head.loaded(bytes) {
        let follows = end == Some(segment.page_start()) && segment.in_file > 0;
        // Only what comes last has more in memory than in the file.
        end = (segment.in_file == segment.in_memory).then_some(segment.page_start().wrapping_add(segment.file_pages()));
        if !follows {
            return Ok(None);
        }
    }
    let Some(last) = head.loaded(bytes).last() else { return Ok(None) };
    let mapped = last.map(file, 0, (last.address + last.in_memory).next_multiple_of(page()) - last.page_start(), 0);
    if kernel::is_error(mapped) {
        return Err(mapped);
    }
    let bias = (mapped as u64).wrapping_sub(last.page_start());
    last.clear_rest(bias)?;
    for segment in head.loaded(bytes).rev().skip(1) {
        let (wanted, length) = (bias.wrapping_add(segment.page_start()), segment.file_pages());
        let mapped = segment.map(file, wanted, length, NOT_OVER_OTHERS);
        if mapped as u64 != wanted {
            if !kernel::is_error(mapped) {
                kernel::unmap(mapped as u64, length as usize);
            }
            let end = bias.wrapping_add(last.address + last.in_memory).next_multiple_of(page());
            kernel::unmap(wanted + length, (end - wanted - length) as usize);
            return Ok(None);
        }
    }
    Ok(Some(bias))
}

/// Finds room; gives the distance from `low`.
fn reserve(low: u64, length: u64, alignment: u64) -> Result<u64, Answer> {
    // Any page will do, mostly.
    let spare = if alignment > page() { alignment } else { 0 };
    let room = call(n::MMAP, [0, length + spare, 0, 0x4022, u64::MAX, 0]);
    if kernel::is_error(room) {
        return Err(ENOMEM);
    }
    let room = room as u64;
    let start = (room + (low & (alignment - 1))).next_multiple_of(alignment);
    if start > room {
        kernel::unmap(room, (start - room) as usize);
    }
    let (end, room_end) = (start + length, room + length + spare);
    if end < room_end {
        kernel::unmap(end, (room_end - end) as usize);
    }
    Ok(start.wrapping_sub(low))
}

/// The last part of a path.
pub(crate) fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// Starts what was loaded, on the stack that the kernel made for the stub, without the stub's own variable.
///
/// # Safety
/// `stack` is that stack, and `variables` the number of variables with the stub's own, which is the last one.
pub(crate) unsafe fn start(stack: *mut u64, arguments: usize, variables: usize, loaded: &Loaded, secure: bool) -> ! {
    let who = &super::state::state().credentials;
    // SAFETY: the layout of a new program's stack: the count, arguments, null, variables, null, pairs of numbers.
    unsafe {
        let mut pair = stack.add(1 + arguments + 1 + variables + 1);
        while *pair != 0 {
            let value = match *pair {
                3 => Some(loaded.headers),
                4 => Some(HEADER_LENGTH as u64),
                5 => Some(loaded.header_count),
                7 => Some(loaded.interpreter_base),
                9 => Some(loaded.entry),
                11 => Some(u64::from(who.user.real)),
                12 => Some(u64::from(who.user.effective)),
                13 => Some(u64::from(who.group.real)),
                14 => Some(u64::from(who.group.effective)),
                23 => Some(u64::from(secure)),
                31 => Some(super::state::setting().program_shown.as_ptr() as u64),
                _ => None,
            };
            if let Some(value) = value {
                *pair.add(1) = value;
            }
            pair = pair.add(2);
        }
        // The list of variables ends one earlier; what follows it moves up, and the stack begins where it was.
        let own = stack.add(1 + arguments + 1 + variables - 1);
        let after = pair.add(2).offset_from(own.add(1)) as usize;
        core::ptr::copy(own.add(1), own, after);
        arch::enter(stack as u64, loaded.start)
    }
}
