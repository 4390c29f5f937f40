//! What a Dockerfile offers to whoever builds it: its stages, and what can be given to one of them. Takes a parsed file
//! and its plan, gives plain values. Pure.

use crate::dockerfile::{self, Dockerfile, Instruction, InstructionKind, Position, ResolvedMount, Stage};
use crate::plan::{self, Plan};
use std::collections::{BTreeMap, BTreeSet};

/// What can be given to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The name of the stage, if it has one.
    pub name: Option<String>,
    /// From the comment `# NAME description` above its FROM.
    pub description: Option<String>,
    /// The arguments that its stages declare or use in FROM, each once.
    pub arguments: Vec<Argument>,
    /// What `RUN --mount=type=secret` reads.
    pub secrets: Vec<Mounted>,
    /// What `RUN --mount=type=ssh` reads.
    pub ssh: Vec<Mounted>,
    /// What `RUN --mount=type=cache` keeps.
    pub caches: Vec<Mounted>,
}

/// An `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// From the comment `# NAME description` above it.
    pub description: Option<String>,
    /// Its value: as given for this build, else the default.
    pub value: Option<String>,
    /// Whether a build without a value for it must fail, because a FROM would name nothing.
    pub required: bool,
    /// Where it is declared.
    pub position: Position,
}

/// Something outside the file that a RUN sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its id.
    pub id: String,
    /// Whether the RUN fails without it.
    pub required: bool,
    /// Where it is first asked for.
    pub position: Position,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, else its number.
    pub name: String,
    /// Whether the stage has that name; a number cannot be a target.
    pub is_named: bool,
    /// Whether it is built if no target is given.
    pub is_default: bool,
    /// From the comment `# NAME description` above its FROM.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// Its `--platform`, as written.
    pub platform: Option<String>,
    /// Where it stands.
    pub position: Position,
}

/// The stages, in the order of the file.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len() - 1;
    let target = |(index, stage): (usize, &Stage)| Target {
        name: stage.name.as_ref().map_or_else(|| index.to_string(), |name| name.name.clone()),
        is_named: stage.name.is_some(),
        is_default: index == last,
        description: stage_description(stage),
        base: stage.base.text.clone(),
        platform: stage.platform.as_ref().map(|word| word.text.clone()),
        position: stage.position,
    };
    dockerfile.stages.iter().enumerate().map(target).collect()
}

