//! `cofferdam cache`: lists what the state directory keeps, and removes some of it.

use super::build::{now, say};
use crate::args::CacheArgs;
use crate::environment::Environment;
use crate::inspection::table;
use crate::progress::measure;
use crate::report::{self, Exit, Failure, Trouble};
use crate::request::{self, CacheInvocation, CacheUseAction, LogSettings, StateCandidate};
use builder_core::isolation::enter_user_namespace;
use builder_core::store::{Entry, EntryKind, Pruned, Store, StoreError};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Does what was typed; everything has been said when it returns.
pub fn cache(args: &CacheArgs, environment: &Environment) -> Exit {
    let log = request::log_settings(&crate::args::BuildArgs::default(), environment);
    match request::cache(args, environment).map_err(Failure::from).and_then(|invocation| run(&invocation, log)) {
        Ok(exit) => exit,
        Err(failure) => {
            say(&report::failure(&failure, log.format, &now(log.format)));
            failure.exit
        }
    }
}

fn run(invocation: &CacheInvocation, log: LogSettings) -> Result<Exit, Failure> {
    // Unpacked layers and caches hold files of users that only exist in there. Where it is refused there are none.
    let _ = enter_user_namespace();
    let state = find(&invocation.state_candidates)?;
    let in_state = |error: StoreError| Failure::new(Exit::State, &error, None);
    let store = Store::open(&state).map_err(in_state)?;
    let text = match invocation.action {
        CacheUseAction::List => {
            let entries = store.entries().map_err(in_state)?;
            let moment = SystemTime::now();
            if invocation.json { list_as_json(&state, &entries) } else { list_as_text(&state, &entries, moment) }
        }
        CacheUseAction::Prune(policy) => {
            let pruned = store.prune(policy).map_err(in_state)?;
            for (entry, error) in &pruned.failed {
                let text = format!("the {} {} stays: {}", entry.kind.name(), entry.name, report::in_one_line(error));
                say(&report::note(&text, log.format, &now(log.format)));
            }
            let text = if invocation.json { pruned_as_json(&pruned) } else { pruned_as_text(&pruned, policy.dry_run) };
            // What was asked for is said, also where not all of it could be done.
            if !pruned.failed.is_empty() {
                let _ = std::io::stdout().write_all(text.as_bytes());
                return Ok(Exit::State);
            }
            text
        }
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Exit::Success)
}

/// The first candidate that is a state directory. None is made.
fn find(candidates: &[StateCandidate]) -> Result<PathBuf, Failure> {
    if let Some(found) = candidates.iter().find(|candidate| Store::is_at(&candidate.path)) {
        return Ok(found.path.clone());
    }
    let looked = candidates.iter().map(|candidate| candidate.path.display().to_string());
    let chain = vec![format!("there is no state directory: looked for {}", looked.collect::<Vec<_>>().join(", "))];
    let trouble = Trouble { chain, place: None, hint: Some("name it with --state-dir".to_owned()) };
    Err(Failure { exit: Exit::State, troubles: vec![trouble] })
}

/// The larger things, last used first, and sums of everything.
fn list_as_text(state: &std::path::Path, entries: &[Entry], now: SystemTime) -> String {
    let is_shown =
        |entry: &&Entry| matches!(entry.kind, EntryKind::Blob | EntryKind::Unpacked | EntryKind::CacheMount | EntryKind::Base);
    let mut shown: Vec<&Entry> = entries.iter().filter(is_shown).collect();
    shown.sort_by(|one, two| (two.last_used, two.kind, &two.name).cmp(&(one.last_used, one.kind, &one.name)));
    let row = |entry: &Entry| {
        let used = if entry.in_use { "now".to_owned() } else { ago(now.duration_since(entry.last_used).unwrap_or_default()) };
        let (name, description) = (entry.name.chars().take(12).collect(), entry.description.clone().unwrap_or_default());
        vec![entry.kind.name().to_owned(), name, measure::size(entry.size_bytes), used, description]
    };
    let titles = ["KIND", "NAME", "SIZE", "LAST USED", ""].map(str::to_owned).to_vec();
    let mut text = table(std::iter::once(titles).chain(shown.into_iter().map(row)).collect());
    let sum = |entries: &mut dyn Iterator<Item = &Entry>| {
        entries.fold((0, 0_u64), |(count, bytes), entry| (count + 1, bytes + entry.size_bytes))
    };
    let mut sums = vec![["TOTAL", "COUNT", "SIZE"].map(str::to_owned).to_vec()];
    for kind in EntryKind::ALL {
        let (count, bytes) = sum(&mut entries.iter().filter(|entry| entry.kind == kind));
        sums.push(vec![kind.name().to_owned(), count.to_string(), measure::size(bytes)]);
    }
    let (count, bytes) = sum(&mut entries.iter());
    sums.push(vec!["all".to_owned(), count.to_string(), measure::size(bytes)]);
    text.push('\n');
    text.push_str(&table(sums));
    format!("{}\n\n{text}", state.display())
}

fn list_as_json(state: &std::path::Path, entries: &[Entry]) -> String {
    let total: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    lines(&json!({
        "state_dir": state,
        "total_bytes": total,
        "entries": entries.iter().map(as_json).collect::<Vec<_>>(),
    }))
}

fn as_json(entry: &Entry) -> Value {
    let last_used = jiff::Timestamp::try_from(entry.last_used).map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    json!({
        "kind": entry.kind,
        "name": entry.name,
        "description": entry.description,
        "size_bytes": entry.size_bytes,
        "last_used": last_used.ok(),
        "in_use": entry.in_use,
    })
}

fn pruned_as_text(pruned: &Pruned, dry_run: bool) -> String {
    let kinds = EntryKind::ALL.into_iter().filter_map(|kind| {
        let gone: Vec<&Entry> = pruned.removed.iter().filter(|entry| entry.kind == kind).collect();
        let bytes = gone.iter().map(|entry| entry.size_bytes).sum();
        (!gone.is_empty()).then(|| vec![kind.name().to_owned(), gone.len().to_string(), measure::size(bytes)])
    });
    let rows: Vec<Vec<String>> = kinds.collect();
    let titles = ["REMOVED", "COUNT", "SIZE"].map(str::to_owned).to_vec();
    let head = if rows.is_empty() { String::new() } else { table(std::iter::once(titles).chain(rows).collect()) };
    let (freed, kept) = (measure::size(pruned.freed_bytes()), measure::size(pruned.kept_bytes));
    let would = if dry_run { "would be " } else { "" };
    format!("{head}{would}freed: {freed}; {would}left: {kept}\n")
}

fn pruned_as_json(pruned: &Pruned) -> String {
    lines(&json!({
        "freed_bytes": pruned.freed_bytes(),
        "kept_bytes": pruned.kept_bytes,
        "removed": pruned.removed.iter().map(as_json).collect::<Vec<_>>(),
        "failed": pruned.failed.iter().map(|(entry, _)| as_json(entry)).collect::<Vec<_>>(),
    }))
}

fn lines(value: &Value) -> String {
    format!("{value:#}\n")
}

/// `12 s ago`, `3 h ago`.
fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        for (seconds, expected) in
            [(0, "0 s ago"), (59, "59 s ago"), (3599, "59 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")]
        {
            assert_eq!(ago(Duration::from_secs(seconds)), expected);
        }
    }
}
