//! Addresses of Git repositories, as ADD and contexts write them. Pure.

use crate::http::{Secret, Url};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// Which state of which repository is wanted, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSource {
    /// Where the repository is; without credentials, query and fragment.
    pub remote: String,
    /// A branch, a tag, `refs/…` or a whole commit; what the repository has checked out itself if not given.
    #[serde(default)]
    pub reference: Option<String>,
    /// What the digits of the commit have to begin with.
    #[serde(default)]
    pub commit: Option<String>,
    /// A directory of the repository that stands for all of it; empty for its root.
    #[serde(default)]
    pub directory: String,
    /// Whether `.git` is among the files.
    #[serde(default)]
    pub keep_git_directory: bool,
    /// Whether submodules are filled.
    #[serde(default = "yes")]
    pub submodules: bool,
    /// How many commits the history has; matters only where `.git` is kept.
    #[serde(default)]
    pub depth: Option<NonZeroU32>,
    /// Whether the certificate of the server is not checked.
    #[serde(default)]
    pub skip_tls_verify: bool,
    /// Who we are at the server; not part of a serialised request.
    #[serde(skip)]
    pub credential: Option<GitCredential>,
}

/// What the server of a repository is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitCredential {
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password; empty if the user is a token.
        password: Secret,
    },
    /// The value of the `Authorization` header.
    Header(Secret),
}

/// Why the address of a repository makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitAddressError {
    /// No host, or one that cannot be a host.
    #[error("the address of the Git repository has no host that can be used")]
    Host,
    /// A part of the query that means nothing.
    #[error(
        "{name:?} in the address of the Git repository is unknown; there are ref, tag, branch, subdir, checksum, commit, keep-git-dir, submodules, fetch-by-commit and mtime"
    )]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A part of the query with a value that it cannot have.
    #[error("{name}={value:?} in the address of the Git repository: {expected}")]
    Value {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// Two parts that say the same.
    #[error("the address of the Git repository says twice what the {0} is")]
    Twice(&'static str),
    /// A name that no branch or tag can have.
    #[error("{0:?} is no name of a branch, tag or commit")]
    Reference(String),
}

fn yes() -> bool {
    true
}

impl GitSource {
    /// Reads an address; `None` if it is none of a Git repository.
    ///
    /// Those are `git@host:path`, `git://…`, `ssh://…`, and `http://` or `https://` with a path that ends with `.git`. Behind it
    /// may stand `#reference:directory` or a query, as in `?branch=main&subdir=app`.
    ///
    /// # Errors
    /// [`GitAddressError`] if it is one and says something impossible.
    ///
    /// ```
    /// use builder_core::context::GitSource;
    /// let source = GitSource::parse("https://example.com/a.git#v1:src").unwrap().unwrap();
    /// assert_eq!((source.remote.as_str(), source.directory.as_str()), ("https://example.com/a.git", "src"));
    /// assert_eq!(source.reference.as_deref(), Some("v1"));
    /// assert_eq!(GitSource::parse("https://example.com/a.tar").unwrap(), None);
    /// ```
    pub fn parse(text: &str) -> Result<Option<Self>, GitAddressError> {
        let (address, fragment) = text.split_once('#').map_or((text, None), |(address, fragment)| (address, Some(fragment)));
        let (address, query) = address.split_once('?').map_or((address, None), |(address, query)| (address, Some(query)));
        let Some(mut source) = Self::located(address)? else { return Ok(None) };
        if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
            let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
            source.refer_to(reference)?;
            directory.clone_into(&mut source.directory);
        }
        source.read_query(query.unwrap_or_default())?;
        Ok(Some(source))
    }

    /// The repository at `remote`, whatever its path ends with: for those who know that it is one.
    ///
    /// # Errors
    /// [`GitAddressError::Host`]
    pub fn at(remote: &str) -> Result<Self, GitAddressError> {
        let mut url = Url::parse(remote).map_err(|_| GitAddressError::Host)?;
        // A name that begins with a dash would be an option for the programs that git starts.
        if !url.host_str().is_some_and(|host| host.starts_with(|first: char| first.is_alphanumeric() || first == '[')) {
            return Err(GitAddressError::Host);
        }
        let decoded = |text: &str| {
            let bytes: Vec<u8> = percent_decoded(text);
            String::from_utf8(bytes).map_err(|_| GitAddressError::Host)
        };
        let mut credential = None;
        if matches!(url.scheme(), "http" | "https") && (!url.username().is_empty() || url.password().is_some()) {
            let password = decoded(url.password().unwrap_or_default())?;
            credential = Some(GitCredential::Basic { user: decoded(url.username())?, password: Secret::new(password) });
            url.set_username("").map_err(|()| GitAddressError::Host)?;
        }
        // ssh asks an agent for keys; a password in the address would only be shown to everybody.
        url.set_password(None).map_err(|()| GitAddressError::Host)?;
        Ok(Self { credential, ..Self::plain(url.as_str()) })
    }

    /// The same with another reference.
    ///
    /// # Errors
    /// [`GitAddressError`] if there is one already, or this is none.
    pub fn refer_to(&mut self, reference: &str) -> Result<(), GitAddressError> {
        if reference.is_empty() {
            return Ok(());
        }
        let strange = |character: char| character.is_control() || " ~^:?*[\\".contains(character);
        if reference.starts_with('-') || reference.contains("..") || reference.contains(strange) {
            return Err(GitAddressError::Reference(reference.to_owned()));
        }
        match self.reference.replace(reference.to_owned()) {
            Some(_) => Err(GitAddressError::Twice("reference")),
            None => Ok(()),
        }
    }

    fn located(address: &str) -> Result<Option<Self>, GitAddressError> {
        if let Some((host, path)) = address.strip_prefix("git@").and_then(|rest| rest.split_once(':')) {
            let plain = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
            if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) || path.is_empty() {
                return Err(GitAddressError::Host);
            }
            return Ok(Some(Self::plain(address)));
        }
        match address.split_once("://") {
            Some(("git" | "ssh", _)) => Self::at(address).map(Some),
            Some(("http" | "https", path)) if path.strip_suffix(".git").is_some() => Self::at(address).map(Some),
            _ => Ok(None),
        }
    }

    fn plain(remote: &str) -> Self {
        Self {
            remote: remote.to_owned(),
            reference: None,
            commit: None,
            directory: String::new(),
            keep_git_directory: false,
            submodules: true,
            depth: None,
            skip_tls_verify: false,
            credential: None,
        }
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitAddressError> {
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let wrong = |expected| GitAddressError::Value { name: name.to_string(), value: value.to_string(), expected };
            let truth = || match &*value {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(wrong("it is true or false")),
            };
            match &*name {
                "ref" => self.refer_to(&value)?,
                "branch" => self.refer_to(&format!("refs/heads/{}", value.trim_start_matches("refs/heads/")))?,
                "tag" => self.refer_to(&format!("refs/tags/{}", value.trim_start_matches("refs/tags/")))?,
                "subdir" if self.directory.is_empty() => self.directory = value.into_owned(),
                "subdir" => return Err(GitAddressError::Twice("directory")),
                "checksum" | "commit" if self.commit.is_some() => return Err(GitAddressError::Twice("commit")),
                "checksum" | "commit" => self.commit = Some(checksum(&value).ok_or_else(|| wrong(CHECKSUM))?),
                "keep-git-dir" => self.keep_git_directory = truth()?,
                "submodules" => self.submodules = truth()?,
                // The commit is found first and then fetched, always.
                "fetch-by-commit" => drop(truth()?),
                "mtime" if value == "commit" => {}
                "mtime" => return Err(wrong("files always have the time of the commit")),
                _ => return Err(GitAddressError::Unknown { name: name.into_owned() }),
            }
        }
        Ok(())
    }
}

