//! Reads members one after the other, in one pass, with bounded memory.
//!
//! Nothing is believed: sizes are counted against the bytes that come, metadata has a limit, no buffer is allocated by a
//! claimed length.

use super::{BLOCK, CAPABILITY, Kind, Record, TarError};
use crate::tree::Timestamp;
use std::io::{self, Read};

/// What one long name, one set of PAX records or one sparse map may take, as in Go's reader.
const METADATA_LIMIT: u64 = 1 << 20;

/// Reads an archive. After [`next_member`](Self::next_member), reading from it yields the data of that member.
pub struct Reader<R> {
    source: R,
    /// Bytes taken from the source.
    position: u64,
    data: Data,
}

/// A member and where its data begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member.
    pub record: Record,
    /// Position of the first byte of its data in the archive; of the bytes as they are stored, for a sparse file.
    pub offset_bytes: u64,
}

/// What is left of the current member.
#[derive(Default)]
struct Data {
    /// Bytes in the archive that are not read yet.
    stored_bytes: u64,
    /// Zeros after them.
    padding_bytes: u64,
    /// For a sparse file: where the bytes belong.
    holes: Option<SparseFile>,
}

struct SparseFile {
    /// Offset and length of the stored regions, ascending.
    regions: std::vec::IntoIter<(u64, u64)>,
    current: (u64, u64),
    position: u64,
    size_bytes: u64,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of an archive.
    pub fn new(source: R) -> Self {
        Self { source, position: 0, data: Data::default() }
    }

