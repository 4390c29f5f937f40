//! Rules about FROM: its arguments and its platform. They look at every stage, needed or not. Pure.

use super::{Finding, Findings, Rule, nearest};
use crate::dockerfile::{self, Dockerfile, Expansion, InstructionKind, Stage, Word};
use crate::oci::{Platform, Reference};
use crate::plan;
use std::collections::{BTreeMap, BTreeSet};

/// What a FROM sees.
struct Arguments {
    /// With a value or without one.
    declared: BTreeSet<String>,
    platform: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
    /// The values if nobody gave a build argument.
    defaults: BTreeMap<String, String>,
}

pub(super) fn check(dockerfile: &Dockerfile, options: &plan::Options, findings: &mut Findings) {
    let arguments = Arguments::of(dockerfile, options);
    for stage in &dockerfile.stages {
        let expand = |word: &Word| dockerfile::expand(&word.text, dockerfile.escape, &|name| arguments.value(name)).ok();
        if let Some(base) = expand(&stage.base) {
            undefined_arguments(stage, &stage.base, &base, &arguments, findings);
        }
        if !has_valid_default(dockerfile, stage, &arguments.declared, &|name| arguments.default(name)) {
            let message = format!("with the default values of its arguments, {} is no image name", stage.base.text);
            let finding = Finding::new(Rule::InvalidDefaultArgInFrom, message).at(stage.base.position);
            findings.add(stage.into(), finding.hint("give the ARG a default that can be built"));
        }
        if let Some(word) = &stage.platform
            && let Some(platform) = expand(word)
        {
            undefined_arguments(stage, word, &platform, &arguments, findings);
            redundant_platform(stage, word, &platform, &arguments, findings);
            constant_platform(stage, word, &platform, findings);
        }
    }
}

impl Arguments {
    fn of(dockerfile: &Dockerfile, options: &plan::Options) -> Self {
        let pairs = dockerfile.global_args.iter().filter_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(pairs) => Some(pairs),
            _ => None,
        });
        let declared = pairs.flatten().map(|pair| pair.name.clone()).collect();
        let platform = plan::platform_args(dockerfile, options);
        // What cannot be expanded is an error of the plan; here it has no value.
        let values = plan::global_args(dockerfile, options, &platform).unwrap_or_default();
        let bare = plan::Options { build_args: BTreeMap::new(), ..options.clone() };
        let defaults = plan::global_args(dockerfile, &bare, &plan::platform_args(dockerfile, &bare)).unwrap_or_default();
        Self { declared, platform, values, defaults }
    }

    fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).or_else(|| self.platform.get(name)).cloned()
    }

    fn default(&self, name: &str) -> Option<String> {
        self.defaults.get(name).or_else(|| self.platform.get(name)).cloned()
    }
}

fn undefined_arguments(stage: &Stage, word: &Word, expansion: &Expansion, arguments: &Arguments, findings: &mut Findings) {
    for name in expansion.missing.iter().filter(|name| !arguments.declared.contains(*name)) {
        let known = arguments.declared.iter().chain(arguments.platform.keys()).map(String::as_str);
        let message = format!("FROM uses the argument '{name}', which is not declared");
        let finding = Finding::new(Rule::UndefinedArgInFrom, message).at(word.position);
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("declare it above the first FROM: ARG {name}=…"),
        };
        findings.add(stage.into(), finding.hint(hint));
    }
}

/// Whether the base of a stage is an image name when nobody gives a build argument.
fn has_valid_default(
    dockerfile: &Dockerfile,
    stage: &Stage,
    declared: &BTreeSet<String>,
    defaults: &dockerfile::Lookup<'_>,
) -> bool {
    match dockerfile::expand(&stage.base.text, dockerfile.escape, defaults) {
        Ok(base) => {
            let uses_declared = base.used.iter().chain(&base.unset).any(|name| declared.contains(name));
            !uses_declared || base.text.trim().parse::<Reference>().is_ok()
        }
        Err(_) => false,
    }
}

/// A word that says `$TARGETPLATFORM` and nothing else.
fn redundant_platform(stage: &Stage, word: &Word, expansion: &Expansion, arguments: &Arguments, findings: &mut Findings) {
    const TARGET: &str = "TARGETPLATFORM";
    let only_target = expansion.used.iter().eq([TARGET]) && expansion.unset.is_empty();
    if only_target && arguments.value(TARGET).is_some_and(|value| value == expansion.text) {
        let message = format!("--platform={} is the default", word.text);
        findings.add(stage.into(), Finding::new(Rule::RedundantTargetPlatform, message).at(word.position).hint("leave it out"));
    }
}

/// A stage whose name says for what it is may be meant to be for that alone.
fn constant_platform(stage: &Stage, word: &Word, expansion: &Expansion, findings: &mut Findings) {
    if !expansion.used.is_empty() || !expansion.unset.is_empty() {
        return;
    }
    let text = expansion.text.as_str();
    let parts = match text.parse::<Platform>() {
        Ok(platform) => vec![platform.os, platform.architecture],
        Err(_) => vec![text.to_owned()],
    };
    let name = stage.name.as_ref().map_or("", |name| &name.name);
    if !parts.iter().any(|part| name.contains(part.as_str())) {
        let message = format!("--platform is the constant {text:?}");
        let finding = Finding::new(Rule::FromPlatformFlagConstDisallowed, message).at(word.position);
        findings.add(stage.into(), finding.hint("leave it out, or use $BUILDPLATFORM, or name the platform in the stage's name"));
    }
}
