//! Where an image can be had: mirrors first, then the registry itself. Pure.

use crate::oci::Reference;
use std::collections::BTreeSet;

/// A set of registries, by the host that references name (`docker.io`, `127.0.0.1:5000`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// These.
    Named(BTreeSet<String>),
    /// Every registry.
    All,
}

impl Default for Hosts {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Hosts {
    /// Whether `registry` is one of them; Docker Hub's several names are one.
    pub fn contains(&self, registry: &str) -> bool {
        match self {
            Self::Named(hosts) => hosts.iter().any(|host| canonical(host) == canonical(registry)),
            Self::All => true,
        }
    }
}

impl FromIterator<String> for Hosts {
    fn from_iter<T: IntoIterator<Item = String>>(hosts: T) -> Self {
        Self::Named(hosts.into_iter().collect())
    }
}

/// A registry that holds copies of another one's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Whose images.
    registry: String,
    /// Where they are.
    host: String,
    /// What stands before each repository there.
    prefix: Option<String>,
}

/// A text that names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid mirror {0:?}: expected host[:port][/prefix]")]
pub struct MirrorError(String);

impl Mirror {
    /// A mirror of `registry` at `address`: `host[:port][/prefix]`, an `https://` before it does not matter.
    ///
    /// # Errors
    /// If no repository could be named there.
    pub fn new(registry: &str, address: &str) -> Result<Self, MirrorError> {
        let refused = || MirrorError(address.to_owned());
        let bare = address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/');
        let (host, prefix) = bare.split_once('/').map_or((bare, None), |(host, prefix)| (host, Some(prefix.to_owned())));
        let mirror = Self { registry: canonical(registry).to_owned(), host: canonical(host).to_owned(), prefix };
        // A host of one word would be read as a repository of Docker Hub: the port makes it a host.
        let named = if host.contains([':', '.']) { host.to_owned() } else { format!("{host}:0") };
        let probe = format!("{named}/{}x", mirror.prefix.as_ref().map(|prefix| format!("{prefix}/")).unwrap_or_default());
        probe.parse::<Reference>().map_err(|_| refused())?;
        Ok(mirror)
    }

    fn place_of(&self, reference: &Reference) -> Option<Reference> {
        let Some(prefix) = &self.prefix else { return Some(reference.at_registry(&self.host)) };
        let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        let there = format!("example.com/{prefix}/{}{tag}{digest}", reference.repository()).parse::<Reference>().ok()?;
        Some(there.at_registry(&self.host))
    }
}

/// The places to ask for `reference`, in order: its mirrors, then its own registry unless it is `skip_origin` and there is
/// a mirror.
pub(super) fn places(reference: &Reference, mirrors: &[Mirror], skip_origin: bool) -> Vec<Reference> {
    let own = mirrors.iter().filter(|mirror| mirror.registry == canonical(reference.registry()));
    let mut places: Vec<Reference> = Vec::new();
    for place in own.filter_map(|mirror| mirror.place_of(reference)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if (!skip_origin || places.is_empty()) && !places.contains(reference) {
        places.push(reference.clone());
    }
    places
}

/// The name of a registry in references.
pub(super) fn canonical(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// The host whose API serves `registry`.
pub(super) fn api_host(registry: &str) -> &str {
    match canonical(registry) {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Whether `registry` is on this machine, where plain HTTP harms nobody (Docker holds it the same way).
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_in_order_before_the_registry_itself() {
        let mirrors = [
            Mirror::new("index.docker.io", "mirror:5000").unwrap(),
            Mirror::new("docker.io", "https://cache.example/hub/").unwrap(),
            Mirror::new("quay.io", "other.example").unwrap(),
            Mirror::new("docker.io", "mirror:5000").unwrap(),
        ];
        let places = |text: &str, skip: bool| -> Vec<String> {
            places(&text.parse().unwrap(), &mirrors, skip).iter().map(ToString::to_string).collect()
        };
        let digest = format!("sha256:{}", "1".repeat(64));
        assert_eq!(
            places(&format!("busybox:1@{digest}"), false),
            [
                format!("mirror:5000/library/busybox:1@{digest}"),
                format!("cache.example/hub/library/busybox:1@{digest}"),
                format!("docker.io/library/busybox:1@{digest}"),
            ]
        );
        assert_eq!(places("a/b", true), ["mirror:5000/a/b:latest", "cache.example/hub/a/b:latest"]);
        assert_eq!(places("ghcr.io/a/b", true), ["ghcr.io/a/b:latest"]);
    }

    #[test]
    fn what_names_no_mirror_is_refused() {
        for address in ["", "/", "http://x", "host/UPPER", "a b", "host:port", "user@host"] {
            assert!(Mirror::new("docker.io", address).is_err(), "{address}");
        }
        assert!(Mirror::new("docker.io", "mirror").is_ok());
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }

    #[test]
    fn docker_hub_is_one_registry_of_several_names() {
        assert!(Hosts::from_iter(["index.docker.io".to_owned()]).contains("docker.io"));
        assert!(!Hosts::default().contains("docker.io"));
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
    }
}
