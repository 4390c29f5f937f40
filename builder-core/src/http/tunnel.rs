//! A tunnel through a proxy: `CONNECT`, and what the proxy answers to it.
//!
//! `hyper-util` has one as well, but its error does not tell a proxy that lets nobody through from one that does not reach the server.

use super::{StatusCode, is_transient};
use hyper::{Uri, header::HeaderValue};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::{legacy::connect::HttpConnector, proxy::matcher::Intercept},
    rt::TokioIo,
};
use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower_service::Service;

/// A longer answer is no answer to `CONNECT`.
const MOST_HEAD_BYTES: usize = 16 << 10;

/// Opens connections through a proxy to the servers that it is asked for.
#[derive(Clone)]
pub(super) struct Tunnel {
    pub(super) proxy: Intercept,
    pub(super) to_proxy: HttpsConnector<HttpConnector>,
    pub(super) user_agent: HeaderValue,
}

/// The proxy does not open a tunnel.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy} answers {status}")]
pub(super) struct Refused {
    /// Its address, without user and password.
    pub(super) proxy: String,
    pub(super) status: StatusCode,
}

impl Refused {
    pub(super) fn new(proxy: &Intercept, status: StatusCode) -> Self {
        let uri = proxy.uri();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        Self { proxy: format!("{}://{authority}", uri.scheme_str().unwrap_or("http")), status }
    }

    /// Whether the proxy would open it at another time: it does not reach the server, or has too much to do.
    pub(super) fn is_transient(&self) -> bool {
        is_transient(self.status)
    }
}

type Failure = Box<dyn Error + Send + Sync>;
type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

impl Service<Uri> for Tunnel {
    type Response = Connection;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let mut tunnel = self.clone();
        Box::pin(async move { tunnel.open(&server).await })
    }
}

impl Tunnel {
    async fn open(&mut self, server: &Uri) -> Result<Connection, Failure> {
        let mut connection = TokioIo::new(self.to_proxy.call(self.proxy.uri().clone()).await?);
        let server = format!("{}:{}", server.host().unwrap_or_default(), server.port_u16().unwrap_or(443));
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: ").into_bytes();
        request.extend_from_slice(self.user_agent.as_bytes());
        if let Some(pass) = self.proxy.basic_auth() {
            request.extend_from_slice(b"\r\nProxy-Authorization: ");
            request.extend_from_slice(pass.as_bytes());
        }
        request.extend_from_slice(b"\r\n\r\n");
        connection.write_all(&request).await?;
        connection.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < MOST_HEAD_BYTES {
            // One by one: what follows the head comes from the server.
            head.push(connection.read_u8().await?);
        }
        let status = status_of(&head).ok_or_else(|| io::Error::other("the proxy does not answer as one"))?;
        if status.is_success() { Ok(connection.into_inner()) } else { Err(Refused::new(&self.proxy, status).into()) }
    }
}

/// The status of an answer with this head.
fn status_of(head: &[u8]) -> Option<StatusCode> {
    let status = head.strip_suffix(b"\r\n\r\n")?.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let is_over = status.get(3).is_none_or(|next| matches!(next, b' ' | b'\r'));
    StatusCode::from_bytes(status.get(..3).filter(|_| is_over)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_answer_is_read() {
        for (head, expected) in [
            ("HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n", Some(200)),
            ("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", Some(407)),
            ("HTTP/1.1 200\r\n\r\n", Some(200)),
            ("HTTP/1.1 200\r\nX: y\r\n\r\n", Some(200)),
            ("HTTP/1.1 2000 OK\r\n\r\n", None),
            ("HTTP/1.1 20\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/2 200 OK\r\n\r\n", None),
            ("SSH-2.0-x\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_of(head.as_bytes()).map(|status| status.as_u16()), expected, "{head:?}");
        }
    }
}
