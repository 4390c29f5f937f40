//! What ranges gain: one large blob from a server that sends no faster on one connection than on each of several, as object stores
//! do.
//!
//! The server is a thread of this process for each connection. Its rate, the time that it takes to answer and the size of the blob
//! can be given: `pull [--megabytes-per-second 40] [--latency-milliseconds 30] [--mebibytes 512] [--connections 4]`.

#![allow(clippy::print_stdout, reason = "that is what it is for")]

use builder_core::{
    http,
    oci::{Descriptor, Reference},
    registry::{Anonymous, Client, Options},
};
use std::{
    env,
    error::Error,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the server sends at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// How the server sends.
#[derive(Clone, Copy)]
struct Pace {
    /// For a chunk.
    pause: Duration,
    latency: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let (mut megabytes_per_second, mut latency_milliseconds, mut mebibytes, mut connections) = (40_u32, 30, 512_u32, 4);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--megabytes-per-second" => megabytes_per_second = value.parse()?,
            "--latency-milliseconds" => latency_milliseconds = value.parse()?,
            "--mebibytes" => mebibytes = value.parse()?,
            "--connections" => connections = value.parse()?,
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    let bytes: Arc<[u8]> = noise(usize::try_from(mebibytes)? << 20).into();
    let pause = Duration::from_secs_f64(f64::from(u32::try_from(CHUNK_BYTES)?) / f64::from(megabytes_per_second) / 1e6);
    let address = serve(bytes.clone(), Pace { pause, latency: Duration::from_millis(latency_milliseconds) })?;
    let (place, blob): (Reference, _) = (format!("{address}/a").parse()?, Descriptor::of("application/octet-stream", &bytes));
    // With two connections, one of which is for questions, there is none for a second range.
    for (what, connections_per_host) in [("one stream", 2), ("ranges", connections)] {
        let options = http::Options { connections_per_host, ..http::Options::default() };
        let client = Client::new(http::Client::new(options)?, Options::default(), Arc::new(Anonymous))?;
        let start = Instant::now();
        let mut reader = client.blob(&place, &blob).await?;
        while reader.chunk().await?.is_some() {}
        let seconds = start.elapsed().as_secs_f64();
        let rate = f64::from(mebibytes) * 1.048_576 / seconds;
        println!("{what}, {connections_per_host} connections: {seconds:.1} s, {rate:.0} MB/s");
    }
    Ok(())
}

/// Bytes that nothing compresses.
fn noise(size_bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(size_bytes / 8).flatten().collect()
}

/// Answers every request with `bytes` or the range of them that is asked for; gives the address.
fn serve(bytes: Arc<[u8]>, pace: Pace) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let bytes = bytes.clone();
            // A client that goes away is a client's right.
            thread::spawn(move || drop(converse(&connection, &bytes, pace)));
        }
    });
    Ok(address)
}

fn converse(mut connection: &TcpStream, bytes: &[u8], pace: Pace) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    let mut due = Instant::now();
    loop {
        let mut range = None;
        loop {
            let mut line = String::new();
            // The question whether TLS is spoken here is no text.
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((first, last)) = line.trim().strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
                range = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
            }
        }
        let (first, last) = range.unwrap_or((0, bytes.len() - 1));
        let (status, all) = (if range.is_some() { "206 Partial Content" } else { "200 OK" }, bytes.len());
        let body = &bytes[first..=last.min(all - 1)];
        thread::sleep(pace.latency);
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{all}\r\n\r\n",
            body.len()
        )?;
        due = due.max(Instant::now());
        for chunk in body.chunks(CHUNK_BYTES) {
            connection.write_all(chunk)?;
            due += pace.pause;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}
