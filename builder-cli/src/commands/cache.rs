//! `cofferdam cache`: lists what a state directory or a cache in a directory keeps, and removes some of it.

use super::build::{now, say};
use crate::args::CacheArgs;
use crate::environment::Environment;
use crate::inspection::table;
use crate::progress::measure;
use crate::report::{self, Exit, Failure, Trouble};
use crate::request::{self, CacheInvocation, CacheUseAction, KeptPlace, LogSettings, StateCandidate};
use builder_core::cache::{LayoutCache, LayoutCacheError, LayoutEntry, LayoutEntryKind};
use builder_core::isolation::enter_user_namespace;
use builder_core::store::{Entry, EntryKind, Store, StoreError};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
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

/// What was found in a place, or went from there.
struct Answer {
    /// What the place is called in JSON.
    title: &'static str,
    place: PathBuf,
    /// The kinds of what may be there, for sums.
    kinds: Vec<&'static str>,
    outcome: Outcome,
}

enum Outcome {
    Listed(Vec<Item>),
    Pruned(Gone),
}

/// Something that is kept.
struct Item {
    kind: &'static str,
    kind_in_json: Value,
    name: String,
    description: Option<String>,
    size_bytes: u64,
    last_used: SystemTime,
    /// Whether a build uses it, if that can be told.
    in_use: Option<bool>,
    /// Whether people want to see it, or only sums.
    is_shown: bool,
}

#[derive(Default)]
struct Gone {
    removed: Vec<Item>,
    /// What goes when no build can rely on it any more.
    later: Vec<Item>,
    failed: Vec<(Item, String)>,
    kept_bytes: u64,
}

impl From<Entry> for Item {
    fn from(entry: Entry) -> Self {
        let is_shown = matches!(entry.kind, EntryKind::Blob | EntryKind::Unpacked | EntryKind::CacheMount | EntryKind::Base);
        Self {
            kind: entry.kind.name(),
            kind_in_json: json!(entry.kind),
            name: entry.name,
            description: entry.description,
            size_bytes: entry.size_bytes,
            last_used: entry.last_used,
            in_use: Some(entry.in_use),
            is_shown,
        }
    }
}

impl From<LayoutEntry> for Item {
    fn from(entry: LayoutEntry) -> Self {
        Self {
            kind: entry.kind.name(),
            kind_in_json: json!(entry.kind),
            name: entry.name,
            description: entry.description,
            size_bytes: entry.size_bytes,
            last_used: entry.last_used,
            in_use: None,
            is_shown: matches!(entry.kind, LayoutEntryKind::Layer | LayoutEntryKind::Build),
        }
    }
}

fn items<T: Into<Item>>(entries: Vec<T>) -> Vec<Item> {
    entries.into_iter().map(Into::into).collect()
}

fn run(invocation: &CacheInvocation, log: LogSettings) -> Result<Exit, Failure> {
    let answer = match &invocation.place {
        KeptPlace::State(candidates) => in_state(candidates, invocation.action)?,
        KeptPlace::Layout(path) => in_layout(path, invocation.action)?,
    };
    let (text, failed) = match &answer.outcome {
        Outcome::Listed(items) if invocation.json => (list_as_json(&answer, items), &[][..]),
        Outcome::Listed(items) => (list_as_text(&answer, items, SystemTime::now()), &[][..]),
        Outcome::Pruned(gone) if invocation.json => (gone_as_json(gone), &gone.failed[..]),
        Outcome::Pruned(gone) => {
            let is_trial = matches!(invocation.action, CacheUseAction::Prune(policy) if policy.dry_run);
            (gone_as_text(gone, &answer.kinds, is_trial), &gone.failed[..])
        }
    };
    for (item, error) in failed {
        let text = format!("the {} {} stays: {error}", item.kind, item.name);
        say(&report::note(&text, log.format, &now(log.format)));
    }
    // What was asked for is said, also where not all of it could be done.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if failed.is_empty() { Exit::Success } else { Exit::State })
}

fn in_state(candidates: &[StateCandidate], action: CacheUseAction) -> Result<Answer, Failure> {
    // Unpacked layers and caches hold files of users that only exist in there. Where it is refused there are none.
    let _ = enter_user_namespace();
    let failed = |error: StoreError| Failure::new(Exit::State, &error, None);
    let place = find(candidates)?;
    let store = Store::open(&place).map_err(failed)?;
    let outcome = match action {
        CacheUseAction::List => Outcome::Listed(items(store.entries().map_err(failed)?)),
        CacheUseAction::Prune(policy) => {
            let pruned = store.prune(policy).map_err(failed)?;
            let failed = pruned.failed.into_iter().map(|(entry, error)| (entry.into(), report::in_one_line(&error)));
            Outcome::Pruned(Gone {
                removed: items(pruned.removed),
                failed: failed.collect(),
                kept_bytes: pruned.kept_bytes,
                ..Gone::default()
            })
        }
    };
    Ok(Answer { title: "state_dir", place, kinds: EntryKind::ALL.map(EntryKind::name).to_vec(), outcome })
}

