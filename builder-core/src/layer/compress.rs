//! Cuts bytes into chunks, compresses them on several threads, and writes them in order.
//!
//! Every chunk is one or more gzip members or a zstd frame of its own, and where they begin depends on nothing but the bytes:
//! the result is the same for any number of threads. Any conforming reader takes members and frames that follow each other as
//! one.
//!
//! Memory: chunks go round in a circle of `2 * threads + 2`, each with its input and its output, so at most
//! `(2 * threads + 2) * 2` times the chunk size: 4 MiB and another 4 MiB per thread for gzip.

use crate::oci::{Compression, Digest, Hasher};
use crossbeam_channel::{Receiver, Sender, unbounded};
use libdeflater::{CompressionLvl, Compressor};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroUsize,
    thread,
};

/// Between 512 KiB and 1 MiB a larger chunk gains less than 0.1 % of the output.
const GZIP_CHUNK_BYTES: usize = 1 << 20;
/// zstd looks back further: 2 MiB at its usual levels.
const ZSTD_CHUNK_BYTES: usize = 2 << 20;

const GZIP_DEFAULT_LEVEL: i32 = 4;
const ZSTD_DEFAULT_LEVEL: i32 = 3;

/// How to compress, the level brought into the range that the format has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    compression: Compression,
    level: i32,
    threads: NonZeroUsize,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

/// Takes the bytes in.
pub(super) struct Input {
    current: Chunk,
    chunks_left: usize,
    free: Receiver<Chunk>,
    work: Sender<Chunk>,
    hasher: Hasher,
    total_bytes: u64,
}

/// The output failed: there is no use in going on. The error is with the thread that writes.
#[derive(Debug)]
pub(super) struct Stopped;

struct Chunk {
    sequence: u64,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl Settings {
    pub(super) fn new(compression: Compression, level: Option<i32>, threads: NonZeroUsize) -> Self {
        let level = match compression {
            Compression::Uncompressed => 0,
            Compression::Gzip => level.unwrap_or(GZIP_DEFAULT_LEVEL).clamp(0, 12),
            Compression::Zstd => level.unwrap_or(ZSTD_DEFAULT_LEVEL).clamp(1, 22),
        };
        Self { compression, level, threads }
    }

    fn chunk_bytes(&self) -> usize {
        match self.compression {
            Compression::Zstd => ZSTD_CHUNK_BYTES,
            Compression::Gzip | Compression::Uncompressed => GZIP_CHUNK_BYTES,
        }
    }

    /// As many threads as there will be chunks, no more than allowed, and one where there is nothing to do but pass on.
    fn threads_for(&self, expected_bytes: u64) -> usize {
        if self.compression == Compression::Uncompressed {
            return 1;
        }
        let chunks = usize::try_from(expected_bytes / self.chunk_bytes() as u64).unwrap_or(usize::MAX).saturating_add(1);
        self.threads.get().min(chunks)
    }
}

/// Runs `produce` on this thread and writes what it puts in, compressed, to `out`. Gives what `produce` gave, the digest and
/// number of the bytes that went in, and what was written.
///
/// `expected_bytes` only decides how many threads are worth their while.
pub(super) fn compress<T, E: From<io::Error>>(
    settings: Settings,
    expected_bytes: u64,
    out: impl Write + Send,
    produce: impl FnOnce(&mut Input) -> Result<T, Failure<E>>,
) -> Result<(T, Written, Written), E> {
    let threads = settings.threads_for(expected_bytes);
    let (work_in, work) = unbounded();
    let (done_in, done) = unbounded();
    let (free_in, free) = unbounded();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (work, done) = (work.clone(), done_in.clone());
            thread::Builder::new().name("layer-compress".into()).spawn_scoped(scope, move || worker(settings, &work, &done))?;
        }
        drop((work, done_in));
        let writer = move || write_in_order(&done, &free_in, out);
        let writer = thread::Builder::new().name("layer-write".into()).spawn_scoped(scope, writer)?;
        let mut input = Input {
            current: Chunk::new(settings.chunk_bytes()),
            chunks_left: 2 * threads + 1,
            free,
            work: work_in,
            hasher: Hasher::new(),
            total_bytes: 0,
        };
        let produced = produce(&mut input).and_then(|value| {
            input.flush(false)?;
            Ok(value)
        });
        let Input { hasher, total_bytes, work, .. } = input;
        drop(work); // The threads end when they have done what they have.
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match produced {
            Ok(value) => Ok((value, Written { digest: hasher.finish(), size_bytes: total_bytes }, written?)),
            Err(Failure::Own(error)) => Err(error),
            Err(Failure::Stopped) => {
                Err(written.err().unwrap_or_else(|| io::Error::other("the threads that compress ended early")).into())
            }
        }
    })
}