/// What a checksum of a repository is.
pub const CHECKSUM: &str = "it is the first digits of a commit, 7 at least";

/// Reads the first digits of a commit.
pub fn checksum(text: &str) -> Option<String> {
    let digits = text.to_ascii_lowercase();
    ((7..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    // `+` is a plain sign outside of a query.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.as_bytes().to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        match GitSource::parse(text) {
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
            Ok(Some(source)) => {
                let GitSource { remote, reference, commit, directory, keep_git_directory, submodules, .. } = source;
                let (reference, commit) = (reference.unwrap_or_default(), commit.unwrap_or_default());
                format!("{remote} [{reference}] [{commit}] [{directory}] {keep_git_directory} {submodules}")
            }
        }
    }

    #[test]
    fn every_form_of_an_address_is_understood() {
        for (text, expected) in [
            ("git@example.com:a/b.git", "git@example.com:a/b.git [] [] [] false true"),
            ("git@example.com:a#main", "git@example.com:a [main] [] [] false true"),
            ("git://example.com/a", "git://example.com/a [] [] [] false true"),
            ("ssh://git@example.com:22/a#:sub/dir", "ssh://git@example.com:22/a [] [] [sub/dir] false true"),
            ("https://example.com/a.git", "https://example.com/a.git [] [] [] false true"),
            ("https://example.com/a.git#v1:sub", "https://example.com/a.git [v1] [] [sub] false true"),
            (
                "https://example.com/a.git?tag=v1&subdir=x&checksum=ABCDEF0&keep-git-dir=1&submodules=false",
                "https://example.com/a.git [refs/tags/v1] [abcdef0] [x] true false",
            ),
            ("http://example.com/a.git?branch=f%2Fx", "http://example.com/a.git [refs/heads/f/x] [] [] false true"),
            ("https://user:secret@example.com/a.git", "https://example.com/a.git [] [] [] false true"),
            ("https://example.com/a.tar.gz", "none"),
            ("https://example.com/a", "none"),
            ("src/a.git", "none"),
            ("gitlab/x", "none"),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, expected) in [
            ("git@-oProxyCommand=x:a", "no host that can be used"),
            ("ssh://-oProxyCommand=x/a", "no host that can be used"),
            ("https://e.x/a.git#--upload-pack=x", "is no name of a branch"),
            ("https://e.x/a.git#a b", "is no name of a branch"),
            ("https://e.x/a.git?ref=a&branch=b", "says twice what the reference is"),
            ("https://e.x/a.git?ref=a#b", "says twice what the reference is"),
            ("https://e.x/a.git?token=x", "\"token\" in the address of the Git repository is unknown"),
            ("https://e.x/a.git?checksum=abc", "it is the first digits of a commit"),
            ("https://e.x/a.git?submodules=maybe", "it is true or false"),
            ("https://e.x/a.git?mtime=checkout", "files always have the time of the commit"),
        ] {
            assert!(parsed(text).contains(expected), "{text}: {}", parsed(text));
        }
    }

    #[test]
    fn a_password_in_an_address_leaves_it() {
        let source = GitSource::parse("https://to%2Fken:a+b@example.com/a.git").unwrap().unwrap();
        assert!(!format!("{source:?}").contains("a+b"));
        assert_eq!(source.credential, Some(GitCredential::Basic { user: "to/ken".to_owned(), password: Secret::new("a+b") }));
    }
}
