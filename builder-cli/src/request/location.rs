//! Places of contexts, as they are typed. Pure.

use crate::args::{BuildArgs, Problem};
use crate::environment::Environment;
use builder_core::build::ContextSource;
use builder_core::context::GitSource;
use builder_core::context::git::{GitCredential, checksum};
use builder_core::http::Secret;
use std::path::{Component, Path, PathBuf};

/// The context of the build.
pub(super) struct Place {
    /// What it is.
    pub(super) source: ContextSource,
    /// The directory in it that stands for all of it, where `source` does not say so itself.
    pub(super) below: Option<PathBuf>,
}

impl Place {
    /// The directory on this machine, if it is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        if let ContextSource::Directory(path) = &self.source { Some(path) } else { None }
    }
}

const OBJECT_STORE: &str = "fetch the archive first and give it as tar://FILE, or pipe it to --context tar://stdin";

/// Reads `--context`, or the argument in its place.
pub(super) fn context(args: &BuildArgs, environment: &Environment, problems: &mut Vec<Problem>) -> Place {
    let typed = match (&args.context_argument, &args.context) {
        (Some(argument), Some(flag)) if argument != flag => {
            problems.push(Problem::new("the context is given twice, with --context and as an argument"));
            argument.clone()
        }
        (Some(typed), _) | (None, Some(typed)) => typed.clone(),
        (None, None) if args.kaniko_spelling => "/workspace".into(),
        (None, None) => ".".into(),
    };
    let text = typed.to_string_lossy();
    let source = own(&text, Path::new(&typed), environment).unwrap_or_else(|problem| {
        problems.push(problem);
        ContextSource::Empty
    });
    let source = with_git_options(source, args, environment, problems);
    let mut place = Place { source, below: None };
    if let Some(below) = &args.context_sub_path {
        // As people write it: `/app` is meant to be below the context too.
        let below = below.strip_prefix("/").unwrap_or(below);
        if below.components().any(|component| component == Component::ParentDir) {
            problems.push(Problem::new(format!("--context-sub-path {} leads out of the context", below.display())));
        }
        match &mut place.source {
            ContextSource::Directory(directory) => *directory = environment.absolute(&directory.join(below)),
            _ => place.below = Some(below.components().collect()),
        }
    }
    place
}

fn own(text: &str, typed: &Path, environment: &Environment) -> Result<ContextSource, Problem> {
    let git = |source: Result<Option<GitSource>, String>| match source {
        Ok(source) => Ok(source.map(ContextSource::Git)),
        Err(message) => Err(Problem::new(format!("the context: {message}"))),
    };
    match text.split_once("://") {
        _ if matches!(text, "-" | "tar://stdin" | "tar://-") => Ok(ContextSource::Input),
        None => match git(GitSource::parse(text).map_err(|error| error.to_string()))? {
            Some(source) => Ok(source),
            None => Ok(ContextSource::Directory(environment.absolute(typed))),
        },
        Some(("dir", path)) => Ok(ContextSource::Directory(environment.absolute(Path::new(path)))),
        Some(("tar", path)) => Ok(ContextSource::Archive(environment.absolute(Path::new(path)))),
        Some(("git", rest)) => {
            let scheme = if environment.get("GIT_PULL_METHOD") == Some("http") { "http" } else { "https" };
            let source = git(kaniko_git(scheme, rest).map(Some))?;
            source.ok_or_else(|| Problem::new("the context names no repository"))
        }
        Some((scheme @ ("gs" | "s3"), _)) => {
            Err(Problem::with_hint(format!("contexts of the kind {scheme}:// are not supported yet"), OBJECT_STORE))
        }
        Some(("oci-layout" | "docker-image", _)) => Err(Problem::with_hint(
            "an image cannot be the context of a build",
            format!("give it a name: --build-context NAME={text}"),
        )),
        Some(("http" | "https", rest)) => {
            let host = rest.split(['/', '?']).next().unwrap_or_default();
            if host.ends_with(".blob.core.windows.net") && !rest.contains('?') {
                let hint = "give the address with its shared access signature (?sv=…), or fetch the archive first";
                return Err(Problem::with_hint("access keys of Azure Blob Storage are not supported yet", hint));
            }
            Ok(git(GitSource::parse(text).map_err(|error| error.to_string()))?
                .unwrap_or_else(|| ContextSource::Url(text.to_owned())))
        }
        Some(("ssh", _)) => git(GitSource::parse(text).map_err(|error| error.to_string()))?
            .ok_or_else(|| Problem::new("the context names no repository")),
        Some((scheme, _)) => Err(Problem::with_hint(
            format!("{scheme}:// is no kind of context"),
            "the kinds are dir://, tar://, git://, https:// and ssh://",
        )),
    }
}

