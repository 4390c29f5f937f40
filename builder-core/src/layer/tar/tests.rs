//! Archives made by hand, by us and by another writer; hostile ones; random ones.

use super::*;
use proptest::prelude::*;
use std::io::Read as _;

/// A header of `name` with its checksum right, after `change`.
pub(in crate::layer) fn block(name: &str, typeflag: u8, size_bytes: u64, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size_bytes:011o}").as_bytes());
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// A header with its data, padded.
pub(in crate::layer) fn member(name: &str, typeflag: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = block(name, typeflag, data.len() as u64, |_| {});
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len() + padding(data.len() as u64), 0);
    bytes
}

/// `x` header with these records, their lengths right.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (keyword, value) in records {
        let rest = keyword.len() + value.len() + 3;
        let length = (rest..rest + 10).find(|length| length - length.to_string().len() == rest).unwrap();
        data.extend_from_slice(format!("{length} {keyword}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    member("pax", b'x', &data)
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Record, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(TarError::Read)?;
        members.push((member.record, data));
    }
    Ok(members)
}

/// The only member of an archive of these parts.
fn read_one(parts: &[&[u8]]) -> (Record, Vec<u8>) {
    let mut members = read_all(&[&parts.concat()[..], &END].concat()).unwrap();
    assert_eq!(members.len(), 1);
    members.pop().unwrap()
}

fn base_256(field: &mut [u8], number: i64) {
    let bytes = number.to_be_bytes();
    let fill = if number < 0 { 0xff } else { 0 };
    field.fill(fill);
    let start = field.len() - bytes.len().min(field.len());
    let skip = bytes.len() - (field.len() - start);
    field[start..].copy_from_slice(&bytes[skip..]);
    field[0] |= 0x80;
}

#[test]
fn names_of_all_dialects_are_read() {
    let v7 = |block: &mut [u8]| block[257..265].fill(0);
    let gnu = |block: &mut [u8]| block[257..265].copy_from_slice(b"ustar  \0");
    let prefix = |block: &mut [u8]| block[345..348].copy_from_slice(b"p/q");
    let long = "l".repeat(300);
    for (claim, archive, name) in [
        ("ustar joins the prefix", block("f", b'0', 0, prefix), "p/q/f"),
        ("v7 has no prefix", block("f", 0, 0, |block| (v7(block), prefix(block)).1), "f"),
        (
            "GNU has times there",
            block("f", b'0', 0, |block| {
                gnu(block);
                block[345..357].copy_from_slice(b"00000000017\0");
            }),
            "f",
        ),
        ("Go before 1.8 wrote a prefix into a GNU header", block("f", b'0', 0, |block| (gnu(block), prefix(block)).1), "p/q/f"),
        (
            "Schilling's prefix is shorter",
            block("f", b'0', 0, |block| {
                prefix(block);
                block[476..487].copy_from_slice(b"00000000017");
                block[508..512].copy_from_slice(b"tar\0");
            }),
            "p/q/f",
        ),
        ("GNU's long name", [member("L", b'L', format!("{long}\0").as_bytes()), block("l", b'0', 0, gnu)].concat(), &long),
        ("PAX", [pax(&[("path", "é/ü".as_bytes())]), block("x", b'0', 0, |_| {})].concat(), "é/ü"),
        ("an empty PAX value says nothing", [pax(&[("path", b"")]), block("x", b'0', 0, |_| {})].concat(), "x"),
        ("global records apply to nothing", [member("g", b'g', b"12 path=abc\n"), block("x", b'0', 0, |_| {})].concat(), "x"),
        ("a volume label is no file", [member("label", b'V', b""), block("x", b'0', 0, |_| {})].concat(), "x"),
    ] {
        assert_eq!(read_one(&[&archive]).0.name, name.as_bytes(), "{claim}");
    }
    let link = [member("K", b'K', format!("{long}\0").as_bytes()), block("l", b'2', 0, |_| {})].concat();
    assert_eq!(read_one(&[&link]).0.kind, Kind::Symlink(long.into_bytes()));
    assert_eq!(read_one(&[&block("d/", 0, 0, v7)]).0.kind, Kind::Directory, "before ustar, the slash tells");
}

