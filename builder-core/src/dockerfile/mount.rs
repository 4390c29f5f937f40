//! `RUN --mount`: from its comma-separated text to what is to be mounted.
//!
//! A [`Mount`] holds the options as written, because BuildKit expands their values when the step
//! runs; [`Mount::resolve`] expands and checks them and gives a [`ResolvedMount`]. Pure.

use super::ast::Position;
use super::error::nearest;
use super::expand::ExpandError;

/// A `--mount` as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where the flag's value stands.
    pub position: Position,
    /// The options, in order.
    pub options: Vec<MountOption>,
}

/// One option of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// The key in lower case.
    pub key: String,
    /// The value, unexpanded; `None` without `=`.
    pub value: Option<String>,
}

/// A mount whose values are expanded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedMount {
    /// `type=bind`, the default.
    Bind(BindMount),
    /// `type=cache`
    Cache(CacheMount),
    /// `type=tmpfs`
    Tmpfs(TmpfsMount),
    /// `type=secret`
    Secret(SecretMount),
    /// `type=ssh`
    Ssh(SshMount),
}

/// Files of the context, a stage, an image or a named context, visible while a step runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Where they come from; `None` is the context.
    pub from: Option<String>,
    /// The path there; empty is its root.
    pub source: String,
    /// Where they appear; relative to the working directory, which an empty target means itself.
    pub target: String,
    /// Whether the step may write; what it writes is discarded.
    pub writable: bool,
}

/// A directory that outlives the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Its identity; `None` means the absolute target.
    pub id: Option<String>,
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// Whether the step may write.
    pub writable: bool,
    /// What happens when several steps want it at once.
    pub sharing: Sharing,
    /// What it holds when it is new; `None` is nothing.
    pub from: Option<String>,
    /// The path in `from`.
    pub source: String,
    /// The mode of a new one; 0755 if it is not given.
    pub mode: Option<u32>,
    /// The owner of a new one.
    pub uid: Option<u32>,
    /// The group of a new one.
    pub gid: Option<u32>,
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Several steps use it at once.
    #[default]
    Shared,
    /// A step gets another one if it is in use.
    Private,
    /// A step waits.
    Locked,
}

/// An empty file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// The upper limit; `None` or zero is none.
    pub size_bytes: Option<u64>,
    /// Whether the step may write.
    pub writable: bool,
}

/// A secret as a file, as a variable, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// The file; `None` if it is only a variable.
    pub target: Option<String>,
    /// The variable.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// The mode of the file; 0400 if it is not given.
    pub mode: Option<u32>,
    /// The owner of the file; 0 if it is not given.
    pub uid: Option<u32>,
    /// The group of the file; 0 if it is not given.
    pub gid: Option<u32>,
}

/// The socket of an SSH agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent; `default` if it is not given.
    pub id: String,
    /// Where the socket appears; `None` means a place chosen by the builder.
    pub target: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// The mode of the socket; 0600 if it is not given.
    pub mode: Option<u32>,
    /// The owner of the socket; 0 if it is not given.
    pub uid: Option<u32>,
    /// The group of the socket; 0 if it is not given.
    pub gid: Option<u32>,
}

/// Why a mount makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The text is not a line of comma-separated values.
    #[error("--mount value {text:?} is no comma-separated list of key=value")]
    NotCsv {
        /// The text.
        text: String,
    },
    /// A key nobody knows.
    #[error("unexpected key '{key}' in --mount")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest known one.
        suggestion: Option<&'static str>,
    },
    /// A key that this type of mount does not have.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    UnexpectedKey {
        /// The key.
        key: &'static str,
        /// The type.
        kind: &'static str,
    },
    /// An option without `=` that needs a value.
    #[error("invalid field '{key}' in --mount must be a key=value pair")]
    MissingValue {
        /// The key.
        key: String,
    },
    /// A value that the key does not take.
    #[error("invalid value for {key} in --mount: {value:?}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// `type=` of an unknown type, `sharing=` of an unknown way.
    #[error("unsupported mount {key} {value:?}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// The nearest known one.
        suggestion: Option<&'static str>,
    },
    /// A variable in `from`.
    #[error("'from' of --mount does not support variable expansion: {value:?}")]
    VariableInFrom {
        /// The value.
        value: String,
    },
    /// A secret without a name.
    #[error("invalid secret mount: one of id, source, target is required")]
    NamelessSecret,
    /// A secret with two names.
    #[error("invalid secret mount: source and id are the same option, only one can be set")]
    TwiceNamedSecret,
    /// A value that cannot be expanded.
    #[error("cannot expand the value of {key} in --mount")]
    Expand {
        /// The key.
        key: String,
        /// Why.
        source: ExpandError,
    },
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

