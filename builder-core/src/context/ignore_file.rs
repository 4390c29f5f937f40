//! Which ignore file counts for a context on this machine, and its rules.

use super::ContextError;
use crate::copy::Rules;
use std::{fs, io, path::Path};

/// The name of the ignore file in the root of a context, and the end of the one beside a Dockerfile.
const NAME: &str = ".dockerignore";

/// Reads the rules for the context at `context`: `<name of the Dockerfile>.dockerignore` beside the Dockerfile if there is one, else
/// `.dockerignore` in the context's root, else none. A context without a Dockerfile (one that `COPY --from` names) has only the latter.
///
/// # Errors
/// [`ContextError`] if the file is there and cannot be read or understood.
pub fn find_rules(context: &Path, dockerfile: Option<&Path>) -> Result<Rules, ContextError> {
    let beside = dockerfile.and_then(|path| {
        let mut name = path.file_name()?.to_owned();
        name.push(NAME);
        Some(path.with_file_name(name))
    });
    for path in beside.into_iter().chain([context.join(NAME)]) {
        match fs::read(&path) {
            Ok(text) => return Rules::parse(text).map_err(|source| ContextError::Ignore { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ContextError::Read { path, source }),
        }
    }
    Ok(Rules::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreePath;

    #[test]
    fn the_ignore_file_beside_the_dockerfile_wins() {
        let directory = tempfile::tempdir().unwrap();
        let context = directory.path().join("context");
        fs::create_dir(&context).unwrap();
        let dockerfile = directory.path().join("build.df");
        let excluded = |path: &str| find_rules(&context, Some(&dockerfile)).unwrap().excluded(&TreePath::clamp(path));
        assert!(!excluded("a"));
        fs::write(context.join(".dockerignore"), "a").unwrap();
        assert!(excluded("a"));
        fs::write(directory.path().join("build.df.dockerignore"), "b").unwrap();
        assert!(excluded("b") && !excluded("a"));
        assert!(find_rules(&context, None).unwrap().excluded(&TreePath::clamp("a")));
    }

    #[test]
    fn a_bad_pattern_names_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".dockerignore"), "ok\n[a-\n").unwrap();
        let error = find_rules(directory.path(), None).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains(".dockerignore"), "{error}");
        assert_eq!(cause, "line 2: \"[a-\" is no pattern");
    }
}