    /// The next member; what is left of the one before is skipped. `None` at the end of the archive: two blocks of zeros,
    /// or the end of the bytes between two members. What stands after the end is not read.
    ///
    /// # Errors
    /// [`TarError`] if the bytes are no archive. The reader is of no use afterwards.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_data()?;
        let mut pax = Pax::default();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = Header(&block);
            let size_bytes = header.size().ok_or_else(|| self.malformed("the size of a header is no number"))?;
            match header.typeflag() {
                // `X` is what old Solaris writers used.
                b'x' | b'X' => {
                    let records = self.metadata(size_bytes)?;
                    pax = Pax::parse(&records).map_err(|what| self.malformed(what))?;
                }
                b'g' => {
                    let records = self.metadata(size_bytes)?;
                    Pax::parse(&records).map_err(|what| self.malformed(what))?;
                }
                b'L' => long_name = Some(until_zero(&self.metadata(size_bytes)?).to_vec()),
                b'K' => long_link = Some(until_zero(&self.metadata(size_bytes)?).to_vec()),
                // A volume label names the tape, not a file.
                b'V' => {
                    self.data = Data::stored(size_bytes);
                    self.skip_data()?;
                }
                _ => {
                    let name = long_name.or(pax.path.take()).unwrap_or_else(|| header.name());
                    let link = long_link.or(pax.link.take()).unwrap_or_else(|| until_zero(&block[157..257]).to_vec());
                    return self.member(&header, pax, name, link).map(Some);
                }
            }
        }
    }

    /// Puts header, long names and PAX records together, and prepares for the data.
    fn member(&mut self, header: &Header<'_>, mut pax: Pax, name: Vec<u8>, link: Vec<u8>) -> Result<Member, TarError> {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let malformed = |what| TarError::Entry { name: shown.clone(), what };
        let name = pax.sparse.name.take().unwrap_or(name);
        if name.contains(&0) || link.contains(&0) {
            return Err(malformed("a name with a zero byte"));
        }
        let stored_bytes = pax.size.or_else(|| header.size()).ok_or_else(|| malformed("its size is no number"))?;
        let device =
            || Some((u32::try_from(number(&header.0[329..337])?).ok()?, u32::try_from(number(&header.0[337..345])?).ok()?));
        let device = || device().ok_or_else(|| malformed("its device is no number"));
        let mut kind = match header.typeflag() {
            // Before ustar, only the slash told a directory.
            0 if name.last() == Some(&b'/') => Kind::Directory,
            // `7`, a contiguous file, is for all but real-time systems a file; `S` is GNU's sparse file.
            0 | b'0' | b'7' | b'S' => Kind::File { size_bytes: stored_bytes },
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            // `D` is GNU's incremental directory; its data is a list of names.
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'M' => return Err(malformed("it is the rest of a file from another volume")),
            _ => return Err(malformed("its type is unknown")),
        };
        let owner = |pax: Option<u32>, field: &[u8]| {
            pax.or_else(|| u32::try_from(number(field)?).ok()).ok_or_else(|| malformed("its owner is no number of 32 bits"))
        };
        let record = Record {
            mode: number(&header.0[100..108])
                .and_then(|mode| u16::try_from(mode & 0o7777).ok())
                .ok_or_else(|| malformed("its mode is no number"))?,
            uid: owner(pax.uid, &header.0[108..116])?,
            gid: owner(pax.gid, &header.0[116..124])?,
            mtime: pax
                .mtime
                .or_else(|| Some(Timestamp::from_seconds(i64::try_from(number(&header.0[136..148])?).ok()?)))
                .ok_or_else(|| malformed("its time is no number"))?,
            capability: pax.capability,
            name,
            kind: Kind::Directory,
        };
        self.data = Data::default();
        if let Kind::File { size_bytes } = &mut kind {
            self.data = Data::stored(stored_bytes);
            let sparse = if header.typeflag() == b'S' {
                Some(self.gnu_sparse_map(header)?)
            } else if pax.sparse.is_version_1() {
                let size_bytes = pax.sparse.size.ok_or_else(|| malformed("a sparse file without size"))?;
                Some((self.sparse_map_before_data()?, size_bytes))
            } else {
                pax.sparse.map().map_err(malformed)?
            };
            if let Some((regions, whole_bytes)) = sparse {
                check_regions(&regions, self.data.stored_bytes, whole_bytes).map_err(malformed)?;
                *size_bytes = whole_bytes;
                self.data.holes =
                    Some(SparseFile { regions: regions.into_iter(), current: (0, 0), position: 0, size_bytes: whole_bytes });
            }
        } else if header.typeflag() == b'D' {
            // Skipped, not read: a directory has no data.
            let skipped = Data::stored(stored_bytes);
            self.data.padding_bytes = skipped.stored_bytes + skipped.padding_bytes;
        }
        Ok(Member { record: Record { kind, ..record }, offset_bytes: self.position })
    }

    /// Old GNU sparse files: four regions in the header, more in blocks after it.
    fn gnu_sparse_map(&mut self, header: &Header<'_>) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let bad = "the map of a sparse file is malformed";
        let size_bytes = unsigned(&header.0[483..495]).ok_or_else(|| self.malformed(bad))?;
        let mut regions = Vec::new();
        let mut add = |fields: &[u8]| -> Option<()> {
            for pair in fields.chunks_exact(24).take_while(|pair| pair[0] != 0) {
                regions.push((unsigned(&pair[..12])?, unsigned(&pair[12..])?));
            }
            Some(())
        };
        add(&header.0[386..482]).ok_or_else(|| self.malformed(bad))?;
        let mut more = header.0[482] != 0;
        let mut blocks = 0;
        while more {
            blocks += BLOCK as u64;
            if blocks > METADATA_LIMIT {
                return Err(self.metadata_too_large());
            }
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            add(&block[..504]).ok_or_else(|| self.malformed(bad))?;
            more = block[504] != 0;
        }
        Ok((regions, size_bytes))
    }

    /// PAX sparse files of version 1.0: decimal numbers, one a line, in the first blocks of the data.
    fn sparse_map_before_data(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = "the map of a sparse file is malformed";
        let mut regions = Vec::new();
        let mut left: Option<u64> = None;
        let (mut offset, mut line) = (None, None);
        let mut taken = 0;
        while left != Some(0) {
            taken += BLOCK as u64;
            if taken > METADATA_LIMIT {
                return Err(self.metadata_too_large());
            }
            self.data.stored_bytes = self.data.stored_bytes.checked_sub(BLOCK as u64).ok_or_else(|| self.malformed(bad))?;
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            for byte in block {
                match (byte, line) {
                    (b'0'..=b'9', value) => {
                        let value: u64 = value.unwrap_or(0);
                        let value = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                        line = Some(value.ok_or_else(|| self.malformed(bad))?);
                    }
                    (b'\n', Some(value)) => {
                        line = None;
                        match (left, offset.take()) {
                            (None, _) => left = Some(value),
                            (_, None) => offset = Some(value),
                            (Some(count), Some(offset)) => {
                                regions.push((offset, value));
                                left = Some(count - 1);
                            }
                        }
                    }
                    _ => return Err(self.malformed(bad)),
                }
                if left == Some(0) {
                    break;
                }
            }
        }
        Ok(regions)
    }

    /// A header with a right checksum; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => Err(self.malformed("a block of zeros between two entries")),
                _ => Ok(None),
            };
        }
        if !Header(&block).checksum_is_right() {
            return Err(self.malformed("the checksum of a header is wrong"));
        }
        Ok(Some(block))
    }

    /// The next block; `None` if no byte is left.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.truncated()),
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(Some(block))
    }

    /// The data of a header that is not a member.
    fn metadata(&mut self, size_bytes: u64) -> Result<Vec<u8>, TarError> {
        if size_bytes > METADATA_LIMIT {
            return Err(self.metadata_too_large());
        }
        self.data = Data::stored(size_bytes);
        let mut bytes = Vec::new();
        // Grows with the bytes that come.
        self.read_to_end(&mut bytes).map_err(|error| self.classify(error))?;
        self.skip_data()?;
        Ok(bytes)
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let mut left = self.data.stored_bytes.checked_add(self.data.padding_bytes).ok_or_else(|| self.truncated())?;
        self.data = Data::default();
        let mut scrap = [0; 16 * BLOCK];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(scrap.len());
            let count = self.read_stored(&mut scrap[..most]).map_err(|error| self.classify(error))?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads at least one byte of what must be there.
    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.source.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, self.truncated())),
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn classify(&self, error: io::Error) -> TarError {
        if matches!(error.get_ref(), Some(inner) if inner.is::<TarError>()) { self.truncated() } else { TarError::Read(error) }
    }

    fn truncated(&self) -> TarError {
        TarError::Truncated { offset_bytes: self.position }
    }

    fn malformed(&self, what: &'static str) -> TarError {
        TarError::Malformed { offset_bytes: self.position, what }
    }

    fn metadata_too_large(&self) -> TarError {
        TarError::MetadataTooLarge { offset_bytes: self.position, limit_bytes: METADATA_LIMIT }
    }
}

