//! The media of a build, opened as the settings say: reads the certificates and credentials that they name.

use crate::report::{self, Exit, Failure};
use crate::request::{CredentialSource, RegistrySettings};
use builder_core::build::Backends;
use builder_core::context::git::Git;
use builder_core::http::{self, CaPaths, ClientCertificate, Proxies, RetryPolicy, Secret};
use builder_core::oci::Reference;
use builder_core::registry::{self, Chain, Credentials, DockerConfig, Helpers, Hosts, Mirror};
use builder_core::store::Store;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A file that a flag or variable names and that does not serve.
#[derive(Debug, thiserror::Error)]
enum SettingError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{place} cannot be used")]
    Credentials { place: String, source: registry::CredentialsError },
}

/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the store in `state`, over those in `below`, and a way to the registries.
pub fn open(
    state: &Path,
    below: &[PathBuf],
    settings: &RegistrySettings,
    destinations: &[Reference],
) -> Result<Backends, Failure> {
    let below = below.iter().filter(|below| *below != state && Store::is_at(below)).cloned().collect();
    let store = Store::open_over(state, below).map_err(|error| Failure::new(Exit::State, &error, None))?;
    let input = Arc::new(|| -> io::Result<Box<dyn io::Read + Send>> { Ok(Box::new(io::stdin())) });
    Ok(Backends { git: git(settings), input, ..Backends::new(store, registry(settings, destinations)?) })
}

/// A way to the registries alone.
pub fn registry(settings: &RegistrySettings, destinations: &[Reference]) -> Result<registry::Client, Failure> {
    let credentials = credentials(settings).map_err(|error| usage(&error))?;
    let options = options(settings, destinations).map_err(|error| usage(&error))?;
    let mirrors = settings.mirrors.iter().map(|(registry, mirror)| Mirror::new(registry, mirror));
    let mirrors: Vec<Mirror> = mirrors.collect::<Result<_, _>>().map_err(|error| usage(&error))?;
    let http = http::Client::new(http_options(settings)).map_err(|error| usage(&error))?;
    let client = registry::Client::new(http, registry::Options { mirrors, ..options }, Arc::new(credentials));
    client.map_err(|error| usage(&error))
}

/// Git gets the way to the network and the keys of the user, and nothing else of the environment.
fn git(settings: &RegistrySettings) -> Git {
    const PASSED: [&str; 8] = [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "SSH_AUTH_SOCK",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
    ];
    let passed = settings.helper_environment.iter().filter(|(name, _)| PASSED.contains(&name.as_str())).cloned();
    let proxies = &settings.proxies;
    let proxies = [("http_proxy", &proxies.http), ("https_proxy", &proxies.https), ("no_proxy", &proxies.none)];
    let proxies = proxies.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    let environment = passed.chain(proxies).map(|(name, value)| (name.into(), value.into())).collect();
    let usual = Git::default();
    let mut search_path = search_path(settings);
    search_path.extend(usual.search_path.clone());
    Git { environment, search_path, ..usual }
}

fn search_path(settings: &RegistrySettings) -> Vec<PathBuf> {
    let path = settings.helper_environment.iter().find(|(name, _)| name == "PATH");
    path.map(|(_, path)| std::env::split_paths(path).collect()).unwrap_or_default()
}

fn usage(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Usage, error, None)
}

fn http_options(settings: &RegistrySettings) -> http::Options {
    let usual = http::Options::default();
    let patient = RetryPolicy::default();
    let proxies = &settings.proxies;
    http::Options {
        proxies: Proxies { http: proxies.http.clone(), https: proxies.https.clone(), no_proxy: proxies.none.clone() },
        ca_paths: CaPaths { file: settings.authority_file.clone(), directory: settings.authority_directory.clone() },
        // Never fewer attempts than without the flags: Kaniko's default is 0, ours is not.
        retry: RetryPolicy {
            attempts: patient.attempts.max(settings.push_retries.max(settings.pull_retries).saturating_add(1)),
            ..patient
        },
        connections_per_host: settings.connections.map_or(usual.connections_per_host, std::num::NonZeroUsize::get),
        ..usual
    }
}