/// Why producing ended early.
pub(super) enum Failure<E> {
    /// It failed itself.
    Own(E),
    /// The output failed.
    Stopped,
}

impl<E> From<Stopped> for Failure<E> {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl Input {
    /// Number of bytes taken in so far.
    pub(super) fn position(&self) -> u64 {
        self.total_bytes
    }

    /// Room for more bytes, never empty. Say with [`advance`](Self::advance) how many were put there.
    pub(super) fn space(&mut self) -> Result<&mut [u8], Stopped> {
        if self.current.filled == self.current.input.len() {
            self.flush(true)?;
        }
        let filled = self.current.filled;
        Ok(&mut self.current.input[filled..])
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.current.filled += count;
        self.total_bytes += count as u64;
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.advance(count);
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Hands the current chunk on, and takes a free one if there is more to come.
    fn flush(&mut self, more: bool) -> Result<(), Stopped> {
        self.hasher.update(&self.current.input[..self.current.filled]);
        let sequence = self.current.sequence + 1;
        let next = match self.free.try_recv() {
            _ if !more => Chunk::new(0),
            Ok(chunk) => chunk,
            Err(_) if self.chunks_left > 0 => {
                self.chunks_left -= 1;
                Chunk::new(self.current.input.len())
            }
            Err(_) => self.free.recv().map_err(|_| Stopped)?,
        };
        let full = std::mem::replace(&mut self.current, Chunk { sequence, filled: 0, ..next });
        self.work.send(full).map_err(|_| Stopped)
    }
}

impl Chunk {
    fn new(size_bytes: usize) -> Self {
        Self { sequence: 0, input: vec![0; size_bytes], filled: 0, output: Vec::new() }
    }
}

fn worker(settings: Settings, work: &Receiver<Chunk>, done: &Sender<io::Result<Chunk>>) {
    let mut compressor = match ChunkCompressor::new(settings) {
        Ok(compressor) => compressor,
        Err(error) => return drop(done.send(Err(error))),
    };
    for mut chunk in work {
        let result = compressor.compress(&chunk.input[..chunk.filled], &mut chunk.output).map(|()| chunk);
        if done.send(result).is_err() {
            return;
        }
    }
}

fn write_in_order(done: &Receiver<io::Result<Chunk>>, free: &Sender<Chunk>, mut out: impl Write) -> io::Result<Written> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut hasher = Hasher::new();
    let mut size_bytes = 0;
    for chunk in done {
        let chunk = chunk?;
        waiting.insert(chunk.sequence, chunk);
        while let Some(chunk) = waiting.remove(&next) {
            out.write_all(&chunk.output)?;
            hasher.update(&chunk.output);
            size_bytes += chunk.output.len() as u64;
            next += 1;
            // At the end nobody takes chunks back.
            let _ = free.send(chunk);
        }
    }
    out.flush()?;
    Ok(Written { digest: hasher.finish(), size_bytes })
}

enum ChunkCompressor {
    Uncompressed,
    Gzip { usual: Compressor, stored: Compressor, seen: Box<Seen> },
    Zstd(zstd::bulk::Compressor<'static>),
}

impl ChunkCompressor {
    fn new(settings: Settings) -> io::Result<Self> {
        let gzip = |level| Compressor::new(CompressionLvl::new(level).expect("the level was brought into range"));
        Ok(match settings.compression {
            Compression::Uncompressed => Self::Uncompressed,
            Compression::Gzip => Self::Gzip { usual: gzip(settings.level), stored: gzip(0), seen: Box::default() },
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(settings.level)?),
        })
    }

    fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        output.clear();
        match self {
            Self::Uncompressed => output.extend_from_slice(input),
            Self::Gzip { usual, stored, seen } => {
                for (run, is_incompressible) in runs(input, seen) {
                    gzip(if is_incompressible { stored } else { usual }, run, output);
                }
            }
            Self::Zstd(compressor) => {
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                compressor.compress_to_buffer(input, output)?;
            }
        }
        Ok(())
    }
}

/// Appends `input` as a member of its own.
fn gzip(compressor: &mut Compressor, input: &[u8], output: &mut Vec<u8>) {
    let start = output.len();
    output.resize(start + compressor.gzip_compress_bound(input.len()), 0);
    let count = compressor.gzip_compress(input, &mut output[start..]).expect("the buffer has the size that the library asks for");
    output.truncate(start + count);
}

/// What is judged as a whole.
const BLOCK_BYTES: usize = 32 << 10;

