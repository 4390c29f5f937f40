//! A Dockerfile looked at and not built: checked, outlined, listed. A build is checked the same way on its side.

use super::{
    Build, BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind, Event, Place, base::Name, fetch::Files,
    find_dockerfile, parse, plan_options, work::Work,
};
use crate::context;
use crate::copy::Rules;
use crate::dockerfile::{Dockerfile, ParseError, Position};
use crate::lint::{self, Facts, Report, Subject, Warning};
use crate::oci::{ImageConfig, Platform, Reference};
use crate::outline::{self, Outline, Target};
use crate::plan::{self, Plan, Source};
use crate::registry;
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::PoisonError,
};

/// The Dockerfile of a request, read and understood.
#[derive(Debug)]
pub struct Definition {
    request: BuildRequest,
    options: plan::Options,
    file_name: String,
    dockerfile: Dockerfile,
}

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// Warnings, and mistakes that only a build would stop at.
    pub report: Report,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// Reads the Dockerfile of `request`; nothing is built.
///
/// # Errors
/// It cannot be read, or makes no sense: all its mistakes at once.
pub async fn read_definition(request: BuildRequest) -> Result<Definition, BuildError> {
    let source = (request.dockerfile.clone(), request.context.clone());
    let (file_name, dockerfile) = Work::new()?.run(move || read_local(&source.0, &source.1)).await?;
    Ok(Definition { options: plan_options(&request), request, file_name, dockerfile })
}

/// Reads a Dockerfile that is on this machine: a check fetches nothing but the configs of base images.
fn read_local(source: &DockerfileSource, context: &ContextSource) -> Result<(String, Dockerfile), BuildError> {
    let is_local = matches!(context, ContextSource::Directory(_) | ContextSource::Empty);
    let (name, bytes) = match source {
        DockerfileSource::Inline { name, text } => (name.clone(), text.clone().into_bytes()),
        DockerfileSource::Path(path) if is_local || path.is_absolute() => find_dockerfile(path, context)?,
        DockerfileSource::Path(_) | DockerfileSource::Url(_) => {
            let message = "only a Dockerfile of this machine can be looked at without a build";
            return Err(
                BuildError::new(ErrorKind::Request, message).hint("fetch it and give its path, or pipe it to --dockerfile -")
            );
        }
    };
    let dockerfile = parse(&name, &bytes)?;
    Ok((name, dockerfile))
}

impl Definition {
    /// Checks the stages of the target, or all if none is given. The configs of base images are asked for; those that
    /// cannot be had are noted, and what only they could tell is left out.
    ///
    /// # Errors
    /// The options of the check make no sense, or the ignore file of the context does not.
    pub async fn check(&self, registry: &registry::Client) -> Result<Checked, BuildError> {
        let planned = match self.options.target {
            Some(_) => plan::plan(&self.dockerfile, &self.options),
            None => plan::plan_all(&self.dockerfile, &self.options),
        };
        let (plan, mistakes) = match planned {
            Ok(plan) => (Some(plan), Vec::new()),
            Err(mistakes) => (None, mistakes),
        };
        let (bases, notes) = match &plan {
            Some(plan) => base_configs(registry, plan).await,
            None => Default::default(),
        };
        let facts = Facts { bases, ignored: self.ignored().await? };
        let subject = Subject { dockerfile: &self.dockerfile, options: &self.options, plan: plan.as_ref(), facts: &facts };
        let mut report = lint::lint(subject).map_err(|mistake| self.mistakes(vec![mistake]))?;
        report.mistakes.splice(0..0, mistakes);
        Ok(Checked { report, notes })
    }

    /// What can be given to the target.
    ///
    /// # Errors
    /// The Dockerfile cannot be planned.
    pub fn outline(&self) -> Result<Outline, BuildError> {
        let plan = plan::plan(&self.dockerfile, &self.options).map_err(|mistakes| self.mistakes(mistakes))?;
        Ok(outline::outline(&self.dockerfile, &self.options, &plan))
    }

    /// The stages that can be built.
    pub fn targets(&self) -> Vec<Target> {
        outline::targets(&self.dockerfile)
    }

    /// Something of this file, to be shown.
    pub fn place(&self, position: Position, focus: Option<Position>) -> Place {
        Place { file_name: self.file_name.clone(), text: self.dockerfile.source.clone(), position, focus }
    }

    /// The mistakes of a report, as the failure that a build of the file would be.
    pub fn mistakes(&self, mistakes: Vec<ParseError>) -> BuildError {
        BuildError::mistakes(&self.file_name, &self.dockerfile.source, mistakes)
    }

