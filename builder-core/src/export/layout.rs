//! Writes an image as an OCI layout: a directory with `oci-layout`, `index.json` and `blobs/sha256/`.
//!
//! Every file appears whole, `index.json` last: whoever finds it finds everything that it names.

use super::{Blobs, ExportError};
use crate::image::{Assembled, Image};
use crate::oci::{Descriptor, Digest, Document, Index, Reference};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::Path,
};

const MARK: &str = "oci-layout";
const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "index.json";
const TAG: &str = "org.opencontainers.image.ref.name";

/// Writes `image` into `directory`, which is made if it does not exist. An index that is there already is replaced; its
/// blobs stay. `name` becomes the annotation that tools select an image by.
///
/// # Errors
/// [`ExportError`] if the directory cannot be written or a blob cannot be had; then no index names the image.
pub fn write(
    image: &Image,
    assembled: &Assembled,
    name: Option<&Reference>,
    directory: &Path,
    blobs: &dyn Blobs,
) -> Result<(), ExportError> {
    put_image(image, assembled, directory, blobs)?;
    put_file(&directory.join(MARK), &mut &VERSION[..])?;
    let mut descriptor = assembled.descriptor.clone();
    if let Some(tag) = name.and_then(Reference::tag) {
        descriptor.annotations.insert(TAG.to_owned(), tag.to_owned());
    }
    put_file(&directory.join(INDEX), &mut &Index::new(vec![descriptor]).to_bytes()[..])
}

/// Adds `image` to the layout in `directory` under `tag`, in place of what had that tag; other images stay. Several
/// processes may do so at once. The blobs that only the replaced image needed are removed.
///
/// # Errors
/// [`ExportError`] if the directory cannot be read or written or a blob cannot be had.
pub fn add(image: &Image, assembled: &Assembled, tag: &str, directory: &Path, blobs: &dyn Blobs) -> Result<(), ExportError> {
    put_image(image, assembled, directory, blobs)?;
    let mark = directory.join(MARK);
    if !mark.exists() {
        put_file(&mark, &mut &VERSION[..])?;
    }
    let failed = |error: io::Error| ExportError::write(&mark, error);
    let lock = fs::File::open(&mark).map_err(failed)?;
    // On a file system without locks the last one wins.
    let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
    let path = directory.join(INDEX);
    let known = match fs::read(&path) {
        Ok(bytes) => match Document::parse(&bytes, Some(crate::oci::MediaType::OCI_INDEX)) {
            Ok(Document::Index(index)) => index.manifests,
            _ => Vec::new(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ExportError::write(&path, error)),
    };
    let (replaced, mut manifests): (Vec<Descriptor>, Vec<Descriptor>) =
        known.into_iter().partition(|known| known.annotations.get(TAG).is_some_and(|known| known == tag));
    let mut descriptor = assembled.descriptor.clone();
    descriptor.annotations.insert(TAG.to_owned(), tag.to_owned());
    manifests.push(descriptor);
    put_file(&path, &mut &Index::new(manifests.clone()).to_bytes()[..])?;
    let folder = directory.join("blobs/sha256");
    let needed: BTreeSet<Digest> = manifests.iter().flat_map(|manifest| blobs_of(&folder, manifest)).collect();
    for digest in replaced.iter().flat_map(|manifest| blobs_of(&folder, manifest)).filter(|digest| !needed.contains(digest)) {
        // It only takes space.
        let _ = fs::remove_file(folder.join(digest.hex()));
    }
    Ok(())
}

/// A manifest and the blobs that it names.
fn blobs_of(folder: &Path, manifest: &Descriptor) -> Vec<Digest> {
    let bytes = fs::read(folder.join(manifest.digest.hex())).unwrap_or_default();
    let mut named = vec![manifest.digest];
    if let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, Some(manifest.media_type.as_str())) {
        named.push(manifest.config.digest);
        named.extend(manifest.layers.iter().map(|layer| layer.digest));
    }
    named
}

fn put_image(image: &Image, assembled: &Assembled, directory: &Path, blobs: &dyn Blobs) -> Result<(), ExportError> {
    let folder = directory.join("blobs/sha256");
    fs::create_dir_all(&folder).map_err(|error| ExportError::write(&folder, error))?;
    for layer in &image.layers {
        let path = folder.join(layer.blob.digest.hex());
        if fs::metadata(&path).is_ok_and(|known| known.is_file() && known.len() == layer.blob.size_bytes) {
            continue;
        }
        let mut reader = blobs.open(layer)?;
        put(&path, &mut reader, &layer.blob)?;
    }
    put_bytes(&folder, &assembled.config_bytes)?;
    put_bytes(&folder, &assembled.manifest_bytes)
}

fn put_bytes(folder: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    put_file(&folder.join(Digest::of(bytes).hex()), &mut &bytes[..])
}

/// Writes a blob whose bytes were verified by whoever opened it; only the length is counted once more.
fn put(path: &Path, reader: &mut dyn Read, blob: &Descriptor) -> Result<(), ExportError> {
    put_file(path, &mut reader.take(blob.size_bytes))?;
    let size_bytes = fs::metadata(path).map_err(|error| ExportError::write(path, error))?.len();
    if size_bytes == blob.size_bytes {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    Err(ExportError::Short { digest: blob.digest, expected_bytes: blob.size_bytes, found_bytes: size_bytes })
}

/// Writes beside the place and renames. The mode is that of a file anybody made: a layout is read by other users too.
fn put_file(path: &Path, reader: &mut dyn Read) -> Result<(), ExportError> {
    let failed = |error: io::Error| ExportError::write(path, error);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    io::copy(reader, &mut file).map_err(failed)?;
    file.flush().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Layer, Origin};
    use crate::oci::{Compression, DiffId, MediaType};

    struct One(&'static [u8]);

    impl Blobs for One {
        fn open(&self, _: &Layer) -> Result<Box<dyn Read + Send>, ExportError> {
            Ok(Box::new(self.0))
        }
    }

    fn image(blob: &[u8]) -> Image {
        let blob = Descriptor { media_type: MediaType::oci_layer(Compression::Uncompressed), ..Descriptor::of("", blob) };
        Image { layers: vec![Layer { diff_id: DiffId(blob.digest), blob, origin: Origin::Store }], ..Image::scratch() }
    }

    #[test]
    fn the_index_names_a_manifest_that_names_everything() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(b"layer");
        let name = "example.org/app:1".parse().unwrap();
        write(&image, &image.assemble(), Some(&name), directory.path(), &One(b"layer")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&fs::read(directory.path().join("index.json")).unwrap()).unwrap();
        let blob = |digest: &serde_json::Value| {
            fs::read(directory.path().join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap()
        };
        assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
        assert_eq!(blob(&manifest["layers"][0]["digest"]), b"layer");
        assert!(!blob(&manifest["config"]["digest"]).is_empty());
    }

    #[test]
    fn a_short_blob_leaves_no_index() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(b"layer");
        assert!(matches!(write(&image, &image.assemble(), None, directory.path(), &One(b"lay")), Err(ExportError::Short { .. })));
        assert!(!directory.path().join("index.json").exists());
        assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
    }
}
