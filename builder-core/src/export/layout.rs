//! Writes an image as an OCI layout: a directory with `oci-layout`, `index.json` and `blobs/sha256/`.
//!
//! Every file appears whole, `index.json` last: whoever finds it finds everything that it names.

use super::{Blobs, ExportError};
use crate::image::{Assembled, Image};
use crate::oci::{Descriptor, Digest, Index, Reference};
use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

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
    put_bytes(&folder, &assembled.manifest_bytes)?;
    put_file(&directory.join("oci-layout"), &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
    let mut descriptor = assembled.descriptor.clone();
    if let Some(tag) = name.and_then(Reference::tag) {
        descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
    }
    put_file(&directory.join("index.json"), &mut &Index::new(vec![descriptor]).to_bytes()[..])
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
