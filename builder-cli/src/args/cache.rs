//! The flags of `cofferdam cache`, one field each. What is typed stays text. Pure.

#![expect(clippy::doc_markdown, reason = "the comments of the fields are the text of the help")]

use std::path::PathBuf;

/// What was typed after `cofferdam cache`.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "cofferdam cache",
    bin_name = "cofferdam cache",
    about = "Shows and removes what the state directory, or a cache in a directory, keeps between builds",
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: CacheAction,
}

/// What to do with what is kept.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum CacheAction {
    /// List what is kept, with sizes and when it was last used
    #[command(alias = "list", alias = "du")]
    Ls(ListArgs),
    /// Remove what was not used for longest; builds may run meanwhile, and what they use stays
    Prune(PruneArgs),
}

/// Which state directory, or which cache.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct StateArgs {
    /// The state directory; also by COFFERDAM_STATE [default: the first of those that a build would choose from]
    #[arg(long, alias = "kaniko-dir", value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// The directory that `cofferdam warm` fills
    #[arg(long, value_name = "DIRECTORY")]
    pub cache_dir: Option<PathBuf>,

    /// The cache that builds share in a directory, in place of the state directory
    #[arg(long, value_name = "oci:DIRECTORY", conflicts_with_all = ["state_dir", "cache_dir"])]
    pub cache_repo: Option<String>,
}

/// How to list.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ListArgs {
    /// Of what.
    #[command(flatten)]
    pub state: StateArgs,

    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// What to remove.
#[derive(clap::Args, Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct PruneArgs {
    /// Of what.
    #[command(flatten)]
    pub state: StateArgs,

    /// Remove until no more than this is left, as in 500MiB or 20G
    #[arg(long, visible_alias = "max-used-space", value_name = "SIZE")]
    pub keep_storage: Option<String>,

    /// Remove only what was not used for so long, as in 24h or 7d
    #[arg(long, value_name = "DURATION")]
    pub until: Option<String>,

    /// The same as docker spells it: until=DURATION
    #[arg(long, value_name = "until=DURATION")]
    pub filter: Vec<String>,

    /// Remove everything that no build uses
    #[arg(long, short)]
    pub all: bool,

    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print what went as JSON
    #[arg(long)]
    pub json: bool,

    /// Accepted without effect: nothing is asked before
    #[arg(long, short, hide = true)]
    pub force: bool,
}
