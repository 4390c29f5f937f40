//! Which isolation this host allows: facts in, decision out. Pure.

use crate::rootfs::{OverlayAttributes, Owners};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the kernel allowed when it was asked. Nothing here is inferred from a version, a user id or a setting.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// A mount namespace of one's own, and a mount in it.
    pub mount_namespace: Attempt,
    /// A user namespace with a mount namespace in it; tried where a mount namespace alone is refused.
    pub user_namespace: Attempt,
    /// A process namespace.
    pub process_namespace: Attempt,
    /// A new /proc in a process namespace; where refused, the existing one can be bound.
    pub fresh_proc: Attempt,
    /// A network namespace.
    pub network_namespace: Attempt,
    /// An overlay in the state directory that deletes and replaces what is below it, with `trusted.*` attributes.
    pub overlay: Attempt,
    /// The same with `user.*` attributes.
    pub overlay_user_attributes: Attempt,
    /// Giving a file to any user.
    pub any_owner: Attempt,
    /// A file can be given to users and groups below this id; [`u32::MAX`] where all are possible.
    pub storable_ids: u32,
    /// Making a device node, which user namespaces refuse also to their root.
    pub devices: Attempt,
    /// An extended attribute `user.*` on a file of the state directory, where emulation records owners.
    pub records: Attempt,
    /// Executing a program that lies in the state directory.
    pub execution: Attempt,
    /// A seccomp filter that traps calls in the step's own processes. Needs `records` and `execution`.
    pub filter: Attempt,
    /// `openat2` behind that filter: it keeps paths below the root. Not in kernels before 5.6, nor in profiles of that time.
    pub confined_paths: Attempt,
    /// An emulated step as a whole, with calls trapped and answered. Needs all of the four above.
    pub emulation: Attempt,
    /// The same behind Landlock rules.
    pub landlock: Attempt,
    /// The version of Landlock; 0 without.
    pub landlock_version: u32,
    /// The same in namespaces of its own, where it sees nothing of the host but what it needs.
    pub emulation_apart: Attempt,
}

impl HostFacts {
    /// Every attempt: its name for programs, its name for people, how it went.
    pub fn attempts(&self) -> Vec<(&'static str, &'static str, Attempt)> {
        // By name, so that a new fact cannot be forgotten here.
        let Self {
            mount_namespace,
            user_namespace,
            process_namespace,
            fresh_proc,
            network_namespace,
            overlay,
            overlay_user_attributes,
            any_owner,
            storable_ids: _,
            devices,
            records,
            execution,
            filter,
            confined_paths,
            emulation,
            landlock,
            landlock_version: _,
            emulation_apart,
        } = *self;
        vec![
            ("mount_namespace", MOUNT_NAMESPACE, mount_namespace),
            ("user_namespace", USER_NAMESPACE, user_namespace),
            ("process_namespace", PROCESS_NAMESPACE, process_namespace),
            ("fresh_proc", FRESH_PROC, fresh_proc),
            ("network_namespace", NETWORK_NAMESPACE, network_namespace),
            ("overlay", OVERLAY, overlay),
            ("overlay_user_attributes", OVERLAY_USER, overlay_user_attributes),
            ("any_owner", ANY_OWNER, any_owner),
            ("devices", DEVICES, devices),
            ("records", RECORDS, records),
            ("execution", EXECUTION, execution),
            ("filter", FILTER, filter),
            ("confined_paths", CONFINED_PATHS, confined_paths),
            ("emulation", EMULATION, emulation),
            ("landlock", LANDLOCK, landlock),
            ("emulation_apart", EMULATION_APART, emulation_apart),
        ]
    }

    /// What of emulation was refused.
    fn emulation_refused(&self) -> Vec<Refusal> {
        let tried = tried(refusals(&[
            (RECORDS, self.records),
            (EXECUTION, self.execution),
            (FILTER, self.filter),
            (CONFINED_PATHS, self.confined_paths),
            (EMULATION, self.emulation),
        ]));
        if tried.is_empty() { refusals(&[(EMULATION, self.emulation)]) } else { tried }
    }
}