#[test]
fn a_pax_value_may_hold_any_byte() {
    // A reader that goes by lines loses the capability and believes in a link (a known defect of others).
    let value = b"\x01\0\0\x02\n15 linkpath=/etc/evil\n\0=";
    let (record, _) =
        read_one(&[&pax(&[("SCHILY.xattr.security.capability", value), ("path", b"non\xffutf8")]), &block("x", b'0', 0, |_| {})]);
    assert_eq!(record.capability.as_deref(), Some(&value[..]));
    assert_eq!(record.name, b"non\xffutf8");
    assert_eq!(record.kind, Kind::File { size_bytes: 0 });
}

#[test]
fn numbers_of_all_dialects_are_read() {
    let (record, _) = read_one(&[&block("x", b'3', 0, |block| {
        base_256(&mut block[108..116], 3_000_000_000);
        block[116..124].copy_from_slice(b"   17 \0 ");
        base_256(&mut block[136..148], -2);
        block[329..337].copy_from_slice(b"0000010\0");
        block[337..345].copy_from_slice(b"0000377\0");
    })]);
    assert_eq!((record.uid, record.gid, record.mtime.seconds), (3_000_000_000, 0o17, -2));
    assert_eq!(record.kind, Kind::CharDevice { major: 8, minor: 255 });
    for (text, seconds, nanoseconds) in [
        ("1", 1, 0),
        ("1.5", 1, 500_000_000),
        ("-1", -1, 0),
        ("-1.5", -2, 500_000_000),
        ("-0.000000001", -1, 999_999_999),
        ("1.1234567899", 1, 123_456_789),
        ("7.", 7, 0),
    ] {
        let (record, _) = read_one(&[&pax(&[("mtime", text.as_bytes())]), &block("x", b'0', 0, |_| {})]);
        assert_eq!(record.mtime, Timestamp { seconds, nanoseconds }, "{text}");
    }
}

#[test]
fn the_pax_size_counts_for_skipping_too() {
    // A reader that skips by the header's size (0) takes the hidden archive in the data for members.
    let hidden = member("hidden", b'0', b"");
    let size = hidden.len().to_string();
    let archive = [&pax(&[("size", size.as_bytes())])[..], &block("a", b'0', 0, |_| {}), &hidden, &member("b", b'0', b"B"), &END];
    let members = read_all(&archive.concat()).unwrap();
    let names: Vec<_> = members.iter().map(|(record, _)| record.name.clone()).collect();
    assert_eq!(names, [b"a", b"b"]);
    assert_eq!(members[0].1, hidden);
    // And a link has no data, whatever its size says.
    let archive = [block("l", b'1', 512, |_| {}), member("f", b'0', b"F"), END.to_vec()].concat();
    assert_eq!(read_all(&archive).unwrap().len(), 2);
}

