//! Which rules count: `# check=skip=A,B|all;error=true;experimental=A|all`. Takes text, gives options. Pure.

use super::Rule;
use crate::dockerfile::{self, Comment, DirectiveKey, Dockerfile, ParseError};
use std::collections::{BTreeMap, BTreeSet};

/// The build argument that replaces the file's own options.
pub const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Which rules count, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    skip: Names,
    experimental: Names,
    /// Whether a warning fails the build.
    pub warnings_are_errors: bool,
}

/// A list of names, or all there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        let names: BTreeSet<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        Self { all: names.contains("all"), names }
    }

    fn hold(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }
}

impl Options {
    /// The options of a build: those of [`CHECK_ARGUMENT`], else those of the file.
    ///
    /// # Errors
    /// An option that does not exist, or a value that is none.
    pub fn of(dockerfile: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<Self, ParseError> {
        let refuse = |message, position| ParseError {
            message,
            hint: Some("the options are skip=RULE,…|all, error=true and experimental=RULE,…|all, parted by ;".to_owned()),
            position,
            focus: None,
        };
        if let Some(given) = build_args.get(CHECK_ARGUMENT) {
            let position = dockerfile.stages.first().map(|stage| stage.position).unwrap_or_default();
            return Self::parse(given)
                .map_err(|reason| refuse(format!("the build argument {CHECK_ARGUMENT}: {reason}"), position));
        }
        match dockerfile.directives.iter().find(|directive| directive.key == DirectiveKey::Check) {
            Some(directive) => {
                Self::parse(&directive.value).map_err(|reason| refuse(format!("# check=: {reason}"), directive.position))
            }
            None => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in without_reason(text).split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no option"))?;
            match key.trim() {
                "skip" => options.skip = Names::parse(value),
                "experimental" => options.experimental = Names::parse(value),
                "error" => {
                    options.warnings_are_errors = match value.trim().to_ascii_lowercase().as_str() {
                        "true" | "t" | "1" => true,
                        "false" | "f" | "0" => false,
                        other => return Err(format!("error={other} is neither true nor false")),
                    }
                }
                other => return Err(format!("there is no option {other:?}")),
            }
        }
        Ok(options)
    }

    /// Whether findings of `rule` count. `skip=all` is about the rules that would count without being asked for.
    pub(super) fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental.hold(rule) && !self.skip.names.contains(rule.name())
        } else {
            !self.skip.hold(rule)
        }
    }
}

/// Whether a comment directly above the instruction in `line` says `check=skip=` of `rule`.
pub(super) fn is_skipped_here(comments: &[Comment], line: usize, rule: Rule) -> bool {
    let option = |comment: &Comment| is_option(comment).then(|| Options::parse(comment.text.split_once('=')?.1).ok())?;
    dockerfile::directly_above(comments, line).iter().filter_map(option).any(|options| options.skip.hold(rule))
}

/// Whether a comment is an option of the check, and so no text for people.
pub(super) fn is_option(comment: &Comment) -> bool {
    comment.text.split_once('=').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case("check"))
}

/// `skip=… // why`: the reason is for people.
fn without_reason(text: &str) -> &str {
    text.split_once("//").map_or(text, |(options, _)| options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_mistakes_in_them_named() {
        for (text, skips_casing, skips_var, describes, errors) in [
            ("", false, false, false, false),
            ("skip=all", true, true, false, false),
            ("skip=StageNameCasing, UndefinedVar", true, true, false, false),
            (" skip = StageNameCasing ; error = true ", true, false, false, true),
            ("error=1;experimental=all", false, false, true, true),
            ("skip=all;experimental=InvalidDefinitionDescription", true, true, true, false),
            ("skip=InvalidDefinitionDescription;experimental=all", false, false, false, false),
            ("skip=UndefinedVar // it is set by the platform", false, true, false, false),
            ("error=false", false, false, false, false),
        ] {
            let options = Options::parse(text).unwrap();
            let wants = |rule| options.wants(rule);
            assert_eq!(
                (
                    !wants(Rule::StageNameCasing),
                    !wants(Rule::UndefinedVar),
                    wants(Rule::InvalidDefinitionDescription),
                    options.warnings_are_errors
                ),
                (skips_casing, skips_var, describes, errors),
                "{text}"
            );
        }
        for (text, message) in [
            ("skip", "\"skip\" is no option"),
            ("skp=all", "there is no option \"skp\""),
            ("error=maybe", "error=maybe is neither true nor false"),
        ] {
            assert_eq!(Options::parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
