//! One stage, from its FROM to its last instruction: evaluate, look up, act, note down.

use super::{
    Build, BuildError, ErrorKind, Event, LayerSummary, Place, StepId, StepOutcome,
    base::{Base, Keep},
    run::Disk,
    trees::LazyTree,
};
use crate::cache::{InlineCache, Key, KeyBuilder};
use crate::dockerfile::{self, Instruction, InstructionKind, ParseError, Position};
use crate::evaluate::{Action, Scope, State};
use crate::image::Layer;
use crate::oci::{History, Platform};
use crate::plan::{PlannedStage, Source};
use crate::tree::{LayerIndex, Tree};
use futures_util::future::{BoxFuture, FutureExt as _};
use std::{sync::Arc, time::Instant};

/// What a stage is at some point of it, or at its end.
#[derive(Clone)]
pub(super) struct StageState {
    pub(super) state: State,
    pub(super) tree: LazyTree,
    pub(super) layers: Vec<Layer>,
    /// Stands for everything that has happened to the tree.
    pub(super) key: Key,
    /// Stands for the image that it began with.
    pub(super) base: Key,
    /// The root file system, as far as a RUN has needed it.
    pub(super) disk: Option<Arc<Disk>>,
}

/// A layer that a step made, or that an earlier build made for it.
pub(super) struct StepLayer {
    pub(super) layer: Layer,
    /// What is in it, if it was made just now.
    pub(super) index: Option<LayerIndex>,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) key: Key,
    pub(super) outcome: StepOutcome,
}

/// A step with what the functions that act need to know about it.
pub(super) struct CurrentStep<'a> {
    pub(super) id: &'a StepId,
    /// As it stands in the Dockerfile.
    pub(super) text: &'a str,
    /// Whether this step is a RUN, or one comes after it that starts from it.
    pub(super) runs: bool,
    /// Of the stage before the step.
    pub(super) before: &'a mut StageState,
}

fn from_scratch(platform: &Platform) -> StageState {
    let key = KeyBuilder::new("FROM scratch", None).finish();
    StageState {
        state: State::scratch(platform),
        tree: LazyTree::new(Tree::new()),
        layers: Vec::new(),
        key,
        base: key,
        disk: None,
    }
}

fn from_image(mut base: Base) -> StageState {
    let mut key = KeyBuilder::new("FROM", None);
    for layer in &base.layers {
        key.part("layer", layer.diff_id.0.as_bytes());
    }
    InlineCache::erase(&mut base.config);
    let key = key.finish();
    StageState { state: State::from_image(base.config), tree: base.tree, layers: base.layers, key, base: key, disk: None }
}

/// The key of a stage after a step. That of a layer which does not depend on what is below it says nothing of that.
fn on_top_of(below: Key, layer: Key) -> Key {
    let mut key = KeyBuilder::new("layer", Some(below));
    key.part("layer", layer.as_bytes()).finish()
}

