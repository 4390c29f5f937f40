//! Writes headers: ustar, and PAX records for what ustar cannot hold. Pure, and the same bytes for the same record.

use super::{BLOCK, CAPABILITY, Kind, Record, TarError};

/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The largest number that seven octal digits hold.
const SEVEN_DIGITS: u64 = 0o777_7777;
/// The largest number that eleven octal digits hold.
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;

/// The header blocks of `record`. The data of a file follow, then [`padding`].
///
/// A directory's name gets its trailing `/`. Times are written in whole seconds; there are no user and group names. A name
/// or target outside of ASCII, or one that does not fit, a large number, a time before 1970 and a capability become PAX
/// records before the header.
///
/// # Errors
/// [`TarError::Entry`] for a device number of more than 21 bits, and for a name or target with a zero byte: no reader
/// would get them back.
pub fn header(record: &Record) -> Result<Vec<u8>, TarError> {
    let malformed = |what| TarError::Entry { name: String::from_utf8_lossy(&record.name).into_owned(), what };
    let mut name = record.name.clone();
    if record.kind == Kind::Directory && name.last() != Some(&b'/') {
        name.push(b'/');
    }
    let (size_bytes, link): (u64, &[u8]) = match &record.kind {
        Kind::File { size_bytes } => (*size_bytes, b""),
        Kind::HardLink(target) | Kind::Symlink(target) => (0, target),
        _ => (0, b""),
    };
    if name.contains(&0) || link.contains(&0) {
        return Err(malformed("a name with a zero byte"));
    }
    let (major, minor) = match record.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (u64::from(major), u64::from(minor)),
        _ => (0, 0),
    };
    if major.max(minor) > SEVEN_DIGITS {
        return Err(malformed("a device number of more than 21 bits"));
    }

    // By keyword, as every deterministic writer orders them.
    let mut pax = Vec::new();
    if let Some(capability) = &record.capability {
        add_pax_record(&mut pax, CAPABILITY, capability);
    }
    let gid = fitting(u64::from(record.gid), SEVEN_DIGITS).unwrap_or_else(|| {
        add_pax_record(&mut pax, b"gid", record.gid.to_string().as_bytes());
        0
    });
    if !link.is_ascii() || link.len() > 100 {
        add_pax_record(&mut pax, b"linkpath", link);
    }
    let mtime =
        u64::try_from(record.mtime.seconds).ok().and_then(|seconds| fitting(seconds, ELEVEN_DIGITS)).unwrap_or_else(|| {
            add_pax_record(&mut pax, b"mtime", record.mtime.seconds.to_string().as_bytes());
            0
        });
    let (prefix, suffix) = split(&name).unwrap_or_else(|| {
        add_pax_record(&mut pax, b"path", &name);
        (b"", &name)
    });
    let size = fitting(size_bytes, ELEVEN_DIGITS).unwrap_or_else(|| {
        add_pax_record(&mut pax, b"size", size_bytes.to_string().as_bytes());
        0
    });
    let uid = fitting(u64::from(record.uid), SEVEN_DIGITS).unwrap_or_else(|| {
        add_pax_record(&mut pax, b"uid", record.uid.to_string().as_bytes());
        0
    });

    let mut blocks = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        let base = ascii(record.name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default());
        let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        let fields = Fields { mode: 0o644, size: pax.len() as u64, typeflag: b'x', ..Fields::default() };
        blocks.extend_from_slice(&fields.block(b"", &name, b""));
        blocks.extend_from_slice(&pax);
        blocks.resize(blocks.len() + padding(pax.len() as u64), 0);
    }
    let typeflag = match record.kind {
        Kind::File { .. } => b'0',
        Kind::HardLink(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::CharDevice { .. } => b'3',
        Kind::BlockDevice { .. } => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    let fields = Fields { mode: u64::from(record.mode & 0o7777), uid, gid, size, mtime, typeflag, major, minor };
    blocks.extend_from_slice(&fields.block(prefix, suffix, link));
    Ok(blocks)
}

/// Number of zero bytes after `size_bytes` of data, up to the next block.
#[expect(clippy::cast_possible_truncation, reason = "a remainder is smaller than a block")]
pub const fn padding(size_bytes: u64) -> usize {
    (BLOCK - (size_bytes % BLOCK as u64) as usize) % BLOCK
}

/// The numbers of a header, each one that fits its field.
#[derive(Default)]
struct Fields {
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    typeflag: u8,
    major: u64,
    minor: u64,
}

impl Fields {
    /// The ustar block. Names that are too long are cut: a PAX record holds the whole.
    fn block(&self, prefix: &[u8], name: &[u8], link: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put_text(&mut block[0..100], name);
        put_octal(&mut block[100..108], self.mode);
        put_octal(&mut block[108..116], self.uid);
        put_octal(&mut block[116..124], self.gid);
        put_octal(&mut block[124..136], self.size);
        put_octal(&mut block[136..148], self.mtime);
        block[156] = self.typeflag;
        put_text(&mut block[157..257], link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], self.major);
        put_octal(&mut block[337..345], self.minor);
        put_text(&mut block[345..500], prefix);
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        put_octal(&mut block[148..155], sum);
        block
    }
}

fn fitting(number: u64, most: u64) -> Option<u64> {
    (number <= most).then_some(number)
}

/// The name for the two fields of a ustar header; `None` if it needs a PAX record.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The last slash that leaves a name behind it (a directory's own slash at the end does not) and a prefix that fits.
    let end = name.len() - 1;
    let slash = name[..end.min(156)].iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0)?;
    let (prefix, suffix) = (&name[..slash], &name[slash + 1..]);
    (suffix.len() <= 100).then_some((prefix, suffix))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let text = ascii(text);
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits that fill the field but for a last zero byte.
fn put_octal(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
    debug_assert_eq!(number, 0, "a number that does not fit went to a PAX record");
}

/// `length keyword=value\n`, where the length counts itself.
fn add_pax_record(records: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(keyword);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
