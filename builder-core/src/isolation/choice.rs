//! Which isolation this host allows: facts in, decision out. Pure.

use crate::rootfs::{OverlayAttributes, Owners};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the kernel allowed when it was asked. Nothing here is inferred from a version, a user id or a setting.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// A mount namespace of one's own, and a mount in it.
    pub mount_namespace: Attempt,
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
    /// Trapping and answering calls in the step's own processes, with records of owners in the state directory.
    pub emulation: Attempt,
}

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
#[error("this host refuses to run commands: {}", refused.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct Refused {
    /// What was tried.
    pub refused: Vec<Refusal>,
}

/// Picks the strongest isolation that works, or `forced` if it works.
///
/// # Errors
/// [`Refused`] with what the kernel said.
pub fn choose(facts: &HostFacts, forced: Option<Kind>) -> Result<Choice, Refused> {
    let needed = [("a mount namespace", facts.mount_namespace), ("a process namespace", facts.process_namespace)];
    let missing = refusals(&needed);
    let emulates = facts.emulation == Attempt::Works;
    match forced {
        // With a single id, a step that makes users or drops root's rights fails; emulated it does not.
        None if missing.is_empty() && (facts.any_owner == Attempt::Works || facts.storable_ids > 1 || !emulates) => {
            Ok(namespaces(facts))
        }
        Some(Kind::Namespaces) if missing.is_empty() => Ok(namespaces(facts)),
        None if emulates && missing.is_empty() => Ok(emulated(refusals(&[("any owner of a file", facts.any_owner)]))),
        None if emulates => Ok(emulated(missing)),
        Some(Kind::Emulated) if emulates => Ok(emulated(Vec::new())),
        Some(Kind::Namespaces) => Err(Refused { refused: missing }),
        Some(Kind::Emulated) => Err(Refused { refused: refusals(&[("emulation", facts.emulation)]) }),
        None => Err(Refused { refused: missing.into_iter().chain(refusals(&[("emulation", facts.emulation)])).collect() }),
    }
}

fn emulated(refused: Vec<Refusal>) -> Choice {
    Choice {
        kind: Kind::Emulated,
        overlay: None,
        proc: Proc::Bound,
        owners: Owners::RECORDED,
        network_namespace: false,
        refused: refused.into_iter().filter(|refusal| refusal.attempt != Attempt::NotTried).collect(),
    }
}

fn namespaces(facts: &HostFacts) -> Choice {
    let overlay = match (facts.overlay, facts.overlay_user_attributes) {
        (Attempt::Works, _) => Some(OverlayAttributes::Trusted),
        (_, Attempt::Works) => Some(OverlayAttributes::User),
        _ => None,
    };
    let stronger = [
        ("an overlay with trusted attributes", facts.overlay),
        ("an overlay with user attributes", facts.overlay_user_attributes),
        ("a new /proc", facts.fresh_proc),
        ("a network namespace", facts.network_namespace),
        ("any owner of a file", facts.any_owner),
    ];
    Choice {
        kind: Kind::Namespaces,
        overlay,
        proc: if facts.fresh_proc == Attempt::Works { Proc::Fresh } else { Proc::Bound },
        owners: Owners { storable_ids: facts.storable_ids },
        network_namespace: facts.network_namespace == Attempt::Works,
        refused: refusals(&stronger).into_iter().filter(|refusal| refusal.attempt != Attempt::NotTried).collect(),
    }
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
        write!(formatter, "{}, {root}", self.kind)?;
        self.refused.iter().try_for_each(|refusal| write!(formatter, "; {refusal}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempt {
            Attempt::Refused { errno } => {
                write!(formatter, "{} refused ({})", self.what, std::io::Error::from_raw_os_error(errno))
            }
            Attempt::NotTried => write!(formatter, "{} not tried", self.what),
            Attempt::Works => write!(formatter, "{} works", self.what),
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
            emulation,
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
                    "namespaces, overlay with user attributes; an overlay with trusted attributes refused (Operation not permitted (os error 1)); a new /proc refused (Operation not permitted (os error 1))",
                ),
            ),
            (
                "a kernel without overlay in user namespaces and a single id",
                [YES, YES, YES, YES, NO, NO, NO],
                Some(
                    "namespaces, plain directory; an overlay with trusted attributes refused (Operation not permitted (os error 1)); an overlay with user attributes refused (Operation not permitted (os error 1)); any owner of a file refused (Operation not permitted (os error 1))",
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
            "this host refuses to run commands: a mount namespace refused (Operation not permitted (os error 1)), a process namespace not tried, emulation not tried"
        );
    }

    #[test]
    fn without_namespaces_or_with_a_single_id_a_step_is_emulated() {
        for (claim, attempts, forced, expected) in [
            (
                "no namespaces",
                [NO, NOT, NOT, NOT, NOT, NOT, NO],
                None,
                "emulated, plain directory; a mount namespace refused (Operation not permitted (os error 1))",
            ),
            (
                "a user namespace with a single id",
                [YES, YES, YES, YES, YES, NOT, NO],
                None,
                "emulated, plain directory; any owner of a file refused (Operation not permitted (os error 1))",
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
    fn the_choice_says_what_a_root_must_be_made_of() {
        let choice = choose(&facts([YES, YES, NO, NO, NO, YES, NO]), None).unwrap();
        assert_eq!(choice.overlay, Some(OverlayAttributes::User));
        assert_eq!(choice.proc, Proc::Bound);
        assert_eq!(choice.owners, Owners { storable_ids: 1 });
        assert!(!choice.network_namespace);
    }
}
