//! Who we are at which registry: the trait, and the `config.json` that Docker, Podman and Kaniko share.
//!
//! The file's text is given by the caller; credential helpers are processes that are started here, with a time limit.

use super::place::canonical;
use crate::http::Secret;
use crate::running::Running;
use base64::Engine as _;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Knows who we are at a registry.
pub trait Credentials: Send + Sync {
    /// The credential for `repository` of `registry` (`docker.io` for Docker Hub); `None` if there is none. May block: it is
    /// asked on a blocking thread, and again when a registry refuses what it gave before.
    ///
    /// # Errors
    /// If there should be one and it cannot be had.
    fn for_registry(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialsError>;
}

/// What a registry or its token server is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An identity token (`OAuth2` refresh token), which a token server exchanges.
    Token(Secret),
    /// A registry token, shown as it is.
    Bearer(Secret),
}

/// Why a credential cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is not JSON of the known form. The cause names a position and no content.
    #[error("the registry configuration is malformed: line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An entry that is not base64 of `user:password`.
    #[error("the registry configuration has a malformed entry for {key}")]
    Entry {
        /// The entry's key.
        key: String,
    },
    /// The helper that the configuration names is not on the search path.
    #[error("the registry configuration names the credential helper {program}, which is not installed")]
    HelperMissing {
        /// The program's name.
        program: String,
    },
    /// The helper cannot be started or spoken to.
    #[error("cannot run the credential helper {program}")]
    Helper {
        /// The program's name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The helper says no, or something that is no answer.
    #[error("the credential helper {program} {reason}")]
    HelperFailed {
        /// The program's name.
        program: String,
        /// What it did.
        reason: String,
    },
}

/// Nobody: every registry is asked without credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn for_registry(&self, _registry: &str, _repository: &str) -> Result<Option<Credential>, CredentialsError> {
        Ok(None)
    }
}

/// Several sources, asked in order.
#[derive(Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Credentials>>);

