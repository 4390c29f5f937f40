//! How to reach registries: transport, trust, mirrors, and where credentials are. Pure.

use super::{gather, named_pair};
use crate::args::{BuildArgs, Problem};
use crate::environment::Environment;
use builder_core::http::Secret;
use std::path::{Path, PathBuf};

/// How to reach registries. No `Debug`: variables and proxies hold secrets.
#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct RegistrySettings {
    /// Registries that speak HTTP.
    pub insecure: Vec<String>,
    /// Push by HTTP.
    pub insecure_push: bool,
    /// Pull by HTTP.
    pub insecure_pull: bool,
    /// Registries whose certificate is not verified.
    pub unverified: Vec<String>,
    /// Push without verifying certificates.
    pub unverified_push: bool,
    /// Pull without verifying certificates.
    pub unverified_pull: bool,
    /// Certificate authorities by registry.
    pub authorities: Vec<(String, PathBuf)>,
    /// Certificates that we show, by registry.
    pub client_certificates: Vec<(String, ClientCertificate)>,
    /// Registries and who is asked before them, in order.
    pub mirrors: Vec<(String, String)>,
    /// Whether the registry named is asked when no mirror has an image.
    pub fallback: bool,
    /// Further attempts of a push.
    pub push_retries: u32,
    /// Further attempts of a pull.
    pub pull_retries: u32,
    /// Connections that one registry gets at a time, if somebody has said how many.
    pub connections: Option<std::num::NonZeroUsize>,
    /// Where credentials are, first asked first.
    pub credentials: Vec<CredentialSource>,
    /// The variables that credential helpers are given: theirs are of every cloud.
    pub helper_environment: Vec<(String, String)>,
    /// Proxies.
    pub proxies: Proxies,
    /// File of the certificate authorities of all registries.
    pub authority_file: Option<PathBuf>,
    /// Directory of the same.
    pub authority_directory: Option<PathBuf>,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// File of the certificate.
    pub certificate: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

/// Where credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// The text of a Docker configuration.
    Text(Secret),
    /// A Docker configuration or Podman's file; that it is absent is no error.
    File(PathBuf),
}

/// Proxies, as the usual variables name them.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts reached directly.
    pub none: Option<String>,
}

/// Reads the flags and variables that concern registries.
pub(super) fn registry(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> RegistrySettings {
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    let authorities = gather(problems, &args.registry_certificate, "--registry-certificate", named_pair);
    let client_certificates = gather(problems, &args.registry_client_cert, "--registry-client-cert", |text| {
        let (registry, files) = named_pair(text)?;
        let (certificate, key) = files.split_once(',').ok_or("expected REGISTRY=CERTIFICATE,KEY")?;
        let [certificate, key] = [certificate, key].map(|file| environment.absolute(Path::new(file)));
        Ok((registry, ClientCertificate { certificate, key }))
    });
    let either = |lower: &str, upper: &str| environment.get(lower).or_else(|| environment.get(upper)).map(str::to_owned);
    let path = |name: &str| environment.get(name).map(|path| environment.absolute(Path::new(path)));
    RegistrySettings {
        insecure: args.insecure_registry.clone(),
        insecure_push: on(args.insecure),
        insecure_pull: on(args.insecure_pull),
        unverified: args.skip_tls_verify_registry.clone(),
        unverified_push: on(args.skip_tls_verify),
        unverified_pull: on(args.skip_tls_verify) || on(args.skip_tls_verify_pull),
        authorities: authorities.into_iter().map(|(registry, file)| (registry, environment.absolute(Path::new(&file)))).collect(),
        client_certificates,
        mirrors: mirrors(args, environment, problems),
        fallback: !on(args.skip_default_registry_fallback),
        push_retries: args.push_retry.unwrap_or(0),
        pull_retries: args.image_download_retry.unwrap_or(0),
        connections: args.max_connections,
        credentials: credentials(environment),
        helper_environment: environment.variables.clone().into_iter().collect(),
        proxies: Proxies {
            http: either("http_proxy", "HTTP_PROXY"),
            https: either("https_proxy", "HTTPS_PROXY"),
            none: either("no_proxy", "NO_PROXY"),
        },
        authority_file: path("SSL_CERT_FILE"),
        authority_directory: path("SSL_CERT_DIR"),
    }
}

/// Mirrors by registry, in the order given; those of `--registry-mirror` stand for Docker Hub.
fn mirrors(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> Vec<(String, String)> {
    let split = |name: &str, separator: char| -> Vec<String> {
        environment.get(name).into_iter().flat_map(|value| value.split(separator)).map(str::to_owned).collect()
    };
    let typed = args.registry_map.iter().flat_map(|map| map.split(';')).map(str::to_owned);
    let mapped = if args.registry_map.is_empty() { split("KANIKO_REGISTRY_MAP", ';') } else { typed.collect() };
    let mapped: Vec<String> = mapped.into_iter().filter(|pair| !pair.trim().is_empty()).collect();
    let hub = if args.registry_mirror.is_empty() { split("KANIKO_REGISTRY_MIRROR", ',') } else { args.registry_mirror.clone() };

    let mapped = gather(problems, &mapped, "--registry-map", named_pair);
    let hub = hub.into_iter().map(|mirror| ("docker.io".to_owned(), mirror));
    let canonical = |(registry, mirror): (String, String)| (registry.trim().to_owned(), mirror.trim().to_owned());
    mapped.into_iter().chain(hub).map(canonical).filter(|(_, mirror)| !mirror.is_empty()).collect()
}

fn credentials(environment: &Environment) -> Vec<CredentialSource> {
    let text = environment.get("DOCKER_AUTH_CONFIG").map(|text| CredentialSource::Text(Secret::new(text)));
    let absolute = |path: &str| environment.absolute(Path::new(path));
    let home = environment.get("HOME").map(|home| absolute(home).join(".docker"));
    let docker = environment.get("DOCKER_CONFIG").map(absolute).or(home).map(|directory| directory.join("config.json"));
    let runtime = environment.get("XDG_RUNTIME_DIR").map(|path| absolute(path).join("containers/auth.json"));
    let podman = environment.get("REGISTRY_AUTH_FILE").map(absolute).or(runtime);
    text.into_iter().chain([docker, podman].into_iter().flatten().map(CredentialSource::File)).collect()
}