const MOUNT_NAMESPACE: &str = "a mount namespace";
const USER_NAMESPACE: &str = "a user namespace around it";
const PROCESS_NAMESPACE: &str = "a process namespace";
const FRESH_PROC: &str = "a new /proc";
const NETWORK_NAMESPACE: &str = "a network namespace";
const OVERLAY: &str = "an overlay with trusted attributes";
const OVERLAY_USER: &str = "an overlay with user attributes";
const ANY_OWNER: &str = "any owner of a file";
const DEVICES: &str = "a device node";
const RECORDS: &str = "an extended attribute user.* in the state directory";
const EXECUTION: &str = "a program in the state directory";
const FILTER: &str = "a filter that traps system calls";
const CONFINED_PATHS: &str = "openat2, which keeps paths in a root";
const EMULATION: &str = "an emulated step";
const LANDLOCK: &str = "Landlock around emulated steps";
const EMULATION_APART: &str = "namespaces around emulated steps";

/// How one attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Attempt {
    /// Not tried: something stronger served, or something it needs was refused.
    #[default]
    NotTried,
    /// It worked.
    Works,
    /// The kernel refused.
    Refused {
        /// Its error number.
        errno: i32,
    },
    /// The process that tried was killed, as some seccomp profiles do.
    Killed {
        /// By this signal.
        signal: i32,
    },
    /// Nothing to try: it is not made for this architecture.
    Missing,
}

/// The back ends, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// New namespaces, and mounts in them.
    Namespaces,
    /// Nothing of the kernel's: paths, identity and owners are emulated in the processes of the step.
    Emulated,
}

/// Where /proc of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proc {
    /// A new one, which shows the processes of the step.
    Fresh,
    /// The builder's own, bound: where the host masks parts of it the kernel refuses a new one.
    Bound,
}

/// The isolation to use, and why not a stronger one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The back end.
    pub kind: Kind,
    /// Attributes of an overlay that works here; `None`: the root file system is a plain directory.
    pub overlay: Option<OverlayAttributes>,
    /// Where /proc comes from.
    pub proc: Proc,
    /// Which owners the disk can hold; the tree in memory remembers the others.
    pub owners: Owners,
    /// Whether a step can be cut off from the network.
    pub network_namespace: bool,
    /// Whether an emulated step gets namespaces of its own.
    pub apart: bool,
    /// The version of the Landlock rules behind which an emulated step runs.
    pub landlock_version: Option<u32>,
    /// What would have been stronger, strongest first.
    pub refused: Vec<Refusal>,
}

/// Something stronger, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was wanted.
    pub what: String,
    /// How it went.
    pub attempt: Attempt,
}

/// No isolation works here, or not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.refused_what(), refused.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct Refused {
    /// The back end that was asked for; `None`: each.
    pub wanted: Option<Kind>,
    /// What was tried.
    #[expect(clippy::struct_field_names, reason = "the same name as in a choice, whose refusals these would be")]
    pub refused: Vec<Refusal>,
    /// What this host grants where nothing is asked for.
    pub otherwise: Option<Kind>,
}

impl Refused {
    fn refused_what(&self) -> String {
        match self.wanted {
            None => "this host refuses every way to run commands".to_owned(),
            Some(kind) => format!("this host refuses the isolation {kind}"),
        }
    }
}

/// Picks the strongest isolation that works, or `forced` if it works.
///
/// # Errors
/// [`Refused`] with what the kernel said.
pub fn choose(facts: &HostFacts, forced: Option<Kind>) -> Result<Choice, Refused> {
    let needed = [(MOUNT_NAMESPACE, facts.mount_namespace), (PROCESS_NAMESPACE, facts.process_namespace)];
    let missing = refusals(&needed);
    let emulates = facts.emulation == Attempt::Works;
    // With a single id, a step that makes users or drops root's rights fails, and without devices one that calls mknod; emulated they
    // do not.
    let mut lacking = if facts.storable_ids > 1 { Vec::new() } else { refusals(&[(ANY_OWNER, facts.any_owner)]) };
    lacking.extend(refusals(&[(DEVICES, facts.devices)]));
    // Without one a mount namespace may still be had in a user namespace.
    let why_missing = || tried([refusals(&[needed[0], (USER_NAMESPACE, facts.user_namespace)]), refusals(&needed[1..])].concat());
    let otherwise = || choose(facts, None).ok().map(|choice| choice.kind);
    match forced {
        None if missing.is_empty() && (lacking.is_empty() || !emulates) => Ok(namespaces(facts)),
        Some(Kind::Namespaces) if missing.is_empty() => Ok(namespaces(facts)),
        None if emulates && missing.is_empty() => Ok(emulated(facts, lacking)),
        None if emulates => Ok(emulated(facts, missing)),
        Some(Kind::Emulated) if emulates => Ok(emulated(facts, Vec::new())),
        Some(Kind::Namespaces) => Err(Refused { wanted: forced, refused: why_missing(), otherwise: otherwise() }),
        Some(Kind::Emulated) => Err(Refused { wanted: forced, refused: facts.emulation_refused(), otherwise: otherwise() }),
        None => {
            let refused = why_missing().into_iter().chain(facts.emulation_refused()).collect();
            Err(Refused { wanted: None, refused, otherwise: None })
        }
    }
}