/// What can be given to the target of `plan`.
pub fn outline(dockerfile: &Dockerfile, options: &plan::Options, plan: &Plan) -> Outline {
    let target = &dockerfile.stages[plan.target];
    let mut outline = Outline {
        name: target.name.as_ref().map(|name| name.name.clone()),
        description: stage_description(target),
        arguments: arguments(dockerfile, options, plan),
        ..Outline::default()
    };
    for index in plan.stages.keys() {
        let mut values: BTreeMap<String, String> = plan.global_args.clone();
        for instruction in &dockerfile.stages[*index].instructions {
            match &instruction.kind {
                InstructionKind::Arg(pairs) => {
                    for pair in pairs {
                        let value = value_of(pair, dockerfile.escape, options, &values);
                        values.extend(value.map(|value| (pair.name.clone(), value)));
                    }
                }
                InstructionKind::Run(run) => {
                    for mount in &run.mounts {
                        let mut expand = |text: &str| {
                            let expansion = dockerfile::expand(text, dockerfile.escape, &|name| values.get(name).cloned());
                            expansion.map(|expansion| expansion.text)
                        };
                        if let Ok(mount) = mount.resolve(&mut expand) {
                            outline.add(mount, instruction.position);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    outline
}

impl Outline {
    fn add(&mut self, mount: ResolvedMount, position: Position) {
        let (list, id, required) = match mount {
            ResolvedMount::Secret(secret) => (&mut self.secrets, secret.id, secret.required),
            ResolvedMount::Ssh(ssh) => (&mut self.ssh, ssh.id, ssh.required),
            ResolvedMount::Cache(cache) => {
                let id = cache.id.unwrap_or(cache.target);
                (&mut self.caches, id, false)
            }
            ResolvedMount::Bind(_) | ResolvedMount::Tmpfs(_) => return,
        };
        match list.iter_mut().find(|known| known.id == id) {
            Some(known) => known.required |= required,
            None => list.push(Mounted { id, required, position }),
        }
    }
}

/// The arguments above the first FROM that the needed stages use there or declare again, then those of the stages.
fn arguments(dockerfile: &Dockerfile, options: &plan::Options, plan: &Plan) -> Vec<Argument> {
    let stages: Vec<&Stage> = plan.stages.keys().map(|index| &dockerfile.stages[*index]).collect();
    let mut wanted: BTreeSet<String> = stages.iter().flat_map(|stage| used_in_from(dockerfile, stage)).collect();
    wanted.extend(stages.iter().flat_map(|stage| declared(&stage.instructions)).map(|(_, pair)| pair.name.clone()));
    // What a wanted default uses is wanted, too; it stands above.
    let global: Vec<_> = declared(&dockerfile.global_args).collect();
    for (_, pair) in global.iter().rev().filter(|(_, pair)| pair.value.is_some()) {
        if wanted.contains(&pair.name)
            && let Some(default) = &pair.value
            && let Ok(expansion) = dockerfile::expand(&default.text, dockerfile.escape, &|_| None)
        {
            wanted.extend(expansion.unset);
        }
    }
    let mut arguments: Vec<Argument> = Vec::new();
    let mut add = |instruction: &Instruction, pair: &dockerfile::ArgPair, value: Option<String>, required: bool| {
        let line = instruction.position.first_line;
        let description = dockerfile::description(&instruction.comments, line, &pair.name).map(str::to_owned);
        match arguments.iter_mut().find(|known| known.name == pair.name) {
            Some(known) => {
                known.description = known.description.take().or(description);
                known.value = known.value.take().or(value);
            }
            None => arguments.push(Argument { name: pair.name.clone(), description, value, required, position: pair.position }),
        }
    };
    for (instruction, pair) in &global {
        if wanted.contains(&pair.name) {
            let value = plan.global_args.get(&pair.name).cloned();
            let required = pair.value.is_none() && stages.iter().any(|stage| needs(dockerfile, stage, &pair.name, plan));
            add(instruction, pair, value, required);
        }
    }
    for stage in stages {
        let mut values = plan.global_args.clone();
        for (instruction, pair) in declared(&stage.instructions) {
            let value = value_of(pair, dockerfile.escape, options, &values);
            values.extend(value.clone().map(|value| (pair.name.clone(), value)));
            add(instruction, pair, value, false);
        }
    }
    arguments
}

fn declared(instructions: &[Instruction]) -> impl Iterator<Item = (&Instruction, &dockerfile::ArgPair)> {
    instructions.iter().flat_map(|instruction| {
        let pairs = if let InstructionKind::Arg(pairs) = &instruction.kind { pairs.as_slice() } else { &[] };
        pairs.iter().map(move |pair| (instruction, pair))
    })
}

fn used_in_from(dockerfile: &Dockerfile, stage: &Stage) -> BTreeSet<String> {
    let words = std::iter::once(&stage.base).chain(&stage.platform);
    let expansions = words.filter_map(|word| dockerfile::expand(&word.text, dockerfile.escape, &|_| None).ok());
    expansions.flat_map(|expansion| expansion.unset).collect()
}

/// Whether the base of a stage is no image name without a value for `name`.
fn needs(dockerfile: &Dockerfile, stage: &Stage, name: &str, plan: &Plan) -> bool {
    let lookup =
        |asked: &str| plan.global_args.get(asked).or_else(|| plan.platform_args.get(asked)).filter(|_| asked != name).cloned();
    match dockerfile::expand(&stage.base.text, dockerfile.escape, &lookup) {
        Ok(base) => base.unset.contains(name) && base.text.parse::<crate::oci::Reference>().is_err(),
        Err(_) => true,
    }
}

fn value_of(
    pair: &dockerfile::ArgPair,
    escape: char,
    options: &plan::Options,
    values: &BTreeMap<String, String>,
) -> Option<String> {
    let default = pair.value.as_ref();
    let expand = |word: &dockerfile::Word| dockerfile::expand(&word.text, escape, &|name| values.get(name).cloned()).ok();
    let given = options.build_args.get(&pair.name).cloned();
    given.or_else(|| default.and_then(expand).map(|expansion| expansion.text)).or_else(|| values.get(&pair.name).cloned())
}

fn stage_description(stage: &Stage) -> Option<String> {
    let name = stage.name.as_ref()?;
    dockerfile::description(&stage.comments, stage.position.first_line, &name.name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Platform;

    fn outlined(text: &str, target: Option<&str>, build_args: &[(&str, &str)]) -> Outline {
        let dockerfile = dockerfile::parse(text).unwrap();
        let options = plan::Options {
            build_args: build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            target: target.map(str::to_owned),
            target_platform: Platform::linux_amd64(),
            build_platform: Platform::linux_amd64(),
            contexts: BTreeSet::new(),
        };
        let plan = plan::plan(&dockerfile, &options).unwrap();
        outline(&dockerfile, &options, &plan)
    }

    const TEXT: &str = "# BASE the image to start from\nARG BASE\nARG MIRROR=r.example\nARG UNUSED=1\n\
        # build compiles\nFROM $BASE AS build\n# JOBS how many at a time\nARG JOBS=4 FAST\n\
        RUN --mount=type=secret,id=npm,required --mount=type=cache,target=/root/.npm --mount=type=ssh make\n\
        FROM $MIRROR/busybox\nARG JOBS\nRUN --mount=type=secret,id=npm --mount=type=cache,id=go-$JOBS,target=/go x\n";

    #[test]
    fn the_arguments_and_mounts_of_a_target_are_found() {
        let shown = |outline: &Outline| {
            let argument = |argument: &Argument| {
                let (value, text) = (argument.value.as_deref().unwrap_or("-"), argument.description.as_deref().unwrap_or("-"));
                format!("{} {value} {text}{}", argument.name, if argument.required { " !" } else { "" })
            };
            let mounted = |mounted: &Mounted| format!("{}{}", mounted.id, if mounted.required { " !" } else { "" });
            let arguments: Vec<String> = outline.arguments.iter().map(argument).collect();
            let mounts =
                [&outline.secrets, &outline.ssh, &outline.caches].map(|list| list.iter().map(mounted).collect::<Vec<_>>());
            (arguments, mounts.concat())
        };
        let build = outlined(TEXT, Some("build"), &[("BASE", "debian")]);
        assert_eq!((build.name.as_deref(), build.description.as_deref()), (Some("build"), Some("compiles")));
        let (arguments, mounts) = shown(&build);
        assert_eq!(arguments, ["BASE debian the image to start from !", "JOBS 4 how many at a time", "FAST - -"]);
        assert_eq!(mounts, ["npm !", "default", "/root/.npm"]);

        let (arguments, mounts) = shown(&outlined(TEXT, None, &[("BASE", "debian"), ("JOBS", "2")]));
        assert_eq!(arguments, ["MIRROR r.example -", "JOBS 2 -"]);
        assert_eq!(mounts, ["npm", "go-2"]);
    }

    #[test]
    fn the_targets_are_the_stages() {
        let targets = targets(&dockerfile::parse(TEXT).unwrap());
        let shown = |target: &Target| {
            format!("{} {} {} {}", target.name, target.is_default, target.base, target.description.as_deref().unwrap_or("-"))
        };
        let targets: Vec<String> = targets.iter().map(shown).collect();
        assert_eq!(targets, ["build false $BASE compiles", "1 true $MIRROR/busybox -"]);
    }
}
