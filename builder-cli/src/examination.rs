//! What `cofferdam doctor` found, as text for people and as JSON for programs, what would help, and the exit code. Pure.
//!
//! The names of the JSON fields are a promise: fields may be added, none is renamed.

use crate::limits::{Disk, Limits};
use crate::progress::measure::size;
use crate::progress::output::{Colours, visible};
use crate::report::Exit;
use builder_core::isolation::{Attempt, Choice, Entered, HostFacts, Kind, Proc, Refused, choose};
use builder_core::rootfs::OverlayAttributes;
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The isolation that was asked for.
    pub wanted: String,
    /// The user, as the system outside counts.
    pub user_id: u32,
    /// Whether that is an id of a user namespace already, as with `hostUsers: false`.
    pub in_user_namespace: bool,
    /// Whether a user namespace was needed and granted.
    pub user_namespace: UserNamespace,
    /// Where the state would be, and what works there; `Err` where nothing can be written.
    pub state: Result<State, Vec<PassedOver>>,
    /// What the machine lets us use.
    pub limits: Limits,
    /// Where credentials were found and whom they are for; never the credentials.
    pub credentials: Vec<(String, Result<Vec<String>, String>)>,
}

/// How it went with the user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNamespace {
    /// We have it, or need none.
    Entered(Entered),
    /// The host's answer.
    Refused(String),
}

/// The state directory and what works in it.
#[derive(Clone, Debug)]
pub struct State {
    /// The directory.
    pub path: PathBuf,
    /// What was better and does not serve.
    pub passed_over: Vec<PassedOver>,
    /// Its file system.
    pub disk: Option<Disk>,
    /// What the host permits.
    pub facts: HostFacts,
    /// What becomes of it.
    pub choice: Result<Choice, Refused>,
}

/// A directory that cannot hold the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

/// Something that would help.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Advice {
    /// What it is good for.
    what: &'static str,
    /// What to set, as in the manifest of a pod.
    setting: &'static str,
}

/// What gives a container namespaces with device nodes in them.
macro_rules! native {
    () => {
        "containers[].securityContext: {runAsUser: 0, capabilities: {add: [SYS_ADMIN, MKNOD]}}"
    };
}

/// A volume of the node's disk.
macro_rules! volume {
    () => {
        "spec.volumes: [{name: cache, emptyDir: {}}]\ncontainers[].volumeMounts: [{name: cache, mountPath: /cache}]"
    };
}

/// Less than this is soon used up by the files of a base image and what a compiler writes.
const LITTLE_DISK_BYTES: u64 = 5_000_000_000;

/// Cofferdam itself needs far less; a compiler in RUN does not.
const LITTLE_MEMORY_BYTES: u64 = 512 << 20;

impl Examination {
    /// How `doctor` ends.
    pub fn exit(&self) -> Exit {
        match &self.state {
            Err(_) => Exit::State,
            Ok(State { choice: Err(_), .. }) => Exit::Host,
            Ok(_) => Exit::Success,
        }
    }

    /// The answer in one line.
    fn verdict(&self) -> String {
        match &self.state {
            Err(_) => "nothing can be built here: no directory for layers and results can be written".to_owned(),
            Ok(State { choice: Err(Refused { wanted: Some(kind), .. }), facts, .. }) => {
                let other = choose(facts, None)
                    .map_or_else(|_| "nor without it".to_owned(), |choice| format!("without it: {}", in_short(&choice)));
                format!("RUN does not work here with --isolation {kind}; {other}")
            }
            Ok(State { choice: Err(_), .. }) => "builds without RUN work here, RUN does not".to_owned(),
            Ok(State { choice: Ok(choice), .. }) => format!("RUN works here: {}", in_short(choice)),
        }
    }

