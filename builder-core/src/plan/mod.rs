//! What must be built, as a graph: which stages the target needs, what each starts from, what the arguments before the
//! first FROM are worth. Takes a [`Dockerfile`] and [`Options`], gives a [`Plan`]. Pure.
//!
//! Stages that the target does not reach are not in the plan, so nothing of them is resolved or built.
//! The triggers of a base *image* are not known before its config is: they join with [`Plan::with_triggers`].

#[cfg(test)]
mod tests;

use crate::dockerfile::{self, Dockerfile, Instruction, InstructionKind, ParseError, Position, Stage, Word};
use crate::oci::{Platform, Reference};
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
/// Every FROM must make sense, those of unused stages too; `--from` counts in the stages that are needed.
///
/// # Errors
/// A target that no stage has, a FROM that names nothing, a `--from` that names the stage itself or a later one.
///
/// ```
/// use builder_core::{dockerfile, oci::Platform, plan};
/// let dockerfile = dockerfile::parse("FROM a AS b\nFROM unused\nFROM scratch\nCOPY --from=b /f /\n").unwrap();
/// let options = plan::Options {
///     build_args: [].into(),
///     target: None,
///     target_platform: Platform::linux_amd64(),
///     build_platform: Platform::linux_amd64(),
///     contexts: [].into(),
/// };
/// let plan = plan::plan(&dockerfile, &options).unwrap();
/// assert_eq!(plan.stages.keys().copied().collect::<Vec<_>>(), [0, 2]);
/// assert_eq!(plan.stages[&0].base, plan::Source::Image("a".to_owned()));
/// ```
pub fn plan(dockerfile: &Dockerfile, options: &Options) -> Result<Plan, Vec<ParseError>> {
    let platform_args = platform_args(dockerfile, options);
    let global_args = global_args(dockerfile, options, &platform_args).map_err(|error| vec![error])?;
    let target = target(dockerfile, options).map_err(|error| vec![error])?;
    Plan { stages: BTreeMap::new(), target, global_args, platform_args }.reaching(dockerfile, options, BTreeSet::from([target]))
}

/// Decides what all stages together need, as if each were the target: what a check of the whole file looks at. The target
/// is the last stage, or the one that the options name.
///
/// # Errors
/// As [`plan`], of every stage.
pub fn plan_all(dockerfile: &Dockerfile, options: &Options) -> Result<Plan, Vec<ParseError>> {
    let platform_args = platform_args(dockerfile, options);
    let global_args = global_args(dockerfile, options, &platform_args).map_err(|error| vec![error])?;
    let target = target(dockerfile, options).map_err(|error| vec![error])?;
    let every = (0..dockerfile.stages.len()).collect();
    Plan { stages: BTreeMap::new(), target, global_args, platform_args }.reaching(dockerfile, options, every)
}

impl Plan {
    /// The plan when the base image of stage `index` turns out to carry `triggers`: whatever stages they need are in it.
    ///
    /// # Errors
    /// A `--from` of a trigger that names the stage itself or a later one. Its positions are those of the trigger, which
    /// stands in no file.
    pub fn with_triggers(
        mut self,
        dockerfile: &Dockerfile,
        options: &Options,
        index: usize,
        triggers: &[Instruction],
    ) -> Result<Self, Vec<ParseError>> {
        let mut needs = BTreeSet::new();
        for trigger in triggers {
            needed_by(dockerfile, index, trigger, &options.contexts, &mut needs).map_err(|error| vec![error])?;
        }
        if let Some(stage) = self.stages.get_mut(&index) {
            stage.needs.extend(&needs);
        }
        self.reaching(dockerfile, options, needs)
    }

    /// Adds the `wanted` stages, and all that they need.
    fn reaching(
        mut self,
        dockerfile: &Dockerfile,
        options: &Options,
        mut wanted: BTreeSet<usize>,
    ) -> Result<Self, Vec<ParseError>> {
        let bases = bases(dockerfile, options, &self)?;
        let mut errors = Vec::new();
        while let Some(index) = wanted.pop_last() {
            if self.stages.contains_key(&index) {
                continue;
            }
            let (base, platform) = bases[index].clone();
            match needs(dockerfile, index, &base, options) {
                Ok(needs) => {
                    wanted.extend(&needs);
                    self.stages.insert(index, PlannedStage { base, platform, needs });
                }
                Err(error) => errors.push(error),
            }
        }
        errors.sort_by_key(|error| error.position);
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }
}

