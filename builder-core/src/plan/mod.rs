//! What must be built, as a graph: which stages the target needs, what each starts from, what the arguments before the
//! first FROM are worth. Takes a [`Dockerfile`] and [`Options`], gives a [`Plan`]. Pure.
//!
//! Stages that the target does not reach are not in the plan, so nothing of them is resolved or built.

use crate::dockerfile::{self, Dockerfile, InstructionKind, ParseError, Position, Word};
use crate::oci::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// What the user said that decides about stages.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--build-arg`, by name.
    pub build_args: BTreeMap<String, String>,
    /// `--target`; the last stage if not given.
    pub target: Option<String>,
    /// What the image is for.
    pub target_platform: Platform,
    /// What the builder runs on.
    pub build_platform: Platform,
    /// The names of `--build-context`.
    pub contexts: BTreeSet<String>,
}

/// The needed stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By their index in the Dockerfile, in its order: a stage needs only earlier ones.
    pub stages: BTreeMap<usize, PlannedStage>,
    /// The index of the stage that becomes the image.
    pub target: usize,
    /// The arguments before the first FROM that have a value; a stage sees one after its own ARG.
    pub global_args: BTreeMap<String, String>,
    /// `TARGETPLATFORM`, `BUILDARCH`, …: visible in FROM, and in a stage after an ARG.
    pub platform_args: BTreeMap<String, String>,
}

/// A stage that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// What it starts from.
    pub base: Source,
    /// What it is for.
    pub platform: Platform,
    /// The stages that it needs, its base included.
    pub needs: BTreeSet<usize>,
}

/// Where files come from: the base of a stage, or `--from`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Nothing at all.
    Scratch,
    /// An earlier stage, by its index.
    Stage(usize),
    /// An image of a registry, by name.
    Image(String),
    /// A named context.
    Context(String),
}

/// Decides what must be built.
///
/// # Errors
/// A target that no stage has, a FROM that names nothing, a `--from` that names the stage itself or a later one.
pub fn plan(dockerfile: &Dockerfile, options: &Options) -> Result<Plan, Vec<ParseError>> {
    let platform_args = platform_args(options);
    let global_args = global_args(dockerfile, options, &platform_args).map_err(|error| vec![error])?;
    let target = target(dockerfile, options).map_err(|error| vec![error])?;
    let mut plan = Plan { stages: BTreeMap::new(), target, global_args, platform_args };
    let mut wanted = BTreeSet::from([target]);
    let mut errors = Vec::new();
    while let Some(index) = wanted.pop_last() {
        match stage(dockerfile, index, options, &plan) {
            Ok(stage) => {
                wanted.extend(stage.needs.iter().copied());
                plan.stages.insert(index, stage);
            }
            Err(error) => errors.push(error),
        }
    }
    errors.sort_by_key(|error| error.position);
    if errors.is_empty() { Ok(plan) } else { Err(errors) }
}

/// What `--from=name` means in stage `index`: a named context, an earlier stage by name or number, else an image.
///
/// # Errors
/// The stage itself, or a number that is no earlier stage.
pub fn source(dockerfile: &Dockerfile, index: usize, name: &Word, contexts: &BTreeSet<String>) -> Result<Source, ParseError> {
    let text = name.text.as_str();
    let lower = text.to_lowercase();
    if contexts.contains(text) || contexts.contains(&lower) {
        return Ok(Source::Context(if contexts.contains(text) { text.to_owned() } else { lower }));
    }
    if let Some(found) = named_stage(&dockerfile.stages[..index], &lower) {
        return Ok(Source::Stage(found));
    }
    if let Ok(number) = text.parse::<usize>() {
        if number < index {
            return Ok(Source::Stage(number));
        }
        let message = format!("--from={text} is no earlier stage: this is stage {index}, and stages are counted from 0");
        return Err(mistake(message, Some("only stages above this one can be copied from"), name.position));
    }
    if let Some(later) = named_stage(&dockerfile.stages, &lower) {
        let message = if later == index {
            format!("--from={text} is the stage itself: a stage cannot copy from its own result")
        } else {
            format!("--from={text} is a later stage (line {})", dockerfile.stages[later].position.first_line)
        };
        return Err(mistake(message, Some("only stages above this one can be copied from"), name.position));
    }
    if text == "scratch" {
        return Ok(Source::Scratch);
    }
    Ok(Source::Image(text.to_owned()))
}

/// The last stage of that name: a later one of the same name hides the earlier.
fn named_stage(stages: &[dockerfile::Stage], lower: &str) -> Option<usize> {
    stages.iter().rposition(|stage| stage.name.as_ref().is_some_and(|name| name.name == lower))
}

