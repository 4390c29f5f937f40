//! The files that tell other programs what was built: digest files.

use crate::request::ResultFiles;
use builder_core::build::Outcome;
use builder_core::oci::Reference;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path:?}")]
pub struct ResultFileError {
    /// Which.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

/// Writes the files asked for. The image is where it belongs by then: whoever sees a digest can use it.
pub fn write(files: &ResultFiles, destinations: &[Reference], outcome: &Outcome) -> Result<(), ResultFileError> {
    for (path, text) in texts(files, destinations, outcome) {
        write_whole(path, &text).map_err(|source| ResultFileError { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// What goes where. Pure.
fn texts<'a>(files: &'a ResultFiles, destinations: &[Reference], outcome: &Outcome) -> Vec<(&'a Path, String)> {
    let digest = outcome.digest;
    let lines = |name: &dyn Fn(&Reference) -> String| {
        destinations.iter().fold(String::new(), |text, to| text + &name(to) + "@" + &digest.to_string() + "\n")
    };
    let repository = |to: &Reference| format!("{}/{}", to.registry(), to.repository());
    let tagged = |to: &Reference| format!("{}:{}", repository(to), to.tag().unwrap_or("latest"));
    // Kaniko ends the digest without a new line: scripts compare it.
    let digest = files.digest.as_deref().map(|path| (path, digest.to_string()));
    let names = files.name_with_digest.as_deref().map(|path| (path, lines(&repository)));
    let tags = files.name_tag_with_digest.as_deref().map(|path| (path, lines(&tagged)));
    [digest, names, tags].into_iter().flatten().collect()
}

/// Writes beside `path` and renames, so that a watcher sees the whole file or none. A path that stands for something
/// else, as the pod's mounted /dev/termination-log or a pipe, is written in place.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    if std::fs::symlink_metadata(path).map_or(true, |found| found.is_file()) {
        let beside = parent.join(format!(".{}.{}", path.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
        let renamed = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
        if renamed.is_ok() {
            return Ok(());
        }
        let _ = std::fs::remove_file(&beside);
    }
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder_core::oci::{Digest, ImageConfig};

    #[test]
    fn the_files_hold_the_digest_and_a_line_for_each_destination() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join("new").join(name);
        let files =
            ResultFiles { digest: Some(path("a")), name_with_digest: Some(path("b")), name_tag_with_digest: Some(path("c")) };
        let destinations = ["r.example/a:1", "busybox"].map(|text| text.parse().unwrap());
        let outcome = Outcome {
            digest: Digest::of(b""),
            config: ImageConfig::default(),
            layers: Vec::new(),
            size_bytes: 0,
            pushed: Vec::new(),
        };
        write(&files, &destinations, &outcome).unwrap();
        write(&files, &destinations, &outcome).unwrap();
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap().replace(&outcome.digest.to_string(), "DIGEST");
        assert_eq!(read("a"), "DIGEST");
        assert_eq!(read("b"), "r.example/a@DIGEST\ndocker.io/library/busybox@DIGEST\n");
        assert_eq!(read("c"), "r.example/a:1@DIGEST\ndocker.io/library/busybox:latest@DIGEST\n");
        assert_eq!(std::fs::read_dir(directory.path().join("new")).unwrap().count(), 3);
    }

    #[test]
    fn a_link_is_written_through_and_a_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "much longer than the text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_whole(&link, "text").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        assert!(write_whole(directory.path(), "text").is_err());
    }
}