#[test]
fn sparse_files_of_all_versions_are_read() {
    let whole = [&[0; 4][..], b"ab", &[0; 3], b"c"].concat();
    let number = |number: u64| format!("{number:011o}\0").into_bytes();
    let old = block("s", b'S', 3, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        let map: Vec<u8> = [4, 2, 9, 1].into_iter().flat_map(number).collect();
        block[386..434].copy_from_slice(&map);
        block[483..495].copy_from_slice(&number(10));
    });
    let old_extended = block("s", b'S', 3, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        let map: Vec<u8> = [4, 2, 6, 0, 6, 0, 6, 0].into_iter().flat_map(number).collect();
        block[386..482].copy_from_slice(&map);
        block[482] = 1;
        block[483..495].copy_from_slice(&number(10));
    });
    let extension = [number(9), number(1), vec![0; 488]].concat();
    let mut data = b"abc".to_vec();
    data.resize(BLOCK, 0);
    let version_0_0 = pax(&[
        ("GNU.sparse.size", b"10"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"4"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"9"),
        ("GNU.sparse.numbytes", b"1"),
    ]);
    let version_0_1 = pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"4,2,9,1"), ("GNU.sparse.name", b"s")]);
    let version_1_0 =
        pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"10"), ("GNU.sparse.name", b"s")]);
    let mut map = b"2\n4\n2\n9\n1\n".to_vec();
    map.resize(BLOCK, 0);
    let plain = block("s", b'0', 3, |_| {});
    let decoy = block("GNUSparseFile.1/s", b'0', 515, |_| {});
    for (claim, parts) in [
        ("old GNU", vec![&old, &data]),
        ("old GNU, extended", vec![&old_extended, &extension, &data]),
        ("PAX 0.0", vec![&version_0_0, &plain, &data]),
        ("PAX 0.1", vec![&version_0_1, &plain, &data]),
        ("PAX 1.0", vec![&version_1_0, &decoy, &map, &data]),
    ] {
        let parts: Vec<&[u8]> = parts.into_iter().map(|part| &part[..]).collect();
        let (record, data) = read_one(&parts);
        assert_eq!((record.name, record.kind), (b"s".to_vec(), Kind::File { size_bytes: 10 }), "{claim}");
        assert_eq!(data, whole, "{claim}");
    }
}

#[test]
fn hostile_archives_are_errors() {
    let sparse = |map: &[u8], size: &[u8]| {
        [pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]), member("s", b'0', b"abc"), END.to_vec()].concat()
    };
    let file = block("f", b'0', 1000, |_| {});
    for (claim, archive, expected) in [
        ("ends in a header", file[..300].to_vec(), "truncated"),
        ("ends in the data", [&file[..], &[0; 999]].concat(), "truncated"),
        ("ends in the padding", [&file[..], &[0; 1001]].concat(), "truncated"),
        ("claims more than there is", block("f", b'0', 0o7_7777_7777, |_| {}), "truncated"),
        ("claims a size of 63 bits", block("f", b'0', 0, |block| base_256(&mut block[124..136], i64::MAX)), "truncated"),
        ("a negative size", block("f", b'0', 0, |block| base_256(&mut block[124..136], -1)), "size"),
        ("a size of 90 bits", block("f", b'0', 0, |block| block[124..136].fill(0xbf)), "size"),
        ("a size of letters", block("f", b'0', 0, |block| block[124..128].copy_from_slice(b"size")), "size"),
        ("a wrong checksum", [b"g", &file[1..]].concat(), "checksum"),
        ("no tar", b"PK\x03\x04".repeat(128), "checksum"),
        ("zeros between entries", [&[0; 512][..], &file].concat(), "zeros"),
        ("a long name of 2 MiB", block("L", b'L', 2 << 20, |_| {}), "metadata"),
        ("PAX records of 8 EiB", block("x", b'x', 0, |block| base_256(&mut block[124..136], i64::MAX)), "metadata"),
        ("a PAX length that is too large", [member("x", b'x', b"99 path=a\n"), file.clone()].concat(), "PAX"),
        ("a PAX length that is too small", [member("x", b'x', b"7 path=a\n"), file.clone()].concat(), "PAX"),
        ("a PAX length of 0", [member("x", b'x', b"0 path=a\n"), file.clone()].concat(), "PAX"),
        ("a PAX length that overflows", [member("x", b'x', b"99999999999999999999 a=\n"), file.clone()].concat(), "PAX"),
        ("no PAX length", [member("x", b'x', b"path=a\n"), file.clone()].concat(), "PAX"),
        ("a PAX record without =", [member("x", b'x', b"7 path\n"), file.clone()].concat(), "without ="),
        ("a bad global header", [member("g", b'g', b"path=a\n"), file.clone()].concat(), "PAX"),
        ("a PAX size that is negative", [pax(&[("size", b"-1")]), file.clone()].concat(), "no number"),
        ("a PAX size of 64 bits", [pax(&[("size", b"18446744073709551615")]), file.clone()].concat(), "no number"),
        ("a PAX time of words", [pax(&[("mtime", b"now")]), file.clone()].concat(), "no number"),
        ("a PAX owner of 64 bits", [pax(&[("uid", b"4294967296")]), file.clone()].concat(), "no number"),
        ("a name with a zero byte", [pax(&[("path", b"a\0b")]), file.clone()].concat(), "zero byte"),
        ("an owner of 40 bits", block("f", b'0', 0, |block| base_256(&mut block[108..116], 1 << 40)), "owner"),
        ("a type of its own", block("f", b'Z', 0, |_| {}), "type"),
        ("a file of several volumes", block("f", b'M', 0, |_| {}), "volume"),
        ("a sparse map that overlaps", sparse(b"0,2,1,1", b"10"), "backwards"),
        ("a sparse map that leaves the file", sparse(b"8,3", b"10"), "leaves"),
        ("a sparse map that overflows", sparse(b"18446744073709551615,3", b"10"), "leaves"),
        ("a sparse map with more than its data", sparse(b"0,9", b"10"), "does not match"),
        ("a sparse map with less than its data", sparse(b"0,1", b"10"), "does not match"),
        ("a sparse map with half a region", sparse(b"0,1,2", b"10"), "malformed"),
        (
            "a sparse map of a billion regions",
            [
                pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10")]),
                member("s", b'0', &[b"1000000000\n".to_vec(), b"0\n0\n".repeat(200)].concat()),
            ]
            .concat(),
            "malformed",
        ),
        ("a sparse file of the future", [pax(&[("GNU.sparse.major", b"2")]), file.clone()].concat(), "version"),
    ] {
        let error = read_all(&archive).expect_err(claim);
        let text = match &error {
            TarError::Read(inner) => inner.to_string(),
            error => error.to_string(),
        };
        assert!(text.contains(expected), "{claim}: {text}");
    }
}

