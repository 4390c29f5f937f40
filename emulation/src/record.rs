//! Owner, mode and device of a file, recorded where the kernel refuses to store them. Pure.
//!
//! A file or directory carries the record in the attribute [`ATTRIBUTE`] and, so that a look at its mode tells whether there
//! is one, the sticky bit. Its own mode then only keeps it usable for the builder. A device is an empty file with a record.
//! Links, named pipes and sockets can hold no attribute: their owner is the target of a symbolic link in a directory beside
//! the root ([`OWNERS`]), named by inode and time of birth ([`side_name`]), for inodes are used again.
//! Without a record a file belongs to root.

/// The extended attribute with the record.
pub const ATTRIBUTE: &core::ffi::CStr = c"user.cofferdam";
/// Put before the name of an attribute that only root may set (`security.capability`).
pub const ATTRIBUTE_PREFIX: &[u8] = b"user.cofferdam.";
/// Appended to the path of the root: the directory with the owners of what holds no attribute.
pub const OWNERS: &str = ".owners";
/// In that directory: a file of [`MOVES_LENGTH`] bytes, how many moves and removals of directories have begun and have ended, which all
/// processes of a step count. None of it: nobody counts.
pub const MOVES: &str = "moves";
/// Two numbers.
pub const MOVES_LENGTH: usize = 16;
/// Appended to the path of the root: a directory with an empty file for each inode that has several names when a step begins, called
/// as [`side_name`] says. What the step changes by one of them it changes there alone. None of them: no directory.
pub const LINKS: &str = ".links";
/// Appended to the path of the root: a directory that a step cannot see, for it sees the host's there, and that is gone after it.
pub const UNSEEN: &str = "/dev/";
/// The mode bit (sticky) that says that there is a record.
pub const MARK: u32 = 0o1000;
/// The mode bit (setgid) that says, of a file that nobody may execute, that its owner has no right to write to it, and to read
/// it only where somebody else has, too: so dpkg makes each file (0000), and Git each object (0444), and a record for each would
/// cost more than the file. Without a right to execute it means nothing to the kernel, which keeps it when the file is written
/// to.
const CLOSED: u32 = 0o2000;

/// The type bits of a mode.
pub const TYPE: u32 = 0o170_000;
/// A directory.
pub const DIRECTORY: u32 = 0o040_000;
/// A regular file.
pub const REGULAR: u32 = 0o100_000;
/// A character device.
pub const CHARACTER: u32 = 0o020_000;
/// A symbolic link.
pub const LINK: u32 = 0o120_000;
/// A block device.
pub const BLOCK: u32 = 0o060_000;

/// What an image says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Device number as the kernel's 32 bits (minor's low byte, major's 12 bits, minor's upper bits).
    pub device: u32,
}

impl Record {
    /// Number of bytes of a record.
    pub const LENGTH: usize = 16;

    /// The bytes of the attribute.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        for (place, word) in bytes.chunks_exact_mut(4).zip([self.uid, self.gid, self.mode, self.device]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the attribute. A step may write what it likes there: a type that a record cannot have is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let record = Self { uid: word(0), gid: word(4), mode: word(8), device: word(12) };
        let is_known = matches!(record.mode & TYPE, DIRECTORY | REGULAR | CHARACTER | BLOCK);
        (is_known && record.mode & !(TYPE | 0o7777) == 0).then_some(record)
    }

    /// Whether the real mode says it all, and no record is needed.
    pub fn is_plain(self) -> bool {
        let kind = self.mode & TYPE;
        let needed = usable(kind);
        self.uid == 0
            && self.gid == 0
            && (kind == DIRECTORY || kind == REGULAR)
            && self.mode & 0o7000 == 0
            && (self.mode & needed == needed || self.is_closed())
    }

    fn is_closed(self) -> bool {
        self.mode & (TYPE | 0o111) == REGULAR && self.mode & 0o700 == owner_of_closed(self.mode)
    }

    /// The mode that the file gets on disk.
    pub fn real_mode(self) -> u32 {
        let mark = match (self.is_plain(), self.is_closed()) {
            (false, _) => MARK,
            (true, true) => CLOSED,
            (true, false) => 0,
        };
        self.mode & 0o777 | usable(self.mode & TYPE) | mark
    }
}

/// The mode on disk of a file that root makes with these permissions.
pub fn made_mode(permissions: u32) -> u32 {
    Record { uid: 0, gid: 0, mode: REGULAR | permissions & 0o777, device: 0 }.real_mode()
}