/// Cuts a chunk where blocks that can be compressed meet blocks that cannot. Searching matches in what is compressed already
/// (archives, images, wheels) costs more than anywhere else and gains nothing.
fn runs<'a>(input: &'a [u8], seen: &mut Seen) -> Vec<(&'a [u8], bool)> {
    let mut runs: Vec<(&[u8], bool)> = Vec::new();
    let mut start = 0;
    let mut blocks = input.chunks(BLOCK_BYTES).map(|block| (block.len(), is_incompressible(block, seen))).peekable();
    let mut end = 0;
    while let Some((length, judgement)) = blocks.next() {
        end += length;
        if blocks.peek().is_none_or(|(_, next)| *next != judgement) {
            runs.push((&input[start..end], judgement));
            start = end;
        }
    }
    // An empty chunk is an empty member: without one, no bytes would be no gzip.
    if runs.is_empty() { vec![(input, false)] } else { runs }
}

const SAMPLE_BYTES: usize = 1 << 10;
const SAMPLES: usize = 4;

/// Where four bytes were seen last, by a hash of them.
struct Seen([u32; 4096]);

impl Default for Seen {
    fn default() -> Self {
        Self([0; 4096])
    }
}

/// Judges a block by samples of it: all bytes must be about equally frequent, and sequences must not recur. Either promises a
/// gain of at least 2 % otherwise.
fn is_incompressible(block: &[u8], seen: &mut Seen) -> bool {
    // chi² of even frequencies is 255 ± 23 with any number of bytes; each 2 * 4096 * ln 2 more are one bit in a byte.
    const MOST_UNEVEN: u64 = 255 + 910;
    const MOST_REPEATS: usize = SAMPLES * SAMPLE_BYTES / 50;
    if block.len() < SAMPLES * SAMPLE_BYTES {
        return false;
    }
    let stride = block.len() / SAMPLES;
    let samples = || block.chunks_exact(stride).take(SAMPLES).map(|part| &part[..SAMPLE_BYTES]);
    let mut frequencies = [0_u64; 256];
    for byte in samples().flatten() {
        frequencies[usize::from(*byte)] += 1;
    }
    let total = (SAMPLES * SAMPLE_BYTES) as u64;
    let squares: u64 = frequencies.iter().map(|count| count * count).sum();
    if squares * 256 / total > total + MOST_UNEVEN {
        return false;
    }
    seen.0.fill(0);
    let mut repeats = 0;
    for window in samples().flat_map(|sample| sample.windows(4)) {
        let four = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        let last = &mut seen.0[(four.wrapping_mul(0x9e37_79b1) >> 20) as usize];
        repeats += usize::from(*last == four);
        *last = four;
    }
    repeats <= MOST_REPEATS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that nothing compresses, the same on every machine.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[3]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn judged(block: &[u8]) -> bool {
        is_incompressible(block, &mut Seen::default())
    }

    #[test]
    fn only_what_gains_nothing_is_stored() {
        let text = b"the quick brown fox jumps over the lazy dog; ".repeat(BLOCK_BYTES / 45 + 1);
        let repeated = noise(3, 512).repeat(BLOCK_BYTES / 512);
        let mut deflated = Vec::new();
        let numbers: Vec<u8> = (0..60_000_u64).flat_map(|number| (number * number).to_string().into_bytes()).collect();
        gzip(&mut Compressor::new(CompressionLvl::best()), &numbers, &mut deflated);
        for (claim, block, expected) in [
            ("noise", noise(1, BLOCK_BYTES), true),
            ("what is compressed already", deflated[..BLOCK_BYTES].to_vec(), true),
            ("text", text[..BLOCK_BYTES].to_vec(), false),
            ("zeros", vec![0; BLOCK_BYTES], false),
            ("noise that recurs", repeated, false),
            ("noise of seven bits", noise(2, BLOCK_BYTES).iter().map(|byte| byte & 0x7f).collect(), false),
            ("too little to judge", noise(1, 4000), false),
        ] {
            assert_eq!(judged(&block), expected, "{claim}");
        }
    }

    #[test]
    fn a_chunk_is_cut_where_its_nature_changes() {
        let block = |incompressible: bool| if incompressible { noise(7, BLOCK_BYTES) } else { vec![b'x'; BLOCK_BYTES] };
        let input = [block(true), block(true), block(false), block(true), b"rest".to_vec()].concat();
        let lengths: Vec<_> = runs(&input, &mut Seen::default()).iter().map(|(run, kind)| (run.len(), *kind)).collect();
        assert_eq!(lengths, [(2 * BLOCK_BYTES, true), (BLOCK_BYTES, false), (BLOCK_BYTES, true), (4, false)]);
        assert_eq!(runs(&[], &mut Seen::default()), [(&[][..], false)]);
    }
}
