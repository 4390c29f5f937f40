//! What layers and archives mean, hostile ones included.

use super::*;
use crate::layer::archive;
use crate::layer::tar::{
    END,
    tests::{block, member},
};
use crate::oci::Digest;
use crate::tree::{Timestamp, text};
use proptest::prelude::*;
use std::io::Write as _;

fn diff_id(tar: &[u8]) -> DiffId {
    DiffId(Digest::of(tar))
}

fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [&members.concat()[..], &END].concat()
}

fn link(name: &str, typeflag: u8, target: &str) -> Vec<u8> {
    block(name, typeflag, 0, |block| block[157..157 + target.len()].copy_from_slice(target.as_bytes()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every change as a line, and the bytes that came with it.
#[derive(Default)]
struct Recorder(Vec<(String, Vec<u8>)>);

impl Visitor for Recorder {
    fn visit(&mut self, change: &Change, data: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes)?;
        self.0.push((text::format_change(change), bytes));
        Ok(())
    }
}

fn index_text(tar: &[u8]) -> Result<Vec<String>, String> {
    let index = index(tar, diff_id(tar), &Limits::default()).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    })?;
    Ok(index.changes.iter().map(text::format_change).collect())
}

#[test]
fn members_become_changes() {
    for (claim, member, expected) in [
        ("the root is kept", member("./", b'5', b""), &["/ 0644 0:0"][..]),
        ("names are cleaned", member("./a//b/", b'5', b""), &["a/b/ 0644 0:0"]),
        ("an absolute name is below the root", member("/etc/passwd", b'0', b"x"), &["etc/passwd 0644 0:0 size=1"]),
        ("`..` inside the root is resolved", member("a/../b", b'0', b""), &["b 0644 0:0 size=0"]),
        ("a whiteout", member("d/.wh.f", b'0', b""), &["- d/f"]),
        ("a whiteout of any type and size", member(".wh.f", b'5', b""), &["- f"]),
        ("an opaque directory", member("d/.wh..wh..opq", b'0', b""), &["! d"]),
        ("the root may be opaque", member(".wh..wh..opq", b'0', b""), &["! "]),
        ("AUFS notes are no files", member(".wh..wh.plnk/17.3", b'0', b"x"), &[]),
        ("a hard link", link("b", b'1', "/a"), &["b = a"]),
        ("a symbolic link keeps its target as it is", link("l", b'2', "/../../etc"), &["l -> /../../etc"]),
        ("a named pipe", member("p", b'6', b""), &["p 0644 0:0 p"]),
    ] {
        assert_eq!(index_text(&tar(&[member])).unwrap(), expected, "{claim}");
    }
}

#[test]
fn what_leaves_the_root_or_could_not_exist_is_refused() {
    let long = |typeflag, length: usize| {
        [member("L", typeflag, "d/".repeat(length / 2).as_bytes()), block("f", b'2', 0, |_| {})].concat()
    };
    for (claim, member, expected) in [
        ("a name", member("../evil", b'0', b"x"), "../evil"),
        ("a name behind a detour", member("a/../../evil", b'0', b"x"), "leads outside"),
        ("a whiteout", member("../.wh.passwd", b'0', b""), "leads outside"),
        ("the target of a hard link", link("a", b'1', "../../etc/shadow"), "leads outside"),
        ("a hard link to itself", link("a", b'1', "./a"), "itself"),
        ("a hard link to the root", link("a", b'1', "/"), "root"),
        ("a whiteout of the parent", member("d/.wh...", b'0', b""), "whiteout"),
        ("a whiteout of the directory", member("d/.wh..", b'0', b""), "whiteout"),
        ("a whiteout of nothing", member("d/.wh.", b'0', b""), "whiteout"),
        ("a root that is a file", member(".", b'0', b"x"), "root"),
        ("a symbolic link to nothing", link("l", b'2', ""), "nothing"),
        ("a name of 5000 bytes", long(b'L', 5000), "4096"),
        ("a target of 5000 bytes", long(b'K', 5000), "4095"),
    ] {
        let text = index_text(&tar(&[member])).expect_err(claim);
        assert!(text.contains(expected), "{claim}: {text}");
    }
}

