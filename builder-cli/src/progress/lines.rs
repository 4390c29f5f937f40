//! A build as lines: one per step with its time, what commands write indented beneath it. Pure.
//!
//! A step that takes long is announced when it has run for a moment, and its end gets a line of its own; a short one is
//! one line. When stages run side by side, output that does not belong to the last line is introduced again.

use super::Moment;
use super::measure;
use super::output::{Colours, LineBuffer, one_line, visible};
use crate::args::{LogFormat, Verbosity};
use crate::request::{LogSettings, Note};
use builder_core::build::{Event, LayerSummary, StepId, StepOutcome, Stream};
use builder_core::oci::{Digest, Reference};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

/// The view.
#[derive(Debug)]
pub struct Lines {
    verbosity: Verbosity,
    colours: Colours,
    timestamps: bool,
    /// Width of the line at the bottom that moves.
    moving_columns: Option<usize>,
    /// Whether that line is on the screen now.
    moving_shown: bool,
    /// Whether the name of its stage stands before a step.
    several_stages: bool,
    running: BTreeMap<StepId, Running>,
    /// The step that the last line belongs to.
    current: Option<StepId>,
    pulls: BTreeMap<Reference, Pull>,
}

#[derive(Debug)]
struct Running {
    label: String,
    text: String,
    started: Duration,
    announced: bool,
    output: LineBuffer,
    errors: LineBuffer,
    /// The last lines, kept where output is not shown: if the step fails they are.
    tail: VecDeque<String>,
}

/// An image that is being downloaded.
#[derive(Debug, Default)]
struct Pull {
    /// Sizes of its layers, and which have come.
    layers: BTreeMap<Digest, (u64, bool)>,
    said: Duration,
}

const ANNOUNCED_AFTER: Duration = Duration::from_millis(300);
const PULLS_SAID_EVERY: Duration = Duration::from_secs(10);
const LONGEST_INSTRUCTION: usize = 120;
const TAIL_LINES: usize = 30;
const INDENT: &str = "    ";

const LABEL: &str = "36";
const FAINT: &str = "2";
const WARNING: &str = "33;1";

impl Lines {
    /// An empty view. `columns` is the width of the terminal, 80 if it does not say.
    pub fn new(settings: LogSettings, columns: Option<usize>) -> Self {
        Self {
            verbosity: settings.verbosity,
            colours: if settings.format == LogFormat::Color { Colours::Keep } else { Colours::Remove },
            timestamps: settings.timestamps,
            moving_columns: settings.moving_line.then_some(columns.unwrap_or(80)),
            moving_shown: false,
            several_stages: false,
            running: BTreeMap::new(),
            current: None,
            pulls: BTreeMap::new(),
        }
    }

    /// Shows `note`.
    pub fn note(&mut self, at: Moment, note: &Note, out: &mut String) {
        match note {
            Note::Information(text) if self.verbosity >= Verbosity::Info => self.line(at, &visible(text, Colours::Remove), out),
            Note::Warning(text) => self.warning(at, text, out),
            Note::Information(_) => {}
        }
    }

