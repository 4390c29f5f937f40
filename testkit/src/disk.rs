//! A disk with a file system of a kind that the machine's own need not be.

use crate::tools::{granted, require, require_root};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// As small as XFS can be, and some room; a file with holes.
const SIZE_BYTES: u64 = 512 << 20;

/// A file system of its own, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes a file system of this kind (`xfs`, `btrfs`) and mounts it in `directory`. `None`, with the same consequences as of
    /// [`require`], where one cannot be made; `None` as well, and said, where the kernel has no such kind: nobody can install that.
    ///
    /// # Panics
    /// If no file can be made in `directory`.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
    pub fn new(directory: &Path, kind: &str) -> Option<Self> {
        let program = format!("mkfs.{kind}");
        if !require_root() || !require(&["mount", "umount", &program]) {
            return None;
        }
        let (image, path) = (directory.join(format!("{kind}.img")), directory.join(kind));
        File::create_new(&image).and_then(|file| file.set_len(SIZE_BYTES)).expect("a file can be made");
        fs::create_dir(&path).expect("a directory can be made");
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let is_mounted = run(Command::new(program).arg("-q").arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
        let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = kinds.split_whitespace().any(|known| known == kind) && Path::new("/dev/loop-control").exists();
        if !is_mounted && !is_known {
            eprintln!("skipped: this kernel has no {kind}, or no loop devices");
            return None;
        }
        granted(is_mounted, &format!("no {kind} can be mounted here")).then_some(Self { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let is_unmounted = Command::new("umount").arg(&self.path).status().is_ok_and(|status| status.success());
        assert!(is_unmounted || std::thread::panicking(), "{} stays mounted", self.path.display());
    }
}
