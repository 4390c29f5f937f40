//! Events of a build, shown while it runs: lines for people and CI logs, or JSON for machines.
//!
//! A view takes an event and the moment it happened, and gives text; only [`show`] has a clock and writes.

mod json;
mod lines;
pub mod measure;
pub mod output;

pub use json::line as json_line;

use crate::args::LogFormat;
use crate::request::{LogSettings, Note};
use builder_core::build::Event;
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since the build began.
    pub elapsed: Duration,
    /// By the clock.
    pub clock: jiff::Timestamp,
}

/// What shows a build.
#[derive(Debug)]
pub enum View {
    /// Lines.
    Lines(Box<lines::Lines>),
    /// One JSON object per line.
    Json(Box<json::Json>),
}

impl View {
    /// The view that `settings` ask for. `columns` is the width of the terminal, if there is any.
    pub fn new(settings: LogSettings, columns: Option<usize>) -> Self {
        match settings.format {
            LogFormat::Json => Self::Json(Box::new(json::Json::new(settings.verbosity))),
            LogFormat::Text | LogFormat::Color => Self::Lines(Box::new(lines::Lines::new(settings, columns))),
        }
    }

    /// Shows `note`.
    pub fn note(&mut self, at: Moment, note: &Note, out: &mut String) {
        match self {
            Self::Lines(lines) => lines.note(at, note, out),
            Self::Json(json) => json.note(at, note, out),
        }
    }

    /// Shows `event`.
    pub fn event(&mut self, at: Moment, event: &Event, out: &mut String) {
        match self {
            Self::Lines(lines) => lines.event(at, event, out),
            Self::Json(json) => json.event(at, event, out),
        }
    }

    /// Shows that time has passed.
    pub fn tick(&mut self, at: Moment, out: &mut String) {
        if let Self::Lines(lines) = self {
            lines.tick(at, out);
        }
    }

    /// Shows what was held back; the build is over.
    pub fn finish(&mut self, at: Moment, out: &mut String) {
        match self {
            Self::Lines(lines) => lines.finish(at, out),
            Self::Json(json) => json.finish(at, out),
        }
    }
}

/// Shows events on standard error until their sender is gone.
pub async fn show(mut events: Receiver<Event>, mut view: View, notes: &[Note]) {
    let start = Instant::now();
    let moment = || Moment { elapsed: start.elapsed(), clock: jiff::Timestamp::now() };
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut text = String::new();
    for note in notes {
        view.note(moment(), note, &mut text);
    }
    loop {
        write(&mut text);
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => view.event(moment(), &event, &mut text),
                None => break,
            },
            _ = ticks.tick() => view.tick(moment(), &mut text),
        }
    }
    view.finish(moment(), &mut text);
    write(&mut text);
}