impl Credentials for Chain {
    fn for_registry(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialsError> {
        for source in &self.0 {
            if let Some(credential) = source.for_registry(registry, repository)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

/// What credential helpers are given: they get nothing else of our environment.
#[derive(Clone, Debug)]
pub struct Helpers {
    /// The directories where they are looked for.
    pub search_path: Vec<PathBuf>,
    /// Their environment (many need `HOME` and the variables of a cloud).
    pub environment: Vec<(OsString, OsString)>,
    /// How long one may take.
    pub timeout: Duration,
}

/// A `config.json`: `auths`, `credHelpers` and `credsStore`.
#[derive(Clone)]
pub struct DockerConfig {
    file: File,
    helpers: Option<Helpers>,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.file.auths.iter().flat_map(BTreeMap::keys).collect();
        write!(formatter, "DockerConfig({keys:?})")
    }
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    auths: Option<BTreeMap<String, Entry>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl DockerConfig {
    /// Reads the bytes of a `config.json` or `auth.json`. Without `helpers`, those that it names are an error when needed.
    ///
    /// # Errors
    /// [`CredentialsError::Malformed`].
    pub fn parse(bytes: &[u8], helpers: Option<Helpers>) -> Result<Self, CredentialsError> {
        // The library's message may quote a value of the file: only the position is told.
        let malformed = |error: serde_json::Error| CredentialsError::Malformed { line: error.line(), column: error.column() };
        Ok(Self { file: serde_json::from_slice(bytes).map_err(malformed)?, helpers })
    }

    /// The names in it, sorted: registries, and helpers as `docker-credential-NAME` or `REGISTRY (docker-credential-NAME)`. Nothing
    /// secret.
    pub fn names(&self) -> Vec<String> {
        let program = |name: &String| format!("docker-credential-{name}");
        let helpers = self.file.cred_helpers.iter().flatten().map(|(key, name)| format!("{key} ({})", program(name)));
        let entries = self.file.auths.iter().flat_map(BTreeMap::keys).cloned();
        let mut names: Vec<String> = entries.chain(helpers).chain(self.file.creds_store.iter().map(program)).collect();
        names.sort();
        names
    }

    fn ask_helper(&self, name: &str, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let program = format!("docker-credential-{name}");
        let missing = || CredentialsError::HelperMissing { program: program.clone() };
        let helpers = self.helpers.as_ref().ok_or_else(missing)?;
        let path = find(&program, helpers).ok_or_else(missing)?;
        ask(&program, &path, helpers, server_address(registry))
    }
}

impl Credentials for DockerConfig {
    fn for_registry(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialsError> {
        let registry = canonical(registry);
        let entry = || match self.file.auths.as_ref().and_then(|auths| nearest(auths, registry, repository)) {
            Some((key, entry)) => entry.credential().map_err(|()| CredentialsError::Entry { key: key.clone() }),
            None => Ok(None),
        };
        let own_helper = self.file.cred_helpers.as_ref().and_then(|helpers| nearest(helpers, registry, repository));
        let helper = own_helper.map(|(_, name)| name).or(self.file.creds_store.as_ref()).filter(|name| !name.is_empty());
        let Some(helper) = helper else { return entry() };
        match self.ask_helper(helper, registry) {
            Ok(None) => entry(),
            // A file copied from a laptop often names the laptop's store beside entries that are good here.
            Err(error @ CredentialsError::HelperMissing { .. }) => entry()?.map_or(Err(error), |found| Ok(Some(found))),
            other => other,
        }
    }
}

/// The value whose key names the longest part of `registry/repository`.
fn nearest<'a, T>(map: &'a BTreeMap<String, T>, registry: &str, repository: &str) -> Option<(&'a String, &'a T)> {
    let wanted = format!("{registry}/{repository}");
    let part_of = |name: &str| wanted.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let named = map.iter().map(|(key, value)| (scope_of(key), key, value)).filter(|(name, ..)| part_of(name));
    named.max_by_key(|(name, ..)| name.len()).map(|(_, key, value)| (key, value))
}

/// What a key of the file stands for: a registry, or a path below one (Podman).
fn scope_of(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    // A path after a scheme is that of an API (`https://index.docker.io/v1/`).
    let name = match bare {
        Some(address) => address.split('/').next().unwrap_or_default(),
        None => key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
    };
    let (host, path) = name.split_once('/').map_or((name, None), |(host, path)| (host, Some(path)));
    path.map_or_else(|| canonical(host).to_owned(), |path| format!("{}/{path}", canonical(host)))
}

/// The name under which helpers know a registry.
fn server_address(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

impl Entry {
    /// The credential; `None` for the empty entry that marks one kept in a store.
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let secret = |text: &str| Secret::new(text.trim_end_matches('\0'));
        if !self.registry_token.is_empty() {
            return Ok(Some(Credential::Bearer(secret(&self.registry_token))));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Credential::Token(secret(&self.identity_token))));
        }
        if self.auth.is_empty() {
            let user = self.username.clone();
            let known = !user.is_empty() || !self.password.is_empty();
            return Ok(known.then(|| Credential::Basic { user, password: secret(&self.password) }));
        }
        let alphabet = base64::engine::general_purpose::STANDARD_NO_PAD;
        let text = alphabet.decode(self.auth.trim().trim_end_matches('=')).map_err(|_| ())?;
        let text = String::from_utf8(text).map_err(|_| ())?;
        let (user, password) = text.split_once(':').ok_or(())?;
        Ok(Some(Credential::Basic { user: user.to_owned(), password: secret(password) }))
    }
}

fn find(program: &str, helpers: &Helpers) -> Option<PathBuf> {
    // The name comes from a file: it must not lead out of the search path.
    let plain = !program.contains(['/', '\0']);
    let mut directories = helpers.search_path.iter().filter(|directory| directory.is_absolute());
    directories.find_map(|directory| Some(directory.join(program)).filter(|path| plain && path.is_file()))
}

/// More than any answer of a helper has.
const ANSWER_BYTES: u64 = 1 << 20;

/// Asks the helper for what it knows of `server`.
fn ask(program: &str, path: &Path, helpers: &Helpers, server: &str) -> Result<Option<Credential>, CredentialsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Found {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let io = |source| CredentialsError::Helper { program: program.to_owned(), source };
    let failed = |reason: String| CredentialsError::HelperFailed { program: program.to_owned(), reason };
    let mut command = Command::new(path);
    command.arg("get").env_clear().envs(helpers.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut running = Running(command.spawn().map_err(io)?);
    // A helper that does not read its input has ended: its exit tells more than the broken pipe.
    let _ = running.0.stdin.take().expect("the input is a pipe").write_all(server.as_bytes());
    let output = running.0.stdout.take().expect("the output is a pipe");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = output.take(ANSWER_BYTES).read_to_end(&mut answer);
        // Nobody listens any more if the time is up.
        let _ = sender.send(answer);
    });
    let deadline = Instant::now() + helpers.timeout;
    let late = || failed(format!("gives no answer within {} s", helpers.timeout.as_secs()));
    let answer = receiver.recv_timeout(helpers.timeout).map_err(|_| late())?;
    let status = loop {
        match running.0.try_wait().map_err(io)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => return Err(late()),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if !status.success() {
        // Helpers speak of failures on their output; this sentence is part of their protocol.
        let words = String::from_utf8_lossy(&answer).to_lowercase();
        if words.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("fails with {status}")));
    }
    let found: Found = serde_json::from_slice(&answer).map_err(|_| failed("gives no answer that can be read".to_owned()))?;
    let secret = Secret::new(found.secret);
    Ok(match found.username.as_str() {
        "" if secret.is_empty() => None,
        "<token>" => Some(Credential::Token(secret)),
        _ => Some(Credential::Basic { user: found.username, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside what a look-up gives")]
    fn basic(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic { user: user.to_owned(), password: Secret::new(password) })
    }

    fn lookup(text: &str, registry: &str, repository: &str) -> Option<Credential> {
        DockerConfig::parse(text.as_bytes(), None).unwrap().for_registry(registry, repository).unwrap()
    }

    #[test]
    fn every_form_of_entry_is_read() {
        for (entry, expected) in [
            (r#"{"auth":"dTpw"}"#, basic("u", "p")),
            (r#"{"auth":"dTpwOnE="}"#, basic("u", "p:q")),
            (r#"{"auth":"dTpwOnE"}"#, basic("u", "p:q")),
            (r#"{"username":"u","password":"p"}"#, basic("u", "p")),
            (r#"{"auth":"dTpw","identitytoken":"t"}"#, Some(Credential::Token(Secret::new("t")))),
            (r#"{"registrytoken":"t"}"#, Some(Credential::Bearer(Secret::new("t")))),
            ("{}", None),
            (r#"{"email":"x"}"#, None),
        ] {
            assert_eq!(lookup(&format!("{{\"auths\":{{\"r.io\":{entry}}}}}"), "r.io", "a"), expected, "{entry}");
        }
    }

    #[test]
    fn docker_hub_is_known_by_all_its_names() {
        for key in [
            "https://index.docker.io/v1/",
            "https://index.docker.io/v1",
            "index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
            "https://registry-1.docker.io",
        ] {
            let text = format!("{{\"auths\":{{\"{key}\":{{\"auth\":\"dTpw\"}}}}}}");
            assert_eq!(lookup(&text, "docker.io", "library/busybox"), basic("u", "p"), "{key}");
            assert_eq!(lookup(&text, "index.docker.io.example", "x"), None, "{key}");
        }
    }

    #[test]
    fn the_key_that_names_the_longest_path_counts() {
        let text = r#"{"auths":{
            "r.io":{"username":"host","password":"p"},
            "r.io/team":{"username":"team","password":"p"},
            "r.io/team/app":{"username":"app","password":"p"},
            "http://r.io:5000/v2/":{"username":"port","password":"p"}}}"#;
        for (registry, repository, expected) in [
            ("r.io", "x", "host"),
            ("r.io", "teams/x", "host"),
            ("r.io", "team/x", "team"),
            ("r.io", "team/app", "app"),
            ("r.io", "team/app/x", "app"),
            ("r.io:5000", "team/app", "port"),
        ] {
            assert_eq!(lookup(text, registry, repository), basic(expected, "p"), "{registry}/{repository}");
        }
    }

    #[test]
    fn names_are_told_and_nothing_else() {
        let text =
            r#"{"auths": {"r.example/a": {"auth": "dTpodW50ZXIy"}}, "credHelpers": {"gcr.io": "gcr"}, "credsStore": "pass"}"#;
        let names = DockerConfig::parse(text.as_bytes(), None).unwrap().names();
        assert_eq!(names, ["docker-credential-pass", "gcr.io (docker-credential-gcr)", "r.example/a"]);
    }

    #[test]
    fn no_error_shows_what_the_file_holds() {
        let error = DockerConfig::parse(br#"{"auths":{"r.io":{"auth":"#, None).unwrap_err();
        assert_eq!(error.to_string(), "the registry configuration is malformed: line 1, column 25");
        let error = DockerConfig::parse(br#"{"auths":{"r.io":"hunter2"}}"#, None).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        let config = DockerConfig::parse(br#"{"auths":{"r.io":{"auth":"%hunter2"}}}"#, None).unwrap();
        assert_eq!(
            config.for_registry("r.io", "a").unwrap_err().to_string(),
            "the registry configuration has a malformed entry for r.io"
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    struct Fake {
        directory: tempfile::TempDir,
    }

    impl Fake {
        fn new(name: &str, script: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(format!("docker-credential-{name}"));
            // Another process writes the file: one that a test beside us forks just now would keep it busy.
            let mut writer = Command::new("sh");
            writer.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(&path).stdin(Stdio::piped());
            let mut writer = writer.spawn().unwrap();
            writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            Self { directory }
        }

        fn lookup(&self, text: &str, registry: &str) -> Result<Option<Credential>, CredentialsError> {
            let helpers = Helpers {
                search_path: vec![self.directory.path().to_owned()],
                environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
                timeout: Duration::from_millis(1500),
            };
            DockerConfig::parse(text.as_bytes(), Some(helpers)).unwrap().for_registry(registry, "a")
        }
    }

    const STORE: &str = r#"{"credsStore":"fake","auths":{"r.io":{"auth":"dTpw"}}}"#;

    #[test]
    fn the_store_wins_over_the_file() {
        let fake = Fake::new("fake", r#"read -r server; echo "{\"Username\":\"$1\",\"Secret\":\"$server\"}""#);
        assert_eq!(fake.lookup(STORE, "r.io").unwrap(), basic("get", "r.io"));
        assert_eq!(fake.lookup(STORE, "docker.io").unwrap(), basic("get", "https://index.docker.io/v1/"));
        let own = r#"{"credHelpers":{"r.io":"fake"},"credsStore":"absent","auths":{"r.io":{"auth":"dTpw"}}}"#;
        assert_eq!(fake.lookup(own, "r.io").unwrap(), basic("get", "r.io"));
    }

    #[test]
    fn a_helper_may_give_a_token_or_nothing() {
        let fake = Fake::new("fake", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(fake.lookup(STORE, "r.io").unwrap(), Some(Credential::Token(Secret::new("t"))));
        let fake = Fake::new("fake", "echo credentials not found in native keychain; exit 1");
        assert_eq!(fake.lookup(STORE, "r.io").unwrap(), basic("u", "p"));
        assert_eq!(fake.lookup(STORE, "other.io").unwrap(), None);
    }

    #[test]
    fn a_helper_that_fails_hangs_or_is_missing_is_named() {
        for (script, expected) in [
            ("echo secret; exit 3", "the credential helper docker-credential-fake fails with exit status: 3"),
            ("echo secret", "the credential helper docker-credential-fake gives no answer that can be read"),
            ("sleep 30", "the credential helper docker-credential-fake gives no answer within 1 s"),
        ] {
            let fake = Fake::new("fake", script);
            assert_eq!(fake.lookup(STORE, "r.io").unwrap_err().to_string(), expected);
        }
        let fake = Fake::new("other", "true");
        assert_eq!(fake.lookup(STORE, "r.io").unwrap(), basic("u", "p"));
        assert!(matches!(fake.lookup(STORE, "other.io"), Err(CredentialsError::HelperMissing { .. })));
        assert!(matches!(fake.lookup(r#"{"credsStore":"../other"}"#, "r.io"), Err(CredentialsError::HelperMissing { .. })));
    }
}
