//! How far a whole build is from what the machine can do at best: `limits pack` and `limits unpack`.
//!
//! Both print seconds of processor time, ours and that of the bare work, taken in turns, and their ratio. `pack` copies the
//! files of a directory into an image; the bare work reads, hashes, compresses block by block with the same library at the same
//! level, and hashes again. Without a directory it makes two: one of text, where both do the same, and one of which half is
//! noise, which we store as it is and the bare work compresses in vain. `unpack` runs `true` on an image of the given layers; the bare work hashes and decompresses each
//! with the same library, hashes again, and lets `tar` unpack it.
//!
//! Both write to `--directory`, for which a tmpfs is right.

#![allow(clippy::print_stdout, reason = "that is what it is for")]

use libdeflater::{CompressionLvl, Compressor};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What Cofferdam compresses at a time, and how hard.
const BLOCK_BYTES: usize = 1 << 20;
const LEVEL: i32 = 4;

/// Of `/proc/self/stat`, on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Arguments {
    cofferdam: PathBuf,
    directory: PathBuf,
    rounds: usize,
    inputs: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let mut words = env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let mut arguments = Arguments { cofferdam: "cofferdam".into(), directory: "/dev/shm".into(), rounds: 5, inputs: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--cofferdam" => arguments.cofferdam = value()?.into(),
            "--directory" => arguments.directory = value()?.into(),
            "--rounds" => arguments.rounds = value()?.parse()?,
            _ => arguments.inputs.push(word.into()),
        }
    }
    let work = tempfile::tempdir_in(&arguments.directory)?;
    match what.as_str() {
        "pack" => {
            let dockerfile = work.path().join("Dockerfile");
            fs::write(&dockerfile, "FROM scratch\nCOPY . /\n")?;
            let pack = |what: &str, context: &Path| {
                let ours = || build(&arguments, work.path(), &dockerfile, context, None);
                compare(what, arguments.rounds, ours, || pack_alone(context))
            };
            if let [context] = &arguments.inputs[..] {
                return pack("pack", context);
            }
            let (text, mixed) = (work.path().join("text"), work.path().join("mixed"));
            write_files(&text, false)?;
            pack("pack, text", &text)?;
            fs::remove_dir_all(text)?;
            write_files(&mixed, true)?;
            pack("pack, half of it noise, which only the bare work compresses", &mixed)
        }
        "unpack" if !arguments.inputs.is_empty() => {
            let layout = work.path().join("layout");
            write_layout(&layout, &arguments.inputs)?;
            let dockerfile = work.path().join("Dockerfile");
            fs::write(&dockerfile, "FROM base\nRUN true\n")?;
            let ours = || build(&arguments, work.path(), &dockerfile, &layout, Some(&layout));
            compare("unpack", arguments.rounds, ours, || unpack_alone(&arguments.inputs, &work.path().join("alone")))
        }
        _ => {
            Err("limits pack [--cofferdam FILE] [--directory DIRECTORY] [--rounds N] [DIRECTORY] | limits unpack … LAYER.tar.gz…"
                .into())
        }
    }
}

/// Runs both in turns and prints the medians.
fn compare(what: &str, rounds: usize, ours: impl Fn() -> Result<()>, alone: impl Fn() -> Result<()>) -> Result<()> {
    let (mut our_seconds, mut alone_seconds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        our_seconds.push(cpu_seconds(&ours)?);
        alone_seconds.push(cpu_seconds(&alone)?);
    }
    let (ours, alone) = (median(&mut our_seconds), median(&mut alone_seconds));
    println!("{what}: ours {ours:.2} s, alone {alone:.2} s of processor time: {:.2}", ours / alone);
    Ok(())
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

fn cpu_seconds(work: impl Fn() -> Result<()>) -> Result<f64> {
    let before = cpu_seconds_so_far()?;
    work()?;
    Ok(cpu_seconds_so_far()? - before)
}

/// Of this process and of its children that ended.
fn cpu_seconds_so_far() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let behind_name = text.rsplit(')').next().unwrap_or_default();
    // utime, stime, cutime, cstime: fields 14 to 17, of which the third is the first one here.
    let ticks = behind_name.split_whitespace().skip(11).take(4).map(str::parse::<u32>).sum::<std::result::Result<u32, _>>()?;
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
}

