//! A build as JSON, one object per line: `time`, `level` and `msg` as log collectors expect them, `event` and its
//! fields for those who want more. Pure.

use super::Moment;
use super::output::{Colours, LineBuffer, visible};
use crate::args::Verbosity;
use crate::request::Note;
use builder_core::build::{Event, StepId, StepOutcome, Stream};
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
            Event::Planned { stages, steps } => {
                let text = format!("{steps} steps in {stages} stages");
                self.object(at, Verbosity::Info, &text, json!({ "event": "planned", "stages": stages, "steps": steps }), out);
            }
            Event::Isolation { description } => {
                self.object(at, Verbosity::Info, description, json!({ "event": "isolation" }), out);
            }
            Event::StepStarted { step, position, text } => {
                let fields = with_step(step, json!({ "event": "step_started", "line": position.first_line }));
                self.object(at, Verbosity::Info, text, fields, out);
                let running = Running { text: text.clone(), output: LineBuffer::default(), errors: LineBuffer::default() };
                self.running.insert(step.clone(), running);
            }
            Event::StepOutput { step, stream, bytes } => {
                let Some(running) = self.running.get_mut(step) else { return };
                let lines = match stream {
                    Stream::Stdout => running.output.push(bytes),
                    Stream::Stderr => running.errors.push(bytes),
                };
                for line in lines {
                    self.output(at, step, *stream, &line, out);
                }
            }
            Event::StepFinished { step, outcome, duration, layer } => {
                let Some(text) = self.end_of_output(at, step, out) else { return };
                let outcome = match outcome {
                    StepOutcome::Executed => "executed",
                    StepOutcome::Cached => "cached",
                    StepOutcome::Metadata => "metadata",
                };
                let layer = layer.as_ref();
                let fields = json!({
                    "event": "step_finished", "outcome": outcome, "duration_seconds": duration.as_secs_f64(),
                    "layer": layer.map(|layer| json!({ "digest": layer.digest.to_string(), "size_bytes": layer.size_bytes })),
                });
                let fields = with_step(step, fields);
                self.object(at, Verbosity::Info, &text, fields, out);
            }
            Event::CacheMissed { step, reasons } => {
                let fields = with_step(step, json!({ "event": "cache_missed", "reasons": reasons }));
                self.object(at, Verbosity::Info, &reasons.join("; "), fields, out);
            }
            Event::PullStarted { reference, digest, size_bytes } => {
                let fields = json!({ "event": "pull_started", "blob": digest.to_string(), "size_bytes": size_bytes });
                self.object(at, Verbosity::Info, &reference.to_string(), fields, out);
            }
            Event::PullFinished { digest } => {
                let fields = json!({ "event": "pull_finished", "blob": digest.to_string() });
                self.object(at, Verbosity::Info, &digest.to_string(), fields, out);
            }
            Event::BlobPushed { reference, digest, size_bytes, reused } => {
                let fields =
                    json!({ "event": "blob_pushed", "blob": digest.to_string(), "size_bytes": size_bytes, "reused": reused });
                self.object(at, Verbosity::Info, &reference.to_string(), fields, out);
            }
            Event::Warning { message, place } => {
                let mut fields = json!({ "event": "warning" });
                if let Some(place) = place {
                    fields["dockerfile"] = json!(place.file_name);
                    fields["line"] = json!(place.line());
                }
                self.object(at, Verbosity::Warn, message, fields, out);
            }
        }
    }

    /// Shows what unfinished steps wrote last.
    pub fn finish(&mut self, at: Moment, out: &mut String) {
        let unfinished: Vec<StepId> = self.running.keys().cloned().collect();
        for step in unfinished {
            self.end_of_output(at, &step, out);
        }
    }

    /// Forgets the step and gives its text.
    fn end_of_output(&mut self, at: Moment, step: &StepId, out: &mut String) -> Option<String> {
        let mut running = self.running.remove(step)?;
        for (stream, rest) in [(Stream::Stdout, running.output.finish()), (Stream::Stderr, running.errors.finish())] {
            if let Some(line) = &rest {
                self.output(at, step, stream, line, out);
            }
        }
        Some(running.text)
    }

    fn output(&self, at: Moment, step: &StepId, stream: Stream, line: &str, out: &mut String) {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let fields = with_step(step, json!({ "event": "step_output", "stream": stream }));
        self.object(at, Verbosity::Info, &visible(line, Colours::Remove), fields, out);
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

fn with_step(step: &StepId, mut fields: Value) -> Value {
    fields["stage"] = json!(step.stage_name);
    fields["step"] = json!(step.number);
    fields["steps"] = json!(step.total);
    fields
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
