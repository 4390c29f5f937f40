//! Texts that end with zero, and small ones put together without memory of one's own.

use super::kernel::{self, AT_FDCWD, Answer};

/// Length of a text.
///
/// # Safety
/// It ends with zero.
pub(crate) unsafe fn length(text: *const u8) -> usize {
    let mut at = 0;
    // SAFETY: the caller's.
    while unsafe { *text.add(at) } != 0 {
        at += 1;
    }
    at
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
    fn a_number_is_read_to_its_end() {
        assert_eq!(number(b"107,2"), (107, &b",2"[..]));
        assert_eq!(number(b"x"), (0, &b"x"[..]));
    }
}
