//! Texts that end with zero, and small ones put together without memory of one's own.

use super::kernel::{self, AT_FDCWD, Answer};

/// Bytes of a word: so many are looked at at once.
const WORD: usize = 8;

/// The highest bit of each byte of `word` that is `byte`.
fn equal_bytes(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let different = word ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    !(((different & LOW) + LOW) | different | LOW)
}

/// Length of a text.
///
/// # Safety
/// It ends with zero.
pub(crate) unsafe fn length(text: *const u8) -> usize {
    let skip = text as usize % WORD;
    let mut at = text.wrapping_sub(skip);
    // What stands before the text, in its first word, is taken for something else than its end.
    let mut before = !(u64::MAX << (8 * skip));
    loop {
        // SAFETY: a word that is aligned is on one page, and the text is on this one. Read so that nobody asks what else is there.
        let word = u64::from_le(unsafe { at.cast::<u64>().read_volatile() }) | before;
        let ends = equal_bytes(word, 0);
        if ends != 0 {
            return at as usize + ends.trailing_zeros() as usize / 8 - text as usize;
        }
        (at, before) = (at.wrapping_add(WORD), 0);
    }
}

/// The words of a text, the last one filled up with `filler`.
fn words(text: &[u8], filler: u8) -> impl Iterator<Item = u64> + '_ {
    text.chunks(WORD).map(move |bytes| match bytes.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().rev().fold(u64::from(filler) * 0x0101_0101_0101_0101, |word, byte| word << 8 | u64::from(*byte)),
    })
}

/// Where a byte stands first.
pub(crate) fn find(text: &[u8], byte: u8) -> Option<usize> {
    words(text, !byte).enumerate().find_map(|(at, word)| {
        let places = equal_bytes(word, byte);
        (places != 0).then(|| WORD * at + places.trailing_zeros() as usize / 8)
    })
}

/// A number that is mostly another for another text.
pub(crate) fn hash(text: &[u8]) -> u64 {
    let mixed = words(text, 0).fold(0, |hash: u64, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95));
    mixed >> 32
}

/// Whether two of a byte stand side by side.
pub(crate) fn has_pair(text: &[u8], byte: u8) -> bool {
    let mut last = 0;
    words(text, !byte).any(|word| {
        let places = equal_bytes(word, byte);
        let is_pair = places & (places << 8 | last) != 0;
        last = places >> 56;
        is_pair
    })
}

/// The bytes of a text, without the zero.
///
/// # Safety
/// It ends with zero, and lives and stays the same for as long as the slice is used.
pub(crate) unsafe fn bytes<'a>(text: *const u8) -> &'a [u8] {
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts(text, length(text)) }
}

/// A text that is being put together. What does not fit is cut off, and `fits` says so.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    length: usize,
    fits: bool,
}

impl<'a> Text<'a> {
    /// An empty one in `buffer`.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        buffer[0] = 0;
        Self { buffer, length: 0, fits: true }
    }

    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let free = self.buffer.len() - 1 - self.length;
        let count = bytes.len().min(free);
        self.fits &= count == bytes.len();
        self.buffer[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
        self.buffer[self.length] = 0;
        self
    }

    /// Appends a number in decimal.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let count = crate::record::decimal(&mut digits, number);
        self.put(&digits[..count])
    }

    /// Appends what a link says.
    pub(crate) fn put_link(&mut self, link: *const u8) -> Result<(), Answer> {
        let end = self.length;
        let room = &mut self.buffer[end..];
        let length = kernel::readlinkat(AT_FDCWD, link, room);
        if length < 0 {
            return Err(length);
        }
        let length = length as usize;
        self.fits &= length < room.len();
        self.cut(end + length.min(self.buffer.len() - 1 - end));
        Ok(())
    }

    /// Shortens it.
    pub(crate) fn cut(&mut self, length: usize) {
        self.length = length;
        self.buffer[length] = 0;
    }

    /// Whether everything had room.
    pub(crate) fn fits(&self) -> bool {
        self.fits
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.buffer.as_ptr()
    }

    /// The room behind the text and its zero.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.length + 1..]
    }

    /// What was put into the room behind a text of this length.
    pub(crate) fn behind(&self, length: usize, count: usize) -> &[u8] {
        &self.buffer[length + 1..length + 1 + count]
    }
}

/// The name by which an open descriptor is reached, also one opened as a path only.
pub(crate) struct DescriptorPath([u8; 32]);

impl DescriptorPath {
    pub(crate) fn new(descriptor: i32) -> Self {
        let mut buffer = [0; 32];
        Text::new(&mut buffer).put(b"/proc/self/fd/").number(u64::from(descriptor.unsigned_abs()));
        Self(buffer)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// Reads a number in decimal and what follows it.
pub(crate) fn number(text: &[u8]) -> (u64, &[u8]) {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = text[..count].iter().fold(0_u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    (value, &text[count..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_cut_off_and_said() {
        let mut buffer = [0xff; 6];
        let mut text = Text::new(&mut buffer);
        text.put(b"ab").number(12);
        assert_eq!((text.as_bytes(), text.fits()), (&b"ab12"[..], true));
        text.put(b"cd");
        assert_eq!((text.as_bytes(), text.fits()), (&b"ab12c"[..], false));
    }

    #[test]
    fn bytes_are_found_wherever_they_stand() {
        let text = b"/usr/share/..a/x\0\0";
        for start in 0..text.len() {
            for end in start..=text.len() {
                let part = &text[start..end];
                assert_eq!(find(part, b'/'), part.iter().position(|byte| *byte == b'/'), "{part:?}");
                assert_eq!(has_pair(part, b'.'), part.windows(2).any(|pair| pair == b".."), "{part:?}");
            }
            // SAFETY: it ends with zeros, and what is read besides is around it.
            assert_eq!(unsafe { length(text[start..].as_ptr()) }, text[start..].iter().position(|byte| *byte == 0).unwrap_or(0));
        }
        assert!(!has_pair(b"1234567.a.", b'.') && has_pair(b"1234567..", b'.') && !has_pair(b"\x2f\xae.", b'.'));
    }

    #[test]
    fn a_number_is_read_to_its_end() {
        assert_eq!(number(b"107,2"), (107, &b",2"[..]));
        assert_eq!(number(b"x"), (0, &b"x"[..]));
    }
}