/// Reads the data of the current member; holes of a sparse file are zeros. A truncated archive is an error of kind
/// `UnexpectedEof` that holds a [`TarError`], never a short file.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = match &mut self.data.holes {
            None => self.data.stored_bytes,
            Some(file) => match file.next_part() {
                Part::Hole(length) => {
                    let count = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
                    buffer[..count].fill(0);
                    file.position += count as u64;
                    return Ok(count);
                }
                Part::Stored(length) => length,
            },
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.read_stored(&mut buffer[..most])?;
        self.data.stored_bytes -= count as u64;
        if let Some(file) = &mut self.data.holes {
            file.position += count as u64;
        }
        Ok(count)
    }
}

enum Part {
    Hole(u64),
    Stored(u64),
}

impl SparseFile {
    /// What is at the position. A hole of no length is the end.
    fn next_part(&mut self) -> Part {
        loop {
            let (offset, length) = self.current;
            if self.position < offset {
                return Part::Hole(offset - self.position);
            }
            if self.position < offset + length {
                return Part::Stored(offset + length - self.position);
            }
            match self.regions.next() {
                Some(region) => self.current = region,
                None => return Part::Hole(self.size_bytes - self.position),
            }
        }
    }
}

impl Data {
    fn stored(stored_bytes: u64) -> Self {
        Self { stored_bytes, padding_bytes: super::padding(stored_bytes) as u64, holes: None }
    }
}

/// The regions must ascend without overlap, lie in the file, and take exactly the stored bytes.
fn check_regions(regions: &[(u64, u64)], stored_bytes: u64, size_bytes: u64) -> Result<(), &'static str> {
    let mut end: u64 = 0;
    let mut sum: u64 = 0;
    for (offset, length) in regions {
        if *offset < end {
            return Err("the map of a sparse file goes backwards");
        }
        end = offset.checked_add(*length).filter(|end| *end <= size_bytes).ok_or("the map of a sparse file leaves the file")?;
        sum += length;
    }
    if sum == stored_bytes { Ok(()) } else { Err("the map of a sparse file does not match its data") }
}

/// The views of a header block.
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn typeflag(&self) -> u8 {
        self.0[156]
    }

    fn size(&self) -> Option<u64> {
        unsigned(&self.0[124..136])
    }

    /// Some writers of old added up signed bytes.
    fn checksum_is_right(&self) -> bool {
        let sums = self.0.iter().enumerate().fold((0, 0), |(unsigned, signed), (at, byte)| {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            (unsigned + i128::from(byte), signed + i128::from(byte.cast_signed()))
        });
        octal(&self.0[148..156]).is_some_and(|stored| stored == sums.0 || stored == sums.1)
    }

    fn name(&self) -> Vec<u8> {
        let name = until_zero(&self.0[..100]);
        let prefix: &[u8] = match &self.0[257..265] {
            // GNU's header has times where ustar has the prefix. Go before 1.8 wrote a prefix all the same, and images of
            // that age are still pulled: what is no number there is a name.
            magic if magic == b"ustar  \0" => {
                let is_time = |field: &[u8]| field[0] == 0 || number(field).is_some();
                let times = is_time(&self.0[345..357]) && is_time(&self.0[357..369]);
                let prefix = until_zero(&self.0[345..500]);
                if times || !prefix.is_ascii() { b"" } else { prefix }
            }
            // Schilling's tar ends the block with `tar` and keeps times after a shorter prefix.
            magic if magic.starts_with(b"ustar\0") && &self.0[508..512] == b"tar\0" => until_zero(&self.0[345..476]),
            magic if magic.starts_with(b"ustar\0") => until_zero(&self.0[345..500]),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }
}