fn options(settings: &RegistrySettings, destinations: &[Reference]) -> Result<registry::Options, SettingError> {
    let hosts = |all: bool, pushes: bool, named: &[String]| {
        let destinations = destinations.iter().filter(|_| pushes).map(|to| to.registry().to_owned());
        if all { Hosts::All } else { named.iter().cloned().chain(destinations).collect() }
    };
    let authorities = settings.authorities.iter().map(|(registry, path)| Ok((registry.clone(), read(path)?)));
    let shown = settings.client_certificates.iter().map(|(registry, files)| {
        let certificate = ClientCertificate { chain_pem: read(&files.certificate)?, key_pem: Secret::new(read(&files.key)?) };
        Ok((registry.clone(), certificate))
    });
    Ok(registry::Options {
        insecure: hosts(settings.insecure_pull, settings.insecure_push, &settings.insecure),
        skip_tls_verify: hosts(settings.unverified_pull, false, &settings.unverified),
        certificates: authorities.collect::<Result<_, SettingError>>()?,
        client_certificates: shown.collect::<Result<_, SettingError>>()?,
        mirrors: Vec::new(),
        skip_default_fallback: !settings.fallback,
    })
}

fn credentials(settings: &RegistrySettings) -> Result<Chain, SettingError> {
    let sources = configurations(settings).map(|(_, config)| config.map(|config| Arc::new(config) as Arc<dyn Credentials>));
    Ok(Chain(sources.collect::<Result<_, _>>()?))
}

/// Where credentials are found, and for whom; or why the place does not serve.
pub fn credential_names(settings: &RegistrySettings) -> Vec<(String, Result<Vec<String>, String>)> {
    let told = |error: SettingError| report::chain(&error).join(": ");
    configurations(settings).map(|(place, config)| (place, config.map(|config| config.names()).map_err(told))).collect()
}

/// Each configuration that is there, with its place.
fn configurations(settings: &RegistrySettings) -> impl Iterator<Item = (String, Result<DockerConfig, SettingError>)> + use<'_> {
    let helpers = Helpers {
        search_path: search_path(settings),
        environment: settings.helper_environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        timeout: HELPER_TIMEOUT,
    };
    settings.credentials.iter().filter_map(move |source| {
        let (place, bytes) = match source {
            CredentialSource::Text(text) => ("DOCKER_AUTH_CONFIG".to_owned(), Ok(text.reveal().to_vec())),
            CredentialSource::File(path) => match std::fs::read(path) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return None,
                read => {
                    let read = read.map_err(|source| SettingError::Read { path: path.clone(), source });
                    (path.display().to_string(), read)
                }
            },
        };
        let config = bytes.and_then(|bytes| {
            let config = DockerConfig::parse(&bytes, Some(helpers.clone()));
            config.map_err(|source| SettingError::Credentials { place: place.clone(), source })
        });
        Some((place, config))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, SettingError> {
    std::fs::read(path).map_err(|source| SettingError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(settings: &RegistrySettings) -> String {
        let directory = tempfile::tempdir().unwrap();
        match open(directory.path(), &[], settings, &[]) {
            Ok(_) => "opened".to_owned(),
            Err(failure) => failure.troubles[0].chain.join(": "),
        }
    }

    #[test]
    fn a_file_that_does_not_serve_is_named_and_an_absent_configuration_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let file = |path: &Path| RegistrySettings {
            credentials: vec![CredentialSource::File(path.to_owned())],
            ..RegistrySettings::default()
        };
        assert_eq!(message(&file(&path)), "opened");
        std::fs::write(&path, "{").unwrap();
        assert!(message(&file(&path)).contains("config.json cannot be used: "), "{}", message(&file(&path)));
        let authority =
            RegistrySettings { authorities: vec![("a".to_owned(), "/absent.pem".into())], ..RegistrySettings::default() };
        assert!(message(&authority).starts_with("cannot read \"/absent.pem\": "));
    }

    #[test]
    fn plain_http_is_permitted_for_what_is_named_and_no_more() {
        let insecure = |settings: RegistrySettings| options(&settings, &["r.example/a".parse().unwrap()]).unwrap().insecure;
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Hosts>();
        let settings = RegistrySettings { insecure: vec!["i.example".to_owned()], ..RegistrySettings::default() };
        assert_eq!(insecure(settings.clone()), named(&["i.example"]));
        assert_eq!(insecure(RegistrySettings { insecure_push: true, ..settings.clone() }), named(&["i.example", "r.example"]));
        assert_eq!(insecure(RegistrySettings { insecure_pull: true, ..settings }), Hosts::All);
    }
}
