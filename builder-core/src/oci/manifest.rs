//! Manifests and indexes: read with `oci-spec`, written with ordered fields. Pure.

use super::{Descriptor, DigestError, MediaType, Platform};
use serde::Serialize;
use std::collections::BTreeMap;

/// An image manifest: a config and layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u8,
    media_type: MediaType,
    /// The image config.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// Free notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index: the same image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u8,
    media_type: MediaType,
    /// One manifest per platform.
    pub manifests: Vec<Descriptor>,
}

/// What a tag or digest of a registry or layout leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// Why bytes are no manifest or index that we can use.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not of the promised shape.
    #[error("the manifest is malformed")]
    Malformed(#[source] oci_spec::OciSpecError),
    /// A type that holds no image.
    #[error("{0:?} is neither an image manifest nor an index")]
    UnknownType(String),
    /// Docker schema 1, which has no digests of uncompressed layers.
    #[error("the image has an obsolete Docker schema 1 manifest")]
    SchemaOne,
    /// A digest that we cannot verify.
    #[error("the manifest names a blob that cannot be verified")]
    Digest(#[from] DigestError),
}

impl Manifest {
    /// An OCI manifest of `config` and `layers`.
    #[must_use]
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MediaType::new(MediaType::OCI_MANIFEST),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// The bytes to push. Equal manifests give equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds only strings and numbers")
    }

    /// OCI's or Docker's media type.
    #[must_use]
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }
}

impl Index {
    /// An OCI index of `manifests`.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: MediaType::new(MediaType::OCI_INDEX), manifests }
    }

    /// The bytes to push. Equal indexes give equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an index holds only strings and numbers")
    }

    /// The manifest that serves best on `platform`. A single manifest without a platform serves everywhere.
    #[must_use]
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let offers = self.manifests.iter().filter(|offer| offer.media_type.is_manifest() || offer.media_type.is_index());
        offers
            .filter_map(|offer| {
                let distance = match &offer.platform {
                    Some(offered) => platform.distance(offered)?,
                    None if self.manifests.len() == 1 => 0,
                    None => return None,
                };
                Some((distance, offer))
            })
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, offer)| offer)
    }
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what the server or the descriptor said; what the document says
    /// of itself counts more.
    ///
    /// # Errors
    /// [`DocumentError`] if it is neither.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, DocumentError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Outline {
            #[serde(default)]
            schema_version: u8,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let outline: Outline = serde_json::from_slice(bytes).map_err(|error| DocumentError::Malformed(error.into()))?;
        if outline.schema_version == 1 {
            return Err(DocumentError::SchemaOne);
        }
        let said =
            outline.media_type.or_else(|| media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned()));
        let kind = match said.map(MediaType::new) {
            Some(kind) if kind.is_index() || kind.is_manifest() => kind,
            // A document without a type, served as plain JSON or octets, is known by its fields.
            _ if outline.manifests.is_some() => MediaType::new(MediaType::OCI_INDEX),
            _ if outline.layers.is_some() => MediaType::new(MediaType::OCI_MANIFEST),
            other => return Err(DocumentError::UnknownType(other.map_or_else(String::new, |kind| kind.to_string()))),
        };
        if kind.is_index() {
            let index = oci_spec::image::ImageIndex::from_reader(bytes).map_err(DocumentError::Malformed)?;
            // An attestation or an artifact beside the images may have a digest of another algorithm: it is not ours to use.
            let manifests = index.manifests().iter().filter_map(|manifest| descriptor(manifest).ok()).collect();
            return Ok(Self::Index(Index { schema_version: 2, media_type: kind, manifests }));
        }
        let manifest = oci_spec::image::ImageManifest::from_reader(bytes).map_err(DocumentError::Malformed)?;
        Ok(Self::Manifest(Manifest {
            schema_version: 2,
            media_type: kind,
            config: descriptor(manifest.config())?,
            layers: manifest.layers().iter().map(descriptor).collect::<Result<_, _>>()?,
            annotations: manifest.annotations().clone().unwrap_or_default().into_iter().collect(),
        }))
    }
}

fn descriptor(read: &oci_spec::image::Descriptor) -> Result<Descriptor, DigestError> {
    Ok(Descriptor {
        media_type: MediaType::new(read.media_type().to_string()),
        digest: read.digest().to_string().parse()?,
        size_bytes: read.size(),
        platform: read.platform().as_ref().map(|platform| {
            Platform::new(&platform.os().to_string(), &platform.architecture().to_string(), platform.variant().as_deref())
        }),
        annotations: read.annotations().clone().unwrap_or_default().into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(letter: u8) -> Descriptor {
        Descriptor::of(MediaType::OCI_CONFIG, &[letter])
    }

    #[test]
    fn a_manifest_is_read_as_it_is_written() {
        let manifest = Manifest::new(blob(b'c'), vec![blob(b'l')]);
        assert_eq!(Document::parse(&manifest.to_bytes(), None).unwrap(), Document::Manifest(manifest));
    }

    #[test]
    fn what_the_document_says_counts_more_than_what_the_server_says() {
        let bytes = Index::new(vec![blob(b'm')]).to_bytes();
        assert!(matches!(Document::parse(&bytes, Some(MediaType::OCI_MANIFEST)), Ok(Document::Index(_))));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (bytes, media_type) in [
            (&b""[..], None),
            (b"[]", None),
            (b"{}", None),
            (b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"}", None),
            (b"{\"schemaVersion\":2,\"layers\":[],\"config\":{\"mediaType\":\"x\",\"digest\":\"md5:00\",\"size\":1}}", None),
            (b"<html>", Some("text/html")),
        ] {
            assert!(Document::parse(bytes, media_type).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(matches!(Document::parse(b"{\"schemaVersion\":1,\"name\":\"x\"}", None), Err(DocumentError::SchemaOne)));
    }

    #[test]
    fn an_index_is_asked_for_the_nearest_platform() {
        let offer = |letter, platform: &str| Descriptor {
            media_type: MediaType::new(MediaType::OCI_MANIFEST),
            platform: Some(platform.parse().unwrap()),
            ..blob(letter)
        };
        let index = Index::new(vec![offer(b'a', "linux/amd64"), offer(b'6', "linux/arm/v6"), offer(b'7', "linux/arm/v7")]);
        for (wanted, expected) in
            [("linux/amd64", Some(b'a')), ("linux/arm", Some(b'7')), ("linux/arm/v6", Some(b'6')), ("linux/riscv64", None)]
        {
            let found = index.select(&wanted.parse().unwrap()).map(|found| found.digest);
            assert_eq!(found, expected.map(|letter| blob(letter).digest), "{wanted}");
        }
    }
}
