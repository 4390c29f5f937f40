//! The bytes of a file onto the disk: those of a layer as they come, or those of another file, shared where the disk can.

use rustix::{
    fs::{FallocateFlags, FsWord, fallocate, fstatfs, ioctl_ficlone},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
};

/// Bytes that go to the disk at once.
pub(super) const COPY_BYTES: usize = 128 * 1024;
/// A smaller file goes to the disk in one piece anyway.
const BIG_BYTES: u64 = 1 << 20;
/// How far ahead of its bytes a file gets room, at first.
const FIRST_ROOM_BYTES: u64 = 64 << 20;

/// Where room ahead was seen to pay. It does not on tmpfs, and on btrfs it would end the compression of the file.
const FILE_SYSTEMS_WITH_ROOM: [FsWord; 3] = [0xef53 /* ext4 */, 0x5846_5342 /* XFS */, 0x794c_7630 /* overlay */];

/// Where the bytes of a file come from.
pub(super) enum Bytes<'a> {
    /// A layer.
    Stream(&'a mut dyn Read),
    /// Another file, with which they are shared where the disk can; all of it.
    Shared(&'a File),
}

/// What failed.
pub(super) enum Filling {
    Disk(io::Error),
    Data(io::Error),
}

/// Writes all of `bytes` into `file`, which is empty. `size_bytes` is how many are announced; it is only an announcement.
pub(super) fn fill(file: &mut File, size_bytes: u64, bytes: Bytes<'_>, buffer: &mut [u8]) -> Result<(), Filling> {
    match bytes {
        Bytes::Stream(data) => write(file, size_bytes, data, buffer),
        Bytes::Shared(mut source) => match ioctl_ficlone(&*file, source) {
            Ok(()) => Ok(()),
            Err(_) => io::copy(&mut source, file).map(drop).map_err(Filling::Disk),
        },
    }
}

/// Whether files in `directory` can share their bytes until one of them is written to. Found out by trying.
pub fn can_share(directory: &Path) -> bool {
    let share = || {
        let (mut one, other) = (tempfile::tempfile_in(directory)?, tempfile::tempfile_in(directory)?);
        one.write_all(b"shared")?;
        Ok::<(), io::Error>(ioctl_ficlone(other, one)?)
    };
    share().is_ok()
}

/// A big file gets its place before its bytes come: beside others that grow, or are written back before they are whole, it would
/// otherwise lie in many pieces.
fn write(file: &mut File, size_bytes: u64, data: &mut dyn Read, buffer: &mut [u8]) -> Result<(), Filling> {
    let wanted = if size_bytes >= BIG_BYTES && gains_by_room(file) { size_bytes } else { 0 };
    let (mut written, mut room) = (0, 0);
    loop {
        match data.read(buffer) {
            Ok(0) => break,
            Ok(length) => {
                if written >= room && room < wanted {
                    // As much again as has come: whoever announces more than there is does not fill the disk with it.
                    let more = (wanted - room).min(written.max(FIRST_ROOM_BYTES));
                    make_room(file, room, more).map_err(Filling::Disk)?;
                    room += more;
                }
                file.write_all(&buffer[..length]).map_err(Filling::Disk)?;
                written += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The file goes, and its room with it.
            Err(error) => return Err(Filling::Data(error)),
        }
    }
    if room > written { file.set_len(written).map_err(Filling::Disk) } else { Ok(()) }
}

fn gains_by_room(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| FILE_SYSTEMS_WITH_ROOM.contains(&found.f_type))
}

/// Takes room on the disk behind the end of a file, if the disk has such a thing.
fn make_room(file: &File, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, offset_bytes, length_bytes) {
        Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(errno.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    const MEBIBYTE: u64 = 1 << 20;

    /// A file that `size_bytes` were announced for and so many bytes came for, and the largest room that it had meanwhile.
    fn filled(size_bytes: u64, come_bytes: u64) -> (File, u64) {
        struct Watching<'a>(io::Take<io::Repeat>, &'a File, u64);
        impl Read for Watching<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.2 = self.2.max(self.1.metadata()?.blocks() * 512);
                self.0.read(buffer)
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        let seen = file.try_clone().unwrap();
        let mut data = Watching(io::repeat(7).take(come_bytes), &seen, 0);
        assert!(fill(&mut file, size_bytes, Bytes::Stream(&mut data), &mut vec![0; COPY_BYTES]).is_ok());
        let most = data.2;
        (file, most)
    }

    #[test]
    fn a_file_has_the_bytes_that_came_whatever_was_announced() {
        for announced in [0, 1, MEBIBYTE, 3 * MEBIBYTE] {
            for come in [0, 5, 2 * MEBIBYTE] {
                let (file, _) = filled(announced, come);
                let stat = file.metadata().unwrap();
                assert_eq!(stat.len(), come, "{announced} were announced");
                assert!(stat.blocks() * 512 < come + MEBIBYTE, "{announced} were announced, {come} came: {}", stat.blocks());
            }
        }
    }

    #[test]
    fn an_announcement_alone_does_not_fill_the_disk() {
        let (_, most) = filled(u64::MAX >> 1, 3 * MEBIBYTE);
        assert!(most <= FIRST_ROOM_BYTES + MEBIBYTE, "{most}");
        let (_, most) = filled(512 * MEBIBYTE, 65 * MEBIBYTE);
        assert!(most <= 2 * FIRST_ROOM_BYTES + MEBIBYTE, "{most}");
    }

    #[test]
    fn a_big_file_has_its_room_before_its_bytes() {
        let size_bytes = 3 * MEBIBYTE;
        let (file, most) = filled(size_bytes, COPY_BYTES as u64 + 1);
        assert!(most >= size_bytes || !gains_by_room(&file), "{most}");
    }

    #[test]
    fn a_file_that_is_filled_from_another_has_its_bytes() {
        let (mut source, mut file) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all(b"bytes").unwrap();
        io::Seek::rewind(&mut source).unwrap();
        assert!(fill(&mut file, 5, Bytes::Shared(&source), &mut []).is_ok());
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "bytes");
    }
}
