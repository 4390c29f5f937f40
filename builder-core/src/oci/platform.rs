//! Platforms: operating system, architecture, variant. Pure.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What an image runs on, as in an index or in `--platform` (`linux/arm64/v8`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, …
    pub os: String,
    /// `amd64`, `arm64`, … in Go's spelling.
    pub architecture: String,
    /// `v7`, `v8`, … where the architecture has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: expected os/architecture or os/architecture/variant, as in linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// A platform with the aliases of the field resolved (`x86_64` is `amd64`, `arm64/v8` is `arm64`).
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), variant.unwrap_or_default()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64".to_owned(), None),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64".to_owned(), None),
            ("armhf", _) | ("arm", "" | "7" | "v7") => ("arm".to_owned(), Some("v7".to_owned())),
            ("armel", _) => ("arm".to_owned(), Some("v6".to_owned())),
            ("i386" | "i686", _) => ("386".to_owned(), None),
            ("arm", digit @ ("5" | "6" | "8")) => ("arm".to_owned(), Some(format!("v{digit}"))),
            ("x86_64" | "x86-64", other) => ("amd64".to_owned(), Some(other.to_owned())),
            ("aarch64", other) => ("arm64".to_owned(), Some(other.to_owned())),
            (architecture, "") => (architecture.to_owned(), None),
            (architecture, variant) => (architecture.to_owned(), Some(variant.to_owned())),
        };
        Self { os: os.to_ascii_lowercase(), architecture, variant }
    }

    /// `linux/amd64`
    #[must_use]
    pub fn linux_amd64() -> Self {
        Self::new("linux", "amd64", None)
    }

    /// How well an image of platform `offered` serves on this platform: `None` is not at all, a smaller number is
    /// better (a machine of arm v7 also runs v6 and v5).
    #[must_use]
    pub fn distance(&self, offered: &Platform) -> Option<u8> {
        let wanted = Self::new(&self.os, &self.architecture, self.variant.as_deref());
        let offered = Self::new(&offered.os, &offered.architecture, offered.variant.as_deref());
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            return None;
        }
        if wanted.variant == offered.variant {
            return Some(0);
        }
        let level =
            |platform: &Self| -> Option<u8> { platform.variant.as_deref().unwrap_or("v1").strip_prefix('v')?.parse().ok() };
        match (wanted.architecture.as_str(), level(&wanted)?, level(&offered)?) {
            ("arm" | "amd64", most, offered) if offered < most => Some(most - offered),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] if word(os) && word(architecture) => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if word(os) && word(architecture) && word(variant) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_one_platform() {
        for (text, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        for text in ["", "linux", "linux/", "linux/a/b/c", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_variant_serves() {
        let distance = |wanted: &str, offered: &str| wanted.parse::<Platform>().unwrap().distance(&offered.parse().unwrap());
        assert_eq!(distance("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(distance("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(distance("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(distance("linux/amd64", "linux/arm64"), None);
    }
}