/// What `--from=name` means in stage `index`: a named context, an earlier stage by name or number, else an image.
///
/// # Errors
/// The stage itself, a later one, a number that is no stage, or what can be no image either.
pub fn source(dockerfile: &Dockerfile, index: usize, name: &Word, contexts: &BTreeSet<String>) -> Result<Source, ParseError> {
    let text = name.text.as_str();
    let lower = text.to_lowercase();
    let refuse = |message: String, hint: &str| Err(mistake(message, Some(hint), name.position));
    if let Some(context) = context_named(text, contexts).or_else(|| context_named(&lower, contexts)) {
        return Ok(Source::Context(context));
    }
    if let Some(found) = named_stage(&dockerfile.stages[..index], &lower) {
        return Ok(Source::Stage(found));
    }
    if let Ok(number) = text.parse::<usize>() {
        if number < index {
            return Ok(Source::Stage(number));
        }
        let message = match number {
            _ if number == index => format!("--from={text} is the stage itself"),
            _ if number < dockerfile.stages.len() => format!("--from={text} is a later stage"),
            _ => format!("--from={text} is no stage: there are {}", dockerfile.stages.len()),
        };
        return refuse(message, &format!("this is stage {index}: stages are counted from 0, and only those above can be used"));
    }
    if let Some(later) = named_stage(&dockerfile.stages, &lower) {
        let message = if later == index {
            format!("--from={text} is the stage itself: a stage cannot copy from its own result")
        } else {
            format!("--from={text} is a later stage (line {})", dockerfile.stages[later].position.first_line)
        };
        return refuse(message, "only stages above this one can be used");
    }
    if text == "scratch" {
        return Ok(Source::Scratch);
    }
    match text.parse::<Reference>() {
        Ok(_) => Ok(Source::Image(text.to_owned())),
        Err(error) => {
            refuse(format!("--from={text} is no stage, and no image either: {error}"), &known_stages(&dockerfile.stages[..index]))
        }
    }
}

/// The context that stands for `name`, also where one says `alpine` and the other `docker.io/library/alpine:latest`.
fn context_named(name: &str, contexts: &BTreeSet<String>) -> Option<String> {
    if contexts.contains(name) {
        return Some(name.to_owned());
    }
    let reference: Reference = name.parse().ok()?;
    contexts.iter().find(|context| context.parse().is_ok_and(|context: Reference| context == reference)).cloned()
}

/// The last stage of that name: a later one of the same name hides the earlier.
fn named_stage(stages: &[Stage], lower: &str) -> Option<usize> {
    stages.iter().rposition(|stage| stage.name.as_ref().is_some_and(|name| name.name == lower))
}

fn known_stages(stages: &[Stage]) -> String {
    let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.name.as_str()).collect();
    match names[..] {
        [] => "no stage has a name; give one with FROM … AS name".to_owned(),
        _ => format!("the stages are {}", names.join(", ")),
    }
}

fn target(dockerfile: &Dockerfile, options: &Options) -> Result<usize, ParseError> {
    let last = dockerfile.stages.len() - 1;
    let Some(wanted) = &options.target else { return Ok(last) };
    named_stage(&dockerfile.stages, &wanted.to_lowercase()).ok_or_else(|| {
        let message = format!("target {wanted:?} not found: no stage has that name");
        mistake(message, Some(&known_stages(&dockerfile.stages)), dockerfile.stages[last].position)
    })
}

/// What each stage starts from, and what it is for.
fn bases(dockerfile: &Dockerfile, options: &Options, plan: &Plan) -> Result<Vec<(Source, Platform)>, Vec<ParseError>> {
    let mut bases: Vec<(Source, Platform)> = Vec::new();
    let mut errors = Vec::new();
    for index in 0..dockerfile.stages.len() {
        let base = base(dockerfile, index, options, plan).unwrap_or_else(|error| {
            errors.push(error);
            (Source::Scratch, None)
        });
        bases.push(match base {
            // A stage is for what its parent is for, whatever its FROM says; so is nothing at all.
            (Source::Stage(parent), _) => (Source::Stage(parent), bases[parent].1.clone()),
            (Source::Scratch, _) => (Source::Scratch, options.target_platform.clone()),
            (base, platform) => (base, platform.unwrap_or_else(|| options.target_platform.clone())),
        });
    }
    if errors.is_empty() { Ok(bases) } else { Err(errors) }
}

