//! Images from a few lines of text, written as OCI layouts; and OCI layouts read back, every digest checked.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Endpoint;
use crate::tools::{Bundle, output_of};
use crate::tree;

/// How the bytes of a layer are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// The usual.
    Gzip,
    /// zstd; exists with OCI media types only.
    Zstd,
}

/// Whose names the parts of an image go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaTypes {
    /// `application/vnd.oci.image.…`
    Oci,
    /// `application/vnd.docker.…`, schema 2.
    Docker,
}

/// An image in the making.
///
/// ```
/// let base = testkit::Image::new()
///     .layer("etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1 localhost\\n\"")
///     .packed_layer(testkit::Compression::Zstd, "- etc/hosts")
///     .config(serde_json::json!({"Env": ["PATH=/bin"], "User": "1000"}));
/// let directory = tempfile::tempdir().unwrap();
/// assert_eq!(base.write(directory.path(), "latest").tree(), "etc/ 0755 0:0\n");
/// ```
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<(Compression, Vec<u8>)>,
    config: Value,
    platform: (String, String, Option<String>),
    media_types: MediaTypes,
}

impl Image {
    /// An image for linux/amd64 without layers and with an empty config.
    #[must_use]
    pub fn new() -> Image {
        Image {
            layers: Vec::new(),
            config: json!({}),
            platform: ("linux".to_owned(), "amd64".to_owned(), None),
            media_types: MediaTypes::Oci,
        }
    }

    /// Adds a gzip layer with the entries that the text says; see [`tree`].
    #[must_use]
    pub fn layer(self, text: &str) -> Image {
        self.packed_layer(Compression::Gzip, text)
    }

    /// Adds a layer with the entries that the text says, packed as wanted.
    #[must_use]
    pub fn packed_layer(self, compression: Compression, text: &str) -> Image {
        self.raw_layer(compression, tree::tar(text))
    }

    /// Adds a layer of these bytes, which need not be a tar.
    #[must_use]
    pub fn raw_layer(mut self, compression: Compression, tar: Vec<u8>) -> Image {
        self.layers.push((compression, tar));
        self
    }

    /// Adds a layer with Debian's static busybox and a link for each of its commands: enough for `RUN`.
    #[must_use]
    pub fn busybox_layer(self) -> Image {
        let commands = output_of("/bin/busybox", ["--list"]);
        let mut text = String::from("bin/ 0755 0:0\nbin/busybox 0755 0:0 \"\"\ntmp/ 1777 0:0\n");
        for command in commands.lines().filter(|command| !matches!(*command, "busybox" | "linuxrc")) {
            text.extend(["bin/", command, " -> busybox\n"]);
        }
        let mut nodes = tree::parse(&text);
        nodes[1].kind = tree::Kind::File(std::fs::read("/bin/busybox").expect("busybox-static is installed"));
        self.raw_layer(Compression::Gzip, tree::tar_of(&nodes))
    }

    /// Sets the `config` part of the image config: `Env`, `Cmd`, `User`, …
    #[must_use]
    pub fn config(mut self, config: Value) -> Image {
        self.config = config;
        self
    }

    /// Sets the platform, as `linux/amd64` or `linux/arm/v7`.
    #[must_use]
    pub fn platform(mut self, platform: &str) -> Image {
        let mut parts = platform.split('/').map(str::to_owned);
        let mut next = |what| parts.next().unwrap_or_else(|| panic!("{platform}: the {what} is missing"));
        self.platform = (next("system"), next("architecture"), parts.next());
        self
    }

    /// Sets whose media types are used.
    #[must_use]
    pub fn media_types(mut self, media_types: MediaTypes) -> Image {
        self.media_types = media_types;
        self
    }

    /// Adds the image to the OCI layout in `directory`, which is made if it does not exist.
    pub fn write(&self, directory: &Path, tag: &str) -> Layout {
        let layout = Layout::create(directory);
        layout.set(tag, self.add(&layout));
        Layout { tag: tag.to_owned(), ..layout }
    }