#[test]
fn an_archive_may_end_without_its_marker() {
    for end in [&[][..], &[0; 512], &[0; 1024], &[0; 10240]] {
        assert_eq!(read_all(&[&member("f", b'0', b"x")[..], end].concat()).unwrap().len(), 1, "{} zeros", end.len());
    }
    assert!(read_all(b"").unwrap().is_empty());
}

#[test]
fn a_record_that_no_reader_would_get_back_is_not_written() {
    let record = |name: &[u8], kind| Record {
        name: name.to_vec(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        capability: None,
    };
    assert!(header(&record(b"a\0b", Kind::Fifo)).is_err());
    assert!(header(&record(b"a", Kind::Symlink(b"\0".to_vec()))).is_err());
    assert!(header(&record(b"a", Kind::CharDevice { major: 1 << 22, minor: 0 })).is_err());
}

#[test]
fn an_ordinary_file_takes_one_block() {
    for (name, blocks) in [
        ("a".repeat(100), 1),
        (format!("{}/{}", "d".repeat(155), "f".repeat(100)), 1),
        (format!("{}/{}", "d".repeat(156), "f".repeat(100)), 3),
        ("a".repeat(101), 3),
        ("é".to_owned(), 3),
    ] {
        let record = Record {
            name: name.clone().into_bytes(),
            kind: Kind::File { size_bytes: 0 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            capability: None,
        };
        assert_eq!(header(&record).unwrap().len() / BLOCK, blocks, "{name}");
    }
}

fn name_strategy() -> impl Strategy<Value = Vec<u8>> {
    let ascii = "[a-z/. ]{0,300}".prop_map(String::into_bytes);
    prop_oneof![ascii, prop::collection::vec(1_u8..=255, 0..200)]
        // The reader takes a directory's slash as part of the name.
        .prop_map(|mut name| {
            while name.last() == Some(&b'/') {
                name.pop();
            }
            name.insert(0, b'n');
            name
        })
}

prop_compose! {
    fn record_strategy()(
        name in name_strategy(),
        kind in prop_oneof![
            (0..3_000_u64).prop_map(|size_bytes| Kind::File { size_bytes }),
            name_strategy().prop_map(Kind::HardLink),
            name_strategy().prop_map(Kind::Symlink),
            (0..1_u32 << 21, 0..1_u32 << 21).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
            (0..1_u32 << 21, 0..1_u32 << 21).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
            Just(Kind::Directory),
            Just(Kind::Fifo),
        ],
        mode in 0..0o10000_u16,
        uid: u32,
        gid: u32,
        seconds in prop_oneof![any::<i32>().prop_map(i64::from), -(1_i64 << 60)..(1_i64 << 60)],
        capability in prop::option::of(prop::collection::vec(any::<u8>(), 1..30)),
    ) -> Record {
        Record { name, kind, mode, uid, gid, mtime: Timestamp::from_seconds(seconds), capability }
    }
}

fn write_all(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(header(record).unwrap());
        if let Kind::File { size_bytes } = record.kind {
            bytes.resize(bytes.len() + usize::try_from(size_bytes).unwrap(), b'#');
            bytes.resize(bytes.len() + padding(size_bytes), 0);
        }
    }
    bytes.extend(END);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in prop::collection::vec(record_strategy(), 0..6)) {
        let read = read_all(&write_all(&records)).unwrap();
        let expected: Vec<_> = records.into_iter().map(|mut record| {
            if record.kind == Kind::Directory {
                record.name.push(b'/');
            }
            let size = if let Kind::File { size_bytes } = record.kind { usize::try_from(size_bytes).unwrap() } else { 0 };
            (record, vec![b'#'; size])
        }).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn another_reader_agrees(records in prop::collection::vec(record_strategy(), 0..6)) {
        let bytes = write_all(&records);
        let mut archive = ::tar::Archive::new(&bytes[..]);
        let mut count = 0;
        for (entry, record) in archive.entries().unwrap().zip(&records) {
            let mut entry = entry.unwrap();
            let mut name = record.name.clone();
            if record.kind == Kind::Directory {
                name.push(b'/');
            }
            // The other reader stops a record at a newline, and gives nothing for a time before 1970 or far ahead.
            let has_newline = |bytes: &[u8]| bytes.contains(&b'\n');
            let link = if let Kind::HardLink(target) | Kind::Symlink(target) = &record.kind { &target[..] } else { b"" };
            if !record.capability.as_deref().is_some_and(has_newline) && !has_newline(&name) && !has_newline(link) {
                prop_assert_eq!(&entry.path_bytes()[..], &name[..]);
                if !link.is_empty() {
                    prop_assert_eq!(&entry.link_name_bytes().unwrap()[..], link);
                }
                prop_assert_eq!(entry.header().mode().unwrap(), u32::from(record.mode));
                if let Some(capability) = &record.capability {
                    let extensions = entry.pax_extensions().unwrap().unwrap();
                    let found = extensions.flatten().find(|extension| extension.key_bytes() == CAPABILITY).unwrap().value_bytes().to_vec();
                    prop_assert_eq!(&found, capability);
                }
            }
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            if let Kind::File { size_bytes } = record.kind {
                prop_assert_eq!(data.len() as u64, size_bytes);
            }
            count += 1;
        }
        prop_assert_eq!(count, records.len());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn mutated_archives_never_panic(
        records in prop::collection::vec(record_strategy(), 1..4),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
    ) {
        let mut bytes = write_all(&records);
        for (index, byte) in mutations {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        // With checksums put right again, the fields behind them are reached.
        for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        let _ = read_all(&bytes);
        let _ = read_all(&bytes[..cut.index(bytes.len())]);
    }
}