fn base(dockerfile: &Dockerfile, index: usize, options: &Options, plan: &Plan) -> Result<(Source, Option<Platform>), ParseError> {
    let stage = &dockerfile.stages[index];
    let refuse = |message: String, hint: Option<&str>, word: &Word| mistake(message, hint, stage.position).at(word.position);
    let lookup = |name: &str| plan.global_args.get(name).or_else(|| plan.platform_args.get(name)).cloned();
    // What a word of FROM says; `what` names it if it says nothing.
    let expand = |word: &Word, what: &str| {
        let expansion = dockerfile::expand(&word.text, dockerfile.escape, &lookup);
        let expansion = expansion.map_err(|error| refuse(error.to_string(), None, word))?;
        let text = expansion.text.trim().to_owned();
        if text.is_empty() {
            let unset = expansion.unset.first().or(expansion.used.first()).map_or("NAME", String::as_str);
            let hint = format!("give a value with --build-arg {unset}=…, or a default with ARG {unset}=… before the first FROM");
            return Err(refuse(format!("the {what} is empty: {} expands to nothing", word.text), Some(&hint), word));
        }
        Ok(text)
    };
    let name = expand(&stage.base, "base name")?;
    let platform = match &stage.platform {
        None => None,
        Some(word) => {
            let text = expand(word, "platform")?;
            Some(platform(&text, options).map_err(|error| refuse(error.to_string(), None, word))?)
        }
    };
    // FROM compares names as they are written against the lower-cased names of the stages.
    let base = if let Some(context) = context_named(&name, &options.contexts).filter(|_| name != "scratch") {
        Source::Context(context)
    } else if let Some(found) = named_stage(&dockerfile.stages[..index], &name) {
        Source::Stage(found)
    } else if name == "scratch" {
        Source::Scratch
    } else if let Err(error) = name.parse::<Reference>() {
        let hint = named_stage(&dockerfile.stages[..index], &name.to_lowercase())
            .map(|_| format!("FROM finds a stage by its name in lower case: FROM {}", name.to_lowercase()));
        return Err(refuse(error.to_string(), hint.as_deref(), &stage.base));
    } else {
        Source::Image(name)
    };
    Ok((base, platform))
}

/// Reads `--platform`: the whole of it, or only an operating system or an architecture.
fn platform(text: &str, options: &Options) -> Result<Platform, crate::oci::PlatformError> {
    const ARCHITECTURES: [&str; 16] = [
        "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "i686", "loong64", "mips64", "mips64le", "ppc64le",
        "riscv64", "s390x", "x86_64",
    ];
    let lower = text.to_ascii_lowercase();
    if lower == "linux" {
        return Ok(Platform { os: lower, ..options.build_platform.clone() });
    }
    if ARCHITECTURES.contains(&lower.as_str()) {
        return Ok(Platform::new(&options.build_platform.os, &lower, None));
    }
    text.parse()
}

/// The stages that a stage needs, its base included.
fn needs(dockerfile: &Dockerfile, index: usize, base: &Source, options: &Options) -> Result<BTreeSet<usize>, ParseError> {
    let mut needs = BTreeSet::new();
    if let Source::Stage(parent) = base {
        needs.insert(*parent);
        for instruction in &dockerfile.stages[*parent].instructions {
            if let InstructionKind::Onbuild(onbuild) = &instruction.kind {
                needed_by(dockerfile, index, &onbuild.instruction, &options.contexts, &mut needs)?;
            }
        }
    }
    for instruction in &dockerfile.stages[index].instructions {
        needed_by(dockerfile, index, instruction, &options.contexts, &mut needs)?;
    }
    Ok(needs)
}

fn needed_by(
    dockerfile: &Dockerfile,
    index: usize,
    instruction: &Instruction,
    contexts: &BTreeSet<String>,
    needs: &mut BTreeSet<usize>,
) -> Result<(), ParseError> {
    let mut from = |name: &Word| {
        let source = source(dockerfile, index, name, contexts);
        // The line to report is that on which the instruction begins.
        let source = source.map_err(|error| ParseError { position: instruction.position, ..error }.at(name.position))?;
        if let Source::Stage(found) = source {
            needs.insert(found);
        }
        Ok(())
    };
    match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.iter().try_for_each(&mut from),
        InstructionKind::Run(run) => run.mounts.iter().try_for_each(|mount| match mount.from() {
            Some(name) => from(&Word { text: name.to_owned(), position: mount.position }),
            None => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// The values of the ARGs before the first FROM: `--build-arg`, else the default, which sees the arguments before it.
///
/// # Errors
/// A default that cannot be expanded.
pub fn global_args(
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

/// The arguments that describe the platforms and the stage that is asked for, unless `--build-arg` says otherwise.
pub fn platform_args(dockerfile: &Dockerfile, options: &Options) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("TARGET", &options.target_platform), ("BUILD", &options.build_platform)] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}OSVERSION"), String::new());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    let last_name = || Some(dockerfile.stages.last()?.name.as_ref()?.name.clone());
    let target = options.target.clone().or_else(last_name);
    args.insert("TARGETSTAGE".to_owned(), target.unwrap_or_else(|| "default".to_owned()));
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