    /// Shows `event`.
    pub fn event(&mut self, at: Moment, event: &Event, out: &mut String) {
        match event {
            Event::Planned { stages, steps: _ } => self.several_stages = *stages > 1,
            Event::Isolation { description } => {
                self.note(at, &Note::Information(format!("isolation: {description}")), out);
            }
            Event::StepStarted { step, position: _, text } => {
                let number = step.stage_name.bytes().all(|byte| byte.is_ascii_digit());
                let stage = match (self.several_stages, number) {
                    (false, _) => String::new(),
                    (true, true) => format!("stage-{} ", step.stage_name),
                    (true, false) => format!("{} ", one_line(&step.stage_name, 30)),
                };
                let running = Running {
                    label: format!("[{stage}{}/{}]", step.number, step.total),
                    text: one_line(text, LONGEST_INSTRUCTION),
                    started: at.elapsed,
                    announced: false,
                    output: LineBuffer::default(),
                    errors: LineBuffer::default(),
                    tail: VecDeque::new(),
                };
                self.running.insert(step.clone(), running);
            }
            Event::StepOutput { step, stream, bytes } => {
                let Some(running) = self.running.get_mut(step) else { return };
                let lines = match stream {
                    Stream::Stdout => running.output.push(bytes),
                    Stream::Stderr => running.errors.push(bytes),
                };
                self.output(at, step, lines, out);
            }
            Event::StepFinished { step, outcome, duration, layer } => {
                self.rest_of_output(at, step, out);
                if let Some(running) = self.running.remove(step)
                    && self.verbosity >= Verbosity::Info
                {
                    self.finished(at, step, &running, &result(*outcome, *duration, layer.as_ref()), out);
                }
            }
            Event::CacheMissed { step, reasons } => {
                let label = self.running.get(step).map_or_else(String::new, |running| format!("{} ", running.label));
                for reason in reasons {
                    self.note(at, &Note::Information(format!("{label}not cached: {reason}")), out);
                }
            }
            Event::PullStarted { reference, digest, size_bytes } => {
                let pull = self.pulls.entry(reference.clone()).or_insert_with(|| Pull { said: at.elapsed, ..Pull::default() });
                pull.layers.insert(*digest, (*size_bytes, false));
            }
            Event::PullFinished { digest } => {
                for layer in self.pulls.values_mut().filter_map(|pull| pull.layers.get_mut(digest)) {
                    layer.1 = true;
                }
            }
            Event::BlobPushed { reference, digest, size_bytes, reused } => {
                if self.verbosity >= Verbosity::Debug {
                    let verb = if *reused { "already there" } else { "uploaded" };
                    self.line(at, &format!("{verb}: {digest} ({}) at {reference}", measure::size(*size_bytes)), out);
                }
            }
            Event::Warning { message, place: None } => self.warning(at, message, out),
            Event::Warning { message, place: Some(place) } => {
                self.warning(at, &format!("{message} {}:{}", place.file_name, place.line()), out);
            }
        }
    }

    /// Announces what has begun to take long, and says how far transfers are.
    pub fn tick(&mut self, at: Moment, out: &mut String) {
        if self.verbosity < Verbosity::Info {
            return;
        }
        let late = |running: &Running| !running.announced && at.elapsed.saturating_sub(running.started) >= ANNOUNCED_AFTER;
        let late = self.running.iter().filter(|(_, running)| late(running)).map(|(step, _)| step.clone());
        for step in late.collect::<Vec<StepId>>() {
            self.introduce(at, &step, out);
        }
        if let Some(columns) = self.moving_columns {
            self.move_line(at, columns, out);
            return;
        }
        let due =
            self.pulls.iter_mut().filter(|(_, pull)| at.elapsed.saturating_sub(pull.said) >= PULLS_SAID_EVERY && !pull.is_done());
        let said = due.map(|(reference, pull)| {
            pull.said = at.elapsed;
            pull.describe(reference)
        });
        for text in said.collect::<Vec<String>>() {
            self.line(at, &text, out);
        }
    }

    /// Shows what unfinished steps wrote last.
    pub fn finish(&mut self, at: Moment, out: &mut String) {
        let unfinished: Vec<StepId> = self.running.keys().cloned().collect();
        for step in unfinished {
            self.rest_of_output(at, &step, out);
            let Some(running) = self.running.remove(&step).filter(|running| !running.tail.is_empty()) else { continue };
            let headline = self.headline(&running, "");
            self.line(at, &headline, out);
            for line in &running.tail {
                self.line(at, &format!("{INDENT}{line}"), out);
            }
        }
        self.clear(out);
    }

    fn output(&mut self, at: Moment, step: &StepId, lines: Vec<String>, out: &mut String) {
        if lines.is_empty() {
            return;
        }
        let shown = self.verbosity >= Verbosity::Info;
        if shown {
            self.introduce(at, step, out);
        }
        for line in lines {
            let line = visible(&line, self.colours);
            if shown {
                self.line(at, &format!("{INDENT}{line}"), out);
            } else if let Some(running) = self.running.get_mut(step) {
                running.tail.push_back(line);
                if running.tail.len() > TAIL_LINES {
                    running.tail.pop_front();
                }
            }
        }
    }

