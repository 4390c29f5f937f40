//! After a loss of power: what was written shortly before is not believed until it has been read again.
//!
//! Nothing is synced while a build runs, because that costs more than the work which it would save. A process that dies
//! loses nothing: the kernel has its bytes. A kernel that dies may lose what it had not written back, and may keep a name
//! without its bytes. Records, documents and indexes carry what shows that; a blob shows it by its digest alone, and an
//! unpacked directory not at all. So the store notes in which run of the kernel it was opened, and until when everything
//! was written back for certain. Where another run opens it, younger blobs are hashed, and those that are damaged and all
//! younger unpacked directories are removed: a miss.

use super::{
    Store, StoreError,
    uses::{LockFor, USED},
    workspace::remove_tree,
};
use crate::oci::{Digest, Hasher};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::{Duration, SystemTime},
};

/// Where the note is.
const SETTLED: &str = "settled";

/// Names the run of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is older has been written back: the kernel begins after 30 seconds.
const WRITTEN_BACK_AFTER: Duration = Duration::from_mins(5);

/// How often the note is renewed.
const RENEWED_AFTER: Duration = Duration::from_hours(1);

/// Everything written until then is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Settled {
    /// The run of the kernel that says so.
    boot: String,
    /// Seconds since 1970.
    until: u64,
}

impl Store {
    /// Removes what a loss of power may have damaged, if there may have been one since the store was last opened.
    ///
    /// # Errors
    /// [`StoreError`] if something damaged cannot be removed.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        self.settle_for(&boot)
    }

    fn settle_for(&self, boot: &str) -> Result<(), StoreError> {
        let path = self.root().join(SETTLED);
        // The clock of the file system that the entries are on.
        let now = fs::metadata(self.shared.staging.lock_path()).and_then(|lock| lock.modified());
        let now = now.unwrap_or_else(|_| SystemTime::now());
        let is_current = |known: &Option<Settled>| known.as_ref().is_some_and(|known| known.boot == boot && !boot.is_empty());
        let written_back = seconds(now).saturating_sub(WRITTEN_BACK_AFTER.as_secs());
        let read = || Self::read(&path).map(|bytes| bytes.and_then(|bytes| serde_json::from_slice::<Settled>(&bytes).ok()));
        let known = read()?;
        if is_current(&known) {
            let is_old = known.is_some_and(|known| written_back > known.until.saturating_add(RENEWED_AFTER.as_secs()));
            return if is_old { self.note_settled(&path, boot, written_back) } else { Ok(()) };
        }
        // On a file system without locks several may do this at once, and find the same.
        let _lock = self.lock(LockFor::Change);
        let known = read()?;
        if is_current(&known) {
            return Ok(());
        }
        let until = known.map_or(0, |known| known.until.min(seconds(now)));
        self.remove_unsettled(SystemTime::UNIX_EPOCH + Duration::from_secs(until))?;
        self.note_settled(&path, boot, written_back)
    }

    fn note_settled(&self, path: &Path, boot: &str, until: u64) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&Settled { boot: boot.to_owned(), until }).expect("a text and a number");
        self.write_whole(path, &bytes)
    }

    fn remove_unsettled(&self, since: SystemTime) -> Result<(), StoreError> {
        let is_young = |found: io::Result<fs::Metadata>| found.and_then(|found| found.modified()).is_ok_and(|at| at >= since);
        let blobs = self.root().join("blobs/sha256");
        for entry in fs::read_dir(&blobs).into_iter().flatten().flatten().filter(|entry| is_young(entry.metadata())) {
            let path = entry.path();
            let named = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if named.is_none_or(|named| digest_of(&path).ok() != Some(named)) {
                remove_file(&path)?;
            }
        }
        let oldest = self.oldest_build();
        let unpacked = self.root().join("unpacked");
        for entry in fs::read_dir(&unpacked).into_iter().flatten().flatten().filter(|entry| is_young(entry.metadata())) {
            let path = entry.path();
            let used = fs::metadata(path.join(USED)).and_then(|used| used.modified());
            // A build that works now, on another machine, has it as it is.
            if let (Some(oldest), Ok(used)) = (oldest, used)
                && used >= oldest
            {
                continue;
            }
            let away = self.shared.staging.path().join(entry.file_name());
            match fs::rename(&path, &away) {
                Ok(()) => remove_tree(&away).map_err(|error| StoreError::io("remove", &away, error))?,
                Err(error) => return Err(StoreError::io("remove", &path, error)),
            }
        }
        Ok(())
    }

    /// Reads a blob again, and removes it if it is another than its name says. Says whether it was.
    ///
    /// # Errors
    /// [`StoreError`] if it is damaged and stays.
    pub fn remove_if_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.root().join("blobs/sha256").join(digest.hex());
        match digest_of(&path) {
            Ok(found) if found == *digest => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            _ => self.remove_blob(digest).map(|()| true),
        }
    }
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_young_blobs_are_read_again_and_young_directories_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let (good, torn, old) = (Digest::of(b"good"), Digest::of(b"torn"), Digest::of(b"old"));
        let chain = Digest::of(b"chain");
        {
            let store = Store::open(directory.path()).unwrap();
            for bytes in [&b"good"[..], b"torn", b"old"] {
                store.put_document(bytes).unwrap();
            }
            let writer = store.unpacked_writer(&chain).unwrap();
            fs::create_dir(writer.path().join("root")).unwrap();
            writer.finish().unwrap();
            // Right in length, wrong in bytes, as a name whose blocks were never written.
            fs::write(store.blob_path(&torn), [0; 4]).unwrap();
            fs::write(store.blob_path(&old), "OLD").unwrap();
            let long_ago = SystemTime::now() - Duration::from_hours(24);
            let file = File::options().write(true).open(store.blob_path(&old)).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(long_ago)).unwrap();
        }
        let here = |store: &Store| [good, torn, old].map(|digest| store.blob_path(&digest).exists());

        let store = Store::open(directory.path()).unwrap();
        assert_eq!((here(&store), store.unpacked(&chain).is_some()), ([true; 3], true), "the kernel is the same");

        let yesterday = seconds(SystemTime::now()) - 3600;
        store.note_settled(&directory.path().join(SETTLED), "another run", yesterday).unwrap();
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!((here(&store), store.unpacked(&chain).is_some()), ([true, false, true], false));
        assert!(store.remove_if_damaged(&old).unwrap() && !store.remove_if_damaged(&good).unwrap());
        assert_eq!(here(&store), [true, false, false]);
        assert_eq!(fs::read_dir(store.shared.staging.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_build_uses_now_stays_and_the_note_is_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let (store, other) = (Store::open(directory.path()).unwrap(), Store::open(directory.path()).unwrap());
        let chain = Digest::of(b"chain");
        let writer = other.unpacked_writer(&chain).unwrap();
        fs::create_dir(writer.path().join("root")).unwrap();
        writer.finish().unwrap();
        let note = directory.path().join(SETTLED);
        store.note_settled(&note, "another run", 0).unwrap();
        store.settle_for("this run").unwrap();
        assert!(store.unpacked(&chain).is_some());
        let read = || serde_json::from_slice::<Settled>(&fs::read(&note).unwrap()).unwrap();
        assert_eq!(read().boot, "this run");
        store.note_settled(&note, "this run", 7).unwrap();
        store.settle_for("this run").unwrap();
        assert!(read().until > 7);
    }
}
