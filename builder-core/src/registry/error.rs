//! Why a registry did not do what it was asked to.

use super::credentials::CredentialsError;
use crate::http::{HttpError, LongWait};
use crate::oci::{Digest, DocumentError, Platform};
use std::fmt;

/// Why a registry did not do what it was asked to. Texts of registries are shortened and hold no control characters.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// None of the places has it.
    #[error("{reference}: not found{}", Tried(tried))]
    NotFound {
        /// What was asked for.
        reference: String,
        /// The mirrors that were asked before.
        tried: Vec<String>,
    },
    /// The registry wants to know who asks, and what we have is not enough.
    #[error("cannot {action}: {}: {answer}", Demand { registry, known: *known })]
    Unauthorized {
        /// What was being done.
        action: Action,
        /// Whose registry.
        registry: String,
        /// Whether credentials were found and refused.
        known: bool,
        /// What the registry said.
        answer: Answer,
    },
    /// The registry knows who asks and refuses.
    #[error("cannot {action}: access denied: {answer}")]
    Denied {
        /// What was being done.
        action: Action,
        /// Whose registry.
        registry: String,
        /// What the registry said.
        answer: Answer,
    },
    /// Any other answer than the one that was due.
    #[error("cannot {action}: {answer}")]
    Refused {
        /// What was being done.
        action: Action,
        /// Whose registry.
        registry: String,
        /// What the registry said.
        answer: Answer,
    },
    /// No answer came; the cause says whether it was the connection, TLS or a limit.
    #[error("cannot {action}")]
    Http {
        /// What was being done.
        action: Action,
        /// Why.
        source: HttpError,
    },
    /// The credentials could not be had.
    #[error("cannot find out the credentials for {registry}")]
    Credentials {
        /// Whose registry.
        registry: String,
        /// Why.
        source: CredentialsError,
    },
    /// The registry sends us where no credential may go, or its token server talks nonsense.
    #[error("cannot get a token for {registry}: {reason}")]
    Token {
        /// Whose registry.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} has the digest {actual} instead of {expected}")]
    Digest {
        /// What was read.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The size is not the promised one.
    #[error("{what} has {} bytes instead of {expected_bytes}", Actual(*actual_bytes))]
    Size {
        /// What was read.
        what: String,
        /// What the document says that names it.
        expected_bytes: u64,
        /// What came; `None` if reading stopped at the first byte too many.
        actual_bytes: Option<u64>,
    },
    /// A document larger than documents of its kind are.
    #[error("{what} claims to have {size_bytes} bytes, more than the {limit_bytes} allowed")]
    TooLarge {
        /// What it is.
        what: String,
        /// What it claims.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// There is something, but no container image.
    #[error("{reference} is no container image: it holds {found}")]
    WrongType {
        /// What was asked for.
        reference: String,
        /// The type that is there.
        found: String,
    },
    /// The index has no image for the platform.
    #[error("{reference} has no image for {wanted}; there {}", Offered(offered))]
    NoPlatform {
        /// What was asked for.
        reference: String,
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that there are.
        offered: Vec<Platform>,
    },
    /// A manifest or an index that cannot be read.
    #[error("cannot read the manifest of {reference}")]
    Document {
        /// What was asked for.
        reference: String,
        /// Why.
        source: DocumentError,
    },
    /// A config that cannot be read.
    #[error("cannot read the config of {reference}")]
    Config {
        /// What was asked for.
        reference: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Manifest and config contradict each other.
    #[error("{reference} is broken: its manifest lists {layers} layers, its config {diff_ids}")]
    LayerCount {
        /// What was asked for.
        reference: String,
        /// Layers in the manifest.
        layers: usize,
        /// Diff ids in the config.
        diff_ids: usize,
    },
}

impl RegistryError {
    /// Whether the registry refuses a manifest because it lacks a blob that this names.
    pub fn is_unknown_blob(&self) -> bool {
        let Self::Refused { answer, .. } = self else { return false };
        matches!(answer.code.as_deref(), Some("MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN"))
    }

    /// Whether the registry refuses to move a tag that exists.
    pub fn is_immutable_tag(&self) -> bool {
        // There is no code for it: Amazon, Google and Harbor each have a sentence of their own.
        let (Self::Denied { answer, .. } | Self::Refused { answer, .. }) = self else { return false };
        answer.code.as_deref() == Some("TAG_IMMUTABLE") || answer.message.as_deref().unwrap_or_default().contains("immutab")
    }
}

/// What was being done, with what; reads after "cannot".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// As in `read the manifest of`.
    pub doing: &'static str,
    /// To what: a reference, or a blob and its repository.
    pub what: String,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.doing, self.what)
    }
}

/// What a registry said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The registry's own code, as in `MANIFEST_UNKNOWN`.
    pub code: Option<String>,
    /// The registry's own words.
    pub message: Option<String>,
    /// How long it wants to be left alone, if that is too long.
    pub wait: Option<LongWait>,
}

const MESSAGE_CHARACTERS: usize = 300;

