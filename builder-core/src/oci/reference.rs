//! Names of images: `registry/repository:tag@digest` in the strict grammar of the distribution specification. Pure.

use super::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The name of an image, complete: a name without registry is one of Docker Hub, a name without tag and digest is `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host with an optional port (`docker.io`, `127.0.0.1:5000`, `[::1]:5000`).
    registry: String,
    /// Path below the registry (`library/busybox`).
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("an image name is empty")]
    Empty,
    /// The repository has other characters than the specification allows.
    #[error("invalid image name {text:?}: the repository {repository:?} may hold only a-z, 0-9 and single separators . _ - /{}", if repository.chars().any(char::is_uppercase) { " (it must be lower case)" } else { "" })]
    Repository {
        /// The whole name.
        text: String,
        /// The part at fault.
        repository: String,
    },
    /// The part before the first `/` is meant as a host and is none.
    #[error("invalid image name {text:?}: {registry:?} is no registry host")]
    Registry {
        /// The whole name.
        text: String,
        /// The part at fault.
        registry: String,
    },
    /// A tag of other characters or of more than 128.
    #[error(
        "invalid image name {text:?}: the tag {tag:?} must be up to 128 letters, digits, . _ - and begin with a letter, digit or _"
    )]
    Tag {
        /// The whole name.
        text: String,
        /// The part at fault.
        tag: String,
    },
    /// A digest that we cannot verify.
    #[error("invalid image name {text:?}")]
    Digest {
        /// The whole name.
        text: String,
        /// Why.
        source: super::DigestError,
    },
}

impl Reference {
    /// The registry host; `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, `library/` included.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the name gave neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name gave one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for: the digest, else the tag.
    #[must_use]
    pub fn tag_or_digest(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone().unwrap_or_else(|| "latest".to_owned()), |digest| digest.to_string())
    }

    /// The same repository at another registry.
    #[must_use]
    pub fn at_registry(&self, registry: &str) -> Self {
        Self { registry: registry.to_owned(), ..self.clone() }
    }

    /// The same repository, named by `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() });
        }
        // The first part is a host only if it cannot be a repository: it has a dot or a port, or is localhost.
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if !is_host(registry) {
            return Err(ReferenceError::Registry { text: text.to_owned(), registry: registry.to_owned() });
        }
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository =
            if registry == "docker.io" && !repository.contains('/') { format!("library/{repository}") } else { repository };
        if !is_repository(&repository) {
            let repository = repository.strip_prefix("library/").unwrap_or(&repository).to_owned();
            return Err(ReferenceError::Repository { text: text.to_owned(), repository });
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().enumerate().all(|(at, byte)| word(byte) || at > 0 && matches!(byte, b'.' | b'-'))
}

fn is_repository(repository: &str) -> bool {
    let part = |part: &str| {
        let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let plain =
            part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-'));
        // Separators: one dot, one or two underscores, any number of dashes; none at an end.
        let separated = part
            .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'));
        plain && separated && alphanumeric(part.bytes().next()) && alphanumeric(part.bytes().next_back())
    };
    repository.len() <= 255 && repository.split('/').all(part)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("localhost", port.strip_prefix(':').or(port.is_empty().then_some("0")))
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.split('.').all(label) && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(formatter, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(formatter, "@{digest}"))
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_are_completed() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            (&format!("quay.io/a@{digest}"), format!("quay.io/a@{digest}")),
            (&format!("quay.io/a:b@{digest}"), format!("quay.io/a:b@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().map(|reference| reference.to_string()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_no_registry_would_accept_is_refused() {
        for text in [
            "",
            "UPPER/x",
            "Busybox",
            "a//b",
            "a/",
            "/a",
            "-a",
            "a..b",
            "a___b",
            "a:",
            "a:b:c",
            "a@sha256:0",
            "host:port/a",
            "[::1/a",
            "a b",
            "a:-x",
            "é",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!("Busybox".parse::<Reference>().unwrap_err().to_string().contains("lower case"));
    }

    proptest! {
        #[test]
        fn a_reference_is_read_as_it_is_written(text in "[a-z0-9A-Z:/@._\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
