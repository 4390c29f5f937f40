//! Certificates for tests, made by the `openssl` command in a directory that goes away with them.

use std::path::{Path, PathBuf};

use crate::tools::output_of;

/// A certificate authority of a test's own.
#[derive(Debug)]
pub struct Authority {
    directory: tempfile::TempDir,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority that nobody trusts yet.
    #[must_use]
    pub fn new() -> Authority {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority { directory };
        self_signed(&authority.files("ca"), "Cofferdam test authority", Key::Ec);
        authority
    }

    /// The authority's own certificate: what a client has to trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.files("ca").certificate
    }

    /// Issues a certificate for a server at `localhost` and 127.0.0.1.
    #[must_use]
    pub fn issue_server(&self) -> Certificate {
        self.issue("server", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth\n")
    }

    /// Issues a certificate with which a client shows who it is.
    #[must_use]
    pub fn issue_client(&self, name: &str) -> Certificate {
        self.issue(name, "extendedKeyUsage=clientAuth\n")
    }

    fn issue(&self, name: &str, extensions: &str) -> Certificate {
        let files = self.files(name);
        let authority = self.files("ca");
        let request = self.directory.path().join(format!("{name}.csr"));
        let extension_file = self.directory.path().join(format!("{name}.extensions"));
        std::fs::write(&extension_file, extensions).expect("a temporary directory can be written");
        let text = |path: &Path| path.display().to_string();
        output_of(
            "openssl",
            ["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
                .map(str::to_owned)
                .into_iter()
                .chain(["-subj".to_owned(), format!("/CN={name}"), "-keyout".to_owned(), text(&files.key)])
                .chain(["-out".to_owned(), text(&request)]),
        );
        output_of(
            "openssl",
            ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &text(&request)]
                .into_iter()
                .chain(["-CA", &text(&authority.certificate), "-CAkey", &text(&authority.key)])
                .chain(["-extfile", &text(&extension_file), "-out", &text(&files.certificate)]),
        );
        files
    }

    fn files(&self, name: &str) -> Certificate {
        files(self.directory.path(), name)
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Key {
    Ec,
    /// What `openssl dgst -sign` turns into the RS256 of a token without further conversion.
    Rsa,
}

/// Where a certificate called `name` and its key lie in `directory`.
pub(crate) fn files(directory: &Path, name: &str) -> Certificate {
    Certificate { certificate: directory.join(format!("{name}.crt")), key: directory.join(format!("{name}.key")) }
}

/// Makes a certificate that signs itself.
pub(crate) fn self_signed(files: &Certificate, name: &str, key: Key) {
    let kind: &[&str] = match key {
        Key::Ec => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        Key::Rsa => &["-newkey", "rsa:2048"],
    };
    output_of(
        "openssl",
        ["req", "-x509", "-nodes", "-days", "2", "-subj", &format!("/CN={name}")]
            .into_iter()
            .chain(kind.iter().copied())
            .chain(["-keyout", &files.key.display().to_string()])
            .chain(["-out", &files.certificate.display().to_string()]),
    );
}