impl MountError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            MountError::UnknownKey { suggestion, .. } | MountError::Unsupported { suggestion, .. } => {
                suggestion.map(|near| format!("did you mean {near}?"))
            }
            MountError::VariableInFrom { .. } => {
                Some("define a stage with FROM and the variable, and name that stage".to_owned())
            }
            _ => None,
        }
    }
}

impl Mount {
    /// Reads the value of `--mount`. Keys are checked; values too, as far as they hold no variables.
    pub(super) fn parse(text: &str, position: Position) -> Result<Mount, MountError> {
        let not_csv = || MountError::NotCsv { text: text.to_owned() };
        let fields = split_csv(text).ok_or_else(not_csv)?;
        let mut options = Vec::with_capacity(fields.len());
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
                None => (field.to_lowercase(), None),
            };
            if !KEYS.contains(&key.as_str()) {
                let suggestion = nearest(&key, KEYS);
                return Err(MountError::UnknownKey { key, suggestion });
            }
            if let Some(value) = value.as_ref().filter(|value| key == "from" && holds_variable(value)) {
                return Err(MountError::VariableInFrom { value: value.clone() });
            }
            options.push(MountOption { key, value });
        }
        let mount = Mount { position, options };
        let literal = mount.options.iter().filter_map(|option| option.value.as_ref());
        if literal.clone().all(|value| !value.contains(['$', '\'', '"', '\\', '`'])) {
            mount.resolve(&mut |value| Ok(value.to_owned()))?;
        }
        Ok(mount)
    }

    /// The value of `from`: a stage, an index, an image or a named context.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        let from = self.options.iter().rfind(|option| option.key == "from")?;
        from.value.as_deref().filter(|value| !value.is_empty())
    }

    /// Expands the values with `expand` and checks that they make sense together.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>) -> Result<ResolvedMount, MountError> {
        let mut values = Values::default();
        for MountOption { key, value } in &self.options {
            let value = match value {
                Some(value) if key == "from" => Some(value.clone()),
                Some(value) => {
                    let wrap = |source| MountError::Expand { key: key.clone(), source };
                    Some(expand(value).map_err(wrap)?)
                }
                None => None,
            };
            values.set(key, value)?;
        }
        values.finish()
    }
}