#[test]
fn one_pass_indexes_shows_and_verifies_in_every_compression() {
    let tar = tar(&[member("a", b'0', b"hello"), link("b", b'1', "a"), member("d/", b'5', b""), member("d/e", b'0', &[7; 5000])]);
    let (first, second) = tar.split_at(1000);
    for (claim, blob, compression) in [
        ("plain", tar.clone(), Compression::Uncompressed),
        ("gzip", gzip(&tar), Compression::Gzip),
        ("gzip of several members", [gzip(first), gzip(second), gzip(b"")].concat(), Compression::Gzip),
        ("zstd", zstd::encode_all(&tar[..], 1).unwrap(), Compression::Zstd),
        (
            "zstd of several frames, skippable ones too",
            [
                &[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2][..],
                &zstd::encode_all(first, 1).unwrap(),
                &zstd::encode_all(second, 1).unwrap(),
                &[0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 1],
            ]
            .concat(),
            Compression::Zstd,
        ),
    ] {
        let mut recorder = Recorder::default();
        let mut seen = Vec::new();
        let reading = read(Tee(&blob[..], &mut seen), diff_id(&tar), &Limits::default(), &mut recorder).unwrap();
        assert_eq!(reading.compression, compression, "{claim}");
        assert_eq!(reading.uncompressed_bytes, tar.len() as u64, "{claim}");
        assert_eq!(seen, blob, "{claim}: the blob is read to its end");
        let lines: Vec<_> = recorder.0.iter().map(|(line, data)| (line.as_str(), data.len())).collect();
        assert_eq!(
            lines,
            [("a 0644 0:0 size=5", 5), ("b = a", 0), ("d/ 0644 0:0", 0), ("d/e 0644 0:0 size=5000", 5000)],
            "{claim}"
        );
        let Change::Put { entry, .. } = &reading.index.changes[0] else { panic!("{claim}") };
        assert_eq!(
            entry.file(),
            Some(&File {
                size_bytes: 5,
                digest: Some(ContentDigest::of(b"hello")),
                content: Content::Layer { diff_id: diff_id(&tar), offset_bytes: 512 },
            }),
            "{claim}"
        );
    }
}

struct Tee<'a>(&'a [u8], &'a mut Vec<u8>);

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Few bytes at a time, as a network gives them.
        let most = buffer.len().min(700);
        let count = self.0.read(&mut buffer[..most])?;
        self.1.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

#[test]
fn bytes_behind_the_end_marker_belong_to_the_diff_id() {
    let tar = [&tar(&[member("a", b'0', b"x")])[..], &[0; 9000], b"and more"].concat();
    assert_eq!(index_text(&tar).unwrap(), ["a 0644 0:0 size=1"]);
}

#[test]
fn another_tar_than_expected_is_refused() {
    let tar = tar(&[member("a", b'0', b"x")]);
    let other = diff_id(b"other");
    assert!(matches!(index(&tar[..], other, &Limits::default()), Err(ReadError::DiffId { expected, .. }) if expected == other));
}

#[test]
fn a_damaged_blob_is_an_error_of_the_blob() {
    let tar = tar(&[member("a", b'0', &vec![7; 100_000])]);
    let gzip = gzip(&tar);
    let mut flipped = gzip.clone();
    let last = flipped.len() - 5;
    flipped[last] ^= 1;
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    for (claim, blob) in [
        ("a truncated gzip", &gzip[..gzip.len() / 2]),
        ("a gzip without its checksum", &gzip[..gzip.len() - 4]),
        ("a gzip with another checksum", &flipped),
        ("a truncated zstd", &zstd[..zstd.len() - 3]),
    ] {
        let error = index(blob, diff_id(&tar), &Limits::default()).expect_err(claim);
        assert!(matches!(error, ReadError::Blob(_)), "{claim}: {error:?}");
    }
    let error = index(&b"BZh91AY&SY"[..], diff_id(&tar), &Limits::default()).unwrap_err();
    assert!(matches!(error, ReadError::Compression(ArchiveCompression::Bzip2)), "{error:?}");
}

#[test]
fn an_error_of_the_source_comes_before_what_it_causes() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is down"))
        }
    }
    let start = block("a", b'0', 1 << 20, |_| {});
    let error = read(start.chain(Broken), diff_id(b""), &Limits::default(), &mut Recorder::default()).unwrap_err();
    assert!(matches!(&error, ReadError::Blob(source) if source.to_string() == "the line is down"), "{error:?}");
}

