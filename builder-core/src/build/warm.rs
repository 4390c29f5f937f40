//! Brings base images into the store before a build wants them.

use super::{Backends, Build, BuildError, BuildRequest, ContextSource, DockerfileSource, Event, base::Keep};
use crate::oci::{Platform, Reference};
use crate::plan::{self, Source};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// What is to be brought.
#[derive(Clone, Debug)]
pub struct WarmRequest {
    /// Images by name.
    pub images: Vec<Reference>,
    /// A Dockerfile whose FROM name images.
    pub dockerfile: Option<DockerfileSource>,
    /// `--build-arg`, which those names may depend on.
    pub build_args: std::collections::BTreeMap<String, String>,
    /// For what.
    pub platform: Platform,
    /// Whether what is there already is read again, and brought again where it is damaged.
    pub verify: bool,
}

/// What became of one image.
#[derive(Debug)]
pub struct Warmed {
    /// Its name.
    pub image: String,
    /// For what.
    pub platform: Platform,
    /// Number and size of its layers in the store, or why it is not there.
    pub result: Result<WarmedLayers, BuildError>,
}

/// The layers of an image that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmedLayers {
    /// How many.
    pub count: usize,
    /// As their blobs are.
    pub size_bytes: u64,
}

/// Brings the manifests, layers and layer indexes of images into the store. What is there already is not downloaded.
///
/// Events go to `events` as with [`build`](super::build()).
///
/// # Errors
/// [`BuildError`] if the Dockerfile cannot be read or makes no sense. That an image cannot be had stands in its [`Warmed`].
pub async fn warm(request: WarmRequest, backends: Backends, events: mpsc::Sender<Event>) -> Result<Vec<Warmed>, BuildError> {
    let no_dockerfile = || DockerfileSource::Inline { name: "Dockerfile".to_owned(), text: "FROM scratch\n".to_owned() };
    let build_request = BuildRequest {
        context: ContextSource::Empty,
        dockerfile: request.dockerfile.unwrap_or_else(no_dockerfile),
        build_args: request.build_args,
        platform: request.platform.clone(),
        ..BuildRequest::new("/")
    };
    let build = Box::pin(Build::prepare(build_request, backends, events)).await?;
    let plan = plan::plan_all(&build.dockerfile, &build.plan_options)
        .map_err(|mistakes| BuildError::mistakes(&build.file_name, &build.dockerfile.source, mistakes))?;
    let named = request.images.iter().map(|image| (image.to_string(), request.platform.clone()));
    let bases = plan.stages.values().filter_map(|stage| match &stage.base {
        Source::Image(name) => Some((name.clone(), stage.platform.clone())),
        Source::Scratch | Source::Stage(_) | Source::Context(_) => None,
    });
    let mut seen = BTreeSet::new();
    let wanted = named.chain(bases).filter(|image| seen.insert(image.clone())).collect::<Vec<_>>();
    let bring = async |(image, platform): (String, Platform)| {
        let result = build.bring(&image, &platform, request.verify).await;
        Warmed { image, platform, result }
    };
    Ok(join_all(wanted.into_iter().map(bring)).await)
}

impl Build {
    async fn bring(&self, image: &str, platform: &Platform, verify: bool) -> Result<WarmedLayers, BuildError> {
        let base = self.base(image, platform, Keep::Blobs).await?;
        for layer in base.layers.iter().filter(|_| verify) {
            let (store, digest) = (self.store.clone(), layer.blob.digest);
            self.work.run(move || store.remove_if_damaged(&digest).map_err(BuildError::store)).await?;
            self.need_blob(layer.diff_id).await?;
        }
        Ok(WarmedLayers { count: base.layers.len(), size_bytes: base.layers.iter().map(|layer| layer.blob.size_bytes).sum() })
    }
}
