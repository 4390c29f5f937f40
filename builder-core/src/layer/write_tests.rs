//! Layers written, read back by us and by others, on one thread and on many.

use super::*;
use crate::layer::read::{self, Limits};
use crate::oci::Digest;
use crate::tree::{SourceId, text};
use proptest::prelude::*;
use std::{
    process::{Command, Stdio},
    sync::Arc,
};

/// Files by their number; number 9 goes on behind its end.
struct Files(Vec<Vec<u8>>);

impl OpenContent for Files {
    fn open(&self, content: &Content) -> io::Result<Box<dyn Read + Send + '_>> {
        let source = match content {
            Content::Host { source, .. } | Content::Range { source, .. } => source,
            Content::Inline(_) | Content::Layer { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        let bytes = self.0.get(source.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(&bytes[..]))
    }
}

fn options(compression: Compression, threads: usize) -> PackOptions {
    PackOptions { compression, level: None, mtime_limit: None, threads: NonZeroUsize::new(threads).unwrap() }
}

const ALL: [Compression; 3] = [Compression::Uncompressed, Compression::Gzip, Compression::Zstd];

fn file(path: &str, content: Content, size_bytes: u64) -> Change {
    let node = Node::File(File { size_bytes, digest: None, content });
    let entry = Entry { node, mode: 0o644, uid: 0, gid: 0, mtime: Timestamp::default(), capability: None };
    Change::put(TreePath::parse(path).unwrap(), entry)
}

fn host(path: &str, source: u32, size_bytes: u64) -> Change {
    file(path, Content::Host { source: SourceId(source), path: TreePath::root() }, size_bytes)
}

/// Half text, half noise, some MiB of it.
fn mixed(size_bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    (0..size_bytes)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if at / 3_000_000 % 2 == 0 { b"some text that repeats "[at % 23] } else { (state >> 56) as u8 }
        })
        .collect()
}

#[test]
fn a_layer_is_read_as_it_was_written() {
    let layer = "bin/ 0755 0:0 @17\nbin/ping 4755 0:0 @17 cap=010000020a200000 \"x\\n\"\nbin/pong = bin/ping\n\
                 dev/null 0666 0:0 c 1:3\n- etc/old\nhome/u/ 0700 3000000000:1 @-5\nhome/u/l -> /etc/x\\x20y 3:4\npipe 0644 0:0 p\nsda 0600 0:6 b 8:0";
    for compression in ALL {
        let changes = text::parse(layer).unwrap();
        let mut blob = Vec::new();
        let packed = pack(&changes, &Files(vec![]), &options(compression, 2), &mut blob).unwrap();
        assert_eq!((packed.blob.digest, packed.blob.size_bytes), (Digest::of(&blob), blob.len() as u64));
        assert_eq!(packed.blob.media_type.layer_compression(), Some(compression));
        let reading = read::read(&blob[..], packed.diff_id, &Limits::default(), &mut ()).unwrap();
        assert_eq!(reading.index, packed.index);
        assert_eq!((reading.compression, reading.uncompressed_bytes), (compression, packed.uncompressed_bytes));
        let lines: Vec<_> = reading.index.changes.iter().map(text::format_change).collect();
        let expected = layer.replace("\"x\\n\"", "size=2");
        assert_eq!(lines, expected.lines().map(str::trim).collect::<Vec<_>>());
    }
}

#[test]
fn the_bytes_are_pinned() {
    let changes = text::parse("./ 0755 0:0\na/ 0755 1:2 @3\na/f 0644 0:0 \"hello\"\na/g = a/f\n- b").unwrap();
    for (compression, digest) in [
        (Compression::Uncompressed, "sha256:7a950196ef68379c3c9158c1c28843ff98108b5a7adac0c532645fb621c83d5b"),
        (Compression::Gzip, "sha256:15267de043be42b989ed4dc6832b398dc51e7f58288452279f3cae4c604b1f36"),
        (Compression::Zstd, "sha256:fc181ea7bd5fc70fe867d4f01dec43b8fd455828123a8f9a42179cfa2c1b106a"),
    ] {
        let packed = pack(&changes, &Files(vec![]), &options(compression, 1), io::sink()).unwrap();
        assert_eq!(packed.blob.digest.to_string(), digest, "a changed byte takes the cache of every user away: {compression:?}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let files = Files(vec![mixed(7_000_000), vec![0; 3 << 20]]);
    let changes = [host("a", 0, 7_000_000), host("b", 1, 3 << 20)];
    for compression in ALL {
        let write = |threads| {
            let mut blob = Vec::new();
            let packed = pack(&changes, &files, &options(compression, threads), &mut blob).unwrap();
            (packed, blob)
        };
        let one = write(1);
        for threads in [2, 5, 64] {
            assert!(write(threads) == one, "{compression:?} on {threads} threads");
        }
        let reading = read::read(&one.1[..], one.0.diff_id, &Limits::default(), &mut ()).unwrap();
        assert_eq!(reading.index, one.0.index);
    }
}

#[test]
fn what_is_compressed_already_is_stored() {
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let files = Files(vec![noise]);
    for compression in ALL {
        let packed = pack(&[host("a", 0, 4 << 20)], &files, &options(compression, 1), io::sink()).unwrap();
        assert!(packed.blob.size_bytes < (4 << 20) + 4096, "{compression:?}: {}", packed.blob.size_bytes);
    }
}

#[test]
fn gzip_itself_reads_several_members() {
    let files = Files(vec![mixed(5_000_000)]);
    let mut blob = Vec::new();
    let packed = pack(&[host("a", 0, 5_000_000)], &files, &options(Compression::Gzip, 2), &mut blob).unwrap();
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&blob));
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    assert_eq!(Digest::of(&output.stdout), packed.diff_id.0);
}

