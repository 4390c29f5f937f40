//! Tests only: compares a text with a file of expectations; `BLESS=1` writes the file instead.

/// Fails if the file at `path` does not hold `actual`.
pub(crate) fn check(path: &str, actual: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(expected == actual, "{path} differs (BLESS=1 rewrites it), now it would be:\n{actual}");
}
