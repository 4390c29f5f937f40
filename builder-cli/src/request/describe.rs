//! The request as `--print-request` shows it. Pure.

use super::{CredentialSource, Invocation, Note};
use builder_core::build::{CacheUse, ContextSource, DockerfileSource, Export, SecretSource};
use builder_core::http::{Url, redacted};
use builder_core::oci::Reference;
use serde_json::{Map, Value, json};

/// What `--print-request` prints: everything but the secrets.
pub fn describe(invocation: &Invocation) -> Value {
    let request = &invocation.request;
    let strings = |items: &[Reference]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    let secret = |(id, source): (&String, &SecretSource)| match source {
        SecretSource::File(path) => json!({ "id": id, "file": path }),
        SecretSource::Value(_) => json!({ "id": id, "value": "(hidden)" }),
    };
    let export = |export: &Export| match export {
        Export::OciLayout(path) => json!({ "oci_layout": path }),
        Export::DockerTar(path) => json!({ "docker_tar": path }),
    };
    let registry = &invocation.registry;
    let kept = json!({
        "bytes": invocation.keep_bytes,
        "cache_mounts": request.cache_mounts,
        "cache_directories": invocation.cache_directories,
    });
    json!({
        "kept": kept,
        "context": context(&request.context),
        "context_directory": request.context_directory,
        "dockerfile": match &request.dockerfile {
            DockerfileSource::Path(path) if invocation.dockerfile_candidates.is_empty() => json!(path),
            DockerfileSource::Path(_) => json!(invocation.dockerfile_candidates),
            DockerfileSource::Url(text) => json!(shown(text)),
            DockerfileSource::Inline { name, .. } => json!(name),
        },
        "build_args": request.build_args,
        "target": request.target,
        "labels": request.labels,
        "platform": request.platform.to_string(),
        "config_platform": request.config_platform,
        "destinations": strings(&request.destinations),
        "push": request.push,
        "exports": request.exports.iter().map(export).collect::<Vec<_>>(),
        "build_contexts": request.build_contexts.iter().map(|(name, source)| (name.clone(), context(source))).collect::<Map<_, _>>(),
        "secrets": request.secrets.iter().map(secret).collect::<Vec<_>>(),
        "ssh": request.ssh,
        "allowed": request.allowed,
        "source_date_epoch": request.source_date_epoch,
        "cache": request.use_cache == CacheUse::On,
        "shared_cache": request.cache,
        "max_unpacked_bytes": request.max_unpacked_bytes,
        "layers": { "compression": request.compression, "level": request.compression_level, "jobs": request.jobs },
        "step_timeout_seconds": request.step_timeout_seconds,
        "isolation": format!("{:?}", invocation.isolation).to_lowercase(),
        "state": invocation.state_candidates.iter().map(|candidate| &candidate.path).collect::<Vec<_>>(),
        "registry": {
            "insecure": registry.insecure,
            "insecure_push": registry.insecure_push,
            "insecure_pull": registry.insecure_pull,
            "unverified": registry.unverified,
            "unverified_push": registry.unverified_push,
            "unverified_pull": registry.unverified_pull,
            "authorities": registry.authorities,
            "client_certificates": registry.client_certificates.iter()
                .map(|(registry, files)| json!([registry, files.certificate, files.key])).collect::<Vec<_>>(),
            "mirrors": registry.mirrors,
            "fallback": registry.fallback,
            "push_retries": registry.push_retries,
            "pull_retries": registry.pull_retries,
            "connections": registry.connections,
            "credentials": registry.credentials.iter().map(|source| match source {
                CredentialSource::Text(_) => json!("(hidden)"),
                CredentialSource::File(path) => json!(path),
            }).collect::<Vec<_>>(),
            // A proxy's address may hold a password.
            "proxies": {
                "http": registry.proxies.http.is_some(),
                "https": registry.proxies.https.is_some(),
                "none": registry.proxies.none,
            },
            "authority_file": registry.authority_file,
            "authority_directory": registry.authority_directory,
        },
        "result_files": {
            "digest": invocation.result_files.digest,
            "name_with_digest": invocation.result_files.name_with_digest,
            "name_tag_with_digest": invocation.result_files.name_tag_with_digest,
        },
        "log": {
            "verbosity": format!("{:?}", invocation.log.verbosity).to_lowercase(),
            "quiet": invocation.log.quiet,
            "format": format!("{:?}", invocation.log.format).to_lowercase(),
            "timestamps": invocation.log.timestamps,
            "moving_line": invocation.log.moving_line,
        },
        "notes": invocation.notes.iter().map(|note| match note {
            Note::Information(text) | Note::Warning(text) => text,
        }).collect::<Vec<_>>(),
    })
}

fn context(context: &ContextSource) -> Value {
    match context {
        ContextSource::Directory(path) => json!(path),
        ContextSource::Archive(path) => json!({ "archive": path }),
        ContextSource::Input => json!("-"),
        ContextSource::Url(text) => json!(shown(text)),
        ContextSource::Git(source) => json!({
            "git": source.remote,
            "reference": source.reference,
            "commit": source.commit,
            "directory": source.directory,
            "submodules": source.submodules,
            "depth": source.depth,
            "skip_tls_verify": source.skip_tls_verify,
            "credential": source.credential.is_some(),
        }),
        ContextSource::OciLayout { path, image } => json!({ "oci_layout": path, "image": image }),
        ContextSource::Image(reference) => json!({ "image": reference.to_string() }),
        ContextSource::Empty => json!(null),
    }
}

/// An address without what may be secret in it.
fn shown(text: &str) -> String {
    Url::parse(text).map_or_else(|_| "(no address)".to_owned(), |url| redacted(&url))
}
