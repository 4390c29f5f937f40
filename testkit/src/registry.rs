//! Debian's `docker-registry` on a free port of this machine, with passwords, tokens and TLS as a test wants them.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::{Authority, Certificate};
use crate::image::Layout;
use crate::tokens::{ISSUER, SERVICE, TokenServer};
use crate::tools::{command, output_of};

/// Something that images can be pushed to and pulled from.
pub trait Endpoint {
    /// Host and port, as they stand in a reference.
    fn address(&self) -> &str;

    /// The flags with which `skopeo` is let in; `prefix` is `src-`, `dest-` or nothing.
    fn skopeo_flags(&self, prefix: &str) -> Vec<String> {
        vec![format!("--{prefix}tls-verify=false")]
    }
}

/// Who may use a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Who sends this user and password with each request (`htpasswd`).
    Password {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// Who has a token from a [`TokenServer`].
    Token {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
        /// Whether tokens to pull are given without a password.
        anonymous_pull: bool,
    },
}

/// How a registry is set up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryOptions {
    /// Who may use it.
    pub access: Access,
    /// Whether it speaks HTTPS, under a certificate of an authority of its own.
    pub tls: bool,
    /// Whether clients have to show a certificate; see [`Registry::client_certificate`]. Needs `tls`.
    pub client_certificates: bool,
}

/// A running registry. Dropped, it stops, and what it stored is gone.
#[derive(Debug)]
pub struct Registry {
    address: String,
    directory: tempfile::TempDir,
    process: Child,
    options: RegistryOptions,
    authority: Option<Authority>,
    tokens: Option<TokenServer>,
    /// Ends the thread that the process hangs on.
    _keeper: mpsc::Sender<()>,
}

impl Registry {
    /// Starts a registry over plain HTTP for everybody.
    #[must_use]
    pub fn start() -> Registry {
        Registry::start_with(RegistryOptions::default())
    }