fn emulated(facts: &HostFacts, mut refused: Vec<Refusal>) -> Choice {
    let apart = facts.emulation_apart == Attempt::Works;
    let landlock_version = Some(facts.landlock_version).filter(|_| facts.landlock == Attempt::Works);
    refused.extend(refusals(&[(EMULATION_APART, facts.emulation_apart), (LANDLOCK, facts.landlock)]));
    Choice {
        kind: Kind::Emulated,
        overlay: None,
        proc: if apart && facts.fresh_proc == Attempt::Works { Proc::Fresh } else { Proc::Bound },
        owners: Owners::RECORDED,
        network_namespace: apart && facts.network_namespace == Attempt::Works,
        apart,
        landlock_version,
        refused: tried(refused),
    }
}

fn namespaces(facts: &HostFacts) -> Choice {
    let overlay = match (facts.overlay, facts.overlay_user_attributes) {
        (Attempt::Works, _) => Some(OverlayAttributes::Trusted),
        (_, Attempt::Works) => Some(OverlayAttributes::User),
        _ => None,
    };
    let stronger = [
        (OVERLAY, facts.overlay),
        (OVERLAY_USER, facts.overlay_user_attributes),
        (FRESH_PROC, facts.fresh_proc),
        (NETWORK_NAMESPACE, facts.network_namespace),
        (ANY_OWNER, facts.any_owner),
        (DEVICES, facts.devices),
    ];
    Choice {
        kind: Kind::Namespaces,
        overlay,
        proc: if facts.fresh_proc == Attempt::Works { Proc::Fresh } else { Proc::Bound },
        owners: Owners { storable_ids: facts.storable_ids },
        network_namespace: facts.network_namespace == Attempt::Works,
        apart: false,
        landlock_version: None,
        refused: tried(refusals(&stronger)),
    }
}

/// Without what was left out: it explains nothing.
fn tried(refusals: Vec<Refusal>) -> Vec<Refusal> {
    refusals.into_iter().filter(|refusal| refusal.attempt != Attempt::NotTried).collect()
}

fn refusals(wanted: &[(&str, Attempt)]) -> Vec<Refusal> {
    let refused = wanted.iter().filter(|(_, attempt)| *attempt != Attempt::Works);
    refused.map(|(what, attempt)| Refusal { what: (*what).to_owned(), attempt: *attempt }).collect()
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces => formatter.write_str("namespaces"),
            Self::Emulated => formatter.write_str("emulated"),
        }
    }
}

/// `namespaces, overlay`: for the log.
impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = match self.overlay {
            Some(OverlayAttributes::Trusted) => "overlay",
            Some(OverlayAttributes::User) => "overlay with user attributes",
            None => "plain directory",
        };
        let walls = match (self.apart, self.landlock_version) {
            (true, Some(_)) => " in namespaces behind Landlock",
            (true, None) => " in namespaces",
            (false, Some(_)) => " behind Landlock",
            (false, None) => "",
        };
        write!(formatter, "{}{walls}, {root}", self.kind)?;
        self.refused.iter().try_for_each(|refusal| write!(formatter, "; {refusal}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempt {
            Attempt::Refused { .. } => write!(formatter, "{} refused ({})", self.what, self.attempt),
            _ => write!(formatter, "{} {}", self.what, self.attempt),
        }
    }
}