fn in_layout(path: &Path, action: CacheUseAction) -> Result<Answer, Failure> {
    let failed = |error: LayoutCacheError| {
        let hint = matches!(error, LayoutCacheError::NoCache(_))
            .then(|| "builds make one with --cache-repo oci:DIRECTORY or --cache-to type=local,dest=DIRECTORY".to_owned());
        Failure::new(Exit::State, &error, hint)
    };
    let cache = LayoutCache::at(path);
    let outcome = match action {
        CacheUseAction::List => Outcome::Listed(items(cache.entries().map_err(failed)?)),
        CacheUseAction::Prune(policy) => {
            let pruned = cache.prune(policy).map_err(failed)?;
            Outcome::Pruned(Gone {
                removed: items(pruned.removed),
                later: items(pruned.later),
                kept_bytes: pruned.kept_bytes,
                ..Gone::default()
            })
        }
    };
    let kinds = LayoutEntryKind::ALL.map(LayoutEntryKind::name).to_vec();
    Ok(Answer { title: "cache", place: path.to_owned(), kinds, outcome })
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
fn list_as_text(answer: &Answer, items: &[Item], now: SystemTime) -> String {
    let mut shown: Vec<&Item> = items.iter().filter(|item| item.is_shown).collect();
    shown.sort_by(|one, two| (two.last_used, two.kind, &two.name).cmp(&(one.last_used, one.kind, &one.name)));
    let row = |item: &Item| {
        let is_used = item.in_use == Some(true);
        let used = if is_used { "now".to_owned() } else { ago(now.duration_since(item.last_used).unwrap_or_default()) };
        let (name, description) = (item.name.chars().take(12).collect(), item.description.clone().unwrap_or_default());
        vec![item.kind.to_owned(), name, measure::size(item.size_bytes), used, description]
    };
    let titles = ["KIND", "NAME", "SIZE", "LAST USED", ""].map(str::to_owned).to_vec();
    let mut text = table(std::iter::once(titles).chain(shown.into_iter().map(row)).collect());
    let mut sums = vec![["TOTAL", "COUNT", "SIZE"].map(str::to_owned).to_vec()];
    for kind in &answer.kinds {
        sums.push(sum(kind, items.iter().filter(|item| item.kind == *kind)));
    }
    sums.push(sum("all", items.iter()));
    text.push('\n');
    text.push_str(&table(sums));
    format!("{}\n\n{text}", answer.place.display())
}

/// Of what, how many, how much.
fn sum<'a>(title: &str, items: impl Iterator<Item = &'a Item>) -> Vec<String> {
    let (count, bytes) = items.fold((0, 0_u64), |(count, bytes), item| (count + 1, bytes + item.size_bytes));
    vec![title.to_owned(), count.to_string(), measure::size(bytes)]
}

fn list_as_json(answer: &Answer, items: &[Item]) -> String {
    lines(&json!({
        answer.title: answer.place,
        "total_bytes": size_of(items),
        "entries": items.iter().map(as_json).collect::<Vec<_>>(),
    }))
}

fn as_json(item: &Item) -> Value {
    let last_used = jiff::Timestamp::try_from(item.last_used).map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let mut value = json!({
        "kind": item.kind_in_json,
        "name": item.name,
        "description": item.description,
        "size_bytes": item.size_bytes,
        "last_used": last_used.ok(),
    });
    if let Some(in_use) = item.in_use {
        value["in_use"] = in_use.into();
    }
    value
}

fn gone_as_text(gone: &Gone, kinds: &[&'static str], is_trial: bool) -> String {
    let of = |kind: &'static str| gone.removed.iter().filter(move |item| item.kind == kind);
    let rows: Vec<Vec<String>> = kinds.iter().filter(|kind| of(kind).next().is_some()).map(|kind| sum(kind, of(kind))).collect();
    let titles = ["REMOVED", "COUNT", "SIZE"].map(str::to_owned).to_vec();
    let head = if rows.is_empty() { String::new() } else { table(std::iter::once(titles).chain(rows).collect()) };
    let (freed, kept) = (measure::size(size_of(&gone.removed)), measure::size(gone.kept_bytes));
    let would = if is_trial { "would be " } else { "" };
    let later = match gone.later.len() {
        0 => String::new(),
        count => format!("a build uses the cache: {count} more with {} go after a day\n", measure::size(size_of(&gone.later))),
    };
    format!("{head}{would}freed: {freed}; {would}left: {kept}\n{later}")
}

fn gone_as_json(gone: &Gone) -> String {
    let mut value = json!({
        "freed_bytes": size_of(&gone.removed),
        "kept_bytes": gone.kept_bytes,
        "removed": gone.removed.iter().map(as_json).collect::<Vec<_>>(),
        "failed": gone.failed.iter().map(|(item, _)| as_json(item)).collect::<Vec<_>>(),
    });
    if !gone.later.is_empty() {
        value["later"] = gone.later.iter().map(as_json).collect();
    }
    lines(&value)
}

fn size_of(items: &[Item]) -> u64 {
    items.iter().map(|item| item.size_bytes).sum()
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