    /// Pushes the image, and returns the digest of its manifest. The registry gets these bytes and no others.
    pub fn push(&self, registry: &impl Endpoint, name: &str) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        self.write(directory.path(), "latest").push(registry, name)
    }

    /// Writes the blobs, and returns the descriptor of the manifest.
    fn add(&self, layout: &Layout) -> Value {
        let docker = self.media_types == MediaTypes::Docker;
        let (system, architecture, variant) = &self.platform;
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (compression, tar) in &self.layers {
            let media_type = match (docker, compression) {
                (false, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
                (false, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
                (false, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
                (true, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
                (true, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
                (true, Compression::Zstd) => panic!("Docker's media types know no zstd"),
            };
            diff_ids.push(sha256(tar));
            layers.push(layout.add_blob(&pack(*compression, tar), media_type));
        }
        let history = vec![json!({"created": CREATED, "created_by": "made for a test"}); layers.len()];
        let mut config = json!({
            "created": CREATED,
            "architecture": architecture,
            "os": system,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let mut platform = json!({"architecture": architecture, "os": system});
        if let Some(variant) = variant {
            config["variant"] = variant.as_str().into();
            platform["variant"] = variant.as_str().into();
        }
        let (config_type, manifest_type) = if docker {
            ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
        } else {
            ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json")
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": layout.add_blob(config.to_string().as_bytes(), config_type),
            "layers": layers,
        });
        let mut descriptor = layout.add_blob(manifest.to_string().as_bytes(), manifest_type);
        descriptor["platform"] = platform;
        descriptor
    }
}

impl Default for Image {
    fn default() -> Image {
        Image::new()
    }
}

const CREATED: &str = "2010-01-01T00:00:00Z";

/// Pushes images for several platforms under one name, and returns the digest of the index.
pub fn push_index(images: &[Image], registry: &impl Endpoint, name: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout::create(directory.path());
    let manifests: Vec<Value> = images.iter().map(|image| image.add(&layout)).collect();
    let media_type = if images.iter().all(|image| image.media_types == MediaTypes::Docker) {
        "application/vnd.docker.distribution.manifest.list.v2+json"
    } else {
        "application/vnd.oci.image.index.v1+json"
    };
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    layout.set("latest", layout.add_blob(index.to_string().as_bytes(), media_type));
    layout.push(registry, name)
}

/// An image in an OCI layout on disk.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    tag: String,
    /// Removes the directory in the end, if it was made for this layout.
    _temporary: Option<tempfile::TempDir>,
}

impl Layout {
    /// Opens the image called `tag` in an existing layout.
    #[must_use]
    pub fn open(directory: &Path, tag: &str) -> Layout {
        Layout { directory: directory.to_owned(), tag: tag.to_owned(), _temporary: None }
    }

    /// Opens the only image of an existing layout, whatever its tag, and without one too.
    #[must_use]
    pub fn open_only(directory: &Path) -> Layout {
        let index: Value = read_json(&directory.join("index.json"));
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "one image in {index}");
        let tag = index["manifests"][0]["annotations"][REFERENCE].as_str().unwrap_or_default();
        Layout::open(directory, tag)
    }

    fn create(directory: &Path) -> Layout {
        std::fs::create_dir_all(directory.join("blobs/sha256")).expect("a layout can be made");
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout can be made");
        Layout::open(directory, "latest")
    }

    /// Pushes the image, and returns the digest of its manifest. The registry gets these bytes and no others.
    pub fn push(&self, registry: &impl Endpoint, name: &str) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        self.write_plain_directory(directory.path());
        let mut arguments = ["copy", "--quiet", "--all", "--preserve-digests"].map(str::to_owned).to_vec();
        arguments.extend(registry.skopeo_flags("dest-"));
        arguments.push(format!("dir:{}", directory.path().display()));
        arguments.push(format!("docker://{}/{name}", registry.address()));
        output_of("skopeo", arguments);
        self.digest()
    }

    /// Copies an image out of a registry as it is there.
    pub(crate) fn pull(registry: &impl Endpoint, name: &str) -> Layout {
        let plain = tempfile::tempdir().expect("a temporary directory");
        let mut arguments = ["copy", "--quiet", "--all", "--preserve-digests"].map(str::to_owned).to_vec();
        arguments.extend(registry.skopeo_flags("src-"));
        arguments.push(format!("docker://{}/{name}", registry.address()));
        arguments.push(format!("dir:{}", plain.path().display()));
        output_of("skopeo", arguments);

        let directory = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::create(directory.path());
        for entry in std::fs::read_dir(plain.path()).expect("skopeo made the directory") {
            let bytes = std::fs::read(entry.expect("a readable directory").path()).expect("a file");
            layout.add_blob(&bytes, "");
        }
        let manifest = std::fs::read(plain.path().join("manifest.json")).expect("skopeo copies a manifest");
        let document: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
        let media_type = document["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        layout.set("latest", layout.add_blob(&manifest, media_type));
        Layout { _temporary: Some(directory), ..layout }
    }

    /// Writes what `skopeo` calls `dir:`. Unlike its `oci:` it takes documents under Docker's media types as they are.
    fn write_plain_directory(&self, directory: &Path) {
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.join(name), bytes).expect("a temporary directory can be written");
        };
        let write_parts = |manifest: &Value| {
            let layers = manifest["layers"].as_array().into_iter().flatten();
            for part in layers.chain(Some(&manifest["config"])) {
                write(hex_of(part), &self.blob(part));
            }
        };
        write("version", b"Directory Transport Version: 1.1\n");
        write("manifest.json", &self.blob(&self.descriptor()));
        let manifest = self.manifest();
        match manifest["manifests"].as_array() {
            None => write_parts(&manifest),
            Some(manifests) => {
                for descriptor in manifests {
                    write(&format!("{}.manifest.json", hex_of(descriptor)), &self.blob(descriptor));
                    write_parts(&self.json(descriptor));
                }
            }
        }
    }

    /// The digest of the manifest or index.
    #[must_use]
    pub fn digest(&self) -> String {
        text_of(&self.descriptor()["digest"])
    }

    /// The manifest, or the index of an image for several platforms.
    #[must_use]
    pub fn manifest(&self) -> Value {
        self.json(&self.descriptor())
    }

    /// The whole image config.
    #[must_use]
    pub fn config(&self) -> Value {
        self.json(&self.manifest()["config"])
    }

    /// What each layer holds, in the text form of [`tree`], in the order of the archive.
    #[must_use]
    pub fn layers(&self) -> Vec<String> {
        self.layer_nodes().iter().map(|nodes| tree::text(nodes)).collect()
    }

    /// The files of the image in the text form of [`tree`], sorted by path.
    #[must_use]
    pub fn tree(&self) -> String {
        tree::text(&tree::flatten(&self.layer_nodes()))
    }

    /// Unpacks the image with `umoci`.
    #[must_use]
    pub fn unpack(&self) -> Bundle {
        if !text_of(&self.descriptor()["mediaType"]).starts_with("application/vnd.docker.") {
            return Bundle::unpack(&self.directory, &self.tag);
        }
        // `umoci` knows OCI's media types only.
        let (plain, converted) = (tempfile::tempdir(), tempfile::tempdir());
        let (plain, converted) = (plain.expect("a temporary directory"), converted.expect("a temporary directory"));
        self.write_plain_directory(plain.path());
        let source = format!("dir:{}", plain.path().display());
        let destination = format!("oci:{}:latest", converted.path().display());
        output_of("skopeo", ["copy", "--quiet", "--format=oci", &source, &destination]);
        Bundle::unpack(converted.path(), "latest")
    }

    /// Reads a blob. Its digest and its size are checked.
    #[must_use]
    pub fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = text_of(&descriptor["digest"]);
        let place = self.directory.join("blobs").join(digest.replace(':', "/"));
        let bytes = std::fs::read(&place).unwrap_or_else(|error| panic!("blob {digest}: {error}"));
        assert_eq!(sha256(&bytes), digest, "the blob has another digest");
        assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "the size of blob {digest}");
        bytes
    }

    /// The uncompressed layers, each compared with its diff id.
    #[must_use]
    pub fn layer_tars(&self) -> Vec<Vec<u8>> {
        self.layer_tars_above(0).collect()
    }

    /// The entries of each layer but for the first `count`, which are not read: those of a large base. One layer is in memory at a
    /// time.
    pub fn layers_above(&self, count: usize) -> impl Iterator<Item = Vec<tree::Node>> {
        self.layer_tars_above(count).map(|tar| tree::of_tar(&tar))
    }

    fn layer_tars_above(&self, count: usize) -> impl Iterator<Item = Vec<u8>> {
        let manifest = self.manifest();
        let config = self.config();
        let layers = manifest["layers"].as_array().expect("an image manifest").clone();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("an image config").clone();
        assert_eq!(layers.len(), diff_ids.len(), "layers and diff ids in {manifest} and {config}");
        layers.into_iter().zip(diff_ids).skip(count).map(|(layer, diff_id)| {
            let tar = unpack(&text_of(&layer["mediaType"]), &self.blob(&layer));
            assert_eq!(sha256(&tar), text_of(&diff_id), "the layer has another diff id");
            tar
        })
    }

    fn layer_nodes(&self) -> Vec<Vec<tree::Node>> {
        self.layers_above(0).collect()
    }

    fn descriptor(&self) -> Value {
        let index = read_json(&self.directory.join("index.json"));
        let manifests = index["manifests"].as_array().expect("an OCI layout");
        manifests
            .iter()
            .find(|manifest| manifest["annotations"][REFERENCE].as_str().unwrap_or_default() == self.tag)
            .unwrap_or_else(|| panic!("no {:?} in {index}", self.tag))
            .clone()
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).expect("manifests and configs are JSON")
    }

    fn add_blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = sha256(bytes);
        std::fs::write(self.directory.join("blobs").join(digest.replace(':', "/")), bytes).expect("a blob can be written");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Makes `tag` stand for the manifest, beside what is there under other tags.
    fn set(&self, tag: &str, mut descriptor: Value) {
        let file = self.directory.join("index.json");
        let mut manifests = Vec::new();
        if file.exists() {
            manifests.clone_from(read_json(&file)["manifests"].as_array().expect("an OCI layout"));
            manifests.retain(|manifest| manifest["annotations"][REFERENCE] != tag);
        }
        descriptor["annotations"] = json!({REFERENCE: tag});
        manifests.push(descriptor);
        std::fs::write(file, json!({"schemaVersion": 2, "manifests": manifests}).to_string()).expect("a layout can be written");
    }
}