    async fn ignored(&self) -> Result<Option<Rules>, BuildError> {
        let ContextSource::Directory(directory) = self.request.context.clone() else { return Ok(None) };
        let dockerfile = match &self.request.dockerfile {
            DockerfileSource::Path(path) => Some(path.clone()),
            DockerfileSource::Inline { .. } | DockerfileSource::Url(_) => None,
        };
        let find = move || {
            let rules = context::find_rules(&directory, dockerfile.as_deref());
            rules.map(Some).map_err(|error| {
                BuildError::new(ErrorKind::Context, format!("cannot use the context {}", directory.display())).because(error)
            })
        };
        Work::new()?.run(find).await
    }
}

/// The configs of the images that the stages of a plan start from, and which could not be had.
async fn base_configs(registry: &registry::Client, plan: &Plan) -> (BTreeMap<usize, ImageConfig>, Vec<String>) {
    let images = plan.stages.iter().filter_map(|(index, stage)| match &stage.base {
        Source::Image(name) => Some((*index, (name.as_str(), &stage.platform))),
        _ => None,
    });
    let images: Vec<(usize, (&str, &Platform))> = images.collect();
    let distinct: BTreeSet<(&str, &Platform)> = images.iter().map(|(_, image)| *image).collect();
    let asked = join_all(distinct.into_iter().map(|(name, platform)| async move {
        let config = match name.parse::<Reference>() {
            Ok(reference) => match registry.resolve(&reference, platform).await {
                Ok(resolved) => Ok(resolved.config),
                Err(error) => Err(unread(name, &error)),
            },
            Err(error) => Err(unread(name, &error)),
        };
        ((name, platform), config)
    }))
    .await;
    let mut notes = Vec::new();
    let mut known: BTreeMap<(&str, &Platform), ImageConfig> = BTreeMap::new();
    for (image, config) in asked {
        match config {
            Ok(config) => drop(known.insert(image, config)),
            Err(note) => notes.push(note),
        }
    }
    let bases = images.iter().filter_map(|(index, image)| Some((*index, known.get(image)?.clone())));
    (bases.collect(), notes)
}

fn unread(name: &str, error: &dyn Error) -> String {
    let mut text = format!("the base image {name} cannot be looked at, so what depends on it is not checked: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

impl Build {
    /// Fails where the file says that warnings are errors and there are any. Nothing has been built by then.
    pub(super) async fn refuse_warnings(&self) -> Result<(), BuildError> {
        let options = lint::Options::of(&self.dockerfile, &self.request.build_args)
            .map_err(|mistake| BuildError::mistakes(&self.file_name, &self.dockerfile.source, vec![mistake]))?;
        if !options.warnings_are_errors {
            return Ok(());
        }
        let (bases, _) = base_configs(&self.registry, &self.plan()).await;
        let report = self.lint(&Facts { bases, ignored: self.ignored().await? });
        let violation = report.violation();
        let first = report.warnings.first().map(|warning| self.place_of(warning));
        self.tell_all(report.warnings).await;
        match violation {
            None => Ok(()),
            Some(message) => {
                let error = BuildError::new(ErrorKind::Dockerfile, message);
                Err(first
                    .into_iter()
                    .fold(error, BuildError::at)
                    .hint("warnings are errors because of error=true in the options of the check"))
            }
        }
    }

    /// Tells what is probably not meant, with what the build has come to know.
    pub(super) async fn tell_warnings(&self) {
        let mut bases = BTreeMap::new();
        {
            let known = self.bases.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, stage) in &self.plan().stages {
                if let Source::Image(name) = &stage.base
                    && let Ok(reference) = name.parse::<Reference>()
                    && let Some(base) =
                        known.get(&(Name::Registry(reference), stage.platform.clone())).and_then(|base| base.get())
                {
                    bases.insert(*index, base.config.clone());
                }
            }
        }
        let context = self.contexts.get(&None).and_then(|context| context.get());
        let ignored = context.and_then(Files::rules).cloned();
        let report = self.lint(&Facts { bases, ignored });
        if !report.warnings_are_errors {
            self.tell_all(report.warnings).await;
        }
    }

    async fn ignored(&self) -> Result<Option<Rules>, BuildError> {
        match self.request.context {
            ContextSource::Directory(_) => Ok(self.context(None).await?.rules().cloned()),
            _ => Ok(None),
        }
    }

    fn lint(&self, facts: &Facts) -> Report {
        let plan = self.plan();
        let subject = Subject { dockerfile: &self.dockerfile, options: &self.plan_options, plan: Some(&plan), facts };
        // The options were read before anything was built.
        lint::lint(subject).unwrap_or_default()
    }

    async fn tell_all(&self, warnings: Vec<Warning>) {
        for warning in warnings {
            let message = match &warning.hint {
                Some(hint) => format!("{}: {} ({hint})", warning.rule.name(), warning.message),
                None => format!("{}: {}", warning.rule.name(), warning.message),
            };
            self.tell(Event::Warning { message, place: Some(Box::new(self.place_of(&warning))) }).await;
        }
    }

    fn place_of(&self, warning: &Warning) -> Place {
        Place { focus: warning.focus, ..self.place(warning.position) }
    }
}