    /// What would make builds stronger, faster or possible, most important first.
    fn advice(&self) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut add = |what, setting| advice.push(Advice { what, setting });
        let Ok(state) = &self.state else {
            add(
                "A directory for layers and results: mount a volume that this user can write.",
                "spec.volumes: [{name: cache, emptyDir: {}}]\ncontainers[].volumeMounts: [{name: cache, mountPath: /cache}]",
            );
            return advice;
        };
        let chosen = state.choice.as_ref().ok();
        let left_to_us = choose(&state.facts, None).ok();
        // What the host grants counts, and not what was asked for: emulation may be somebody's wish.
        let best = chosen.filter(|choice| choice.kind == Kind::Namespaces).or(left_to_us.as_ref());
        match (best.map(|best| best.kind), chosen.map(|choice| choice.kind)) {
            (Some(_), None) => add("RUN: let the builder choose among what this host grants.", "--isolation auto"),
            (Some(Kind::Namespaces), Some(Kind::Emulated)) => {
                add("Native steps, which are faster, and a stronger wall: this host grants them.", "--isolation auto");
            }
            _ => {}
        }
        if best.is_none() {
            advice.extend(advice_on_emulation(&state.facts));
        }
        advice.extend(self.advice_on_walls(state, best));
        advice.extend(self.advice_on_speed(state, best));
        advice.extend(self.advice_on_room(state.disk.as_ref()));
        advice
    }

    /// What would raise walls, and bring owners onto the disk; `best` is the choice among what the host grants.
    fn advice_on_walls(&self, state: &State, best: Option<&Choice>) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut add = |what, setting| advice.push(Advice { what, setting });
        let facts = &state.facts;
        let native = best.is_some_and(|best| best.kind == Kind::Namespaces);
        if !native && facts.emulation_apart != Attempt::Works {
            let (what, setting) = if self.in_user_namespace {
                (
                    "Namespaces, a wall between RUN and the builder. SYS_ADMIN counts only inside the user namespace that \
                     this pod has.",
                    "containers[].securityContext: {runAsUser: 0, capabilities: {add: [SYS_ADMIN]}}",
                )
            } else {
                (
                    "Namespaces, a wall between RUN and the builder. SYS_ADMIN counts only inside the pod's own user \
                     namespace.",
                    "spec.hostUsers: false\ncontainers[].securityContext: {runAsUser: 0, capabilities: {add: [SYS_ADMIN]}}",
                )
            };
            add(what, setting);
            add(
                "Where that is not to be had: no seccomp profile, as root with the default capabilities.",
                "containers[].securityContext: {runAsUser: 0, seccompProfile: {type: Unconfined}}",
            );
        }
        if native {
            if refused(facts.fresh_proc) {
                add(
                    "A /proc that shows a step its own processes only.",
                    if self.in_user_namespace {
                        "containers[].securityContext: {procMount: Unmasked}"
                    } else {
                        "spec.hostUsers: false\ncontainers[].securityContext: {procMount: Unmasked}"
                    },
                );
            }
            if facts.storable_ids == 1 {
                add(
                    "Every owner on disk: more than one user id, from a range in /etc/subuid and newuidmap, or as root.",
                    "containers[].securityContext: {runAsUser: 0}",
                );
            }
        }
        advice
    }

    /// What would lead to namespaces with an overlay, with which steps are fastest. Nothing where that is chosen.
    fn advice_on_speed(&self, state: &State, best: Option<&Choice>) -> Vec<Advice> {
        const DISKS: [&str; 4] = ["ext4", "xfs", "btrfs", "f2fs"];
        let mut advice = Vec::new();
        let mut add = |what, setting| advice.push(Advice { what, setting });
        let file_system = state.disk.as_ref().map_or("", |disk| disk.file_system.as_str());
        match best {
            Some(Choice { kind: Kind::Emulated, .. }) => {
                // Where the kernel lacks nothing but device nodes, `choose` prefers emulation, for it makes them.
                if state.facts.storable_ids > 1 && choose(&state.facts, Some(Kind::Namespaces)).is_ok() {
                    add(
                        "Native steps, which are faster, for a Dockerfile in which no RUN makes a device node. Emulation costs steps that \
                         handle many small files up to a quarter more processor time.",
                        "--isolation namespaces",
                    );
                }
                // User namespaces refuse device nodes to everybody, so only root outside of them gets all that steps need.
                add(
                    "Native steps, which are faster: emulation costs those that handle many small files up to a quarter more \
                     processor time. Root of a machine has them, and root of a container with SYS_ADMIN and MKNOD and without a user \
                     namespace (`privileged: true` where AppArmor or SELinux forbids mounts). The builder, not its steps, is root of \
                     the node then.",
                    match (self.in_user_namespace, file_system == "overlay") {
                        (true, true) => concat!("spec.hostUsers: true\n", native!(), "\n", volume!()),
                        (true, false) => concat!("spec.hostUsers: true\n", native!()),
                        (false, true) => concat!(native!(), "\n", volume!()),
                        (false, false) => native!(),
                    },
                );
            }
            Some(Choice { kind: Kind::Namespaces, overlay: None, .. }) if !DISKS.contains(&file_system) => add(
                "An overlay, with which steps share layers and no layer is unpacked again for each stage: the file system of the \
                 state directory carries none, as the container's own never does. A volume does: an emptyDir, ext4, xfs, \
                 or tmpfs (in user namespaces since Linux 6.6).",
                volume!(),
            ),
            // The file system carries one.
            Some(Choice { kind: Kind::Namespaces, overlay: None, .. }) if self.is_in_any_user_namespace() => add(
                "An overlay, with which steps share layers and no layer is unpacked again for each stage: in a user namespace the \
                 kernel grants it since Linux 5.11.",
                "",
            ),
            _ => {}
        }
        advice
    }

    /// Whether it is the pod's, or one that we made.
    fn is_in_any_user_namespace(&self) -> bool {
        let made = matches!(self.user_namespace, UserNamespace::Entered(Entered::Range | Entered::SingleId));
        self.in_user_namespace || made
    }

    /// What would help of disk and memory.
    fn advice_on_room(&self, disk: Option<&Disk>) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut add = |what, setting| advice.push(Advice { what, setting });
        if let Some(disk) = disk {
            if disk.file_system == "overlay" {
                add(
                    "A state directory that outlives the container, so that later builds find results of this one.",
                    "spec.volumes: [{name: cache, persistentVolumeClaim: {claimName: cofferdam}}]\n\
                     containers[].volumeMounts: [{name: cache, mountPath: /cache}]",
                );
            }
            if disk.file_system == "tmpfs" && self.limits.memory_bytes.is_some() {
                add(
                    "A state directory on disk: on tmpfs what it holds counts as the pod's memory.",
                    "spec.volumes: [{name: cache, emptyDir: {}}]\ncontainers[].volumeMounts: [{name: cache, mountPath: /cache}]",
                );
            }
            if disk.free_bytes < LITTLE_DISK_BYTES {
                add(
                    "More room: a build keeps the base image's files and its own layers in the state directory.",
                    "containers[].resources.requests: {ephemeral-storage: 20Gi}",
                );
            }
        }
        if self.limits.memory_bytes.is_some_and(|limit| limit < LITTLE_MEMORY_BYTES) {
            add(
                "More memory for the commands of RUN; Cofferdam itself gets along.",
                "containers[].resources.limits: {memory: 2Gi}",
            );
        }
        advice
    }

    /// The report for people.
    pub fn as_text(&self) -> String {
        let mut text = format!("{}\n", self.verdict());
        let mut section = |title: &str, lines: &[(String, String)]| {
            let _ = write!(text, "\n{title}\n");
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in lines {
                // Paths and what programs said: they may not draw on the terminal.
                let [name, value] = [name, value].map(|text| visible(text, Colours::Remove));
                let line = if value.is_empty() { format!("  {name}") } else { format!("  {name:width$}  {value}") };
                let _ = writeln!(text, "{}", line.trim_end());
            }
        };
        section("Isolation", &self.isolation_lines());
        if let Ok(state) = &self.state {
            let facts = state.facts.attempts().into_iter();
            // Ours was tried before, and is told with more.
            let facts = facts.filter(|(name, ..)| *name != "user_namespace");
            let facts = facts.map(|(_, what, attempt)| (what.to_owned(), outcome(attempt)));
            let facts: Vec<_> = [("a user namespace".to_owned(), self.user_namespace_text())].into_iter().chain(facts).collect();
            section("What this host permits", &facts);
        }
        section("State directory", &self.state_lines());
        section("Limits", &self.limit_lines());
        section("Registry credentials", &self.credential_lines());
        let advice: Vec<(String, String)> = self
            .advice()
            .iter()
            .flat_map(|advice| {
                let setting = advice.setting.lines().map(|line| (format!("    {line}"), String::new()));
                std::iter::once((format!("- {}", advice.what), String::new())).chain(setting)
            })
            .collect();
        if !advice.is_empty() {
            section("What would help", &advice);
        }
        text
    }

    fn isolation_lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![("asked for".to_owned(), self.wanted.clone())];
        match self.state.as_ref().map(|state| &state.choice) {
            Err(_) => {}
            Ok(Ok(choice)) => {
                lines.push(("chosen".to_owned(), in_short(choice)));
                let refused = choice.refused.iter().map(|refusal| ("not stronger".to_owned(), refusal.to_string()));
                lines.extend(refused);
            }
            Ok(Err(refused)) => {
                lines.push(("chosen".to_owned(), "none".to_owned()));
                lines.extend(refused.refused.iter().map(|refusal| ("because".to_owned(), refusal.to_string())));
            }
        }
        lines
    }

    fn user_namespace_text(&self) -> String {
        match &self.user_namespace {
            UserNamespace::Entered(Entered::NotNeeded) => format!("not needed by user {}", self.user_id),
            UserNamespace::Entered(Entered::Range) => format!("works, user {} is root of many ids in it", self.user_id),
            UserNamespace::Entered(Entered::SingleId) => format!("works, user {} is root and alone in it", self.user_id),
            UserNamespace::Refused(reason) => format!("refused ({})", reason.split(" (os error").next().unwrap_or(reason)),
        }
    }

    fn state_lines(&self) -> Vec<(String, String)> {
        let passed_over = match &self.state {
            Ok(state) => &state.passed_over,
            Err(all) => all,
        };
        let mut lines = Vec::new();
        match &self.state {
            Err(_) => lines.push(("chosen".to_owned(), "none".to_owned())),
            Ok(state) => {
                lines.push(("chosen".to_owned(), state.path.display().to_string()));
                if let Some(disk) = &state.disk {
                    let noexec = if disk.no_execution { ", noexec" } else { "" };
                    lines.push(("file system".to_owned(), format!("{}{noexec}", disk.file_system)));
                    let files = disk.free_files.map_or(String::new(), |files| format!(", {files} files"));
                    lines.push(("free".to_owned(), format!("{}{files}", size(disk.free_bytes))));
                }
            }
        }
        lines.extend(passed_over.iter().map(|over| ("not".to_owned(), format!("{}: {}", over.path.display(), over.reason))));
        lines
    }

    fn limit_lines(&self) -> Vec<(String, String)> {
        let limits = &self.limits;
        let number = |number: Option<u64>| number.map_or("no limit".to_owned(), |number| number.to_string());
        let used = limits.memory_used_bytes.map_or(String::new(), |used| format!(", {} used", size(used)));
        let available =
            limits.memory_available_bytes.map_or(String::new(), |bytes| format!(", {} available on this machine", size(bytes)));
        let memory = limits.memory_bytes.map_or("no limit".to_owned(), size);
        let quota = limits.processor_quota.map_or(String::new(), |quota| format!(", a quota of {quota:.1}"));
        vec![
            ("memory".to_owned(), format!("{memory}{used}{available}")),
            ("processors".to_owned(), format!("{}{quota}", limits.processors)),
            ("processes".to_owned(), number(limits.processes)),
            ("open files".to_owned(), number(limits.open_files)),
        ]
    }

    fn credential_lines(&self) -> Vec<(String, String)> {
        let line = |(place, names): &(String, Result<Vec<String>, String>)| match names {
            Ok(names) if names.is_empty() => (place.clone(), "for no registry".to_owned()),
            Ok(names) => (place.clone(), names.join(", ")),
            Err(error) => (place.clone(), format!("does not serve: {error}")),
        };
        if self.credentials.is_empty() {
            return vec![("none found: registries are asked without".to_owned(), String::new())];
        }
        self.credentials.iter().map(line).collect()
    }

    /// The report for programs.
    pub fn as_json(&self) -> String {
        let passed_over = |over: &Vec<PassedOver>| {
            over.iter().map(|over| json!({ "path": over.path, "reason": over.reason })).collect::<Vec<_>>()
        };
        let limits = &self.limits;
        let (user_namespace, reason) = match &self.user_namespace {
            UserNamespace::Entered(Entered::NotNeeded) => ("not_needed", None),
            UserNamespace::Entered(Entered::Range) => ("range", None),
            UserNamespace::Entered(Entered::SingleId) => ("single_id", None),
            UserNamespace::Refused(reason) => ("refused", Some(reason)),
        };
        let state = self.state.as_ref();
        let choice = state.ok().and_then(|state| state.choice.as_ref().ok());
        let refused = match state.map(|state| &state.choice) {
            Ok(Ok(choice)) => &choice.refused[..],
            Ok(Err(refused)) => &refused.refused,
            Err(_) => &[],
        };
        let refused = refused.iter().map(|refusal| {
            let mut object = attempt_json(refusal.attempt);
            object["what"] = json!(refusal.what);
            object
        });
        let facts: Option<Map<String, Value>> = state.ok().map(|state| {
            let attempts = state.facts.attempts().into_iter();
            attempts.map(|(name, _, attempt)| (name.to_owned(), attempt_json(attempt))).collect()
        });
        let disk = state.ok().and_then(|state| state.disk.as_ref());
        let object = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "verdict": self.verdict(),
            "run_works": choice.is_some(),
            "exit_code": self.exit().code(),
            "isolation": {
                "wanted": self.wanted,
                "chosen": choice.map(|choice| choice.kind.to_string()),
                "overlay": choice.and_then(|choice| choice.overlay).map(|overlay| match overlay {
                    OverlayAttributes::Trusted => "trusted",
                    OverlayAttributes::User => "user",
                }),
                "fresh_proc": choice.map(|choice| choice.proc == Proc::Fresh),
                "network_none": choice.map(|choice| choice.network_namespace),
                "namespaces_around": choice.map(|choice| choice.apart),
                "landlock_version": choice.and_then(|choice| choice.landlock_version),
                "refused": refused.collect::<Vec<_>>(),
            },
            "facts": facts,
            "user": { "id": self.user_id, "mapped": self.in_user_namespace, "namespace": user_namespace, "reason": reason },
            "state_directory": {
                "path": state.ok().map(|state| &state.path),
                "file_system": disk.map(|disk| &disk.file_system),
                "free_bytes": disk.map(|disk| disk.free_bytes),
                "free_files": disk.and_then(|disk| disk.free_files),
                "noexec": disk.map(|disk| disk.no_execution),
                "passed_over": state.map_or_else(passed_over, |state| passed_over(&state.passed_over)),
            },
            "limits": {
                "memory_bytes": limits.memory_bytes,
                "memory_used_bytes": limits.memory_used_bytes,
                "memory_available_bytes": limits.memory_available_bytes,
                "processors": limits.processors,
                "processor_quota": limits.processor_quota,
                "processes": limits.processes,
                "open_files": limits.open_files,
            },
            "credentials": self.credentials.iter().map(|(place, names)| match names {
                Ok(names) => json!({ "place": place, "names": names }),
                Err(error) => json!({ "place": place, "names": [], "error": error }),
            }).collect::<Vec<_>>(),
            "advice": self.advice().iter().map(|advice| json!({ "what": advice.what, "setting": advice.setting })).collect::<Vec<_>>(),
        });
        format!("{object:#}\n")
    }
}