#[test]
fn a_visitor_stops_the_reading() {
    struct Full;
    impl Visitor for Full {
        fn visit(&mut self, _: &Change, _: &mut dyn Read) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    // More than the queue between the threads takes.
    let tar = tar(&[member("a", b'0', &vec![7; 4 << 20])]);
    let error = read(&tar[..], diff_id(&tar), &Limits::default(), &mut Full).unwrap_err();
    assert!(
        matches!(&error, ReadError::Visit { path, source } if path.to_string() == "/a" && source.kind() == io::ErrorKind::StorageFull)
    );
}

#[test]
fn bombs_meet_the_limits() {
    let limits = Limits { uncompressed_bytes: 1 << 20, entries: 10, name_bytes: 10_000 };
    let sparse = |size: &str| {
        let record = format!("GNU.sparse.size={size}\n");
        let records = format!("{} {record}", record.len() + 3);
        tar(&[member("x", b'x', records.as_bytes()), member("s", b'0', b"")])
    };
    for (claim, tar, expected) in [
        ("a file of zeros", tar(&[member("a", b'0', &vec![0; 2 << 20])]), TooLarge::Bytes(1 << 20)),
        ("zeros behind the end", vec![0; 2 << 20], TooLarge::Bytes(1 << 20)),
        ("a sparse file", sparse("1048577"), TooLarge::Bytes(1 << 20)),
        ("many entries", tar(&vec![member("a", b'0', b""); 11]), TooLarge::Entries(10)),
        (
            "many names",
            tar(&[member("L", b'L', &[b'n'; 4000]), member("a", b'0', b"")]
                .concat()
                .repeat(3)
                .chunks(512)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()),
            TooLarge::Names(10_000),
        ),
        ("many parents", tar(&[member("L", b'L', "d/".repeat(200).as_bytes()), member("a", b'0', b"")]), TooLarge::Names(10_000)),
    ] {
        let blob = gzip(&tar);
        match index(&blob[..], diff_id(&tar), &limits) {
            Err(ReadError::TooLarge(found)) => assert_eq!(found, expected, "{claim}"),
            other => panic!("{claim}: {other:?}"),
        }
    }
}

#[test]
fn wanted_files_are_extracted_and_verified() {
    let files: Vec<_> = (0..5_u8).map(|at| member(&format!("f{at}"), b'0', &vec![at; 1000 * usize::from(at)])).collect();
    let tar = tar(&files);
    let wanted: BTreeMap<u64, Wanted> = index(&tar[..], diff_id(&tar), &Limits::default())
        .unwrap()
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Put { entry, .. } => entry.file(),
            _ => None,
        })
        .map(|file| match file.content {
            Content::Layer { offset_bytes, .. } => {
                (offset_bytes, Wanted { size_bytes: file.size_bytes, digest: file.digest.unwrap() })
            }
            _ => panic!("a layer's files are in the layer"),
        })
        .filter(|(_, wanted)| wanted.size_bytes % 2000 == 0)
        .collect();
    assert_eq!(wanted.len(), 3);
    // What stands behind the last wanted file is not even looked at.
    let damaged = [&tar[..tar.len() - 600], &[b'x'; 600]].concat();
    let mut sizes = Vec::new();
    let take = |sizes: &mut Vec<u64>, blob: &[u8], wanted: &BTreeMap<u64, Wanted>| {
        extract(blob, wanted, &Limits::default(), &mut |_, data| {
            sizes.push(io::copy(data, &mut io::sink())?);
            Ok(())
        })
    };
    take(&mut sizes, &damaged, &wanted).unwrap();
    assert_eq!(sizes, [0, 2000, 4000]);
    for (claim, wrong) in [
        ("another offset", wanted.iter().map(|(at, wanted)| (at + 1, *wanted)).collect()),
        (
            "another size",
            wanted.iter().map(|(at, wanted)| (*at, Wanted { size_bytes: wanted.size_bytes + 1, ..*wanted })).collect(),
        ),
        ("other bytes", wanted.iter().map(|(at, wanted)| (*at, Wanted { digest: ContentDigest::of(b"?"), ..*wanted })).collect()),
        ("behind the end", BTreeMap::from([(1 << 40, *wanted.values().next().unwrap())])),
    ] {
        let wrong: BTreeMap<u64, Wanted> = wrong;
        assert!(matches!(take(&mut sizes, &tar, &wrong), Err(ReadError::Extract { .. })), "{claim}");
    }
}