#[test]
fn later_times_are_clamped_and_fractions_dropped() {
    let mut changes = text::parse("a/ 0755 0:0 @10\nb/ 0755 0:0 @30\nc/ 0755 0:0 @-7").unwrap();
    let Some(entry) = changes[0].entry_mut() else { panic!("a directory") };
    entry.mtime.nanoseconds = 5;
    let options = PackOptions { mtime_limit: Some(Timestamp::from_seconds(20)), ..options(Compression::Gzip, 1) };
    let packed = pack(&changes, &Files(vec![]), &options, io::sink()).unwrap();
    let lines: Vec<_> = packed.index.changes.iter().map(text::format_change).collect();
    assert_eq!(lines, ["a/ 0755 0:0 @10", "b/ 0755 0:0 @20", "c/ 0755 0:0 @-7"]);
    let Change::Put { entry, .. } = &packed.index.changes[0] else { panic!("a directory") };
    assert_eq!(entry.mtime.nanoseconds, 0);
}

#[test]
fn a_hard_link_repeats_owner_and_mode_of_its_file() {
    // Unpackers set them again by each name: a link with other ones would change the file.
    let changes = text::parse("a 4755 1:2 @3 \"x\"\nb = a\nc = b").unwrap();
    let present = check(&changes).unwrap();
    let records: Vec<_> = changes.iter().map(|change| member(change, &present, None)).collect();
    for record in &records[1..] {
        assert_eq!((record.mode, record.uid, record.gid, record.mtime.seconds), (0o4755, 1, 2, 3));
    }
}

#[test]
fn what_is_no_layer_is_refused() {
    for (layer, expected) in [
        ("b/ 0755 0:0\na/ 0755 0:0", "sorted"),
        ("a 0644 0:0 \"\"\na/ 0755 0:0", "twice"),
        ("- a\na/ 0755 0:0", "twice"),
        ("a 0644 0:0 \"\"\na/b 0644 0:0 \"\"", "no directory"),
        ("a 0644 0:0 \"\"\na-b 0644 0:0 \"\"\na/b/c 0644 0:0 \"\"", "no directory"),
        ("- a\na/b 0644 0:0 \"\"", "removed"),
        ("a = b\nb 0644 0:0 \"\"", "hard link"),
        ("b = a", "hard link"),
        ("a/ 0755 0:0\nb = a", "hard link"),
        ("- a\nb = a", "hard link"),
        ("a/.wh.b 0644 0:0 \"\"", ".wh."),
        ("- .wh.b", ".wh."),
        ("! a", "opaque"),
        ("- /", "root"),
        (". 0644 0:0 \"\"", "root"),
    ] {
        let error = pack(&text::parse(layer).unwrap(), &Files(vec![]), &options(Compression::Gzip, 1), io::sink());
        let text = error.expect_err(layer).to_string();
        assert!(text.contains(expected), "{layer}: {text}");
    }
}

