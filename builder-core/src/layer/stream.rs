//! Decompresses and hashes on a thread of its own, so that whoever takes the bytes (and writes them to a disk) runs beside it.
//!
//! Memory: [`QUEUE`] + 2 buffers of [`BUFFER_BYTES`], and the decompressor's window: 32 KiB for gzip, at most 128 MiB for zstd
//! (the library's own limit) and [`XZ_MEMORY_BYTES`] for xz.

use super::{
    archive::ArchiveCompression,
    read::{ReadError, TooLarge},
};
use crate::oci::{DiffId, Hasher};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    thread,
};

const BUFFER_BYTES: usize = 128 * 1024;
const QUEUE: usize = 8;
const XZ_MEMORY_BYTES: u64 = 256 << 20;

/// The decompressed bytes, as they arrive from the thread.
pub(super) struct Stream {
    messages: Receiver<Message>,
    spent: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Running,
    Ended,
    /// The thread stopped without saying that it reached the end: it has an error to tell.
    Broken,
}

enum Message {
    Bytes(Vec<u8>),
    End,
}

/// What is known when all bytes were seen.
pub(super) struct Totals {
    pub(super) compression: ArchiveCompression,
    pub(super) diff_id: DiffId,
    pub(super) uncompressed_bytes: u64,
}

/// Runs `consume` on the decompressed bytes of `source`. The totals are there if `consume` read to the end; then `source` was
/// read to its end as well. An error of the source comes before the one that it caused in `consume`.
pub(super) fn decompress<T>(
    source: impl Read + Send,
    accepted: impl FnOnce(ArchiveCompression) -> Result<(), ReadError> + Send,
    limit_bytes: u64,
    consume: impl FnOnce(&mut Stream) -> Result<T, ReadError>,
) -> Result<(T, Option<Totals>), ReadError> {
    let (messages_in, messages) = bounded(QUEUE);
    let (spent, spent_out) = bounded(QUEUE);
    thread::scope(|scope| {
        let pump = move || pump(source, accepted, limit_bytes, &messages_in, &spent_out);
        let thread = thread::Builder::new().name("layer-decompress".into()).spawn_scoped(scope, pump).map_err(ReadError::Blob)?;
        let mut stream = Stream { messages, spent, buffer: Vec::new(), position: 0, state: State::Running };
        let result = consume(&mut stream);
        let broken = stream.state == State::Broken;
        drop(stream); // A thread that still sends stops here.
        let totals = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (result, totals) {
            (Err(_), Err(cause)) if broken => Err(cause),
            (result, totals) => result.map(|value| (value, totals.ok().flatten())),
        }
    })
}

impl Stream {
    /// Reads what is left, so that all of it is hashed and counted.
    pub(super) fn finish(&mut self) -> Result<(), ReadError> {
        io::copy(self, &mut io::sink()).map(drop).map_err(ReadError::Blob)
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position == self.buffer.len() && self.state == State::Running {
            // The thread may have stopped taking buffers back; then this one is simply freed.
            let _ = self.spent.try_send(std::mem::take(&mut self.buffer));
            self.position = 0;
            match self.messages.recv() {
                Ok(Message::Bytes(bytes)) => self.buffer = bytes,
                Ok(Message::End) => self.state = State::Ended,
                Err(_) => self.state = State::Broken,
            }
        }
        if self.state == State::Broken {
            return Err(io::Error::other("the stream broke off"));
        }
        let left = &self.buffer[self.position..];
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        self.position += count;
        Ok(count)
    }
}

/// The thread. `None` if nobody wanted the rest.
fn pump(
    source: impl Read + Send,
    accepted: impl FnOnce(ArchiveCompression) -> Result<(), ReadError>,
    limit_bytes: u64,
    messages: &Sender<Message>,
    spent: &Receiver<Vec<u8>>,
) -> Result<Option<Totals>, ReadError> {
    let (mut source, compression) = recognised(source).map_err(ReadError::Blob)?;
    accepted(compression)?;
    let mut hasher = Hasher::new();
    let mut uncompressed_bytes = 0;
    let mut decoder = decoder(&mut source, compression).map_err(ReadError::Blob)?;
    loop {
        let mut buffer = spent.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        let count = fill(&mut decoder, &mut buffer).map_err(ReadError::Blob)?;
        if count == 0 {
            break;
        }
        buffer.truncate(count);
        uncompressed_bytes += count as u64;
        if uncompressed_bytes > limit_bytes {
            return Err(ReadError::TooLarge(TooLarge::Bytes(limit_bytes)));
        }
        hasher.update(&buffer);
        if messages.send(Message::Bytes(buffer)).is_err() {
            return Ok(None);
        }
    }
    drop(decoder);
    // Whoever counts or hashes the compressed bytes in the source wants to see all of them.
    io::copy(&mut source, &mut io::sink()).map_err(ReadError::Blob)?;
    if messages.send(Message::End).is_err() {
        return Ok(None);
    }
    Ok(Some(Totals { compression, diff_id: DiffId(hasher.finish()), uncompressed_bytes }))
}

/// Looks at the first block without losing it. What is nothing that we know is taken for a plain tar, which will say what is wrong.
pub(super) fn recognised<'a>(mut source: impl Read + Send + 'a) -> io::Result<(impl BufRead + Send + 'a, ArchiveCompression)> {
    let mut first = vec![0; 512];
    let count = fill(&mut source, &mut first)?;
    first.truncate(count);
    let compression = super::archive::sniff(&first).unwrap_or(ArchiveCompression::None);
    Ok((Cursor::new(first).chain(BufReader::with_capacity(64 * 1024, source)), compression))
}

/// The decompressed bytes of `source`: all members of a gzip, all frames of a zstd, all streams of a bzip2 or xz.
pub(super) fn decoder<'a>(source: impl BufRead + Send + 'a, compression: ArchiveCompression) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        ArchiveCompression::None => Box::new(source),
        ArchiveCompression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        ArchiveCompression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        ArchiveCompression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        ArchiveCompression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
    })
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