/// What would let steps be emulated.
fn advice_on_emulation(facts: &HostFacts) -> Vec<Advice> {
    const PROFILE: &str = "securityContext.seccompProfile: {type: RuntimeDefault}";
    let mut advice = Vec::new();
    let mut add = |what, setting| advice.push(Advice { what, setting });
    if refused(facts.execution) {
        add(
            "RUN without privileges: the state directory is mounted noexec. Use a volume without that option.",
            "--state-dir DIRECTORY",
        );
    }
    if facts.records == (Attempt::Refused { errno: Errno::OPNOTSUPP.raw_os_error() }) {
        add(
            "RUN without privileges: the file system of the state directory has no attributes user.* (NFS has none, tmpfs \
             has them since Linux 6.6). Use a volume of the node's disk.",
            "spec.volumes: [{name: cache, emptyDir: {}}]",
        );
    } else if refused(facts.records) {
        add(
            "RUN without privileges: setting an extended attribute (setxattr) is refused, though not for the file system's sake. \
             The usual seccomp profile permits it.",
            PROFILE,
        );
    }
    if refused(facts.filter) {
        add("RUN without privileges: the pod's seccomp profile refuses filters, which the usual one permits.", PROFILE);
    }
    if refused(facts.confined_paths) {
        add(
            "RUN without privileges: openat2 is refused, by a kernel before Linux 5.6, or by a seccomp profile or libseccomp of \
             that time. The usual profile of today permits it.",
            PROFILE,
        );
    }
    if facts.emulation == (Attempt::Refused { errno: Errno::AGAIN.raw_os_error() }) {
        add("RUN: more processes; the limit of the pod or the user leaves none for a step.", "");
    }
    advice
}