/// A reader that has gone away is no reason to stop a build.
fn write(text: &mut String) {
    if !text.is_empty() {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        text.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Verbosity;
    use StepOutcome::{Cached, Executed, Metadata};
    use builder_core::build::{LayerSummary, Place, StepId, StepOutcome, Stream};
    use builder_core::dockerfile::Position;

    /// A build of two stages side by side, as `(milliseconds, event)`.
    fn script() -> Vec<(u64, Event)> {
        let step = |stage: usize, number| StepId { stage, stage_name: ["builder", "1"][stage].to_owned(), number, total: 3 };
        let digest = builder_core::oci::Digest::of(b"layer");
        let layer = |size_bytes| Some(LayerSummary { digest, size_bytes });
        let started = |stage, number, text: &str, first_line| Event::StepStarted {
            step: step(stage, number),
            position: Position { first_line, ..Position::default() },
            text: text.to_owned(),
        };
        let output =
            |stage, number, stream, bytes: &str| Event::StepOutput { step: step(stage, number), stream, bytes: bytes.into() };
        let finished = |stage, number, outcome, milliseconds, layer| Event::StepFinished {
            step: step(stage, number),
            outcome,
            duration: Duration::from_millis(milliseconds),
            layer,
        };
        let place = Place {
            file_name: "Dockerfile".to_owned(),
            text: "".into(),
            position: Position { first_line: 1, ..Position::default() },
            focus: None,
        };
        let debian: builder_core::oci::Reference = "debian:12".parse().unwrap();
        vec![
            (0, Event::Planned { stages: 2, steps: 6 }),
            (0, Event::Warning { message: "the cache cannot be used".to_owned(), place: None }),
            (2, started(0, 1, "FROM debian:12 AS Builder", 1)),
            (2, started(1, 1, "FROM scratch", 5)),
            (3, finished(1, 1, Metadata, 1, None)),
            (50, Event::PullStarted { reference: debian.clone(), digest, size_bytes: 48_000_000 }),
            (400, Event::PullFinished { digest }),
            (450, finished(0, 1, Executed, 448, None)),
            (450, Event::Isolation { description: "namespaces with an overlay".to_owned() }),
            (450, started(0, 2, "RUN make \\\n    -j2", 2)),
            (460, output(0, 2, Stream::Stdout, "gcc -c a.c\ngcc -c b")),
            (465, started(1, 2, "RUN slow", 6)),
            (470, output(0, 2, Stream::Stderr, "\u{1b}[31mwarning\u{1b}[0m: \u{1b}[2Jclear\n")),
            (480, output(0, 2, Stream::Stdout, ".c\n")),
            (900, output(1, 2, Stream::Stdout, "10%\r50%\r100%\nno end of line")),
            (910, output(0, 2, Stream::Stdout, "ld\n")),
            (1200, finished(0, 2, Executed, 750, layer(12_345_678))),
            (1201, started(0, 3, "COPY . /src", 4)),
            (1210, finished(0, 3, Executed, 9, layer(512))),
            (1215, Event::BlobPushed { reference: debian, digest, size_bytes: 512, reused: false }),
            (1300, finished(1, 2, Executed, 835, None)),
            (1301, started(1, 3, "COPY --from=builder /src /src", 7)),
            (1302, finished(1, 3, Cached, 1, layer(512))),
            (1302, Event::Warning { message: "StageNameCasing: lower case, please".to_owned(), place: Some(Box::new(place)) }),
            (1303, started(1, 4, "RUN false", 8)),
            (1304, output(1, 4, Stream::Stderr, "about to fail\nvery")),
        ]
    }

    fn shown(settings: LogSettings) -> String {
        let clock = "2026-01-02T03:04:05Z".parse::<jiff::Timestamp>().unwrap();
        let at = |milliseconds| Moment {
            elapsed: Duration::from_millis(milliseconds),
            clock: clock + Duration::from_millis(milliseconds),
        };
        let mut view = View::new(settings, Some(60));
        let mut out = String::new();
        view.note(at(0), &Note::Information("--force has no effect: why".to_owned()), &mut out);
        let (mut now, mut script) = (0, script().into_iter().peekable());
        while script.peek().is_some() {
            while let Some((milliseconds, event)) = script.next_if(|(milliseconds, _)| *milliseconds < now + 100) {
                view.event(at(milliseconds), &event, &mut out);
            }
            now += 100;
            view.tick(at(now), &mut out);
        }
        view.finish(at(now + 1), &mut out);
        out
    }

    fn settings(format: LogFormat, verbosity: Verbosity) -> LogSettings {
        LogSettings { verbosity, quiet: false, format, timestamps: false, moving_line: false }
    }

    fn check(name: &str, actual: &str) {
        crate::golden::check(&format!("{}/testdata/progress/{name}", env!("CARGO_MANIFEST_DIR")), actual);
    }

    #[test]
    fn a_ci_log_has_a_line_for_each_step_and_the_output_beneath() {
        check("text.txt", &shown(settings(LogFormat::Text, Verbosity::Info)));
    }

    #[test]
    fn a_log_with_the_time_on_each_line() {
        check("timestamps.txt", &shown(LogSettings { timestamps: true, ..settings(LogFormat::Text, Verbosity::Info) }));
    }

    #[test]
    fn a_terminal_has_colours_and_a_line_that_moves() {
        let text = shown(LogSettings { moving_line: true, ..settings(LogFormat::Color, Verbosity::Info) });
        check("terminal.txt", &text.replace('\u{1b}', "^[").replace('\r', "^M"));
    }

    #[test]
    fn machines_get_one_json_object_per_line() {
        let text = shown(settings(LogFormat::Json, Verbosity::Info));
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        check("json.txt", &text);
    }

    #[test]
    fn a_silent_build_still_shows_what_the_failed_command_wrote() {
        check("error.txt", &shown(settings(LogFormat::Text, Verbosity::Error)));
        check("warn.txt", &shown(settings(LogFormat::Text, Verbosity::Warn)));
    }
}