    /// Starts a registry as wanted.
    #[must_use]
    pub fn start_with(options: RegistryOptions) -> Registry {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": directory.path().join("storage")},
                "delete": {"enabled": true},
            },
            "http": {"addr": "127.0.0.1:0", "secret": "only for this test"},
        });
        let mut tokens = None;
        match &options.access {
            Access::Open => {}
            Access::Password { user, password } => {
                let file = directory.path().join("htpasswd");
                std::fs::write(&file, output_of("htpasswd", ["-nbB", user, password]))
                    .expect("a temporary directory can be written");
                config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
            }
            Access::Token { user, password, anonymous_pull } => {
                let server = TokenServer::start(user, password, *anonymous_pull);
                config["auth"] = json!({"token": {
                    "realm": server.realm(),
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": server.certificate(),
                }});
                tokens = Some(server);
            }
        }
        let authority = options.tls.then(Authority::new);
        if let Some(authority) = &authority {
            let server = authority.issue_server();
            config["http"]["tls"] = json!({"certificate": server.certificate, "key": server.key});
            if options.client_certificates {
                config["http"]["tls"]["clientcas"] = json!([authority.certificate()]);
            }
        }
        // JSON is YAML.
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config.to_string()).expect("a temporary directory can be written");

        let log = directory.path().join("log");
        let (process, keeper) = spawn(&file, &log);
        let mut registry = Registry { address: String::new(), directory, process, options, authority, tokens, _keeper: keeper };
        registry.address = registry.wait_for_address();
        registry
    }

    /// Host and port, as they stand in a reference.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The certificate authority to trust, of a registry with TLS.
    #[must_use]
    pub fn authority_certificate(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(Authority::certificate)
    }

    /// A certificate with which a client is let in.
    #[must_use]
    pub fn client_certificate(&self) -> Certificate {
        self.authority.as_ref().expect("a registry with TLS").issue_client("client")
    }

    /// The token server of a registry with [`Access::Token`].
    #[must_use]
    pub fn tokens(&self) -> &TokenServer {
        self.tokens.as_ref().expect("a registry with tokens")
    }

    /// Makes a directory with a `config.json` that holds the right user and password, for `$DOCKER_CONFIG`.
    #[must_use]
    pub fn docker_config(&self) -> PathBuf {
        let directory = self.directory.path().join("docker");
        let mut config = json!({"auths": {}});
        if let Some((user, password)) = self.login() {
            let login = STANDARD.encode(format!("{user}:{password}"));
            config["auths"][&self.address] = json!({"auth": login});
        }
        std::fs::create_dir_all(&directory).expect("a temporary directory can be written");
        std::fs::write(directory.join("config.json"), config.to_string()).expect("a temporary directory can be written");
        directory
    }

    /// Every request that was answered so far, as `GET /v2/base/manifests/latest 200`, in the order of the answers.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.log().lines().filter_map(request_of_log_line).collect()
    }

    /// The manifest of an image, as the registry has it.
    #[must_use]
    pub fn manifest(&self, name: &str) -> Value {
        let text = self.inspect(&["--raw"], name);
        serde_json::from_str(&text).expect("a manifest is JSON")
    }

    /// The whole config of an image.
    #[must_use]
    pub fn config(&self, name: &str) -> Value {
        let text = self.inspect(&["--config", "--raw"], name);
        serde_json::from_str(&text).expect("a config is JSON")
    }

    /// The digest of an image's manifest.
    #[must_use]
    pub fn digest(&self, name: &str) -> String {
        crate::image::sha256(self.inspect(&["--raw"], name).as_bytes())
    }

    /// Copies an image into a layout of its own, by `skopeo` and without a change.
    #[must_use]
    pub fn pull(&self, name: &str) -> Layout {
        Layout::pull(self, name)
    }

    fn inspect(&self, flags: &[&str], name: &str) -> String {
        let mut arguments = vec!["inspect".to_owned()];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        arguments.extend(self.skopeo_flags(""));
        arguments.push(format!("docker://{}/{name}", self.address));
        output_of("skopeo", arguments)
    }

    fn login(&self) -> Option<(&str, &str)> {
        match &self.options.access {
            Access::Open => None,
            Access::Password { user, password } | Access::Token { user, password, .. } => Some((user, password)),
        }
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The registry takes a free port itself and says which one: nobody can take it in between.
    fn wait_for_address(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let log = self.log();
            if let Some((_, rest)) = log.split_once("listening on ")
                && let Some((address, _)) = rest.split_once(['"', ',', ' '])
            {
                return address.to_owned();
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("docker-registry ended, {status}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("docker-registry does not listen:\n{}", self.log());
    }
}

impl Endpoint for Registry {
    fn address(&self) -> &str {
        &self.address
    }

    fn skopeo_flags(&self, prefix: &str) -> Vec<String> {
        let mut flags = vec![format!("--{prefix}tls-verify=false")];
        if self.options.client_certificates {
            let directory = self.directory.path().join("client");
            std::fs::create_dir_all(&directory).expect("a temporary directory can be written");
            let client = self.client_certificate();
            // `skopeo` knows them by their endings.
            for (from, to) in [(&client.certificate, "client.cert"), (&client.key, "client.key")] {
                std::fs::copy(from, directory.join(to)).expect("a temporary directory can be written");
            }
            flags.push(format!("--{prefix}cert-dir={}", directory.display()));
        }
        if let Some((user, password)) = self.login() {
            flags.push(format!("--{prefix}creds={user}:{password}"));
        }
        flags
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Starts the process so that it dies with this one, even if no destructor runs.
fn spawn(config: &Path, log: &Path) -> (Child, mpsc::Sender<()>) {
    let config = config.to_owned();
    let log = std::fs::File::create(log).expect("a temporary directory can be written");
    let (keeper, end) = mpsc::channel::<()>();
    let (started, start) = mpsc::channel();
    // The kernel's signal comes with the death of the thread that started the process, and the thread of a test ends
    // before a registry that several tests share: so there is a thread of its own.
    std::thread::spawn(move || {
        let process = command("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        drop(started.send(process));
        let _ = end.recv();
    });
    (start.recv().expect("the thread starts the process"), keeper)
}

/// Finds method, path and status in a line of the access log (Apache's combined format).
fn request_of_log_line(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once('"')?;
    let request = request.rsplit_once(" HTTP/")?.0;
    let status = rest.split_whitespace().next()?;
    Some(format!("{request} {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Compression, Image, MediaTypes, push_index};
    use crate::tools::run;

    const TEXT: &str = "etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1\\n\"\n";

    fn image() -> Image {
        Image::new().layer(TEXT)
    }

    fn skopeo_inspect(registry: &Registry, flags: &[&str]) -> crate::Finished {
        let name = format!("docker://{}/base:latest", registry.address());
        run("skopeo", ["inspect", "--tls-verify=false"].iter().chain(flags).copied().chain([name.as_str()]))
    }

    #[test]
    fn an_image_comes_back_as_it_was_pushed() {
        if !crate::require(&["docker-registry", "skopeo"]) {
            return;
        }
        let registry = Registry::start();
        for (tag, image) in [
            ("gzip", image()),
            ("plain", Image::new().packed_layer(Compression::None, TEXT)),
            ("zstd", Image::new().packed_layer(Compression::Zstd, TEXT)),
            ("docker", image().media_types(MediaTypes::Docker)),
        ] {
            let digest = image.push(&registry, &format!("base:{tag}"));
            let pulled = registry.pull(&format!("base:{tag}"));
            assert_eq!((pulled.digest(), pulled.tree()), (digest.clone(), TEXT.to_owned()), "{tag}");
            assert_eq!(registry.digest(&format!("base:{tag}")), digest, "{tag}");
        }
        assert!(registry.requests().contains(&"PUT /v2/base/manifests/gzip 201".to_owned()), "{:?}", registry.requests());
    }

    #[test]
    fn an_index_holds_an_image_for_each_platform() {
        if !crate::require(&["docker-registry", "skopeo"]) {
            return;
        }
        let registry = Registry::start();
        let images = [image(), image().platform("linux/arm64/v8"), image().platform("linux/arm/v7")];
        push_index(&images, &registry, "multi:latest");
        let manifest = registry.manifest("multi:latest");
        let variants: Vec<_> = (0..3).map(|at| manifest["manifests"][at]["platform"]["variant"].as_str()).collect();
        assert_eq!(variants, [None, Some("v8"), Some("v7")]);
    }

    #[test]
    fn a_password_is_asked_for() {
        if !crate::require(&["docker-registry", "skopeo", "htpasswd"]) {
            return;
        }
        let access = Access::Password { user: "ann".to_owned(), password: "se:cret".to_owned() };
        let registry = Registry::start_with(RegistryOptions { access, ..RegistryOptions::default() });
        image().push(&registry, "base:latest");
        assert_ne!(skopeo_inspect(&registry, &["--no-creds"]).code, Some(0));
        assert_ne!(skopeo_inspect(&registry, &["--creds=ann:wrong"]).code, Some(0));
        let file = registry.docker_config().join("config.json");
        assert_eq!(skopeo_inspect(&registry, &["--authfile", &file.display().to_string()]).code, Some(0));
    }

    #[test]
    fn a_token_is_asked_for_and_every_request_for_one_is_known() {
        if !crate::require(&["docker-registry", "skopeo", "openssl"]) {
            return;
        }
        let access = Access::Token { user: "ann".to_owned(), password: "secret".to_owned(), anonymous_pull: true };
        let registry = Registry::start_with(RegistryOptions { access, ..RegistryOptions::default() });
        image().push(&registry, "base:latest");
        assert_eq!(skopeo_inspect(&registry, &["--no-creds"]).code, Some(0));
        assert_ne!(skopeo_inspect(&registry, &["--creds=ann:wrong"]).code, Some(0));

        let requests = registry.tokens().requests();
        let summary: Vec<_> =
            requests.iter().map(|request| (request.scopes.join(" "), request.user.as_deref(), request.granted)).collect();
        assert!(summary.contains(&("repository:base:pull,push".to_owned(), Some("ann"), true)), "{summary:?}");
        assert!(summary.contains(&("repository:base:pull".to_owned(), None, true)), "{summary:?}");
        assert!(summary.contains(&("repository:base:pull".to_owned(), None, false)), "{summary:?}");
    }

    #[test]
    fn tls_is_spoken_under_an_authority_of_the_test() {
        if !crate::require(&["docker-registry", "skopeo", "openssl"]) {
            return;
        }
        let registry = Registry::start_with(RegistryOptions { tls: true, ..RegistryOptions::default() });
        image().push(&registry, "base:latest");
        let name = format!("docker://{}/base:latest", registry.address());
        let untrusted = run("skopeo", ["inspect", &name]);
        assert!(untrusted.stderr.contains("unknown authority"), "{}", untrusted.stderr);

        let trusted = tempfile::tempdir().unwrap();
        std::fs::copy(registry.authority_certificate().unwrap(), trusted.path().join("ca.crt")).unwrap();
        let finished = run("skopeo", ["inspect", "--cert-dir", &trusted.path().display().to_string(), &name]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }

    #[test]
    fn a_client_certificate_is_asked_for() {
        if !crate::require(&["docker-registry", "skopeo", "openssl"]) {
            return;
        }
        let options = RegistryOptions { tls: true, client_certificates: true, ..RegistryOptions::default() };
        let registry = Registry::start_with(options);
        image().push(&registry, "base:latest");
        assert_ne!(skopeo_inspect(&registry, &[]).code, Some(0));
    }

    #[test]
    fn a_registry_is_gone_when_its_value_is() {
        if !crate::require(&["docker-registry"]) {
            return;
        }
        let registry = Registry::start();
        let (address, directory) = (registry.address().to_owned(), registry.directory.path().to_owned());
        drop(registry);
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(!directory.exists());
    }
}