impl Answer {
    /// Reads the error document of the distribution specification, or what token servers say instead.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        let mut answer = Self { status, code: None, message: None, wait: None };
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else { return answer };
        let first = document.get("errors").and_then(|errors| errors.get(0)).unwrap_or(&document);
        let text = |key: &str| first.get(key).and_then(serde_json::Value::as_str).map(shown).filter(|text| !text.is_empty());
        answer.code = text("code").or_else(|| text("error"));
        answer.message = text("message").or_else(|| text("error_description")).or_else(|| text("details"));
        answer
    }
}

fn shown(text: &str) -> String {
    let printable = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut shown: String = printable.take(MESSAGE_CHARACTERS + 1).collect();
    if shown.chars().count() > MESSAGE_CHARACTERS {
        shown.pop();
        shown.push('…');
    }
    shown.trim().to_owned()
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the registry answers {}", self.status)?;
        self.code.iter().try_for_each(|code| write!(formatter, " {code}"))?;
        self.message.iter().try_for_each(|message| write!(formatter, ": {message}"))?;
        self.wait.iter().try_for_each(|wait| write!(formatter, "; it {wait}"))
    }
}

struct Tried<'a>(&'a [String]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, " (asked {})", self.0.join(", ")) }
    }
}

struct Demand<'a> {
    registry: &'a str,
    known: bool,
}

impl fmt::Display for Demand<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, known } = self;
        if *known {
            write!(formatter, "{registry} refuses the credentials that it was given")
        } else {
            // Registries answer alike for what is private and for what does not exist.
            write!(formatter, "there are no credentials for {registry} and it wants some, or there is no such repository")
        }
    }
}

struct Actual(Option<u64>);

impl fmt::Display for Actual {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(formatter, "{bytes}"),
            None => formatter.write_str("more"),
        }
    }
}

struct Offered<'a>(&'a [Platform]);

impl fmt::Display for Offered<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("are none with a platform");
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(formatter, "are {}", texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_registrys_own_words_are_shown_short_and_harmless() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#.to_owned(),
                "the registry answers 404 NAME_UNKNOWN: repository name not known to registry".to_owned(),
            ),
            (r#"{"details":"incorrect\u001b[31m name"}"#.to_owned(), "the registry answers 404: incorrect [31m name".to_owned()),
            (
                r#"{"error":"invalid_grant","error_description":"no"}"#.to_owned(),
                "the registry answers 404 invalid_grant: no".to_owned(),
            ),
            ("<html>".to_owned(), "the registry answers 404".to_owned()),
            (r#"{"errors":[]}"#.to_owned(), "the registry answers 404".to_owned()),
            (format!("{{\"message\":\"{}\"}}", "é".repeat(400)), format!("the registry answers 404: {}…", "é".repeat(300))),
        ] {
            assert_eq!(Answer::parse(404, body.as_bytes()).to_string(), expected);
        }
    }

    #[test]
    fn errors_read_naturally() {
        let (asked, longest) = (Duration::from_hours(1), Duration::from_mins(5));
        let wait = Some(LongWait { asked, longest });
        let busy = Answer { status: 429, code: Some("TOOMANYREQUESTS".to_owned()), message: Some("slow down".to_owned()), wait };
        let answer = Answer { status: 401, code: Some("UNAUTHORIZED".to_owned()), message: None, wait: None };
        let action = Action { doing: "read the manifest of", what: "docker.io/library/nothere:latest".to_owned() };
        for (error, expected) in [
            (
                RegistryError::NotFound { reference: "docker.io/library/nothere:latest".to_owned(), tried: vec![] },
                "docker.io/library/nothere:latest: not found",
            ),
            (
                RegistryError::NotFound { reference: "a.io/b:c".to_owned(), tried: vec!["m.io".to_owned()] },
                "a.io/b:c: not found (asked m.io)",
            ),
            (
                RegistryError::Unauthorized {
                    action: action.clone(),
                    registry: "docker.io".to_owned(),
                    known: false,
                    answer: answer.clone(),
                },
                "cannot read the manifest of docker.io/library/nothere:latest: there are no credentials for docker.io and it wants \
                 some, or there is no such repository: the registry answers 401 UNAUTHORIZED",
            ),
            (
                RegistryError::Refused { action: action.clone(), registry: "docker.io".to_owned(), answer: busy },
                "cannot read the manifest of docker.io/library/nothere:latest: the registry answers 429 TOOMANYREQUESTS: slow \
                 down; it asks to come back in 3600 s, more than the 300 s that are waited",
            ),
            (
                RegistryError::NoPlatform {
                    reference: "a.io/b:c".to_owned(),
                    wanted: "linux/arm64".parse().unwrap(),
                    offered: vec!["linux/amd64".parse().unwrap(), "linux/arm/v7".parse().unwrap()],
                },
                "a.io/b:c has no image for linux/arm64; there are linux/amd64, linux/arm/v7",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn an_immutable_tag_is_recognised_in_each_registrys_words() {
        for (message, expected) in [
            ("The image tag 'v1' already exists and cannot be overwritten because the tag is immutable.", true),
            ("The repository has enabled tag immutability", true),
            ("quota exceeded", false),
        ] {
            let answer = Answer { status: 400, code: None, message: Some(message.to_owned()), wait: None };
            let action = Action { doing: "tag", what: String::new() };
            let error = RegistryError::Refused { action, registry: String::new(), answer };
            assert_eq!(error.is_immutable_tag(), expected, "{message}");
        }
    }
}