fn build(arguments: &Arguments, work: &Path, dockerfile: &Path, context: &Path, base: Option<&Path>) -> Result<()> {
    let state = work.join("state");
    let mut command = Command::new(&arguments.cofferdam);
    command.arg("build").arg("--quiet").arg("--no-push").arg("--state-dir").arg(&state).arg("--file").arg(dockerfile);
    if let Some(layout) = base {
        command.arg(format!("--build-context=base=oci-layout://{}", layout.display()));
    }
    let output = command.arg(context).output()?;
    if !output.status.success() {
        return Err(format!("cofferdam failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    fs::remove_dir_all(state)?;
    Ok(())
}

/// 256 MiB in files of 256 KiB: text of words that are as unequally frequent as those of programs, or every other file noise.
fn write_files(directory: &Path, is_mixed: bool) -> Result<()> {
    const FILES: usize = 1024;
    const FILE_BYTES: usize = 256 << 10;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut words: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4096 {
        let mut word = random().to_le_bytes().map(|byte| b'a' + byte % 26).to_vec();
        word.truncate(2 + word.len() * words.len() / 5461);
        word.push(if random() % 8 == 0 { b'\n' } else { b' ' });
        words.push(word);
    }
    fs::create_dir(directory)?;
    for number in 0..FILES {
        let mut bytes = Vec::with_capacity(FILE_BYTES + 16);
        while bytes.len() < FILE_BYTES {
            if is_mixed && number % 2 == 0 {
                bytes.extend_from_slice(&random().to_le_bytes());
            } else {
                // The product of three numbers is small more often than large.
                let at = (0..3).fold(words.len() as u64, |most, _| (random() % 4096 * most) >> 12);
                bytes.extend_from_slice(&words[usize::try_from(at)?]);
            }
        }
        bytes.truncate(FILE_BYTES);
        fs::write(directory.join(format!("{number:04}")), bytes)?;
    }
    Ok(())
}

fn pack_alone(directory: &Path) -> Result<()> {
    let mut files = vec![directory.to_owned()];
    let mut compressor = Compressor::new(CompressionLvl::new(LEVEL).map_err(|_| "the library has no such level")?);
    let (mut uncompressed, mut compressed) = (Sha256::new(), Sha256::new());
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut out = vec![0; compressor.gzip_compress_bound(BLOCK_BYTES)];
    let mut pack = |block: &mut Vec<u8>| -> Result<()> {
        uncompressed.update(&block);
        let count = compressor.gzip_compress(block, &mut out)?;
        compressed.update(&out[..count]);
        block.clear();
        Ok(())
    };
    while let Some(path) = files.pop() {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                files.push(entry?.path());
            }
        } else if kind.is_file() {
            let mut file = File::open(path)?;
            while (&mut file).take((BLOCK_BYTES - block.len()) as u64).read_to_end(&mut block)? > 0 {
                if block.len() == BLOCK_BYTES {
                    pack(&mut block)?;
                }
            }
        }
    }
    pack(&mut block)?;
    std::hint::black_box((uncompressed.finalize(), compressed.finalize()));
    Ok(())
}

fn unpack_alone(layers: &[PathBuf], directory: &Path) -> Result<()> {
    fs::create_dir(directory)?;
    for layer in layers {
        let mut tar = Command::new("tar").arg("--extract").arg("--directory").arg(directory).stdin(Stdio::piped()).spawn()?;
        let mut input = tar.stdin.take().ok_or("tar has no input")?;
        let mut compressed = Hashing { from: BufReader::with_capacity(1 << 16, File::open(layer)?), hasher: Sha256::new() };
        let mut decoder = flate2::read::MultiGzDecoder::new(&mut compressed);
        let mut uncompressed = Sha256::new();
        let mut block = vec![0; 1 << 16];
        loop {
            let count = decoder.read(&mut block)?;
            if count == 0 {
                break;
            }
            uncompressed.update(&block[..count]);
            input.write_all(&block[..count])?;
        }
        drop(input);
        if !tar.wait()?.success() {
            return Err("tar failed".into());
        }
        std::hint::black_box((uncompressed.finalize(), compressed.hasher.finalize()));
    }
    fs::remove_dir_all(directory)?;
    Ok(())
}

struct Hashing<R> {
    from: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// An OCI layout with one image of these layers.
fn write_layout(directory: &Path, layers: &[PathBuf]) -> Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let blob = digest(File::open(layer)?)?;
        diff_ids.push(format!("sha256:{}", digest(flate2::read::MultiGzDecoder::new(BufReader::new(File::open(layer)?)))?));
        let size = fs::copy(layer, blobs.join(&blob))?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(json!({"mediaType": media_type, "digest": format!("sha256:{blob}"), "size": size}));
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Env": environment},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = write_document(&blobs, "application/vnd.oci.image.config.v1+json", &config)?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": descriptors});
    let manifest = write_document(&blobs, manifest_type, &manifest)?;
    fs::write(directory.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
    Ok(())
}

/// Writes a document as a blob; gives its descriptor.
fn write_document(blobs: &Path, media_type: &str, document: &serde_json::Value) -> Result<serde_json::Value> {
    let text = document.to_string();
    let digest = digest(text.as_bytes())?;
    fs::write(blobs.join(&digest), &text)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": text.len()}))
}

fn digest(mut from: impl Read) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