impl Build {
    /// The result of a stage; built when it is first asked for.
    pub(super) fn stage(&self, index: usize) -> BoxFuture<'_, Result<Arc<StageState>, BuildError>> {
        async move { self.stages[index].get_or_try_init(|| async { self.build_stage(index).await.map(Arc::new) }).await.cloned() }
            .boxed()
    }

    async fn build_stage(&self, index: usize) -> Result<StageState, BuildError> {
        let stage = &self.dockerfile.stages[index];
        let plan = self.plan();
        let planned = plan
            .stages
            .get(&index)
            .ok_or_else(|| BuildError::new(ErrorKind::Internal, format!("stage {index} is not in the plan")))?;
        let name = stage.name.as_ref().map_or_else(|| index.to_string(), |name| name.name.clone());
        let mut id = StepId { stage: index, stage_name: name, number: 1, total: stage.instructions.len() + 1 };
        let started = Instant::now();
        self.tell(Event::StepStarted { step: id.clone(), position: stage.position, text: stage.original.clone() }).await;
        let mut current =
            self.start(&id, &stage.original, planned).await.map_err(|error| error.at(self.place(stage.position)))?;
        let triggers = self.triggers(&mut current.state, stage.position)?;
        self.plan_triggers(index, &triggers).map_err(|mistakes| self.of_the_base(mistakes, stage.position))?;
        self.tell(Event::StepFinished {
            step: id.clone(),
            outcome: StepOutcome::Metadata,
            layer: None,
            duration: started.elapsed(),
        })
        .await;
        id.total += triggers.len();
        let mut instructions: Vec<(&Instruction, Position)> = triggers.iter().map(|trigger| (trigger, stage.position)).collect();
        instructions.extend(stage.instructions.iter().map(|instruction| (instruction, instruction.position)));
        let is_run = |instruction: &Instruction| matches!(instruction.kind, InstructionKind::Run(_));
        for (at, (instruction, position)) in instructions.iter().enumerate() {
            id.number += 1;
            let runs = instructions[at..].iter().any(|(instruction, _)| is_run(instruction)) || self.runs_above(index);
            self.step(&mut current, instruction, *position, &id, runs).await?;
        }
        Ok(current)
    }

    /// What FROM gives.
    async fn start(&self, id: &StepId, text: &str, planned: &PlannedStage) -> Result<StageState, BuildError> {
        let index = id.stage;
        match &planned.base {
            Source::Scratch => Ok(from_scratch(&planned.platform)),
            Source::Stage(parent) => {
                let parent = self.stage(*parent).await?;
                Ok(StageState { state: parent.state.inherited(), ..(*parent).clone() })
            }
            Source::Image(name) => {
                let base = self.base(name, &planned.platform, self.keep(index)).await?;
                Ok(from_image(base))
            }
            Source::Context(name) => match self.image_context(name, &planned.platform, self.keep(index)).await? {
                Some(base) => Ok(from_image(base)),
                None => self.start_with_files(name, id, text, planned).await,
            },
        }
    }

    fn keep(&self, index: usize) -> Keep {
        if self.needs_blobs(index) { Keep::Blobs } else { Keep::Indexes }
    }

    /// FROM a named context that has files only: nothing, and one layer with the files.
    async fn start_with_files(
        &self,
        name: &str,
        id: &StepId,
        text: &str,
        planned: &PlannedStage,
    ) -> Result<StageState, BuildError> {
        let files = self.context(Some(name.to_owned())).await?;
        let mut nothing = from_scratch(&planned.platform);
        let step = CurrentStep { id, text, runs: false, before: &mut nothing };
        let made = self.files_as_layer(&step, files).await?;
        let mut config = State::scratch(&planned.platform).config;
        config.history.push(History {
            created: Some(made.created),
            created_by: Some(format!("FROM {name}")),
            comment: Some("buildkit.dockerfile.v0".to_owned()),
            ..History::default()
        });
        self.remember(std::slice::from_ref(&made.layer));
        Ok(StageState {
            state: State::from_image(config),
            tree: LazyTree::of_layers(vec![made.layer.diff_id]),
            layers: vec![made.layer],
            key: made.key,
            base: made.key,
            disk: None,
        })
    }

    /// The ONBUILD triggers of the base, parsed.
    fn triggers(&self, state: &mut State, position: Position) -> Result<Vec<Instruction>, BuildError> {
        let parse = |text: String| {
            dockerfile::parse_trigger(&text).map_err(|errors| {
                let reasons: Vec<String> = errors.into_iter().map(|error| error.message).collect();
                BuildError::new(
                    ErrorKind::Base,
                    format!("the base has an ONBUILD trigger that is no instruction: {text:?}: {}", reasons.join("; ")),
                )
                .at(self.place(position))
            })
        };
        state.take_triggers().into_iter().map(parse).collect()
    }

    /// Mistakes in triggers of the base, which do not stand in this file: its FROM does.
    fn of_the_base(&self, mut mistakes: Vec<ParseError>, from: Position) -> BuildError {
        for mistake in &mut mistakes {
            (mistake.position, mistake.focus) = (from, None);
        }
        BuildError::mistakes(&self.file_name, &self.dockerfile.source, mistakes)
    }

    async fn step(
        &self,
        current: &mut StageState,
        instruction: &Instruction,
        position: Position,
        id: &StepId,
        runs: bool,
    ) -> Result<(), BuildError> {
        let started = Instant::now();
        self.tell(Event::StepStarted { step: id.clone(), position, text: instruction.original.clone() }).await;
        let plan = self.plan();
        let scope = Scope {
            escape: self.dockerfile.escape,
            build_args: &self.request.build_args,
            global_args: &plan.global_args,
            platform_args: &plan.platform_args,
        };
        let action = current.state.apply(instruction, scope).map_err(|mistake| {
            if position == instruction.position {
                BuildError::mistakes(&self.file_name, &self.dockerfile.source, vec![mistake])
            } else {
                self.of_the_base(vec![mistake], position)
            }
        })?;
        let below = current.key;
        let mut step = CurrentStep { id, text: &instruction.original, runs, before: current };
        let made = match action {
            Action::Metadata => Ok(None),
            Action::Copy(action) => self.copy(&step, &action).await.map(Some),
            Action::Workdir(action) => self.workdir(&step, &action).await.map(Some),
            Action::Run(action) => self.run(&mut step, action).await.map(Some),
        }
        .map_err(|error| error.at(self.place(position)))?;
        let (mut outcome, mut summary) = (StepOutcome::Metadata, None);
        let created = match made {
            None => self.epoch_text().or_else(|| current.state.config.created.clone()),
            Some(made) => {
                outcome = made.outcome;
                summary = Some(LayerSummary { digest: made.layer.blob.digest, size_bytes: made.layer.blob.size_bytes });
                match &made.index {
                    Some(index) => current.tree.add_changes(made.layer.diff_id, &index.changes),
                    None => current.tree.add(made.layer.diff_id),
                }
                self.remember(std::slice::from_ref(&made.layer));
                // What was known is perhaps where it belongs already, with the whole image: that is found out at the end.
                if outcome == StepOutcome::Executed && self.is_part_of_result(id.stage) {
                    self.publisher.offer(&made.layer);
                }
                current.layers.push(made.layer);
                current.key = on_top_of(below, made.key);
                Some(made.created)
            }
        };
        current.state.set_created(created);
        self.tell(Event::StepFinished { step: id.clone(), outcome, layer: summary, duration: started.elapsed() }).await;
        Ok(())
    }

    /// Whether the bytes of the base of a stage are needed whatever is known: the image is written to a place that cannot have
    /// them yet. Those that only a RUN needs are fetched when one turns out to be unknown.
    fn needs_blobs(&self, index: usize) -> bool {
        !self.request.exports.is_empty() && self.is_part_of_result(index)
    }

    /// Whether a stage that starts from this one holds a RUN.
    fn runs_above(&self, index: usize) -> bool {
        let runs = |index: usize| {
            let mut instructions = self.dockerfile.stages[index].instructions.iter();
            instructions.any(|instruction| matches!(instruction.kind, InstructionKind::Run(_)))
        };
        let plan = self.plan();
        plan.stages.keys().any(|other| *other != index && runs(*other) && self.starts_from(*other, index))
    }

    /// Called when a step is not known: a RUN on what it makes is not known either, so all below it will be needed on disk.
    pub(super) fn will_execute(&self, step: &CurrentStep<'_>) {
        if step.runs {
            let layers = || step.before.layers.iter().map(|layer| layer.diff_id);
            self.expect(layers(), Keep::Disk);
            for layer in layers() {
                // The build has ended: then nobody needs it.
                let _ = self.ahead.send(layer);
            }
        }
    }

    /// Whether stage `index` is the target, or the target starts from it.
    pub(super) fn is_part_of_result(&self, index: usize) -> bool {
        self.starts_from(self.plan().target, index)
    }

    /// Whether `stage` is `origin` or starts from it, directly or through other stages.
    fn starts_from(&self, stage: usize, origin: usize) -> bool {
        let plan = self.plan();
        let mut at = stage;
        loop {
            if at == origin {
                return true;
            }
            match plan.stages.get(&at).map(|stage| &stage.base) {
                Some(Source::Stage(parent)) => at = *parent,
                _ => return false,
            }
        }
    }

    pub(super) fn place(&self, position: Position) -> Place {
        Place { file_name: self.file_name.clone(), text: self.dockerfile.source.clone(), position, focus: None }
    }
}