const REFERENCE: &str = "org.opencontainers.image.ref.name";

/// The digest of a descriptor without the name of its algorithm.
fn hex_of(descriptor: &Value) -> &str {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    digest.split_once(':').expect("a digest names its algorithm").1
}

fn read_json(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

fn pack(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("writing to memory");
            encoder.finish().expect("writing to memory")
        }
        Compression::Zstd => zstd::encode_all(tar, 1).expect("writing to memory"),
    }
}

fn unpack(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match media_type.rsplit(['+', '.']).next() {
        Some("gzip") => {
            flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut tar).expect("a gzip layer");
        }
        Some("zstd") => tar = zstd::decode_all(bytes).expect("a zstd layer"),
        _ => tar = bytes.to_vec(),
    }
    tar
}

/// The digest of these bytes as documents write it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", tree::hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1\\n\"\n";

    #[test]
    fn every_compression_reads_back() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let directory = tempfile::tempdir().unwrap();
            let layout = Image::new().packed_layer(compression, TEXT).write(directory.path(), "latest");
            assert_eq!(layout.layers(), [TEXT], "{compression:?}");
        }
    }

    #[test]
    fn a_layout_holds_several_images() {
        let directory = tempfile::tempdir().unwrap();
        Image::new().layer(TEXT).write(directory.path(), "full");
        Image::new().write(directory.path(), "empty");
        assert_eq!(Layout::open(directory.path(), "full").tree(), TEXT);
        assert_eq!(Layout::open(directory.path(), "empty").tree(), "");
    }

    #[test]
    fn privileged_umoci_unpacks_what_the_text_says() {
        if !crate::require(&["umoci"]) || !crate::require_root() {
            return;
        }
        let text = "a/ 0750 1:2\na/f 4755 3:4 \"x\"\na/g = a/f\na/l -> f\na/p 0644 0:0 p\nn 0666 0:0 c 1:3\n";
        let directory = tempfile::tempdir().unwrap();
        let layout = Image::new().layer(text).layer("- a/p").write(directory.path(), "latest");
        let expected = text.replace("a/p 0644 0:0 p\n", "");
        assert_eq!(layout.tree(), expected);
        assert_eq!(layout.unpack().tree(), expected);
    }

    #[test]
    fn privileged_runc_runs_an_image() {
        if !crate::require(&["umoci", "runc", "busybox"]) || !crate::require_root() {
            return;
        }
        let config = json!({"Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["sh", "-c", "echo $GREETING; exit 3"]});
        let directory = tempfile::tempdir().unwrap();
        let layout = Image::new()
            .busybox_layer()
            .layer("proc/ 0555 0:0\nsys/ 0555 0:0\ndev/ 0755 0:0\netc/ 0755 0:0\nrun/ 0755 0:0")
            .config(config)
            .write(directory.path(), "latest");
        let bundle = layout.unpack();
        let finished = bundle.run(&[]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(3), "hello\n"), "{}", finished.stderr);
        assert_eq!(bundle.run(&["echo", "again"]).stdout, "again\n");
    }
}
