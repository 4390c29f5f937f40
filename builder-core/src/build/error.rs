//! Why a build failed: what was being done, to what, and who can mend it.

use crate::dockerfile::{ParseError, Position};
use crate::http::{HttpError, StatusCode};
use crate::registry::{Answer, RegistryError};
use crate::store::StoreError;
use std::{error::Error, sync::Arc};

/// A failed build.
#[derive(Debug, Clone)]
pub struct BuildError {
    /// Who can mend it.
    pub kind: ErrorKind,
    /// What was being done.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The place in the Dockerfile, where there is one.
    pub place: Option<Place>,
    /// Further mistakes of the same Dockerfile, found at once.
    pub others: Vec<BuildError>,
    /// Why.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

/// A place in a Dockerfile, with the text to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the file is called.
    pub file_name: String,
    /// The whole text.
    pub text: Arc<str>,
    /// The instruction.
    pub position: Position,
    /// The word that is wrong, if it is one.
    pub focus: Option<Position>,
}

impl Place {
    /// The line to show.
    #[must_use]
    pub fn line(&self) -> usize {
        self.focus.unwrap_or(self.position).first_line
    }
}

/// Who can mend a failure; decides the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The Dockerfile.
    Dockerfile,
    /// The files of the context, or the lack of them.
    Context,
    /// What was asked for (flags, request).
    Request,
    /// A base image, or a registry that it comes from.
    Base,
    /// A command of the Dockerfile failed.
    Step {
        /// Its exit code; 128 and the signal's number if a signal ended it.
        exit_code: u8,
    },
    /// This machine: isolation, memory.
    Host,
    /// The state directory: damaged, full, or not to be written.
    State,
    /// A place on disk that the image was to be written to.
    Export,
    /// A destination.
    Push,
    /// A mistake of ours.
    Internal,
}

impl BuildError {
    /// A failure without place, hint and cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, place: None, others: Vec::new(), source: None }
    }

    /// The store of this machine refused.
    pub(super) fn store(error: StoreError) -> Self {
        Self::state().because(error)
    }

    /// The state directory does not take or give something; the cause is still to be told.
    pub(super) fn state() -> Self {
        Self::new(ErrorKind::State, "cannot use the state directory")
    }

    /// With a cause.
    #[must_use]
    pub fn because(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// A registry refused, or could not be asked; with what the user can do about it.
    pub(super) fn refused(self, error: RegistryError) -> Self {
        let hint = match &error {
            RegistryError::Unauthorized { known: false, .. } => {
                Some("give credentials in $DOCKER_CONFIG/config.json, as docker login writes them")
            }
            RegistryError::Unauthorized { known: true, .. } | RegistryError::Denied { .. } => {
                Some("the credentials in $DOCKER_CONFIG/config.json are not enough for this")
            }
            RegistryError::Http { source: HttpError::Untrusted { .. }, .. } => Some(
                "name its authority with --registry-certificate HOST=FILE, or skip the check with --skip-tls-verify-registry HOST",
            ),
            RegistryError::Http { source: HttpError::Tls { .. }, .. } => {
                Some("a registry without TLS is named with --insecure-registry HOST")
            }
            RegistryError::Http {
                source: HttpError::ProxyRefused { status: StatusCode::PROXY_AUTHENTICATION_REQUIRED, .. },
                ..
            } => Some("give its user and password in the address of the proxy: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"),
            RegistryError::Http { source: HttpError::ProxyRefused { .. }, .. } => {
                Some("have the host allowed at the proxy, or name it in NO_PROXY if it can be reached without")
            }
            RegistryError::Http { source: HttpError::Connect { .. } | HttpError::Timeout { .. }, .. } => {
                Some("is the name right, and can this machine reach it? Proxies come from HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
            }
            RegistryError::Refused { answer: Answer { status: 429, .. }, .. } => {
                Some("the registry limits how often it is asked: build again later, or with credentials that it allows more")
            }
            _ => None,
        };
        let failure = self.because(error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// With something to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// At a place, unless it has one already.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// All mistakes of a Dockerfile as one failure.
    pub fn mistakes(file_name: &str, text: &Arc<str>, mistakes: Vec<ParseError>) -> Self {
        let mut errors = mistakes.into_iter().map(|mistake| Self {
            kind: ErrorKind::Dockerfile,
            message: mistake.message,
            hint: mistake.hint,
            place: Some(Place {
                file_name: file_name.to_owned(),
                text: text.clone(),
                position: mistake.position,
                focus: mistake.focus,
            }),
            others: Vec::new(),
            source: None,
        });
        let first = errors.next().unwrap_or_else(|| Self::new(ErrorKind::Internal, "a Dockerfile was refused without a reason"));
        Self { others: errors.collect(), ..first }
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}