/// What the options say, before it is known whether they fit together.
#[derive(Default)]
struct Values {
    kind: Option<&'static str>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    writable: Option<bool>,
    required: Option<bool>,
    size: Option<u64>,
    id: Option<String>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Values {
    fn set(&mut self, key: &str, value: Option<String>) -> Result<(), MountError> {
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => self.writable = Some(false),
                "readwrite" | "rw" => self.writable = Some(true),
                "required" => self.required = Some(true),
                _ => return Err(MountError::MissingValue { key: key.to_owned() }),
            }
            return Ok(());
        };
        let given = |value: String| Some(value).filter(|value| !value.is_empty());
        match key {
            "type" => {
                let known = TYPES.into_iter().find(|kind| kind.eq_ignore_ascii_case(&value));
                self.kind = Some(known.ok_or_else(|| unsupported("type", value, TYPES))?);
            }
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(unsupported("sharing", value, SHARINGS)),
                });
            }
            "from" => self.from = given(value),
            "source" | "src" => self.source = given(value),
            "target" | "dst" | "destination" => self.target = given(value),
            "readonly" | "ro" => self.writable = Some(!boolean("readonly", value)?),
            "readwrite" | "rw" => self.writable = Some(boolean("readwrite", value)?),
            "required" => self.required = Some(boolean("required", value)?),
            "size" => match parse_size(&value) {
                Some(size) => self.size = Some(size),
                None => return Err(MountError::InvalidValue { key: "size", value }),
            },
            "id" => self.id = given(value),
            "mode" => self.mode = Some(number("mode", value, 8)?),
            "uid" => self.uid = Some(number("uid", value, 10)?),
            "gid" => self.gid = Some(number("gid", value, 10)?),
            "env" => self.env = given(value),
            _ => {
                let suggestion = nearest(key, KEYS);
                return Err(MountError::UnknownKey { key: key.to_owned(), suggestion });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<ResolvedMount, MountError> {
        let kind = self.kind.unwrap_or("bind");
        let refuse = |given: bool, key, allowed: &[&str]| {
            if given && !allowed.contains(&kind) {
                return Err(MountError::UnexpectedKey { key, kind });
            }
            Ok(())
        };
        refuse(self.mode.is_some(), "mode", &["cache", "secret", "ssh"])?;
        refuse(self.uid.is_some(), "uid", &["cache", "secret", "ssh"])?;
        refuse(self.gid.is_some(), "gid", &["cache", "secret", "ssh"])?;
        refuse(self.required.is_some(), "required", &["secret", "ssh"])?;
        refuse(self.size.is_some(), "size", &["tmpfs"])?;
        refuse(self.sharing.is_some(), "sharing", &["cache"])?;
        refuse(self.env.is_some(), "env", &["secret"])?;
        refuse(self.from.is_some(), "from", &["bind", "cache", "tmpfs", "ssh"])?;
        let target = self.target.clone().unwrap_or_default();
        let required = self.required.unwrap_or(false);
        let (mode, uid, gid) = (self.mode, self.uid, self.gid);
        Ok(match kind {
            "cache" => ResolvedMount::Cache(CacheMount {
                id: self.id,
                target,
                writable: self.writable.unwrap_or(true),
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source: self.source.unwrap_or_default(),
                mode,
                uid,
                gid,
            }),
            "tmpfs" => {
                ResolvedMount::Tmpfs(TmpfsMount { target, size_bytes: self.size, writable: self.writable.unwrap_or(true) })
            }
            "secret" => {
                let id = match (self.id, self.source) {
                    (Some(_), Some(_)) => return Err(MountError::TwiceNamedSecret),
                    (Some(id), None) | (None, Some(id)) => id,
                    (None, None) => {
                        let target = self.target.as_ref().ok_or(MountError::NamelessSecret)?;
                        file_name(target).to_owned()
                    }
                };
                let target = match (self.target, &self.env) {
                    (None, None) => Some(format!("/run/secrets/{}", file_name(&id))),
                    (target, _) => target,
                };
                ResolvedMount::Secret(SecretMount { id, target, env: self.env, required, mode, uid, gid })
            }
            "ssh" => {
                let id = self.id.unwrap_or_else(|| "default".to_owned());
                ResolvedMount::Ssh(SshMount { id, target: self.target, required, mode, uid, gid })
            }
            _ => ResolvedMount::Bind(BindMount {
                from: self.from,
                source: self.source.unwrap_or_default(),
                target,
                writable: self.writable.unwrap_or(false),
            }),
        })
    }
}

fn unsupported<const N: usize>(key: &'static str, value: String, known: [&'static str; N]) -> MountError {
    let suggestion = nearest(&value, known);
    MountError::Unsupported { key, value, suggestion }
}

fn boolean(key: &'static str, value: String) -> Result<bool, MountError> {
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(MountError::InvalidValue { key, value }),
    }
}

fn number(key: &'static str, value: String, radix: u32) -> Result<u32, MountError> {
    match u32::from_str_radix(&value, radix) {
        // A sign is no digit, though Rust would take it.
        Ok(number) if !value.starts_with('+') => Ok(number),
        _ => Err(MountError::InvalidValue { key, value }),
    }
}

/// Reads `512`, `64k`, `1.5g`, `2GiB`: powers of 1024, whatever the unit is called.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let factor = match unit {
        "" => 1_u64,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let bytes = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let mut rest = 0_u128;
    let mut scale = 1_u128;
    for digit in fraction.bytes().take(15) {
        rest = rest * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    bytes.checked_add(u64::try_from(rest * u128::from(factor) / scale).ok()?)
}

fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Whether a text holds a dollar sign that could begin a variable.
pub(super) fn holds_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

