//! The flags of `cofferdam warm`: Kaniko's warmer. Those that a build has too are the build's. Pure.

use super::{BuildArgs, Problem, attached_switch};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches};

/// What was typed after `cofferdam warm`.
#[derive(Clone, Debug, Default)]
pub struct WarmArgs {
    /// Images.
    pub image: Vec<String>,
    /// Whether what is there is read again.
    pub force: bool,
    /// The flags that a build has too.
    pub build: BuildArgs,
}

/// The flags of a build that mean something here.
const SHARED: [&str; 20] = [
    "cache_ttl",
    "dockerfile",
    "build_arg",
    "platform",
    "cache_dir",
    "state_dir",
    "insecure_pull",
    "insecure_registry",
    "skip_tls_verify",
    "skip_tls_verify_pull",
    "skip_tls_verify_registry",
    "registry_certificate",
    "registry_client_cert",
    "registry_mirror",
    "registry_map",
    "skip_default_registry_fallback",
    "image_download_retry",
    "verbosity",
    "log_format",
    "log_timestamp",
];

/// The flags as clap sees them.
pub(super) fn definition() -> clap::Command {
    let command = clap::Command::new("cofferdam warm")
        .disable_version_flag(true)
        .args_override_self(true)
        .max_term_width(110)
        .override_usage("cofferdam warm [FLAGS]");
    let command = BuildArgs::augment_args(command).mut_args(attached_switch).mut_args(|arg| match arg.get_id().as_str() {
        // Kaniko's letters.
        "dockerfile" => arg.short('d').help("A Dockerfile: all images that its FROM name, with the --build-arg given"),
        "cache_dir" => {
            arg.short('c').help("The directory that is filled, in place of a state directory; builds name it with --cache-dir")
        }
        "state_dir" => arg.help("The state directory that is filled [default: that of a build]"),
        "cache_ttl" => arg.help("Accepted without effect: a layer is named by its digest and does not expire"),
        "skip_tls_verify" => arg.help("Do not verify certificates"),
        id if SHARED.contains(&id) => arg,
        _ => arg.short(None).hide(true),
    });
    command
        .about("Brings base images into the state directory before a build wants them")
        .arg(
            clap::Arg::new("image")
                .long("image")
                .short('i')
                .value_name("IMAGE")
                .action(ArgAction::Append)
                .help_heading("Input")
                .help("An image"),
        )
        .arg(
            clap::Arg::new("force")
                .long("force")
                .short('f')
                .action(ArgAction::SetTrue)
                .help_heading("Input")
                .help("Read what is there again, and bring again what is damaged"),
        )
}

/// Reads what was found on the command line.
///
/// # Errors
/// Flags of a build that mean nothing here.
pub(super) fn read(matches: &ArgMatches) -> Result<WarmArgs, Vec<Problem>> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let foreign = |arg: &&clap::Arg| arg.is_hide_set() && typed(arg.get_id().as_str());
    let refuse = |arg: &clap::Arg| match arg.get_long() {
        Some(long) => {
            Problem::with_hint(format!("--{long} is no flag of `cofferdam warm`"), "`cofferdam warm --help` lists them")
        }
        None => Problem::with_hint("unexpected argument", "name an image with --image"),
    };
    let problems: Vec<Problem> = definition().get_arguments().filter(foreign).map(refuse).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let build = BuildArgs::from_arg_matches(matches).map_err(|error| vec![Problem::new(error.to_string())])?;
    Ok(WarmArgs {
        image: matches.get_many::<String>("image").into_iter().flatten().cloned().collect(),
        force: matches.get_flag("force"),
        build,
    })
}