#[test]
fn archives_are_recognised_by_their_content() {
    let tar = tar(&[member("a", b'0', b"x")]);
    let bzip2 = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let xz = |bytes: &[u8]| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    for (claim, file, expected) in [
        ("tar", tar.clone(), Some(ArchiveCompression::None)),
        ("gzip", gzip(&tar), Some(ArchiveCompression::Gzip)),
        ("bzip2", bzip2(&tar), Some(ArchiveCompression::Bzip2)),
        ("xz", xz(&tar), Some(ArchiveCompression::Xz)),
        ("xz of two streams", [xz(&tar[..700]), xz(&tar[700..])].concat(), Some(ArchiveCompression::Xz)),
        ("zstd", zstd::encode_all(&tar[..], 1).unwrap(), Some(ArchiveCompression::Zstd)),
        ("v7", block("a", 0, 0, |block| block[257..265].fill(0)), Some(ArchiveCompression::None)),
        ("a compressed text", gzip(b"just text"), None),
        ("a compressed nothing", gzip(b""), None),
        ("an empty tar", END.to_vec(), None),
        ("a text", b"hello".repeat(200), None),
        ("nothing", Vec::new(), None),
        ("the start of a gzip", gzip(&tar)[..12].to_vec(), None),
        ("a bomb of long names", gzip(&member("L", b'L', &vec![b'n'; 1 << 20]).repeat(20)), None),
    ] {
        assert_eq!(archive::recognise(&file[..]).unwrap(), expected, "{claim}");
        if expected.is_some() {
            let mut spool = Vec::new();
            let index = archive::read(&file[..], SourceId(1), &Limits::default(), &mut spool).unwrap();
            assert_eq!(index.changes.len(), 1, "{claim}");
        }
    }
}

#[test]
fn an_archive_is_spooled_without_holes_and_whiteouts_are_files() {
    let sparse = "26 GNU.sparse.map=2,1,4,1\n21 GNU.sparse.size=6\n";
    let tar = tar(&[
        member("a", b'0', b"one"),
        member("dump/", b'D', b"names"),
        member("x", b'x', sparse.as_bytes()),
        member("s", b'0', b"ab"),
        member(".wh.b", b'0', b"two"),
    ]);
    let mut spool = Vec::new();
    let index = archive::read(&gzip(&tar)[..], SourceId(3), &Limits::default(), &mut spool).unwrap();
    assert_eq!(spool, b"one\0\0a\0b\0two");
    let contents: Vec<_> = index
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Put { path, entry } => entry.file().map(|file| (path.to_string(), file.size_bytes, file.content.clone())),
            _ => None,
        })
        .collect();
    let range = |offset_bytes| Content::Range { source: SourceId(3), offset_bytes };
    assert_eq!(contents, [("/a".to_owned(), 3, range(0)), ("/s".to_owned(), 6, range(3)), ("/.wh.b".to_owned(), 3, range(9))]);
}

#[test]
fn fractions_of_a_second_are_kept() {
    let tar = tar(&[member("x", b'x', b"14 mtime=-1.5\n"), member("a", b'0', b"")]);
    let index = index(&tar[..], diff_id(&tar), &Limits::default()).unwrap();
    let Change::Put { entry, .. } = &index.changes[0] else { panic!("a file") };
    assert_eq!(entry.mtime, Timestamp { seconds: -2, nanoseconds: 500_000_000 });
}

proptest! {
    #[test]
    fn random_blobs_never_panic(prefix in prop::sample::select(vec![&b""[..], &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", b"\xfd7zXZ\0"]),
            bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let blob = [prefix, &bytes].concat();
        let limits = Limits { uncompressed_bytes: 1 << 20, ..Limits::default() };
        let _ = index(&blob[..], diff_id(b""), &limits);
        let _ = archive::recognise(&blob[..]);
        let _ = archive::read(&blob[..], SourceId(0), &limits, &mut io::sink());
    }

    #[test]
    fn a_tar_of_random_names_never_leads_out(names in prop::collection::vec("[a./wh]{1,12}|\\.wh\\.[a./wh]{0,6}", 0..8)) {
        let tar = tar(&names.iter().map(|name| member(name, b'0', b"x")).collect::<Vec<_>>());
        if let Ok(index) = index(&tar[..], diff_id(&tar), &Limits::default()) {
            for change in &index.changes {
                let path = change.path();
                prop_assert_eq!(TreePath::parse(path.as_bytes()), Ok(path.clone()));
                prop_assert!(path.parts().all(|part| part != b".." && part != b"."));
            }
        }
    }
}