/// The permissions that a type and mode on disk stand for, where there is no record.
pub fn plain_mode(real: u32) -> u32 {
    let is_closed = real & (TYPE | CLOSED | 0o111) == REGULAR | CLOSED;
    if is_closed { real & 0o077 | owner_of_closed(real) } else { real & 0o777 }
}

/// The rights of the owner of a closed file, by those of the others.
fn owner_of_closed(mode: u32) -> u32 {
    if mode & 0o044 == 0 { 0 } else { 0o400 }
}

/// What the builder needs of a file whoever owns it in the image.
fn usable(kind: u32) -> u32 {
    if kind == DIRECTORY { 0o700 } else { 0o600 }
}

/// The name of a record beside the root; `buffer` takes it. Gives its length; a zero byte follows.
pub fn side_name(buffer: &mut [u8; 72], inode: u64, birth_seconds: u64, birth_nanoseconds: u64) -> usize {
    let mut at = 0;
    for (index, number) in [inode, birth_seconds, birth_nanoseconds].into_iter().enumerate() {
        if index > 0 {
            buffer[at] = b'.';
            at += 1;
        }
        at += decimal(&mut buffer[at..], number);
    }
    buffer[at] = 0;
    at
}

/// The content of a record beside the root; as [`side_name`].
pub fn side_value(buffer: &mut [u8; 24], uid: u32, gid: u32) -> usize {
    let mut at = decimal(&mut buffer[..], u64::from(uid));
    buffer[at] = b':';
    at += 1;
    at += decimal(&mut buffer[at..], u64::from(gid));
    buffer[at] = 0;
    at
}

/// Reads what [`side_value`] wrote.
pub fn parse_side_value(value: &[u8]) -> Option<(u32, u32)> {
    let colon = value.iter().position(|byte| *byte == b':')?;
    let number = |digits: &[u8]| core::str::from_utf8(digits).ok()?.parse().ok();
    Some((number(&value[..colon])?, number(&value[colon + 1..])?))
}

/// Writes `number` in decimal; gives its length.
pub fn decimal(buffer: &mut [u8], mut number: u64) -> usize {
    let mut digits = [0_u8; 20];
    let mut count = 0;
    loop {
        digits[count] = b'0' + (number % 10) as u8;
        count += 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    for (place, digit) in buffer.iter_mut().zip(digits[..count].iter().rev()) {
        *place = *digit;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record { uid: 33, gid: u32::MAX, mode: CHARACTER | 0o4755, device: 0x0103 };
        assert_eq!(Record::parse(&record.to_bytes()), Some(record));
        assert_eq!(Record::parse(&[0; 15]), None);
        assert_eq!(Record::parse(&[0xff; 16]), None);
    }

    #[test]
    fn only_what_the_disk_cannot_say_is_recorded() {
        for (uid, mode, plain, real) in [
            (0, REGULAR | 0o644, true, 0o644),
            (0, REGULAR | 0o444, true, CLOSED | 0o644),
            (0, REGULAR, true, CLOSED | 0o600),
            (0, REGULAR | 0o022, true, CLOSED | 0o622),
            (0, REGULAR | 0o400, false, MARK | 0o600),
            (0, REGULAR | 0o044, false, MARK | 0o644),
            (0, REGULAR | 0o555, false, MARK | 0o755),
            (33, REGULAR | 0o444, false, MARK | 0o644),
            (0, REGULAR | 0o4755, false, MARK | 0o755),
            (33, REGULAR | 0o640, false, MARK | 0o640),
            (0, DIRECTORY | 0o755, true, 0o755),
            (0, DIRECTORY | 0o1777, false, MARK | 0o777),
            (0, DIRECTORY | 0o555, false, MARK | 0o755),
            (0, BLOCK | 0o660, false, MARK | 0o660),
        ] {
            let record = Record { uid, gid: 0, mode, device: 0 };
            assert_eq!((record.is_plain(), record.real_mode()), (plain, real), "{uid} {mode:o}");
            if plain {
                assert_eq!(plain_mode(mode & TYPE | real), mode & 0o777, "{mode:o}");
            }
        }
    }

    #[test]
    fn names_and_values_beside_the_root_are_numbers() {
        let mut name = [0; 72];
        let length = side_name(&mut name, 12, u64::MAX, 0);
        assert_eq!(&name[..length], b"12.18446744073709551615.0");
        let mut value = [0; 24];
        let length = side_value(&mut value, 0, u32::MAX);
        assert_eq!(parse_side_value(&value[..length]), Some((0, u32::MAX)));
        assert_eq!(parse_side_value(b"1"), None);
        assert_eq!(parse_side_value(b"a:b"), None);
    }
}
