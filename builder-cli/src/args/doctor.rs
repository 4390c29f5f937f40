//! The flags of `cofferdam doctor`. Pure.

use super::build::{BOOLEAN, BuildArgs, IsolationChoice, boolean};
use std::{ffi::OsString, path::PathBuf};

/// Everything that was typed for an examination: the flags of a build that decide how and where it works.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DoctorArgs {
    /// The context of the build: a state directory is not looked for in it [default: none]
    #[arg(long, short, value_name = "CONTEXT")]
    pub context: Option<OsString>,

    /// The isolation that must work [default: auto, any]
    #[arg(long, value_enum, value_name = "KIND")]
    pub isolation: Option<IsolationChoice>,

    /// Where layers and results are kept [default: as for a build]
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// Answer as JSON
    #[arg(long, value_name = BOOLEAN, value_parser = boolean)]
    pub json: Option<bool>,
}

impl DoctorArgs {
    /// The build that is asked about.
    pub fn build(&self) -> BuildArgs {
        BuildArgs {
            // A context that is no directory excludes nothing.
            context: Some(self.context.clone().unwrap_or_else(|| "-".into())),
            isolation: self.isolation,
            state_dir: self.state_dir.clone(),
            no_push: Some(true),
            ..BuildArgs::default()
        }
    }
}
