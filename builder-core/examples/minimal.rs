//! Builds the Dockerfile of a directory into an OCI layout: `cargo run --example minimal -- CONTEXT LAYOUT`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use builder_core::build::{Backends, BuildRequest, Export};
use builder_core::{http, registry, store::Store};
use std::{env, error::Error, path::PathBuf, sync::Arc};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1).map(PathBuf::from);
    let (Some(context), Some(layout)) = (arguments.next(), arguments.next()) else {
        return Err("usage: minimal CONTEXT LAYOUT".into());
    };
    let store = Store::open(env::temp_dir().join("cofferdam-example"))?;
    let client = http::Client::new(http::Options::default())?;
    let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous))?;
    let request = BuildRequest { exports: vec![Export::OciLayout(layout)], ..BuildRequest::new(context) };

    // Nobody listens to the events: the receiver is dropped.
    let (events, _) = tokio::sync::mpsc::channel(1);
    let outcome = builder_core::build(request, Backends::new(store, registry), events).await?;
    println!("{}", outcome.digest);
    Ok(())
}
