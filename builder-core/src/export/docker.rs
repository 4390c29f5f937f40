//! Writes an image as the archive that `docker save` makes and `docker load`, `podman load` and `skopeo` read.
//!
//! The layers go in as they are in a registry, compressed: readers recognise that, and nothing is compressed twice.

use super::{Blobs, ExportError};
use crate::image::{Assembled, Image};
use crate::layer::tar::{self, Kind, Record};
use crate::oci::{Compression, Reference};
use crate::tree::Timestamp;
use serde_json::json;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    path::Path,
};

/// Writes `image` to the file `path`, under `names`. The file appears when it is whole.
///
/// # Errors
/// [`ExportError`] if it cannot be written or a blob cannot be had.
pub fn write(
    image: &Image,
    assembled: &Assembled,
    names: &[Reference],
    path: &Path,
    blobs: &dyn Blobs,
) -> Result<(), ExportError> {
    let failed = |error: io::Error| ExportError::write(path, error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    let mut out = io::BufWriter::with_capacity(1 << 18, file);

    let config_name = format!("{}.json", assembled.manifest.config.digest.hex());
    entry(&mut out, &config_name, assembled.config_bytes.len() as u64, &mut &assembled.config_bytes[..]).map_err(failed)?;
    let mut layer_names = Vec::new();
    let mut written = BTreeSet::new();
    for layer in &image.layers {
        let suffix = match layer.compression() {
            Compression::Uncompressed => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        };
        let name = format!("{}.tar{suffix}", layer.blob.digest.hex());
        if written.insert(name.clone()) {
            let mut reader = blobs.open(layer)?;
            entry(&mut out, &name, layer.blob.size_bytes, &mut reader).map_err(failed)?;
        }
        layer_names.push(name);
    }
    let tags: Vec<String> =
        names.iter().filter_map(|name| Some(format!("{}/{}:{}", name.registry(), name.repository(), name.tag()?))).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": layer_names }]).to_string();
    entry(&mut out, "manifest.json", manifest.len() as u64, &mut manifest.as_bytes()).map_err(failed)?;
    out.write_all(&tar::END).map_err(failed)?;

    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn entry(out: &mut impl Write, name: &str, size_bytes: u64, content: &mut dyn Read) -> io::Result<()> {
    let record = Record {
        name: name.as_bytes().to_vec(),
        kind: Kind::File { size_bytes },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        capability: None,
    };
    out.write_all(&tar::header(&record).map_err(io::Error::other)?)?;
    let copied = io::copy(&mut content.take(size_bytes), out)?;
    if copied != size_bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} has {copied} bytes instead of {size_bytes}")));
    }
    out.write_all(&[0; 512][..tar::padding(size_bytes)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Layer, Origin};
    use crate::oci::{Descriptor, DiffId, MediaType};

    struct One(&'static [u8]);

    impl Blobs for One {
        fn open(&self, _: &Layer) -> Result<Box<dyn Read + Send>, ExportError> {
            Ok(Box::new(self.0))
        }
    }

    #[test]
    fn a_foreign_reader_finds_config_and_layers_by_the_manifest() {
        let blob = Descriptor { media_type: MediaType::oci_layer(Compression::Gzip), ..Descriptor::of("", b"layer") };
        let layer = Layer { diff_id: DiffId(blob.digest), blob, origin: Origin::Store };
        let image = Image { layers: vec![layer.clone(), layer], ..Image::scratch() };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        write(&image, &image.assemble(), &["example.org/app:1".parse().unwrap()], &path, &One(b"layer")).unwrap();

        let mut found = std::collections::BTreeMap::new();
        for entry in ::tar::Archive::new(std::fs::File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(
                found.insert(entry.path().unwrap().display().to_string(), bytes).is_none(),
                "a layer that is there twice is written once"
            );
        }
        let manifest: serde_json::Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["example.org/app:1"]));
        assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(found[manifest[0]["Layers"][0].as_str().unwrap()], b"layer");
        assert!(found.contains_key(manifest[0]["Config"].as_str().unwrap()));
    }

    #[test]
    fn a_short_blob_leaves_no_file() {
        let blob = Descriptor::of("x", b"layers");
        let image =
            Image { layers: vec![Layer { diff_id: DiffId(blob.digest), blob, origin: Origin::Store }], ..Image::scratch() };
        let directory = tempfile::tempdir().unwrap();
        assert!(write(&image, &image.assemble(), &[], &directory.path().join("image.tar"), &One(b"layer")).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
