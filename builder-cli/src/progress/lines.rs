//! A build as lines: one per step with its time, what commands write indented beneath it. Pure.
//!
//! A step that takes long is announced when it has run for a moment, and its end gets a line of its own; a short one is
//! one line. When stages run side by side, output that does not belong to the last line is introduced again.

use super::Moment;
use super::measure;
use super::output::{Colours, LineBuffer, one_line, visible};
use crate::args::{LogFormat, Verbosity};
use crate::contract::{Event, LayerSummary, StepId, StepOutcome, Stream, Transfer};
use crate::request::{LogSettings, Note};
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
    stage_names: BTreeMap<usize, String>,
    running: BTreeMap<StepId, Running>,
    /// The step that the last line belongs to.
    current: Option<StepId>,
    transfers: BTreeMap<(Direction, Reference), Progress>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Pull,
    Push,
}

#[derive(Debug, Default)]
struct Progress {
    blobs: BTreeMap<Digest, (u64, u64)>,
    said: Duration,
}

const ANNOUNCED_AFTER: Duration = Duration::from_millis(300);
const TRANSFERS_SAID_EVERY: Duration = Duration::from_secs(10);
const LONGEST_INSTRUCTION: usize = 120;
const TAIL_LINES: usize = 30;
const INDENT: &str = "    ";

const LABEL: &str = "36";
const FAINT: &str = "2";
const WARNING: &str = "33;1";

impl Lines {
    /// An empty view. `columns` is the width of the terminal, 80 if it does not say.
    pub fn new(settings: &LogSettings, columns: Option<usize>) -> Self {
        Self {
            verbosity: settings.verbosity,
            colours: if settings.format == LogFormat::Color { Colours::Keep } else { Colours::Remove },
            timestamps: settings.timestamps,
            moving_columns: settings.moving_line.then_some(columns.unwrap_or(80)),
            moving_shown: false,
            stage_names: BTreeMap::new(),
            running: BTreeMap::new(),
            current: None,
            transfers: BTreeMap::new(),
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
            Event::StageStarted { stage, name } => {
                let default = || format!("stage-{stage}");
                let name = name.clone().or_else(|| (*stage > 0).then(default));
                self.stage_names.extend(name.map(|name| (*stage, one_line(&name, 30))));
            }
            Event::StepStarted { step, text, number, total, line: _ } => {
                let stage = self.stage_names.get(&step.stage).map(|name| format!("{name} ")).unwrap_or_default();
                let running = Running {
                    label: format!("[{stage}{number}/{total}]"),
                    text: one_line(text, LONGEST_INSTRUCTION),
                    started: at.elapsed,
                    announced: false,
                    output: LineBuffer::default(),
                    errors: LineBuffer::default(),
                    tail: VecDeque::new(),
                };
                self.running.insert(*step, running);
            }
            Event::StepOutput { step, stream, bytes } => {
                let Some(running) = self.running.get_mut(step) else { return };
                let lines = match stream {
                    Stream::Output => running.output.push(bytes),
                    Stream::Error => running.errors.push(bytes),
                };
                self.output(at, *step, lines, out);
            }
            Event::StepFinished { step, outcome, duration, layer } => {
                self.rest_of_output(at, *step, out);
                if let Some(running) = self.running.remove(step)
                    && self.verbosity >= Verbosity::Info
                {
                    self.finished(at, *step, &running, &result(*outcome, *duration, layer.as_ref()), out);
                }
            }
            Event::Pull(transfer) => self.transfer(at, Direction::Pull, transfer),
            Event::Push(transfer) => self.transfer(at, Direction::Push, transfer),
            Event::Warning { message, line } => {
                let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
                self.warning(at, &format!("{place}{message}"), out);
            }
        }
    }

