//! A token server as registries use one: it looks at a user's password, and gives out a signed statement about what
//! that user may do, which the registry believes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::certificates::{self, Certificate, Key};
use crate::http::{self, Request, Response, Server};
use crate::tools::{command, output_of};

/// A request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `GET`, or `POST` for a token in exchange for another.
    pub method: String,
    /// What the token should be good for, as `repository:NAME:pull,push`.
    pub scopes: Vec<String>,
    /// The user whose password was right.
    pub user: Option<String>,
    /// Whether a token was given.
    pub granted: bool,
}

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    certificate: PathBuf,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
    _directory: tempfile::TempDir,
}

/// The service that tokens are for, and who gives them out: both sides have to say the same.
pub(crate) const SERVICE: &str = "registry.test";
pub(crate) const ISSUER: &str = "tokens.test";

impl TokenServer {
    /// What is exchanged for tokens in place of a password, as `identitytoken` in a `config.json`.
    pub const REFRESH_TOKEN: &str = "refresh-token-of-the-test";

    /// Starts a server that knows one user. Without a password there are tokens to pull if `anonymous_pull`.
    #[must_use]
    pub fn start(user: &str, password: &str, anonymous_pull: bool) -> TokenServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = certificates::files(directory.path(), "tokens");
        certificates::self_signed(&files, ISSUER, Key::Rsa);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let issuer = Issuer {
            user: user.to_owned(),
            password: password.to_owned(),
            anonymous_pull,
            chain: output_of("openssl", ["x509", "-outform", "PEM", "-in", &files.certificate.display().to_string()])
                .lines()
                .filter(|line| !line.starts_with("-----"))
                .collect(),
            files: files.clone(),
            requests: Arc::clone(&requests),
        };
        let server = Server::start(move |request| Some(issuer.answer(request)));
        TokenServer { server, certificate: files.certificate, requests, _directory: directory }
    }

    /// Where clients ask for tokens.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.requests.lock().expect("no panic while it is held").clone()
    }

    /// The certificate that the tokens are signed with: what the registry has to trust.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }
}

struct Issuer {
    user: String,
    password: String,
    anonymous_pull: bool,
    files: Certificate,
    /// The certificate without its PEM lines.
    chain: String,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

impl Issuer {
    fn answer(&self, request: &Request) -> Response {
        let mut fields = request.query.clone();
        if request.method == "POST" {
            fields.extend(http::form(&String::from_utf8_lossy(&request.body)));
        }
        let scopes: Vec<String> = fields
            .iter()
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' '))
            .map(str::to_owned)
            .collect();
        let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let known = if request.method == "POST" {
            match field("grant_type") {
                Some("refresh_token") => field("refresh_token") == Some(TokenServer::REFRESH_TOKEN),
                Some("password") => field("username") == Some(&self.user) && field("password") == Some(&self.password),
                _ => return Response::new(400, r#"{"error":"unsupported_grant_type"}"#),
            }
        } else {
            request.header("authorization") == Some(&basic(&self.user, &self.password))
        };
        let anonymous = request.method == "GET" && request.header("authorization").is_none();
        let granted = known || (anonymous && self.anonymous_pull);
        self.requests.lock().expect("no panic while it is held").push(TokenRequest {
            method: request.method.clone(),
            scopes: scopes.clone(),
            user: known.then(|| self.user.clone()),
            granted,
        });
        if !granted {
            return Response::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong user or password"}]}"#)
                .with("Content-Type", "application/json");
        }
        let access: Vec<Value> = scopes.iter().filter_map(|scope| access(scope, known)).collect();
        let token = self.token(if known { &self.user } else { "" }, &access);
        let mut answer = json!({"access_token": token, "expires_in": 300});
        if request.method == "GET" {
            answer["token"] = token.into();
        }
        if known && field("offline_token") == Some("true") || field("access_type") == Some("offline") {
            answer["refresh_token"] = TokenServer::REFRESH_TOKEN.into();
        }
        Response::new(200, answer.to_string()).with("Content-Type", "application/json")
    }

    fn token(&self, user: &str, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.chain]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 10, "exp": now + 300,
            "jti": format!("{now}"), "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = sign(&self.files.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The header with which a user and a password travel.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `repository:NAME:pull,push` as a token states it. Whoever is not known may pull.
fn access(scope: &str, known: bool) -> Option<Value> {
    // A name may hold the colon of a port, so the actions are what follows the last one.
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').filter(|action| known || *action == "pull").collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

fn sign(key: &Path, text: &[u8]) -> Vec<u8> {
    let mut process = command("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    std::io::Write::write_all(&mut process.stdin.take().expect("piped"), text).expect("openssl reads what it signs");
    let output = process.wait_with_output().expect("openssl ends");
    assert!(output.status.success(), "openssl dgst: {}", output.status);
    output.stdout
}
