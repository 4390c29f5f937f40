//! A build as JSON, one object per line: `time`, `level` and `msg` as log collectors expect them, `event` and its
//! fields for those who want more. Pure.

use super::Moment;
use super::output::{Colours, LineBuffer, visible};
use crate::args::Verbosity;
use crate::contract::{Event, StepId, StepOutcome, Stream, Transfer};
use crate::request::Note;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The view.
#[derive(Debug)]
pub struct Json {
    verbosity: Verbosity,
    running: BTreeMap<StepId, Running>,
}

#[derive(Debug)]
struct Running {
    text: String,
    output: LineBuffer,
    errors: LineBuffer,
}

impl Json {
    /// An empty view.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity, running: BTreeMap::new() }
    }

    /// Shows `note`.
    pub fn note(&mut self, at: Moment, note: &Note, out: &mut String) {
        match note {
            Note::Information(text) => self.object(at, Verbosity::Info, text, json!({ "event": "note" }), out),
            Note::Warning(text) => self.object(at, Verbosity::Warn, text, json!({ "event": "warning" }), out),
        }
    }

    /// Shows `event`.
    pub fn event(&mut self, at: Moment, event: &Event, out: &mut String) {
        match event {
            Event::StageStarted { stage, name } => {
                let text = format!("stage {}", name.clone().unwrap_or_else(|| stage.to_string()));
                let fields = json!({ "event": "stage_started", "stage": stage, "name": name });
                self.object(at, Verbosity::Info, &text, fields, out);
            }
            Event::StepStarted { step, text, line, number, total } => {
                let fields = json!({
                    "event": "step_started", "stage": step.stage, "step": step.index,
                    "number": number, "total": total, "line": line,
                });
                self.object(at, Verbosity::Info, text, fields, out);
                let running = Running { text: text.clone(), output: LineBuffer::default(), errors: LineBuffer::default() };
                self.running.insert(*step, running);
            }
            Event::StepOutput { step, stream, bytes } => {
                let Some(running) = self.running.get_mut(step) else { return };
                let lines = match stream {
                    Stream::Output => running.output.push(bytes),
                    Stream::Error => running.errors.push(bytes),
                };
                lines.iter().for_each(|line| self.output(at, *step, *stream, line, out));
            }
            Event::StepFinished { step, outcome, duration, layer } => {
                let Some(text) = self.end_of_output(at, *step, out) else { return };
                let outcome = match outcome {
                    StepOutcome::Executed => "executed",
                    StepOutcome::Cached => "cached",
                    StepOutcome::Metadata => "metadata",
                };
                let fields = json!({
                    "event": "step_finished", "stage": step.stage, "step": step.index, "outcome": outcome,
                    "duration_seconds": duration.as_secs_f64(),
                    "layer": layer.map(|layer| json!({ "digest": layer.digest.to_string(), "size_bytes": layer.size_bytes })),
                });
                self.object(at, Verbosity::Info, &text, fields, out);
            }
            Event::Pull(transfer) => self.transfer(at, "pull", transfer, out),
            Event::Push(transfer) => self.transfer(at, "push", transfer, out),
            Event::Warning { message, line } => {
                self.object(at, Verbosity::Warn, message, json!({ "event": "warning", "line": line }), out);
            }
        }
    }

    /// Shows what unfinished steps wrote last.
    pub fn finish(&mut self, at: Moment, out: &mut String) {
        let unfinished: Vec<StepId> = self.running.keys().copied().collect();
        for step in unfinished {
            self.end_of_output(at, step, out);
        }
    }

    /// Forgets the step and gives its text.
    fn end_of_output(&mut self, at: Moment, step: StepId, out: &mut String) -> Option<String> {
        let mut running = self.running.remove(&step)?;
        for (stream, rest) in [(Stream::Output, running.output.finish()), (Stream::Error, running.errors.finish())] {
            rest.iter().for_each(|line| self.output(at, step, stream, line, out));
        }
        Some(running.text)
    }

    fn output(&self, at: Moment, step: StepId, stream: Stream, line: &str, out: &mut String) {
        let stream = match stream {
            Stream::Output => "stdout",
            Stream::Error => "stderr",
        };
        let fields = json!({ "event": "step_output", "stage": step.stage, "step": step.index, "stream": stream });
        self.object(at, Verbosity::Info, &visible(line, Colours::Remove), fields, out);
    }

    /// The beginning and the end of a transfer, and what lies between for those who asked for more.
    fn transfer(&self, at: Moment, event: &str, transfer: &Transfer, out: &mut String) {
        let done = transfer.done_bytes >= transfer.total_bytes;
        let fields = json!({
            "event": event, "blob": transfer.blob.to_string(),
            "done_bytes": transfer.done_bytes, "total_bytes": transfer.total_bytes,
        });
        let level = if done { Verbosity::Info } else { Verbosity::Debug };
        self.object(at, level, &transfer.reference.to_string(), fields, out);
    }

    fn object(&self, at: Moment, level: Verbosity, message: &str, fields: Value, out: &mut String) {
        if level <= self.verbosity {
            let level = match level {
                Verbosity::Warn => "warning",
                Verbosity::Debug | Verbosity::Trace => "debug",
                _ => "info",
            };
            out.push_str(&line(&at.clock.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(), level, message, fields));
        }
    }
}

/// One line of a log in JSON.
pub fn line(time: &str, level: &str, message: &str, fields: Value) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), json!(time));
    object.insert("level".to_owned(), json!(level));
    object.insert("msg".to_owned(), json!(message));
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    format!("{}\n", Value::Object(object))
}