#[test]
fn a_file_that_changed_is_named() {
    let files = Files(vec![b"hello".to_vec()]);
    let mut other = host("d/f", 0, 5);
    let Some(file) = other.file_mut() else { panic!("a file") };
    file.digest = Some(ContentDigest::of(b"hullo"));
    for (change, expected) in [
        (host("d/f", 0, 6), "/d/f changed while it was read: it had 6 bytes and has fewer now"),
        (host("d/f", 0, 4), "/d/f changed while it was read: it had 4 bytes and has more now"),
        (other, "/d/f changed while it was read: it has other bytes than before"),
        (host("d/f", 1, 4), "cannot open /d/f"),
    ] {
        let error = pack(&[change], &files, &options(Compression::Gzip, 1), io::sink()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_range_ends_where_the_file_ends() {
    let files = Files(vec![b"hello and the next file".to_vec()]);
    let range = file("f", Content::Range { source: SourceId(0), offset_bytes: 0 }, 5);
    let packed = pack(&[range], &files, &options(Compression::Gzip, 1), io::sink()).unwrap();
    let Change::Put { entry, .. } = &packed.index.changes[0] else { panic!("a file") };
    assert_eq!(entry.file().unwrap().digest, Some(ContentDigest::of(b"hello")));
}

#[test]
fn an_output_that_fails_stops_the_writing() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let files = Files(vec![mixed(12_000_000)]);
    for compression in ALL {
        for (threads, room) in [(1, 0), (4, 0), (2, 2_000_000)] {
            let error = pack(&[host("a", 0, 12_000_000)], &files, &options(compression, threads), Full(room)).unwrap_err();
            assert!(matches!(&error, PackError::Write(source) if source.kind() == io::ErrorKind::StorageFull), "{error:?}");
        }
    }
}

/// Names in a small space, so that parents, siblings and links meet.
fn changes_strategy() -> impl Strategy<Value = Vec<Change>> {
    let node = prop_oneof![
        3 => Just(Node::Directory),
        3 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(|bytes| Node::File(File {
            size_bytes: bytes.len() as u64,
            digest: Some(ContentDigest::of(&bytes)),
            content: Content::Inline(Arc::from(bytes)),
        })),
        1 => prop::collection::vec(1_u8..=255, 1..150).prop_map(Node::Symlink),
        1 => (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Node::CharDevice { major, minor }),
        1 => (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        1 => Just(Node::Fifo),
    ];
    let entry = (
        node,
        0..0o10000_u16,
        any::<u32>(),
        any::<u32>(),
        any::<i32>(),
        prop::option::of(prop::collection::vec(any::<u8>(), 1..24)),
    )
        .prop_map(|(node, mode, uid, gid, seconds, capability)| Entry {
            node,
            mode,
            uid,
            gid,
            mtime: Timestamp::from_seconds(i64::from(seconds)),
            capability,
        });
    let name = prop_oneof![4 => "[ab]", 1 => "[a-c-]{1,3}", 1 => "é.{90,110}"].prop_map(|name| name.replace(['/', '\0'], "_"));
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| TreePath::clamp(parts.join("/")));
    let what = prop_oneof![5 => entry.prop_map(Some), 1 => Just(None)];
    (prop::collection::btree_map(path, what, 0..14), prop::collection::vec(any::<prop::sample::Index>(), 0..3)).prop_map(
        |(entries, links)| {
            let mut changes = Vec::new();
            for (path, what) in entries {
                changes.push(match what {
                    Some(entry) => Change::put(path, entry),
                    None => Change::Remove { path },
                });
            }
            // Some become links to something earlier; what is then no layer is dropped.
            for link in links {
                if changes.len() > 1 {
                    let at = 1 + link.index(changes.len() - 1);
                    changes[at] = Change::Link { path: changes[at].path().clone(), target: changes[at - 1].path().clone() };
                }
            }
            let mut kept = Vec::new();
            for change in changes {
                kept.push(change);
                if check(&kept).is_err() {
                    kept.pop();
                }
            }
            kept
        },
    )
}

proptest! {
    #[test]
    fn every_layer_is_read_as_it_was_written(changes in changes_strategy(), compression in prop::sample::select(ALL.to_vec())) {
        let mut blob = Vec::new();
        let packed = pack(&changes, &Files(vec![]), &options(compression, 3), &mut blob).unwrap();
        let reading = read::read(&blob[..], packed.diff_id, &Limits::default(), &mut ()).unwrap();
        prop_assert_eq!(&reading.index, &packed.index);
        // But for where the bytes are, the index says what went in.
        let without_content = |changes: &[Change]| {
            let mut changes = changes.to_vec();
            for change in &mut changes {
                if let Some(file) = change.file_mut() {
                    file.content = Content::Inline(Arc::from([]));
                }
            }
            changes
        };
        prop_assert_eq!(without_content(&reading.index.changes), without_content(&changes));
    }

    #[test]
    fn another_reader_finds_the_same_files(changes in changes_strategy()) {
        let mut blob = Vec::new();
        pack(&changes, &Files(vec![]), &options(Compression::Gzip, 1), &mut blob).unwrap();
        let mut archive = ::tar::Archive::new(flate2::read::MultiGzDecoder::new(&blob[..]));
        let mut entries = archive.entries().unwrap();
        for change in &changes {
            let mut entry = entries.next().unwrap().unwrap();
            // The other reader loses the records behind a newline in a value; the codec's own tests say more.
            let Change::Put { path, entry: expected } = change else { continue };
            if expected.capability.as_deref().is_some_and(|bytes| bytes.contains(&b'\n')) || matches!(&expected.node, Node::Symlink(target) if target.contains(&b'\n')) || path.as_bytes().contains(&b'\n') {
                continue;
            }
            let name = entry.path_bytes().into_owned();
            prop_assert_eq!(TreePath::parse(&name), Ok(path.clone()));
            prop_assert_eq!(entry.header().mode().unwrap(), u32::from(expected.mode));
            if let Some(File { content: Content::Inline(bytes), .. }) = expected.file() {
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                prop_assert_eq!(&data[..], &bytes[..]);
            }
        }
        prop_assert!(entries.next().is_none());
    }
}
