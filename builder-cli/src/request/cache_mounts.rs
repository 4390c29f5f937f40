//! `--cache-mounts`: where the caches of RUN come from and go to. Pure.

use super::{chain, size_bytes};
use crate::environment::Environment;
use builder_core::build::{CacheMounts, CacheMountsPlace};
use std::path::Path;

/// A cache that is larger takes longer to move than it saves.
const DEFAULT_MAX_BYTES: u64 = 2 << 30;

/// Reads `type=registry,ref=IMAGE`, `type=local,dest=DIRECTORY`, and for short `IMAGE` and `oci:DIRECTORY`; to the long form
/// may be added `max-size=SIZE`, `import=BOOL` and `export=BOOL`.
pub(super) fn read(text: &str, environment: &Environment) -> Result<CacheMounts, String> {
    let registry = |text: &str| -> Result<CacheMountsPlace, String> {
        let reference: builder_core::oci::Reference = text.parse().map_err(chain)?;
        match reference.digest() {
            Some(_) => Err(format!("{text:?} names one image, and caches become several")),
            None => Ok(CacheMountsPlace::Registry(reference)),
        }
    };
    let layout = |path: &str| CacheMountsPlace::Layout(environment.absolute(Path::new(path)));
    let whole = |place| CacheMounts { place, imports: true, exports: true, max_bytes: DEFAULT_MAX_BYTES };
    if let Some(path) = text.strip_prefix("oci:").filter(|path| !path.is_empty()) {
        return Ok(whole(layout(path)));
    }
    if !text.contains('=') {
        return registry(text).map(whole);
    }
    let (mut kind, mut name, mut directory) = (None, None, None);
    let (mut imports, mut exports, mut max_bytes) = (true, true, DEFAULT_MAX_BYTES);
    for field in text.split(',') {
        match field.split_once('=').ok_or_else(|| format!("{field:?} is not of the form KEY=VALUE"))? {
            ("type", value @ ("registry" | "local")) => kind = Some(value),
            ("ref", value) => name = Some(value),
            ("dest" | "src", value) => directory = Some(value),
            ("import", value) => imports = boolean(value)?,
            ("export", value) => exports = boolean(value)?,
            ("max-size", value) => {
                max_bytes = match size_bytes(value)? {
                    0 => u64::MAX,
                    size => size,
                }
            }
            (key, value) => return Err(format!("unexpected {key}={value}")),
        }
    }
    let place = match (kind, name, directory) {
        (Some("registry"), Some(name), None) => registry(name)?,
        (Some("local"), None, Some(directory)) if !directory.is_empty() => layout(directory),
        (Some("registry"), ..) => return Err("type=registry wants ref=IMAGE, and no directory".to_owned()),
        (Some(_), ..) => return Err("type=local wants dest=DIRECTORY, and no ref".to_owned()),
        (None, ..) => return Err("the type is missing: registry or local".to_owned()),
    };
    Ok(CacheMounts { place, imports, exports, max_bytes })
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder_core::oci::Platform;

    #[test]
    fn a_place_is_said_short_or_with_attributes() {
        let environment = Environment {
            variables: [].into(),
            current_directory: "/here".into(),
            platform: Platform::linux_amd64(),
            user_id: 0,
            terminal: false,
        };
        let shown = |text: &str| match read(text, &environment) {
            Err(message) => message,
            Ok(CacheMounts { place, imports, exports, max_bytes }) => {
                let place = match place {
                    CacheMountsPlace::Registry(reference) => reference.to_string(),
                    CacheMountsPlace::Layout(path) => format!("oci:{}", path.display()),
                };
                format!("{place} {imports} {exports} {max_bytes}")
            }
        };
        for (text, expected) in [
            ("r.example/c", "r.example/c:latest true true 2147483648"),
            ("oci:/c", "oci:/c true true 2147483648"),
            ("type=registry,ref=r.example/c:x,export=false", "r.example/c:x true false 2147483648"),
            ("type=local,dest=c,max-size=10MB,import=false", "oci:/here/c false true 10000000"),
            ("type=local,src=/c,max-size=0", "oci:/c true true 18446744073709551615"),
            ("type=s3,bucket=x", "unexpected type=s3"),
            ("ref=r.example/c", "the type is missing: registry or local"),
            ("type=registry,dest=/c", "type=registry wants ref=IMAGE, and no directory"),
            ("type=local", "type=local wants dest=DIRECTORY, and no ref"),
            ("type=local,dest=/c,mode=max", "unexpected mode=max"),
            ("type=local,dest=/c,export=perhaps", "\"perhaps\" is neither true nor false"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert!(read("r.example/UPPER", &environment).is_err());
    }
}