    /// Announces what has begun to take long, and says how far transfers are.
    pub fn tick(&mut self, at: Moment, out: &mut String) {
        if self.verbosity < Verbosity::Info {
            return;
        }
        let late = |running: &Running| !running.announced && at.elapsed.saturating_sub(running.started) >= ANNOUNCED_AFTER;
        let late: Vec<StepId> = self.running.iter().filter(|(_, running)| late(running)).map(|(step, _)| *step).collect();
        for step in late {
            self.introduce(at, step, out);
        }
        match self.moving_columns {
            Some(columns) => self.move_line(at, columns, out),
            None => {
                let due = self.transfers.iter_mut().filter(|(_, progress)| {
                    at.elapsed.saturating_sub(progress.said) >= TRANSFERS_SAID_EVERY && !progress.is_done()
                });
                let due: Vec<String> = due
                    .map(|(transfer, progress)| {
                        progress.said = at.elapsed;
                        describe(transfer, progress)
                    })
                    .collect();
                due.iter().for_each(|text| self.line(at, text, out));
            }
        }
    }

    /// Shows what unfinished steps wrote last.
    pub fn finish(&mut self, at: Moment, out: &mut String) {
        let unfinished: Vec<StepId> = self.running.keys().copied().collect();
        for step in unfinished {
            self.rest_of_output(at, step, out);
            let Some(running) = self.running.remove(&step).filter(|running| !running.tail.is_empty()) else { continue };
            let headline = self.headline(&running, "");
            self.line(at, &headline, out);
            running.tail.iter().for_each(|line| self.line(at, &format!("{INDENT}{line}"), out));
        }
        self.clear(out);
    }

    fn output(&mut self, at: Moment, step: StepId, lines: Vec<String>, out: &mut String) {
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
            } else if let Some(running) = self.running.get_mut(&step) {
                running.tail.push_back(line);
                if running.tail.len() > TAIL_LINES {
                    running.tail.pop_front();
                }
            }
        }
    }

    fn rest_of_output(&mut self, at: Moment, step: StepId, out: &mut String) {
        let Some(running) = self.running.get_mut(&step) else { return };
        let rest = running.output.finish().into_iter().chain(running.errors.finish()).collect();
        self.output(at, step, rest, out);
    }

    /// Makes `step` the one that the last line belongs to.
    fn introduce(&mut self, at: Moment, step: StepId, out: &mut String) {
        let Some(running) = self.running.get_mut(&step) else { return };
        let again = std::mem::replace(&mut running.announced, true);
        if again && self.current == Some(step) {
            return;
        }
        let headline = self.headline(&self.running[&step], if again { "(continued)" } else { "" });
        self.line(at, &headline, out);
        self.current = Some(step);
    }

    fn finished(&mut self, at: Moment, step: StepId, running: &Running, result: &str, out: &mut String) {
        let line = match running.announced && self.current == Some(step) {
            true => format!("{} done {}", self.paint(LABEL, &running.label), self.paint(FAINT, result)),
            false => self.headline(running, result),
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

    fn transfer(&mut self, at: Moment, direction: Direction, transfer: &Transfer) {
        let progress = self
            .transfers
            .entry((direction, transfer.reference.clone()))
            .or_insert_with(|| Progress { said: at.elapsed, ..Progress::default() });
        progress.blobs.insert(transfer.blob, (transfer.done_bytes, transfer.total_bytes));
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
        let transfers = self.transfers.iter().filter(|(_, progress)| !progress.is_done());
        let parts: Vec<String> = transfers.map(|(transfer, progress)| describe(transfer, progress)).chain(steps).collect();
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

impl Progress {
    fn sums(&self) -> (u64, u64) {
        self.blobs.values().fold((0, 0), |(done, total), blob| (done.saturating_add(blob.0), total.saturating_add(blob.1)))
    }

    fn is_done(&self) -> bool {
        let (done, total) = self.sums();
        done >= total
    }
}

fn describe((direction, reference): &(Direction, Reference), progress: &Progress) -> String {
    let verb = match direction {
        Direction::Pull => "pulling",
        Direction::Push => "pushing",
    };
    let (done, total) = progress.sums();
    format!("{verb} {reference}: {} of {}", measure::size(done), measure::size(total))
}

fn result(outcome: StepOutcome, duration: Duration, layer: Option<&LayerSummary>) -> String {
    let layer = layer.map(|layer| format!(", layer of {}", measure::size(layer.size_bytes))).unwrap_or_default();
    match outcome {
        StepOutcome::Cached => "(cached)".to_owned(),
        StepOutcome::Executed | StepOutcome::Metadata => format!("({}{layer})", measure::time(duration)),
    }
}