fn target(dockerfile: &Dockerfile, options: &Options) -> Result<usize, ParseError> {
    let last = dockerfile.stages.len() - 1;
    let Some(wanted) = &options.target else { return Ok(last) };
    if let Some(found) = named_stage(&dockerfile.stages, &wanted.to_lowercase()) {
        return Ok(found);
    }
    // A number is a name like any other to BuildKit; Kaniko and the classic builder count stages, and no name begins with a digit.
    if let Some(number) = wanted.parse().ok().filter(|number| *number <= last) {
        return Ok(number);
    }
    let names: Vec<&str> =
        dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.name.as_str()).collect();
    let hint = if names.is_empty() {
        "no stage has a name; give one with FROM … AS name".to_owned()
    } else {
        format!("the stages are {}", names.join(", "))
    };
    Err(mistake(format!("target {wanted:?} not found: no stage has that name"), Some(&hint), dockerfile.stages[last].position))
}

fn stage(dockerfile: &Dockerfile, index: usize, options: &Options, plan: &Plan) -> Result<PlannedStage, ParseError> {
    let stage = &dockerfile.stages[index];
    let lookup = |name: &str| plan.global_args.get(name).or_else(|| plan.platform_args.get(name)).cloned();
    let expand = |word: &Word| {
        dockerfile::expand(&word.text, dockerfile.escape, &lookup)
            .map_err(|error| mistake(error.to_string(), None, stage.position).at(word.position))
    };
    let platform = match &stage.platform {
        None => options.target_platform.clone(),
        Some(word) => {
            let text = expand(word)?.text;
            text.parse().map_err(|error| mistake(format!("{error}"), None, stage.position).at(word.position))?
        }
    };
    let expansion = expand(&stage.base)?;
    let name = expansion.text.trim();
    if name.is_empty() {
        let unset: Vec<&str> = expansion.unset.iter().map(String::as_str).collect();
        let hint = format!(
            "give a value with --build-arg {}=…, or a default with ARG before the first FROM",
            unset.first().unwrap_or(&"NAME")
        );
        let message = format!("the base name is empty: {} expands to nothing", stage.base.text);
        return Err(mistake(message, Some(&hint), stage.position).at(stage.base.position));
    }
    // FROM compares names as they are written against the lower-cased names of the stages.
    let base = if name == "scratch" {
        Source::Scratch
    } else if options.contexts.contains(name) {
        Source::Context(name.to_owned())
    } else if let Some(found) = named_stage(&dockerfile.stages[..index], name) {
        Source::Stage(found)
    } else {
        Source::Image(name.to_owned())
    };
    let mut needs = BTreeSet::new();
    if let Source::Stage(found) = base {
        needs.insert(found);
        for instruction in &dockerfile.stages[found].instructions {
            if let InstructionKind::Onbuild(onbuild) = &instruction.kind {
                needed_by(dockerfile, index, &onbuild.instruction.kind, &options.contexts, &mut needs)?;
            }
        }
    }
    for instruction in &stage.instructions {
        needed_by(dockerfile, index, &instruction.kind, &options.contexts, &mut needs)?;
    }
    Ok(PlannedStage { base, platform, needs })
}

fn needed_by(
    dockerfile: &Dockerfile,
    index: usize,
    kind: &InstructionKind,
    contexts: &BTreeSet<String>,
    needs: &mut BTreeSet<usize>,
) -> Result<(), ParseError> {
    let mut from = |name: &Word| {
        if let Source::Stage(found) = source(dockerfile, index, name, contexts)? {
            needs.insert(found);
        }
        Ok(())
    };
    match kind {
        InstructionKind::Copy(copy) => copy.from.iter().try_for_each(&mut from),
        InstructionKind::Run(run) => run.mounts.iter().try_for_each(|mount| match mount.from() {
            Some(name) => from(&Word { text: name.to_owned(), position: mount.position }),
            None => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// The values of the ARGs before the first FROM: `--build-arg`, else the default, which sees the arguments before it.
fn global_args(
    dockerfile: &Dockerfile,
    options: &Options,
    platform_args: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ParseError> {
    let mut args: BTreeMap<String, String> = BTreeMap::new();
    for instruction in &dockerfile.global_args {
        let InstructionKind::Arg(pairs) = &instruction.kind else { continue };
        for pair in pairs {
            if let Some(value) = options.build_args.get(&pair.name) {
                args.insert(pair.name.clone(), value.clone());
            } else if let Some(default) = &pair.value {
                let lookup = |name: &str| args.get(name).or_else(|| platform_args.get(name)).cloned();
                let value = dockerfile::expand(&default.text, dockerfile.escape, &lookup)
                    .map_err(|error| mistake(error.to_string(), None, instruction.position).at(default.position))?;
                args.insert(pair.name.clone(), value.text);
            }
        }
    }
    Ok(args)
}

fn platform_args(options: &Options) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("TARGET", &options.target_platform), ("BUILD", &options.build_platform)] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}OSVERSION"), String::new());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    args.insert("TARGETSTAGE".to_owned(), options.target.clone().unwrap_or_else(|| "default".to_owned()));
    for (name, value) in &mut args {
        if let Some(given) = options.build_args.get(name) {
            value.clone_from(given);
        }
    }
    args
}

fn mistake(message: String, hint: Option<&str>, position: Position) -> ParseError {
    ParseError { message, hint: hint.map(str::to_owned), position, focus: None }
}
