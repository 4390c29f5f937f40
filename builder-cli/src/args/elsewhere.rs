//! Flags of Kaniko and `docker build` that we know and do not honour: each either refused with what to do instead, or
//! accepted because what it is for is always the case here. Data; pure.
//!
//! The rule: a flag whose absence would change the result, or leave out what the user relies on, is refused.

/// A flag that is not ours.
#[derive(Debug)]
pub struct OtherFlag {
    /// The name after `--`.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// The letter after `-`.
    pub short: Option<char>,
    /// Whether it has a value.
    pub takes: Takes,
    /// Values that ask for what is always the case.
    pub accepted: Accepted,
    /// Why accepted values have no effect.
    pub reason: &'static str,
    /// What to do instead of other values.
    pub instead: &'static str,
}

/// What stands behind a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` and `=false`.
    Boolean,
    /// A value.
    Value,
}

/// Which values are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Each.
    Every,
    /// These.
    Only(&'static [&'static str]),
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It asks for nothing.
    NotAsked,
    /// It asks for what is so anyway, for this reason.
    NoEffect(&'static str),
    /// It cannot be honoured; this may be done instead.
    Refused(&'static str),
}

impl OtherFlag {
    /// What becomes of this flag with `value`.
    pub fn fate(&self, value: &str) -> Fate {
        let accepted = match self.accepted {
            Accepted::Every => true,
            Accepted::Only(values) => values.contains(&value),
        };
        if accepted {
            Fate::NoEffect(self.reason)
        } else if self.takes == Takes::Boolean && self.reason.is_empty() && value == "false" {
            Fate::NotAsked
        } else {
            Fate::Refused(self.instead)
        }
    }
}

const fn met(name: &'static str, takes: Takes, reason: &'static str) -> OtherFlag {
    OtherFlag { name, aliases: &[], short: None, takes, accepted: Accepted::Every, reason, instead: "" }
}

const fn refused(name: &'static str, takes: Takes, instead: &'static str) -> OtherFlag {
    OtherFlag { name, aliases: &[], short: None, takes, accepted: Accepted::Only(&[]), reason: "", instead }
}

const fn met_by(
    name: &'static str,
    takes: Takes,
    accepted: &'static [&'static str],
    reason: &'static str,
    instead: &'static str,
) -> OtherFlag {
    OtherFlag { name, aliases: &[], short: None, takes, accepted: Accepted::Only(accepted), reason, instead }
}

use Takes::{Boolean, Value};

const OWN_ROOT: &str = "steps never run in the root file system of the builder, so nothing in it changes";
const EXACT: &str = "the changes of a step are always found exactly";
const NO_ATTESTATION: &str = "no attestation is made: use a tool for it on the pushed digest (--digest-file)";
const NO_NETWORK_CHOICE: &str = "RUN uses the network of the builder";
const NO_LIMITS: &str = "set the limit on the pod or the container that the builder runs in";

/// Every such flag, Kaniko's first.
pub const OTHER_FLAGS: &[OtherFlag] = &[
    met("force", Boolean, OWN_ROOT),
    met("cleanup", Boolean, OWN_ROOT),
    met("pre-cleanup", Boolean, OWN_ROOT),
    met("preserve-context", Boolean, "the context is only read"),
    met("use-new-run", Boolean, EXACT),
    OtherFlag {
        aliases: &["snapshotMode"],
        ..met_by(
            "snapshot-mode",
            Value,
            &["full", "redo", "time"],
            EXACT,
            "the modes are full, redo and time; leave the flag out",
        )
    },
    OtherFlag {
        aliases: &["whitelist-var-run"],
        ..met("ignore-var-run", Boolean, "/var/run of the pod is never seen by a step, and that of the image is kept")
    },
    met("compressed-caching", Boolean, "no layer is ever held in memory, and none is compressed twice"),
    met("image-fs-extract-retry", Value, "layers are verified before they are unpacked, and downloads are resumed by themselves"),
    met("skip-push-permission-check", Boolean, "there is no such check"),
    met("skip-unused-stages", Boolean, "stages that the target does not need are never built"),
    met("force-build-metadata", Boolean, "metadata is always complete"),
    met_by(
        "image-format",
        Value,
        &["oci"],
        "images are always written in OCI's format",
        "only oci is written; every registry of today takes it",
    ),
    met_by(
        "credential-helpers",
        Value,
        &[""],
        "credentials come from the Docker configuration, with the helpers that it names",
        "put the credentials, or the name of the helper, into $DOCKER_CONFIG/config.json",
    ),
    refused("bucket", Value, "there is no context in object stores yet: fetch the archive and give it with --context tar://FILE"),
    refused(
        "single-snapshot",
        Boolean,
        "each RUN, COPY and ADD makes a layer: join instructions, or copy the result into a last stage",
    ),
    refused("ignore-path", Value, "remove the files in the step that makes them, or use RUN --mount=type=tmpfs there"),
    refused("annotation", Value, "manifest annotations are not written yet: use --label"),
    refused("push-ignore-immutable-tag-errors", Boolean, "push to a new tag"),
    refused("materialize", Boolean, "write the image with --oci-layout-path or --tar-path and unpack that"),
    refused("dryrun", Boolean, "build with --no-push"),
    // docker build
    met("pull", Boolean, "the registry is always asked what a tag means"),
    met("rm", Boolean, "no container is left behind"),
    met("force-rm", Boolean, "no container is left behind"),
    met("push", Boolean, "destinations are pushed to unless --no-push is given"),
    met_by("provenance", Value, &["false"], "no attestation is made", NO_ATTESTATION),
    met_by("sbom", Value, &["false"], "no attestation is made", NO_ATTESTATION),
    refused("attest", Value, NO_ATTESTATION),
    refused("load", Boolean, "there is no daemon to load into: use --tar-path and `docker load`"),
    OtherFlag { short: Some('o'), ..refused("output", Value, "use --oci-layout-path, --tar-path or --destination") },
    refused("iidfile", Value, "use --digest-file, which receives the digest of the image"),
    refused("metadata-file", Value, "use --digest-file or --image-name-tag-with-digest-file"),
    refused("no-cache-filter", Value, "use --no-cache for all stages"),
    met_by("network", Value, &["default", "host"], NO_NETWORK_CHOICE, NO_NETWORK_CHOICE),
    refused("add-host", Value, "let the name be resolved by the pod (hostAliases)"),
    refused("squash", Boolean, "copy the result into a last stage"),
    refused("memory", Value, NO_LIMITS),
    refused("cpuset-cpus", Value, NO_LIMITS),
    refused("cpu-shares", Value, NO_LIMITS),
    refused("cpu-period", Value, NO_LIMITS),
    refused("cpu-quota", Value, NO_LIMITS),
    refused("ulimit", Value, NO_LIMITS),
    refused("shm-size", Value, NO_LIMITS),
    refused("cgroup-parent", Value, NO_LIMITS),
    refused("builder", Value, "this is the builder"),
];
