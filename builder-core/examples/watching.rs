//! Builds the Dockerfile of a directory and shows what happens, with a time limit:
//! `cargo run --example watching -- CONTEXT SECONDS`. When the time is up, the build is dropped, which cancels it.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use builder_core::build::{Backends, BuildRequest, Event, StepOutcome};
use builder_core::{http, registry, store::Store};
use std::{env, error::Error, sync::Arc, time::Duration};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(context), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: watching CONTEXT SECONDS".into());
    };
    let store = Store::open(env::temp_dir().join("cofferdam-example"))?;
    let client = http::Client::new(http::Options::default())?;
    let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous))?;

    let (events, mut receiver) = tokio::sync::mpsc::channel(64);
    let watcher = tokio::spawn(async move {
        while let Some(event) = receiver.recv().await {
            match event {
                Event::StepStarted { step, text, .. } => println!("[{} {}/{}] {text}", step.stage_name, step.number, step.total),
                Event::StepOutput { bytes, .. } => print!("{}", String::from_utf8_lossy(&bytes)),
                Event::StepFinished { outcome: StepOutcome::Cached, .. } => println!("    cached"),
                Event::StepFinished { duration, .. } => println!("    {:.1} s", duration.as_secs_f64()),
                Event::Warning { message, .. } => println!("warning: {message}"),
                _ => {}
            }
        }
    });
    let limit = Duration::from_secs(seconds.parse()?);
    let built =
        tokio::time::timeout(limit, builder_core::build(BuildRequest::new(context), Backends::new(store, registry), events))
            .await;
    watcher.await?;
    match built {
        Ok(outcome) => println!("{}", outcome?.digest),
        Err(_) => println!("cancelled after {} s; nothing of it is left", limit.as_secs()),
    }
    Ok(())
}
