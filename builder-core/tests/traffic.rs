//! What a build puts on the wire: how its layers are compressed, and how many connections it takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{Backends, BuildRequest, build};
use builder_core::oci::Compression;
use builder_core::{http, registry, store::Store};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use testkit::{Image, Registry, RegistryOptions, require};

async fn run(state: &Path, options: registry::Options, request: BuildRequest) -> builder_core::build::Outcome {
    let client = http::Client::new(http::Options::default()).unwrap();
    let registry = registry::Client::new(client, options, Arc::new(registry::Anonymous)).unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let listening = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    let outcome = build(request, Backends::new(Store::open(state).unwrap(), registry), sender).await;
    listening.await.unwrap();
    outcome.unwrap()
}

/// A context with these files and a Dockerfile.
fn context(directory: &Path, dockerfile: &str, files: &[(&str, Vec<u8>)]) -> BuildRequest {
    let context = directory.join("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    for (name, bytes) in files {
        fs::write(context.join(name), bytes).unwrap();
    }
    BuildRequest::new(context)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_compressed_as_asked_and_go_readers_agree() {
    if !require(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    // Two chunks of each kind: text, and what cannot be compressed.
    let text: Vec<u8> = (0..600_000_u32).flat_map(|number| format!("{number} ").into_bytes()).collect();
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let noise: Vec<u8> = (0..2_500_000).map(|_| noise()).collect();
    let mut diff_ids = Vec::new();
    for (compression, level, media_type) in [
        (Compression::Gzip, None, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (Compression::Gzip, Some(9), "application/vnd.oci.image.layer.v1.tar+gzip"),
        (Compression::Zstd, Some(7), "application/vnd.oci.image.layer.v1.tar+zstd"),
        (Compression::Uncompressed, None, "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::start();
        let files = [("text", text.clone()), ("noise", noise.clone())];
        let mut request = context(directory.path(), "FROM scratch\nCOPY text noise /d/", &files);
        request.destinations = vec![format!("{}/a:1", registry.address()).parse().unwrap()];
        (request.compression, request.compression_level) = (compression, level);
        request.source_date_epoch = Some(1);
        for file in ["text", "noise"] {
            let file = fs::File::options().write(true).open(directory.path().join("context").join(file)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let outcome = run(&directory.path().join("state"), registry::Options::default(), request).await;
        assert_eq!(outcome.layers[0].blob.media_type.as_str(), media_type);
        // skopeo decompresses with Go's readers and names each layer by what comes out.
        let unpacked = directory.path().join("unpacked");
        let source = format!("docker://{}/a:1", registry.address());
        let target = format!("dir:{}", unpacked.display());
        let mut skopeo = std::process::Command::new("skopeo");
        skopeo.args(["copy", "-q", "--src-tls-verify=false", "--dest-decompress", &source, &target]);
        assert!(skopeo.status().unwrap().success(), "{compression:?}");
        let diff_id = outcome.layers[0].diff_id;
        assert!(unpacked.join(diff_id.0.hex()).exists(), "{compression:?}");
        // umoci 0.4.7, Debian's, takes no zstd: "unpack rootfs: layer sha256:…: blob is not correct mediatype:
        // application/vnd.oci.image.layer.v1.tar+zstd".
        if compression != Compression::Zstd {
            drop(registry.pull("a:1").unpack());
        }
        diff_ids.push(diff_id);
    }
    diff_ids.dedup();
    assert_eq!(diff_ids.len(), 1, "the compression does not show in what is compressed");
}

/// Lets connections through to a registry and counts them.
fn counting(registry: &Registry) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, to) = (count.clone(), registry.address().to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            counted.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(&to) else { return };
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_copies_to_a_registry_with_tls_take_four_connections() {
    if !require(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start_with(RegistryOptions { tls: true, ..RegistryOptions::default() });
    Image::new().layer("etc/ 0755 0:0\netc/hosts 0644 0:0 \"h\"").push(&registry, "base:1");
    let (address, connections) = counting(&registry);
    let mut dockerfile = format!("FROM {address}/base:1\n");
    let names: Vec<String> = (0..60).map(|number| format!("f{number}")).collect();
    for name in &names {
        dockerfile.extend(["COPY ", name, " /d/\n"]);
    }
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (&name[..], name.clone().into_bytes())).collect();
    let mut request = context(directory.path(), &dockerfile, &files);
    request.jobs = NonZeroUsize::new(1);
    // Two destinations in two repositories, side by side.
    request.destinations = ["a:1", "b:1"].map(|name| format!("{address}/{name}").parse().unwrap()).to_vec();
    let authority = fs::read(registry.authority_certificate().unwrap()).unwrap();
    let options =
        registry::Options { certificates: BTreeMap::from([(address.clone(), authority)]), ..registry::Options::default() };
    let outcome = run(&directory.path().join("state"), options, request).await;
    assert_eq!(outcome.pushed.len(), 2);
    assert_eq!(registry.pull("b:1").layers().len(), 61);
    let connections = connections.load(Ordering::SeqCst);
    assert!((1..=4).contains(&connections), "{connections} connections");
}