/// Splits one line of comma-separated values; a field in quotes may hold commas and, doubled, quotes.
fn split_csv(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let (text, after) = quoted.split_once('"')?;
                field.push_str(text);
                quoted = after;
                let Some(after) = quoted.strip_prefix('"') else { break };
                field.push('"');
                quoted = after;
            }
            fields.push(field);
            if quoted.is_empty() {
                return Some(fields);
            }
            rest = quoted.strip_prefix(',')?;
            continue;
        }
        let (field, after) = match rest.split_once(',') {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        if field.contains('"') {
            return None;
        }
        fields.push(field.to_owned());
        match after {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<ResolvedMount, MountError> {
        Mount::parse(text, Position::default())?.resolve(&mut |value| Ok(value.replace("$X", "x")))
    }

    #[test]
    fn a_mount_is_a_read_only_bind_mount_unless_it_says_otherwise() {
        let bind = |writable| {
            Ok(ResolvedMount::Bind(BindMount {
                from: Some("stage".to_owned()),
                source: "a".to_owned(),
                target: "/b".to_owned(),
                writable,
            }))
        };
        assert_eq!(resolve("from=stage,source=a,target=/b"), bind(false));
        assert_eq!(resolve("TYPE=bind,from=stage,src=a,dst=/b,ro"), bind(false));
        assert_eq!(resolve("type=bind,from=stage,src=a,destination=/b,rw"), bind(true));
        assert_eq!(resolve("type=bind,from=stage,src=a,dst=/b,readonly=false"), bind(true));
        assert_eq!(resolve("\"from=stage\",src=a,\"dst=/b\",readwrite=1"), bind(true));
    }

    #[test]
    fn values_are_expanded_when_the_mount_is_resolved() {
        let ResolvedMount::Cache(cache) = resolve("type=cache,target=/$X,id=$X-1").unwrap() else {
            panic!("no cache mount");
        };
        assert_eq!((cache.target.as_str(), cache.id.as_deref()), ("/x", Some("x-1")));
        assert!(cache.writable);
    }

    #[test]
    fn a_secret_is_named_by_its_id_its_source_or_its_target() {
        for (text, id, target) in [
            ("type=secret,id=tok", "tok", Some("/run/secrets/tok")),
            ("type=secret,source=a/tok", "a/tok", Some("/run/secrets/tok")),
            ("type=secret,target=/etc/key", "key", Some("/etc/key")),
            ("type=secret,id=tok,env=TOKEN", "tok", None),
            ("type=secret,id=tok,env=TOKEN,target=/t", "tok", Some("/t")),
        ] {
            let Ok(ResolvedMount::Secret(secret)) = resolve(text) else { panic!("{text}") };
            assert_eq!((secret.id.as_str(), secret.target.as_deref()), (id, target), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_word_that_is_wrong() {
        for (text, message) in [
            ("type=bnid,target=/x", "unsupported mount type \"bnid\""),
            ("tagret=/x", "unexpected key 'tagret' in --mount"),
            ("type=cache,target", "invalid field 'target' in --mount must be a key=value pair"),
            ("type=cache,sharing=all", "unsupported mount sharing \"all\""),
            ("type=bind,mode=0755", "unexpected key 'mode' for mount type 'bind'"),
            ("type=cache,mode=9", "invalid value for mode in --mount: \"9\""),
            ("type=cache,uid=+1", "invalid value for uid in --mount: \"+1\""),
            ("type=tmpfs,size=much", "invalid value for size in --mount: \"much\""),
            ("type=secret", "invalid secret mount: one of id, source, target is required"),
            ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
            ("from=$STAGE,target=/x", "'from' of --mount does not support variable expansion: \"$STAGE\""),
            ("type=bind,ro=perhaps", "invalid value for readonly in --mount: \"perhaps\""),
            ("a\"b", "--mount value \"a\\\"b\" is no comma-separated list of key=value"),
        ] {
            assert_eq!(resolve(text).unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(resolve("tagret=/x").unwrap_err().hint().unwrap(), "did you mean target?");
    }

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, expected) in [
            ("512", Some(512)),
            ("64k", Some(64 << 10)),
            ("1.5g", Some(3 << 29)),
            ("2GiB", Some(2 << 30)),
            ("10 MB", Some(10 << 20)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("99999999999999999999p", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
