//! Why a request failed, in words that hold no credential and no query string.

use super::{StatusCode, Url};
use std::{error::Error, fmt, io, time::Duration};

/// Why no answer came, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address of a proxy cannot be used.
    #[error("the address of the {scheme} proxy is no URL that can be used")]
    Proxy {
        /// `http` or `https`: what the proxy is for.
        scheme: &'static str,
    },
    /// The proxy does not let us through to a server.
    #[error("the proxy {proxy} does not let us through to {host}: it answers {}", status.as_u16())]
    ProxyRefused {
        /// Its address, without credentials.
        proxy: String,
        /// Host and port of the server.
        host: String,
        /// What it answers.
        status: StatusCode,
    },
    /// A certificate or key that the caller gave.
    #[error("cannot use the certificates given for {host}")]
    Certificate {
        /// Whom they were given for.
        host: String,
        /// What is wrong with them.
        source: Cause,
    },
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Setup {
        /// Why.
        source: Cause,
    },
    /// Neither http nor https, or no host.
    #[error("{url} is no http or https address")]
    Address {
        /// The address, without credentials and query.
        url: String,
    },
    /// Nobody listens there, or the name is unknown.
    #[error("cannot connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: Cause,
    },
    /// The server's certificate leads to no trusted root, is out of date, or is another host's.
    #[error("the certificate of {host} is not trusted")]
    Untrusted {
        /// Host and port.
        host: String,
        /// Why.
        source: Cause,
    },
    /// No TLS is spoken there, or none that we understand.
    #[error("cannot establish a TLS connection to {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        source: Cause,
    },
    /// Nothing came for too long.
    #[error("no answer from {host} within {} s", waited.as_secs())]
    Timeout {
        /// Host and port.
        host: String,
        /// For how long.
        waited: Duration,
    },
    /// The connection ended in the middle, or something else than HTTP was spoken.
    #[error("the connection to {host} broke")]
    Broken {
        /// Host and port.
        host: String,
        /// Why.
        source: Cause,
    },
    /// What was to be sent cannot be read.
    #[error("cannot read what was to be sent to {host}")]
    Source {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// A document larger than documents of its kind are.
    #[error("the answer of {host} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A redirect to nowhere, or too many of them.
    #[error("{host} redirects {to}")]
    Redirect {
        /// Host and port.
        host: String,
        /// Where to.
        to: &'static str,
    },
}

impl HttpError {
    /// Whether the same request may well succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }
}

/// The innermost reason of a failure; the layers above it only repeat that a request failed, some with its URL.
#[derive(Debug)]
pub struct Cause(pub(super) String);

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Cause {}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum During {
    /// A connection was being made.
    Connecting,
    /// A request or its answer was under way.
    Exchange,
}

/// Sorts an error of the libraries that speak.
pub(super) fn classify(error: &(dyn Error + 'static), url: &Url, during: During) -> HttpError {
    let host = host_of(url);
    match (tls_cause(error), during) {
        (Some(cause @ rustls::Error::InvalidCertificate(_)), _) => {
            HttpError::Untrusted { host, source: Cause(cause.to_string()) }
        }
        (Some(cause), _) => HttpError::Tls { host, source: Cause(cause.to_string()) },
        (None, During::Connecting) => HttpError::Connect { host, source: Cause(innermost(error)) },
        (None, During::Exchange) => HttpError::Broken { host, source: Cause(innermost(error)) },
    }
}

/// Host and port, as far as they are not evident.
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A URL without user, password, query and fragment.
pub fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn tls_cause(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found.clone());
        }
        // An `io::Error` skips the error that it wraps when it is asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let url = Url::parse("https://user:secret@example.com:5000/a/b?token=secret#secret").unwrap();
        assert_eq!(redacted(&url), "https://example.com:5000/a/b");
        assert_eq!(host_of(&url), "example.com:5000");
    }
}