/// Reads what stands behind Kaniko's `git://`: `[TOKEN@]host/path[#reference[:directory]][#commit]`, over https.
fn kaniko_git(scheme: &str, rest: &str) -> Result<GitSource, String> {
    let mut parts = rest.splitn(3, '#');
    let address = parts.next().unwrap_or_default();
    let mut source = GitSource::at(&format!("{scheme}://{address}")).map_err(|error| error.to_string())?;
    let (reference, directory) = parts.next().map(|text| text.split_once(':').unwrap_or((text, ""))).unwrap_or_default();
    directory.clone_into(&mut source.directory);
    match parts.next().filter(|text| !text.is_empty()) {
        None => source.refer_to(reference).map_err(|error| error.to_string())?,
        // The commit counts, wherever the branch is now.
        Some(commit) => {
            let whole = checksum(commit).filter(|commit| commit.len() >= 40);
            source.commit = Some(whole.ok_or_else(|| format!("{commit:?} is no commit: that has 40 hex digits"))?);
        }
    }
    Ok(source)
}

/// Adds `--git` and who we are.
fn with_git_options(
    source: ContextSource,
    args: &BuildArgs,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> ContextSource {
    let ContextSource::Git(mut git) = source else {
        if !args.git.is_empty() && source != ContextSource::Empty {
            problems
                .push(Problem::with_hint("--git needs a repository as the context", "name it with --context git://HOST/PATH"));
        }
        return source;
    };
    for option in args.git.iter().flat_map(|text| text.split(',')) {
        if let Err(message) = git_option(&mut git, option) {
            problems.push(Problem::new(format!("--git: {message}")));
        }
    }
    let is_web = git.remote.starts_with("http://") || git.remote.starts_with("https://");
    if git.credential.is_none() && is_web {
        let password = environment.get("GIT_PASSWORD").unwrap_or_default();
        let user = environment.get("GIT_TOKEN").or(environment.get("GIT_USERNAME"));
        let password = if environment.get("GIT_TOKEN").is_some() { "" } else { password };
        git.credential =
            user.map(|user| GitCredential::Basic { user: user.to_owned(), password: Secret::new(password.to_owned()) });
    }
    ContextSource::Git(git)
}

fn git_option(git: &mut GitSource, option: &str) -> Result<(), String> {
    let (key, value) = option.split_once('=').ok_or_else(|| format!("{option:?} is not of the form KEY=VALUE"))?;
    let truth = || match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{key} is true or false")),
    };
    match key {
        "branch" if git.reference.is_some() || git.commit.is_some() => {}
        "branch" => git.refer_to(value).map_err(|error| error.to_string())?,
        // Nothing but the one commit is fetched, ever.
        "single-branch" => drop(truth()?),
        "depth" if value == "0" => git.depth = None,
        "depth" => git.depth = Some(value.parse().map_err(|_| format!("depth={value} is no number of commits"))?),
        "recurse-submodules" => git.submodules = truth()?,
        "insecure-skip-tls" => git.skip_tls_verify = truth()?,
        _ => {
            return Err(format!(
                "{key:?} is unknown; there are branch, single-branch, depth, recurse-submodules and insecure-skip-tls"
            ));
        }
    }
    Ok(())
}

/// Reads the place of a named context.
pub(super) fn named(text: &str, environment: &Environment) -> Result<ContextSource, String> {
    let path = |text: &str| environment.absolute(Path::new(text));
    match text.split_once("://") {
        Some(("docker-image", image)) => {
            image.parse().map(ContextSource::Image).map_err(|error| format!("{image:?} is no image name: {error}"))
        }
        Some(("oci-layout", layout)) => {
            let (directory, image) = match layout.split_once('@') {
                Some((directory, digest)) => {
                    // `path:tag@digest`: the digest says it all.
                    let directory =
                        directory.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(directory, |(path, _)| path);
                    (directory, Some(digest))
                }
                None => match layout.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
                    Some((directory, tag)) => (directory, Some(tag)),
                    None => (layout, None),
                },
            };
            if directory.is_empty() || image == Some("") {
                return Err(format!("{text} is not of the form oci-layout://PATH[:TAG][@DIGEST]"));
            }
            Ok(ContextSource::OciLayout { path: path(directory), image: image.map(str::to_owned) })
        }
        Some(("dir", text)) => Ok(ContextSource::Directory(path(text))),
        Some(("tar", text)) => Ok(ContextSource::Archive(path(text))),
        None if text.starts_with("target:") => {
            Err("target: means the result of another build, and this is one build: give an image or a directory".to_owned())
        }
        scheme => match GitSource::parse(text).map_err(|error| error.to_string())? {
            Some(source) => Ok(ContextSource::Git(source)),
            None => match scheme {
                None => Ok(ContextSource::Directory(path(text))),
                Some(("http" | "https", _)) => Ok(ContextSource::Url(text.to_owned())),
                Some((scheme, _)) => Err(format!(
                    "contexts of the kind {scheme}:// are not supported; the kinds are a path, tar://, docker-image://, oci-layout://, https:// and Git addresses"
                )),
            },
        },
    }
}