fn refused(attempt: Attempt) -> bool {
    !matches!(attempt, Attempt::Works | Attempt::NotTried | Attempt::Missing)
}

/// The choice without its reasons.
fn in_short(choice: &Choice) -> String {
    let whole = choice.to_string();
    whole.split(';').next().unwrap_or(&whole).to_owned()
}

/// `works`, `refused (Operation not permitted)`.
fn outcome(attempt: Attempt) -> String {
    match attempt {
        Attempt::Refused { .. } => format!("refused ({attempt})"),
        _ => attempt.to_string(),
    }
}

fn attempt_json(attempt: Attempt) -> Value {
    match attempt {
        Attempt::Works => json!({ "result": "works" }),
        Attempt::NotTried => json!({ "result": "not_tried" }),
        Attempt::Missing => json!({ "result": "missing" }),
        Attempt::Killed { signal } => json!({ "result": "killed", "signal": signal }),
        Attempt::Refused { errno } => json!({ "result": "refused", "errno": errno, "message": attempt.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: Attempt = Attempt::Refused { errno: 1 };

    fn examination(facts: HostFacts, forced: Option<Kind>, user_namespace: UserNamespace) -> Examination {
        let choice = choose(&facts, forced);
        let disk =
            Disk { file_system: "ext4".to_owned(), free_bytes: 20 << 30, free_files: Some(1_000_000), no_execution: false };
        let passed_over = vec![PassedOver { path: "/cache/cofferdam".into(), reason: "/cache is not there".to_owned() }];
        Examination {
            wanted: forced.map_or("auto".to_owned(), |kind| kind.to_string()),
            user_id: 1000,
            in_user_namespace: false,
            user_namespace,
            state: Ok(State { path: "/workspace/cofferdam".into(), passed_over, disk: Some(disk), facts, choice }),
            limits: Limits {
                memory_bytes: Some(4 << 30),
                memory_used_bytes: Some(100 << 20),
                memory_available_bytes: Some(9 << 30),
                processors: 4,
                processor_quota: Some(1.5),
                processes: Some(1024),
                open_files: None,
            },
            credentials: vec![
                ("DOCKER_AUTH_CONFIG".to_owned(), Err("not JSON: line 1, column 2".to_owned())),
                (
                    "/kaniko/.docker/config.json".to_owned(),
                    Ok(vec!["gcr.io (docker-credential-gcr)".to_owned(), "r.example".to_owned()]),
                ),
            ],
        }
    }

    /// Whether something works, where nothing else was asked.
    fn emulation_only() -> HostFacts {
        HostFacts {
            mount_namespace: EPERM,
            any_owner: EPERM,
            storable_ids: 1,
            devices: EPERM,
            records: Attempt::Works,
            execution: Attempt::Works,
            filter: Attempt::Works,
            confined_paths: Attempt::Works,
            emulation: Attempt::Works,
            landlock: Attempt::Works,
            landlock_version: 7,
            ..HostFacts::default()
        }
    }

    /// Nothing at all works.
    fn no_emulation() -> HostFacts {
        let not = Attempt::NotTried;
        HostFacts { filter: not, confined_paths: not, emulation: not, landlock: not, landlock_version: 0, ..emulation_only() }
    }

    fn everything() -> HostFacts {
        HostFacts {
            mount_namespace: Attempt::Works,
            process_namespace: Attempt::Works,
            fresh_proc: Attempt::Works,
            network_namespace: Attempt::Works,
            overlay: Attempt::Works,
            any_owner: Attempt::Works,
            storable_ids: u32::MAX,
            devices: Attempt::Works,
            emulation_apart: Attempt::Works,
            ..emulation_only()
        }
    }

    fn examples() -> Vec<(&'static str, Examination)> {
        let refused = UserNamespace::Refused("Operation not permitted".to_owned());
        let restricted = examination(emulation_only(), None, refused.clone());
        let forced = examination(emulation_only(), Some(Kind::Namespaces), refused.clone());
        let sandbox = HostFacts { user_namespace: EPERM, filter: EPERM, ..no_emulation() };
        let mut nothing = examination(HostFacts::default(), None, refused.clone());
        nothing.state = Err(vec![PassedOver { path: "/tmp/cofferdam-1000".into(), reason: "Read-only file system".to_owned() }]);
        nothing.credentials.clear();
        let nested = HostFacts {
            fresh_proc: EPERM,
            overlay: EPERM,
            overlay_user_attributes: Attempt::Refused { errno: Errno::INVAL.raw_os_error() },
            devices: EPERM,
            ..everything()
        };
        let mut nested = examination(nested, None, UserNamespace::Entered(Entered::Range));
        if let Ok(State { disk: Some(disk), .. }) = &mut nested.state {
            *disk = Disk { file_system: "overlay".to_owned(), free_bytes: 1 << 30, free_files: None, no_execution: true };
        }
        let plain = HostFacts { overlay: EPERM, overlay_user_attributes: EPERM, ..everything() };
        let plain = on(examination(plain, None, UserNamespace::Entered(Entered::NotNeeded)), "overlay");
        let mut mapped = examination(emulation_only(), None, refused.clone());
        (mapped.user_id, mapped.in_user_namespace) = (0, true);
        vec![
            ("privileged", examination(everything(), None, UserNamespace::Entered(Entered::NotNeeded))),
            ("wished", examination(everything(), Some(Kind::Emulated), UserNamespace::Entered(Entered::NotNeeded))),
            ("plain", plain),
            ("nested", nested),
            ("restricted", restricted),
            ("mapped", mapped),
            ("forced", forced),
            ("sandbox", examination(sandbox, None, refused)),
            ("nothing", nothing),
        ]
    }

    #[test]
    fn facts_become_a_report() {
        for (name, examination) in examples() {
            let path = |ending: &str| format!("{}/testdata/doctor/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
            crate::golden::check(&path("txt"), &examination.as_text());
            crate::golden::check(&path("json"), &examination.as_json());
        }
    }

    /// What is advised, in the first words and the settings.
    fn advised(examination: &Examination) -> Vec<(&'static str, &'static str)> {
        let first = |what: &'static str| what.split([':', ',']).next().unwrap();
        examination.advice().into_iter().map(|advice| (first(advice.what), advice.setting)).collect()
    }

    fn on(mut examination: Examination, file_system: &str) -> Examination {
        if let Ok(State { disk: Some(disk), .. }) = &mut examination.state {
            disk.file_system = file_system.to_owned();
        }
        examination
    }

    #[test]
    fn what_would_make_it_faster_is_advised_where_it_leads_there() {
        const NATIVE: (&str, &str) = ("Native steps", native!());
        const MAPPED: (&str, &str) = ("Native steps", concat!("spec.hostUsers: true\n", native!()));
        const BY_FLAG: (&str, &str) = ("Native steps", "--isolation namespaces");
        const VOLUME: (&str, &str) = ("An overlay", volume!());
        const KERNEL: (&str, &str) = ("An overlay", "");
        let speed = |examination: &Examination| {
            let all = advised(examination).into_iter();
            all.filter(|(what, _)| ["Native steps", "An overlay"].contains(what)).collect::<Vec<_>>()
        };
        let not_needed = UserNamespace::Entered(Entered::NotNeeded);
        let range = UserNamespace::Entered(Entered::Range);
        let no_devices = HostFacts { devices: EPERM, storable_ids: 65536, ..everything() };
        let plain = HostFacts { overlay: EPERM, overlay_user_attributes: EPERM, ..everything() };
        // As root of a user namespace: without emulation its steps are native.
        let nested = HostFacts { emulation: EPERM, any_owner: EPERM, devices: EPERM, storable_ids: 65536, ..plain.clone() };
        let refused = UserNamespace::Refused("Operation not permitted".to_owned());
        for (claim, facts, forced, user_namespace, file_system, expected) in [
            ("namespaces with overlay", everything(), None, &not_needed, "ext4", vec![]),
            (
                "the same, refused by wish",
                everything(),
                Some(Kind::Emulated),
                &not_needed,
                "ext4",
                vec![("Native steps", "--isolation auto")],
            ),
            ("no privilege", emulation_only(), None, &refused, "ext4", vec![NATIVE]),
            ("the same by wish", emulation_only(), Some(Kind::Emulated), &refused, "ext4", vec![NATIVE]),
            (
                "the same without a volume",
                emulation_only(),
                None,
                &refused,
                "overlay",
                vec![("Native steps", concat!(native!(), "\n", volume!()))],
            ),
            ("no device nodes", no_devices.clone(), None, &range, "ext4", vec![BY_FLAG, NATIVE]),
            ("the same, without them by wish", no_devices, Some(Kind::Namespaces), &range, "ext4", vec![]),
            ("on the container's overlay", plain.clone(), None, &not_needed, "overlay", vec![VOLUME]),
            ("on NFS", plain.clone(), None, &not_needed, "nfs", vec![VOLUME]),
            ("on a disk, and refused all the same", plain, None, &not_needed, "ext4", vec![]),
            ("on a disk, in a user namespace", nested.clone(), None, &range, "ext4", vec![KERNEL]),
            ("on tmpfs, in a user namespace", nested, None, &range, "tmpfs", vec![VOLUME]),
        ] {
            let examination = on(examination(facts, forced, user_namespace.clone()), file_system);
            assert_eq!(speed(&examination), expected, "{claim}");
        }
        let mut mapped = examination(emulation_only(), None, refused);
        mapped.in_user_namespace = true;
        assert_eq!(speed(&mapped), [MAPPED]);
    }

    #[test]
    fn namespaces_that_are_there_are_not_advised_because_emulation_was_asked_for() {
        let not_needed = UserNamespace::Entered(Entered::NotNeeded);
        let forced = examination(everything(), Some(Kind::Emulated), not_needed.clone());
        assert_eq!(advised(&forced), [("Native steps", "--isolation auto")]);
        // Nor are the ways to emulation where it is refused and not needed.
        let facts = HostFacts { filter: EPERM, confined_paths: Attempt::NotTried, emulation: Attempt::NotTried, ..everything() };
        assert_eq!(advised(&examination(facts, Some(Kind::Emulated), not_needed)), [("RUN", "--isolation auto")]);
    }

    #[test]
    fn the_advice_names_what_of_emulation_is_refused() {
        let errno = |errno: Errno| Attempt::Refused { errno: errno.raw_os_error() };
        for (facts, expected) in [
            (HostFacts { filter: EPERM, ..no_emulation() }, "refuses filters"),
            (HostFacts { filter: Attempt::Works, confined_paths: EPERM, ..no_emulation() }, "openat2 is refused"),
            (HostFacts { records: EPERM, ..no_emulation() }, "setting an extended attribute (setxattr) is refused"),
            (HostFacts { records: errno(Errno::OPNOTSUPP), ..no_emulation() }, "has no attributes user.*"),
            (HostFacts { execution: errno(Errno::ACCESS), ..no_emulation() }, "mounted noexec"),
            (HostFacts { emulation: errno(Errno::AGAIN), ..no_emulation() }, "more processes"),
        ] {
            let examination = examination(facts, None, UserNamespace::Refused("Operation not permitted".to_owned()));
            let advice = examination.advice();
            assert!(advice[0].what.contains(expected), "{expected}: {advice:?}");
            assert!(advice[1].what.starts_with("Namespaces, a wall"), "{expected}: {advice:?}");
        }
    }

    #[test]
    fn the_exit_code_says_what_works() {
        let codes: Vec<(&str, u8)> =
            examples().into_iter().map(|(name, examination)| (name, examination.exit().code())).collect();
        let expected = [
            ("privileged", 0),
            ("wished", 0),
            ("plain", 0),
            ("nested", 0),
            ("restricted", 0),
            ("mapped", 0),
            ("forced", 71),
            ("sandbox", 71),
            ("nothing", 72),
        ];
        assert_eq!(codes, expected);
    }
}