    fn rest_of_output(&mut self, at: Moment, step: &StepId, out: &mut String) {
        let Some(running) = self.running.get_mut(step) else { return };
        let rest = running.output.finish().into_iter().chain(running.errors.finish()).collect();
        self.output(at, step, rest, out);
    }

    /// Makes `step` the one that the last line belongs to.
    fn introduce(&mut self, at: Moment, step: &StepId, out: &mut String) {
        let Some(running) = self.running.get_mut(step) else { return };
        let again = std::mem::replace(&mut running.announced, true);
        if again && self.current.as_ref() == Some(step) {
            return;
        }
        let headline = self.headline(&self.running[step], if again { "(continued)" } else { "" });
        self.line(at, &headline, out);
        self.current = Some(step.clone());
    }

    fn finished(&mut self, at: Moment, step: &StepId, running: &Running, result: &str, out: &mut String) {
        let line = if running.announced && self.current.as_ref() == Some(step) {
            format!("{} done {}", self.paint(LABEL, &running.label), self.paint(FAINT, result))
        } else {
            self.headline(running, result)
        };
        self.line(at, &line, out);
        self.current = None;
    }

    fn headline(&self, running: &Running, end: &str) -> String {
        let end = if end.is_empty() { String::new() } else { format!(" {}", self.paint(FAINT, end)) };
        format!("{} {}{end}", self.paint(LABEL, &running.label), running.text)
    }

    fn warning(&mut self, at: Moment, text: &str, out: &mut String) {
        if self.verbosity >= Verbosity::Warn {
            let line = format!("{} {}", self.paint(WARNING, "warning:"), visible(text, Colours::Remove));
            self.line(at, &line, out);
            self.current = None;
        }
    }

    fn move_line(&mut self, at: Moment, columns: usize, out: &mut String) {
        let step = |running: &Running| {
            format!(
                "{} {} {}",
                running.label,
                one_line(&running.text, 30),
                measure::time(at.elapsed.saturating_sub(running.started))
            )
        };
        let steps = self.running.values().filter(|running| running.announced).map(step);
        let pulls = self.pulls.iter().filter(|(_, pull)| !pull.is_done()).map(|(reference, pull)| pull.describe(reference));
        let parts: Vec<String> = pulls.chain(steps).collect();
        self.clear(out);
        if !parts.is_empty() {
            let text = one_line(&parts.join(" · "), columns.saturating_sub(1));
            out.push_str(&self.paint(FAINT, &text));
            self.moving_shown = true;
        }
    }

    fn clear(&mut self, out: &mut String) {
        if std::mem::take(&mut self.moving_shown) {
            out.push_str("\r\u{1b}[K");
        }
    }

    fn line(&mut self, at: Moment, text: &str, out: &mut String) {
        self.clear(out);
        if self.timestamps {
            let _ = write!(out, "{} ", at.clock.strftime("%Y-%m-%dT%H:%M:%SZ"));
        }
        out.push_str(text.trim_end_matches(' '));
        out.push('\n');
    }

    fn paint(&self, style: &str, text: &str) -> String {
        match self.colours {
            Colours::Keep => format!("\u{1b}[{style}m{text}\u{1b}[0m"),
            Colours::Remove => text.to_owned(),
        }
    }
}

impl Pull {
    fn is_done(&self) -> bool {
        self.layers.values().all(|(_, done)| *done)
    }

    fn describe(&self, reference: &Reference) -> String {
        let sum = |layers: &mut dyn Iterator<Item = &(u64, bool)>| layers.fold(0_u64, |sum, (size, _)| sum.saturating_add(*size));
        let done = sum(&mut self.layers.values().filter(|(_, done)| *done));
        let all = sum(&mut self.layers.values());
        format!("pulling {reference}: {} of {}", measure::size(done), measure::size(all))
    }
}

fn result(outcome: StepOutcome, duration: Duration, layer: Option<&LayerSummary>) -> String {
    let layer = layer.map(|layer| format!(", layer of {}", measure::size(layer.size_bytes))).unwrap_or_default();
    match outcome {
        StepOutcome::Cached => "(cached)".to_owned(),
        StepOutcome::Executed | StepOutcome::Metadata => format!("({}{layer})", measure::time(duration)),
    }
}