/// Whether `block` begins with a header: by its checksum, which no other file has by accident.
pub fn is_header(block: &[u8]) -> bool {
    block.first_chunk().is_some_and(|block| *block != [0; BLOCK] && Header(block).checksum_is_right())
}

/// PAX records that concern us.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Timestamp>,
    capability: Option<Vec<u8>>,
    sparse: PaxSparse,
}

/// GNU's three ways to store a sparse file in PAX.
#[derive(Default)]
struct PaxSparse {
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Version 0.0 and 0.1: offset, length, offset, …
    numbers: Option<Vec<u64>>,
}

impl Pax {
    /// Reads `length keyword=value\n` records. The value may hold any byte, newlines included: only the length counts.
    fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or("the length of a PAX record is wrong")?;
            bytes = rest;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("a PAX record without =")?;
            let (keyword, value) = (&record[..equals], &record[equals + 1..]);
            // An empty value takes back what an earlier header said; there is nothing to take back.
            if !value.is_empty() {
                pax.set(keyword, value).ok_or("the value of a PAX record is no number")?;
            }
        }
        Ok(pax)
    }

    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        match keyword {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value).filter(|size| i64::try_from(*size).is_ok())?),
            b"uid" => self.uid = Some(u32::try_from(decimal(value)?).ok()?),
            b"gid" => self.gid = Some(u32::try_from(decimal(value)?).ok()?),
            b"mtime" => self.mtime = Some(time(value)?),
            CAPABILITY => self.capability = Some(value.to_vec()),
            b"GNU.sparse.major" => self.sparse.version.0 = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.version.1 = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let numbers = self.sparse.numbers.get_or_insert_default();
                if numbers.len() % 2 != usize::from(keyword == b"GNU.sparse.numbytes") {
                    return None;
                }
                numbers.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse.numbers = Some(value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?);
            }
            _ => {}
        }
        Some(())
    }
}

impl PaxSparse {
    fn is_version_1(&self) -> bool {
        self.version.0 == Some(1)
    }

    /// Regions and size of a file of version 0; `None` if the file is not sparse.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn map(self) -> Result<Option<(Vec<(u64, u64)>, u64)>, &'static str> {
        match self.version {
            (None, None) if self.numbers.is_none() && self.size.is_none() => return Ok(None),
            (None | Some(0), _) => {}
            _ => return Err("a sparse file of an unknown version"),
        }
        let numbers = self.numbers.unwrap_or_default();
        let size_bytes = self.size.ok_or("a sparse file without size")?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("the map of a sparse file is malformed");
        }
        Ok(Some((pairs.iter().map(|[offset, length]| (*offset, *length)).collect(), size_bytes)))
    }
}

/// The first record without its length and newline, and the rest.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // A length of more than 20 digits is no length.
    let blank = bytes.iter().take(21).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
    let record = bytes.get(..length)?;
    Some((record.get(blank + 1..)?.strip_suffix(b"\n")?, &bytes[length..]))
}

/// A number of a header: octal digits, or base 256 if the first bit is set.
fn number(field: &[u8]) -> Option<i128> {
    let [first, rest @ ..] = field else { return None };
    if first & 0x80 == 0 {
        return octal(field);
    }
    // Seven bits of the first byte, the highest one the sign.
    let head = i128::from(first & 0x3f) - i128::from(first & 0x40);
    Some(rest.iter().fold(head, |value, byte| (value << 8) | i128::from(*byte)))
}

fn unsigned(field: &[u8]) -> Option<u64> {
    i64::try_from(number(field)?).ok()?.try_into().ok()
}

/// Octal digits between blanks and zero bytes; nothing at all is 0.
fn octal(field: &[u8]) -> Option<i128> {
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filler(byte)).unwrap_or(field.len());
    let digits = field[start..].split(is_filler).next().unwrap_or_default();
    digits.iter().try_fold(0, |value, byte| matches!(byte, b'0'..=b'7').then(|| value * 8 + i128::from(byte - b'0')))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional sign and an optional fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..dot], text.get(dot + 1..).unwrap_or_default());
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp::from_seconds(-seconds),
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
