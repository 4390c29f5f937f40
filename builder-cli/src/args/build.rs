//! The flags of a build that we honour, one field each. What is typed stays text; `request` gives it meaning. Pure.

#![expect(clippy::doc_markdown, reason = "the comments of the fields are the text of the help")]

use std::{ffi::OsString, path::PathBuf};

/// The value name by which a switch is known.
pub(super) const BOOLEAN: &str = "BOOL";

/// Everything that was typed for a build.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct BuildArgs {
    /// Directory that COPY and ADD read, or any other --context [default: the current directory]
    #[arg(value_name = "CONTEXT")]
    pub context_argument: Option<OsString>,

    /// Whether the bare command was typed, as with Kaniko.
    #[arg(skip)]
    pub kaniko_spelling: bool,

    /// What to tell the user of flags that have no effect.
    #[arg(skip)]
    pub notes: Vec<String>,

    // ── what is built ──
    /// The context: a directory, dir://PATH, tar://FILE, - or tar://stdin (a tar on standard input), https://… (a tar), a Git address or git://HOST/PATH[#REF[#COMMIT]] [default of the bare command: /workspace]
    #[arg(long, short, value_name = "CONTEXT", help_heading = "Input")]
    pub context: Option<OsString>,

    /// Directory inside the context that is used instead of all of it
    #[arg(long, value_name = "DIRECTORY", help_heading = "Input")]
    pub context_sub_path: Option<PathBuf>,

    /// How a context that is a repository is fetched: branch=NAME, depth=COUNT, recurse-submodules=BOOL, insecure-skip-tls=BOOL
    #[arg(long, value_name = "KEY=VALUE[,…]", help_heading = "Input")]
    pub git: Vec<String>,

    /// The Dockerfile, looked for in the current directory, then in the context; - is standard input, https://… is downloaded [default: Dockerfile of the context]
    #[arg(long, short = 'f', visible_alias = "file", value_name = "FILE", help_heading = "Input")]
    pub dockerfile: Option<PathBuf>,

    /// Value of an ARG; KEY alone takes it from the environment, if it is set there
    #[arg(long, value_name = "KEY[=VALUE]", help_heading = "Input")]
    pub build_arg: Vec<String>,

    /// Another context, for COPY --from=NAME and FROM NAME: a directory, tar://FILE, docker-image://IMAGE, `oci-layout://PATH[:TAG|@DIGEST]`, https://… or a Git address
    #[arg(long, value_name = "NAME=LOCATION", help_heading = "Input")]
    pub build_context: Vec<String>,

    /// What RUN --mount=type=secret may read: `id=ID[,src=FILE][,env=VARIABLE]`
    #[arg(long, value_name = "id=ID[,…]", help_heading = "Input")]
    pub secret: Vec<String>,

    /// The SSH agent that RUN --mount=type=ssh may talk to: default is that of $SSH_AUTH_SOCK, ID=SOCKET another one
    #[arg(long, value_name = "ID[=SOCKET]", help_heading = "Input")]
    pub ssh: Vec<String>,

    /// The stage that becomes the image [default: the last]
    #[arg(long, value_name = "STAGE", value_delimiter = ',', help_heading = "Input")]
    pub target: Vec<String>,

    /// The platform of the image [default: that of this machine]
    #[arg(
        long,
        visible_alias = "custom-platform",
        alias = "customPlatform",
        value_name = "OS/ARCHITECTURE",
        help_heading = "Input"
    )]
    pub platform: Option<String>,

    // ── what is done instead of a build ──
    /// Check the Dockerfile and build nothing; the same as --call=check
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Instead of a build")]
    pub check: Option<bool>,

    /// What to do: build, check, outline (what can be given to the target), targets (the stages) [default: build]
    #[arg(long, value_name = "WHAT[,format=text|json][,ignorestatus=BOOL]", help_heading = "Instead of a build")]
    pub call: Option<String>,

    // ── what comes out ──
    /// Name of the image, pushed to its registry
    #[arg(long, short, visible_alias = "tag", visible_short_alias = 't', value_name = "IMAGE", help_heading = "Output")]
    pub destination: Vec<String>,

    /// Build without pushing; also by KANIKO_NO_PUSH=true
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Output")]
    pub no_push: Option<bool>,

    /// Write the image as an OCI layout
    #[arg(long, value_name = "DIRECTORY", help_heading = "Output")]
    pub oci_layout_path: Option<PathBuf>,

    /// Write the image as a tar that `docker load` reads
    #[arg(long, alias = "tarPath", value_name = "FILE", help_heading = "Output")]
    pub tar_path: Option<PathBuf>,

    /// Write the image's digest
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub digest_file: Option<PathBuf>,

    /// Write a line repository@digest for each destination
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub image_name_with_digest_file: Option<PathBuf>,

    /// Write a line repository:tag@digest for each destination
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub image_name_tag_with_digest_file: Option<PathBuf>,

    /// How new layers are compressed [default: gzip]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Output")]
    pub compression: Option<CompressionChoice>,

    /// How hard the compressor tries: 1 to 12 for gzip, 1 to 22 for zstd; anything below is the default, anything above the highest [default: 4 for gzip, 3 for zstd]
    #[arg(long, allow_negative_numbers = true, value_name = "LEVEL", help_heading = "Output")]
    pub compression_level: Option<i32>,

    /// Add a label to the image
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Output")]
    pub label: Vec<String>,

    /// The same image from the same input: what the build makes has the time SOURCE_DATE_EPOCH, or 1970 if that is not set
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Output")]
    pub reproducible: Option<bool>,

    // ── registries ──
    /// Push by HTTP where the registry does not speak TLS
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Registries")]
    pub insecure: Option<bool>,

    /// Pull by HTTP where a registry does not speak TLS; permits it for the push as well
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Registries")]
    pub insecure_pull: Option<bool>,

    /// Talk HTTP with this registry if it does not speak TLS
    #[arg(long, value_name = "REGISTRY", help_heading = "Registries")]
    pub insecure_registry: Vec<String>,

    /// Push and pull without verifying certificates
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Registries")]
    pub skip_tls_verify: Option<bool>,

    /// The same as --skip-tls-verify
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Registries")]
    pub skip_tls_verify_pull: Option<bool>,

    /// Do not verify the certificate of this registry
    #[arg(long, value_name = "REGISTRY", help_heading = "Registries")]
    pub skip_tls_verify_registry: Vec<String>,

    /// Certificate authority of a registry
    #[arg(long, value_name = "REGISTRY=FILE", help_heading = "Registries")]
    pub registry_certificate: Vec<String>,

    /// Certificate and key that we show to a registry
    #[arg(long, value_name = "REGISTRY=CERTIFICATE,KEY", help_heading = "Registries")]
    pub registry_client_cert: Vec<String>,

    /// Registry asked before Docker Hub; also by KANIKO_REGISTRY_MIRROR, separated by commas
    #[arg(long, value_name = "REGISTRY", help_heading = "Registries")]
    pub registry_mirror: Vec<String>,

    /// Registries asked before another: a=b;c=d; also by KANIKO_REGISTRY_MAP
    #[arg(long, value_name = "FROM=TO[;…]", help_heading = "Registries")]
    pub registry_map: Vec<String>,

    /// Fail if no mirror has an image, instead of asking its own registry
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Registries")]
    pub skip_default_registry_fallback: Option<bool>,

    /// How often a request of a push is tried again, at least 4 times
    #[arg(long, value_name = "COUNT", help_heading = "Registries")]
    pub push_retry: Option<u32>,

    /// How often a request of a pull is tried again, at least 4 times
    #[arg(long, value_name = "COUNT", help_heading = "Registries")]
    pub image_download_retry: Option<u32>,

    /// How many connections one registry gets at a time [default: 4]
    #[arg(long, value_name = "COUNT", help_heading = "Registries")]
    pub max_connections: Option<std::num::NonZeroUsize>,

    // ── what is not done again ──
    /// Share results with other machines in --cache-repo; false does every step again. What --state-dir keeps is used without this flag
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub cache: Option<bool>,

    /// Do every step again; the results are kept
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub no_cache: Option<bool>,

    /// Where results are shared: a repository, its tag sets caches apart, or oci:DIRECTORY [default: /cache below the first destination]
    #[arg(long, value_name = "REPOSITORY", help_heading = "Cache")]
    pub cache_repo: Option<String>,

    /// How old a result may be, as in 336h [default: 336h for what is shared, any age for what --state-dir keeps]
    #[arg(long, value_name = "DURATION", help_heading = "Cache")]
    pub cache_ttl: Option<String>,

    /// Share layers of COPY and ADD [default: true]
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub cache_copy_layers: Option<bool>,

    /// Share layers of RUN and WORKDIR [default: true]
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub cache_run_layers: Option<bool>,

    /// Look shared results up, and add none
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub no_push_cache: Option<bool>,

    /// Look results up in another cache, too: type=registry,ref=NAME or NAME alone, type=local,src=DIRECTORY, type=inline,ref=IMAGE
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,

    /// Keep results in another cache, too: `type=registry,ref=NAME[,mode=min|max]` or NAME alone, `type=local,dest=DIRECTORY[,mode=…]`, type=inline
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,

    /// Say of each step that is not known what has changed since the last build
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Cache")]
    pub explain_cache: Option<bool>,

    // ── how it is built ──
    /// Where layers and results are kept; also by COFFERDAM_STATE [default: the first writable of $XDG_CACHE_HOME, /cache, /workspace, ~/.cache, $TMPDIR, /tmp]
    #[arg(long, visible_alias = "kaniko-dir", value_name = "DIRECTORY", help_heading = "Building")]
    pub state_dir: Option<PathBuf>,

    /// The directory that `cofferdam warm` fills: its images are not downloaded, and if it can be written the state is there [default: /cache]
    #[arg(long, value_name = "DIRECTORY", help_heading = "Building")]
    pub cache_dir: Option<PathBuf>,

    /// After the build, remove what was not used for longest until the state directory holds no more, as `cofferdam cache prune --keep-storage` does
    #[arg(long, value_name = "SIZE", help_heading = "Building")]
    pub cache_keep_storage: Option<String>,

    /// Where what RUN --mount=type=cache holds comes from and goes to, beside the state directory: IMAGE, oci:DIRECTORY, `type=registry,ref=IMAGE[,…]` or `type=local,dest=DIRECTORY[,max-size=SIZE][,import=BOOL][,export=BOOL]`
    #[arg(long, value_name = "LOCATION", help_heading = "Building")]
    pub cache_mounts: Option<String>,

    /// How many steps are executed at a time, of all stages [default: as many as do not wait for each other]
    #[arg(long, short = 'j', value_name = "COUNT", help_heading = "Building")]
    pub jobs: Option<std::num::NonZeroUsize>,

    /// How RUN is kept apart from this machine [default: auto, the strongest that works]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Building")]
    pub isolation: Option<IsolationChoice>,

    /// The most bytes that one layer may unpack to, as in 500MiB or 20G; 0 is no limit [default: 64GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Building")]
    pub max_unpacked_size: Option<String>,

    /// The longest that one RUN may take, as in 90s, 30m or 2h; it is stopped and the build fails [default: no limit]
    #[arg(long, value_name = "DURATION", help_heading = "Building")]
    pub run_timeout: Option<String>,

    /// What a RUN may ask for: security.insecure, or network.host, which each has anyway
    #[arg(long, value_name = "ENTITLEMENT", help_heading = "Building")]
    pub allow: Vec<String>,

    // ── what is said ──
    /// How much is said [default: info]
    #[arg(long, short, value_enum, ignore_case = true, value_name = "LEVEL", help_heading = "Log")]
    pub verbosity: Option<Verbosity>,

    /// Say nothing but errors; the digest goes to standard output
    #[arg(long, short, value_name = BOOLEAN, value_parser = boolean, help_heading = "Log")]
    pub quiet: Option<bool>,

    /// How it is said [default: color on a terminal, else text]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Log")]
    pub log_format: Option<LogFormat>,

    /// Begin each line with the time
    #[arg(long, value_name = BOOLEAN, value_parser = boolean, help_heading = "Log")]
    pub log_timestamp: Option<bool>,

    /// Whether a line at the bottom of the terminal shows what is under way [default: auto]
    #[arg(long, value_enum, value_name = "STYLE", help_heading = "Log")]
    pub progress: Option<ProgressStyle>,

    /// Print what would be asked of the builder, as JSON
    #[arg(long, hide = true, value_name = BOOLEAN, value_parser = boolean)]
    pub print_request: Option<bool>,
}

/// How new layers are compressed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionChoice {
    /// What every reader knows.
    Gzip,
    /// Smaller and faster; registries and runtimes of the last years know it.
    Zstd,
    /// Not at all.
    Uncompressed,
}

/// How RUN is kept apart from this machine.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IsolationChoice {
    /// The strongest that works.
    #[default]
    Auto,
    /// Namespaces of the kernel.
    Namespaces,
    /// Paths, identity and owners emulated inside the processes of a step: where the host grants nothing.
    Emulated,
}

/// How much is said, in Kaniko's words.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Errors.
    Panic,
    /// Errors.
    Fatal,
    /// Errors.
    Error,
    /// Warnings too.
    #[value(alias = "warning")]
    Warn,
    /// The steps and what their commands write.
    #[default]
    Info,
    /// What was decided and why.
    Debug,
    /// Everything.
    Trace,
}

/// The form of the log.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines.
    Text,
    /// Lines with colours.
    #[value(alias = "colour")]
    Color,
    /// One JSON object per line.
    Json,
}

/// Whether the last line of the terminal moves.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ProgressStyle {
    /// On a terminal.
    #[default]
    Auto,
    /// Never.
    Plain,
    /// Always.
    Tty,
}

/// Reads a switch in the spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}