/// `works`, or what the kernel said.
impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Refused { errno } => {
                let text = std::io::Error::from_raw_os_error(errno).to_string();
                formatter.write_str(text.split(" (os error").next().unwrap_or(&text))
            }
            Self::Killed { signal } => write!(formatter, "killed by signal {signal}"),
            Self::Missing => formatter.write_str("missing on this architecture"),
            Self::NotTried => formatter.write_str("not tried"),
            Self::Works => formatter.write_str("works"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Attempt = Attempt::Works;
    const NO: Attempt = Attempt::Refused { errno: libc::EPERM };
    const NOT: Attempt = Attempt::NotTried;

    fn facts(attempts: [Attempt; 7]) -> HostFacts {
        facts_with(attempts, NOT)
    }

    fn facts_with(attempts: [Attempt; 7], emulation: Attempt) -> HostFacts {
        let [mount_namespace, process_namespace, fresh_proc, network_namespace, overlay, overlay_user_attributes, any_owner] =
            attempts;
        let storable_ids = if any_owner == YES { u32::MAX } else { 1 };
        HostFacts {
            mount_namespace,
            process_namespace,
            fresh_proc,
            network_namespace,
            overlay,
            overlay_user_attributes,
            any_owner,
            storable_ids,
            devices: YES,
            records: emulation,
            execution: emulation,
            emulation,
            ..HostFacts::default()
        }
    }

    #[test]
    fn the_strongest_allowed_isolation_is_chosen() {
        for (claim, attempts, expected) in [
            ("root with every privilege", [YES, YES, YES, YES, YES, NOT, YES], Some("namespaces, overlay")),
            (
                "a user namespace with a range of ids and a masked /proc",
                [YES, YES, NO, YES, NO, YES, YES],
                Some(
                    "namespaces, overlay with user attributes; an overlay with trusted attributes refused (Operation not permitted); a new /proc refused (Operation not permitted)",
                ),
            ),
            (
                "a kernel without overlay in user namespaces and a single id",
                [YES, YES, YES, YES, NO, NO, NO],
                Some(
                    "namespaces, plain directory; an overlay with trusted attributes refused (Operation not permitted); an overlay with user attributes refused (Operation not permitted); any owner of a file refused (Operation not permitted)",
                ),
            ),
            ("no mounts", [NO, YES, NOT, NOT, NOT, NOT, YES], None),
            ("no process namespace", [YES, NO, NOT, NOT, NOT, NOT, YES], None),
        ] {
            let chosen = choose(&facts(attempts), None);
            assert_eq!(chosen.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{claim}");
            assert_eq!(choose(&facts(attempts), Some(Kind::Namespaces)).ok(), chosen.ok(), "{claim}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_host_said() {
        let refused = choose(&facts([NO, NOT, NOT, NOT, NOT, NOT, NOT]), None).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "this host refuses every way to run commands: a mount namespace refused (Operation not permitted), an emulated step not tried"
        );
    }

    #[test]
    fn what_of_emulation_is_refused_is_said() {
        let killed = Attempt::Killed { signal: libc::SIGSYS };
        for (attempts, expected) in [
            ([NO, NOT, NOT, NOT, NOT], "an extended attribute user.* in the state directory refused (Operation not permitted)"),
            ([YES, NO, NOT, NOT, NOT], "a program in the state directory refused (Operation not permitted)"),
            ([YES, YES, NO, NOT, NOT], "a filter that traps system calls refused (Operation not permitted)"),
            ([YES, YES, YES, NO, NOT], "openat2, which keeps paths in a root refused (Operation not permitted)"),
            ([YES, YES, YES, YES, killed], "an emulated step killed by signal 31"),
            ([YES, YES, NOT, NOT, NO], "an emulated step refused (Operation not permitted)"),
            ([YES, YES, NOT, NOT, Attempt::Missing], "an emulated step missing on this architecture"),
        ] {
            let [records, execution, filter, confined_paths, emulation] = attempts;
            let facts = facts([NO, NOT, NOT, NOT, NOT, NOT, NOT]);
            let facts = HostFacts { records, execution, filter, confined_paths, emulation, ..facts };
            let refused = choose(&facts, Some(Kind::Emulated)).unwrap_err().to_string();
            assert_eq!(refused, format!("this host refuses the isolation emulated: {expected}"));
            assert!(choose(&facts, None).unwrap_err().to_string().ends_with(expected));
        }
    }

    #[test]
    fn where_namespaces_are_refused_the_user_namespace_is_named_too() {
        let no_namespaces = facts_with([NO, NOT, NOT, NOT, NOT, NOT, NO], YES);
        for (user_namespace, expected) in [
            (
                NO,
                "a mount namespace refused (Operation not permitted), a user namespace around it refused (Operation not permitted)",
            ),
            (
                Attempt::Refused { errno: libc::ENOSPC },
                "a mount namespace refused (Operation not permitted), a user namespace around it refused (No space left on device)",
            ),
            (NOT, "a mount namespace refused (Operation not permitted)"),
        ] {
            let facts = HostFacts { user_namespace, ..no_namespaces.clone() };
            let refused = choose(&facts, Some(Kind::Namespaces)).unwrap_err();
            assert_eq!(refused.to_string(), format!("this host refuses the isolation namespaces: {expected}"));
            // The log of a build that works says no more than it did.
            assert_eq!(choose(&facts, None).unwrap().refused.len(), 1);
        }
    }

    #[test]
    fn a_refusal_says_what_would_do_instead() {
        let nowhere = facts([NO, NOT, NOT, NOT, NOT, NOT, NOT]);
        for (claim, facts, forced, expected) in [
            ("no namespaces", facts_with([NO, NOT, NOT, NOT, NOT, NOT, NO], YES), Some(Kind::Namespaces), Some(Kind::Emulated)),
            ("no emulation", facts_with([YES; 7], NO), Some(Kind::Emulated), Some(Kind::Namespaces)),
            ("neither", nowhere.clone(), Some(Kind::Namespaces), None),
            ("neither, and nothing asked for", nowhere, None, None),
        ] {
            assert_eq!(choose(&facts, forced).unwrap_err().otherwise, expected, "{claim}");
        }
    }

    #[test]
    fn without_namespaces_or_with_a_single_id_a_step_is_emulated() {
        for (claim, attempts, forced, expected) in [
            (
                "no namespaces",
                [NO, NOT, NOT, NOT, NOT, NOT, NO],
                None,
                "emulated, plain directory; a mount namespace refused (Operation not permitted)",
            ),
            (
                "a user namespace with a single id",
                [YES, YES, YES, YES, YES, NOT, NO],
                None,
                "emulated, plain directory; any owner of a file refused (Operation not permitted)",
            ),
            ("everything, but it is wanted", [YES; 7], Some(Kind::Emulated), "emulated, plain directory"),
            ("everything", [YES; 7], None, "namespaces, overlay"),
        ] {
            let choice = choose(&facts_with(attempts, YES), forced).unwrap();
            assert_eq!(choice.to_string(), expected, "{claim}");
            assert_eq!(choice.owners == Owners::RECORDED, choice.kind == Kind::Emulated, "{claim}");
        }
        assert!(choose(&facts_with([YES; 7], NO), Some(Kind::Emulated)).is_err());
    }

    #[test]
    fn where_no_device_can_be_made_a_step_is_emulated() {
        let facts = HostFacts { storable_ids: 65536, devices: NO, ..facts_with([YES, YES, YES, YES, NO, YES, NO], YES) };
        let chosen = |facts: &HostFacts, forced| choose(facts, forced).unwrap().to_string();
        assert_eq!(chosen(&facts, None), "emulated, plain directory; a device node refused (Operation not permitted)");
        let otherwise = "namespaces, overlay with user attributes; an overlay with trusted attributes refused (Operation not permitted); \
                         any owner of a file refused (Operation not permitted); a device node refused (Operation not permitted)";
        assert_eq!(chosen(&facts, Some(Kind::Namespaces)), otherwise);
        assert_eq!(chosen(&HostFacts { emulation: NO, ..facts }, None), otherwise);
    }

    #[test]
    fn an_emulated_step_gets_the_walls_that_the_host_grants() {
        for (emulation_apart, landlock, fresh_proc, network, expected) in [
            (YES, YES, YES, YES, "emulated in namespaces behind Landlock, plain directory"),
            (
                YES,
                NO,
                NO,
                YES,
                "emulated in namespaces, plain directory; Landlock around emulated steps refused (Operation not permitted)",
            ),
            (NOT, YES, NOT, NOT, "emulated behind Landlock, plain directory"),
            (
                NO,
                YES,
                YES,
                YES,
                "emulated behind Landlock, plain directory; namespaces around emulated steps refused (Operation not permitted)",
            ),
        ] {
            let attempts = [if emulation_apart == NOT { NO } else { YES }, YES, fresh_proc, network, NOT, NOT, NO];
            let facts = HostFacts { emulation_apart, landlock, landlock_version: 7, ..facts_with(attempts, YES) };
            let choice = choose(&facts, Some(Kind::Emulated)).unwrap();
            assert_eq!(choice.to_string(), expected);
            assert_eq!((choice.landlock_version == Some(7), choice.apart), (landlock == YES, emulation_apart == YES));
            assert_eq!(choice.proc == Proc::Fresh, emulation_apart == YES && fresh_proc == YES, "{expected}");
            assert_eq!(choice.network_namespace, emulation_apart == YES, "{expected}");
        }
    }

    #[test]
    fn the_choice_says_what_a_root_must_be_made_of() {
        let choice = choose(&facts([YES, YES, NO, NO, NO, YES, NO]), None).unwrap();
        assert_eq!(choice.overlay, Some(OverlayAttributes::User));
        assert_eq!(choice.proc, Proc::Bound);
        assert_eq!(choice.owners, Owners { storable_ids: 1 });
        assert!(!choice.network_namespace);
    }
}
