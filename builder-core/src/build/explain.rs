//! Why a step is not known: its key compared with that of the last build, part by part. Pure.

use super::StepId;
use crate::cache::{Key, Part, StepKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The part that stands for the image that a stage began with. It is in no key, but in what is below.
const BASE: &str = "base image";
/// More differences of one step are counted, not named.
const MOST_NAMED: usize = 10;

/// What a step depended on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepParts {
    stage: String,
    number: u32,
    /// A digest of the instruction as it is written.
    text: [u8; 8],
    parts: Vec<Part>,
}

impl StepParts {
    /// Of a step with this key, in a stage that began with `base`.
    pub(super) fn new(step: &StepId, text: &str, key: &StepKey, base: Key) -> Self {
        let digest = blake3::hash(text.as_bytes());
        let (text, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        Self {
            stage: step.stage_name.clone(),
            number: u32::try_from(step.number).unwrap_or(u32::MAX),
            text: *text,
            parts: key.parts.iter().cloned().chain([Part::new(BASE, base.as_bytes())]).collect(),
        }
    }
}

pub(super) fn encode(steps: &[&StepParts]) -> Vec<u8> {
    postcard::to_stdvec(steps).expect("parts are texts and numbers")
}

/// `None` for what this version did not write.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<StepParts>> {
    postcard::from_bytes(bytes).ok()
}

/// What has changed in a step since the last build, a sentence each.
pub(super) fn reasons(step: &StepParts, last: &[StepParts]) -> Vec<String> {
    if last.is_empty() {
        return vec!["no earlier build of this image is known".to_owned()];
    }
    // The same instruction wherever it stands now, or else what stood in this place.
    let same_stage = || last.iter().filter(|other| other.stage == step.stage);
    let distance = |other: &&StepParts| (differences(step, other).len(), other.number.abs_diff(step.number));
    let same_text = same_stage().filter(|other| other.text == step.text).min_by_key(distance);
    let Some(other) = same_text.or_else(|| same_stage().find(|other| other.number == step.number)) else {
        return vec!["the last build had no such step".to_owned()];
    };
    let mut reasons = Vec::new();
    if other.text != step.text {
        reasons.push("the instruction has changed".to_owned());
    }
    let found = differences(step, other);
    let more = found.len().saturating_sub(MOST_NAMED);
    reasons.extend(found.into_iter().take(MOST_NAMED));
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    if reasons.is_empty() {
        reasons.push("nothing has changed since the last build: its result has expired, or was removed".to_owned());
    }
    reasons
}

fn differences(step: &StepParts, other: &StepParts) -> Vec<String> {
    // What is the sum of finer parts is said by those.
    let is_sum =
        |name: &str| name == "content" && step.parts.iter().chain(&other.parts).any(|part| part.name.starts_with("file "));
    let names: BTreeSet<&str> = step.parts.iter().chain(&other.parts).map(|part| part.name.as_str()).collect();
    let count = |parts: &StepParts, name: &str| parts.parts.iter().filter(|part| part.name == name).count();
    let values = |parts: &StepParts, name: &str| -> Vec<[u8; 8]> {
        parts.parts.iter().filter(|part| part.name == name).map(|part| part.value).collect()
    };
    let below =
        if values(step, BASE) == values(other, BASE) { "a step before it has changed" } else { "its base image has changed" };
    let mut reasons: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for name in names.into_iter().filter(|name| !is_sum(name) && *name != BASE) {
        if values(step, name) == values(other, name) {
            continue;
        }
        let (order, sentence) = match (count(step, name), count(other, name)) {
            _ if name == "what is below" => (0, below.to_owned()),
            _ if name == "version" => (0, "the builder is of another version".to_owned()),
            (_, 0) => (1, format!("{name} is new")),
            (0, _) => (1, format!("{name} is gone")),
            _ => (1, format!("{name} has changed")),
        };
        reasons.entry(order).or_default().push(sentence);
    }
    reasons.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    fn step(number: usize, text: &str, parts: &[(&str, &str)]) -> StepParts {
        let mut key = KeyBuilder::new("RUN", None);
        for (name, value) in parts {
            key.part(name, value);
        }
        let id = StepId { stage: 0, stage_name: "build".to_owned(), number, total: 9 };
        StepParts::new(&id, text, &key.into_key(), KeyBuilder::new("FROM", None).finish())
    }

    #[test]
    fn what_has_changed_is_named() {
        let before = [
            step(2, "COPY . /", &[("content", "1"), ("file /a", "1"), ("file /b", "1"), ("destination", "/")]),
            step(3, "RUN make", &[("what is below", "1"), ("variable A", "1"), ("variable B", "1")]),
        ];
        for (now, expected) in [
            (
                step(2, "COPY . /", &[("content", "2"), ("file /a", "2"), ("file /c", "1"), ("destination", "/")]),
                vec!["file /a has changed", "file /b is gone", "file /c is new"],
            ),
            (
                step(4, "RUN make", &[("what is below", "2"), ("variable A", "2"), ("variable B", "1")]),
                vec!["a step before it has changed", "variable A has changed"],
            ),
            (
                step(3, "RUN make all", &[("what is below", "1"), ("variable A", "1"), ("variable B", "1"), ("command", "all")]),
                vec!["the instruction has changed", "command is new"],
            ),
            (step(7, "RUN x", &[]), vec!["the last build had no such step"]),
            (
                step(3, "RUN make", &[("what is below", "1"), ("variable A", "1"), ("variable B", "1")]),
                vec!["nothing has changed since the last build: its result has expired, or was removed"],
            ),
        ] {
            assert_eq!(reasons(&now, &before), expected);
        }
        assert_eq!(reasons(&before[0], &[]), ["no earlier build of this image is known"]);
        assert_eq!(decode(&encode(&[&before[0], &before[1]])), Some(before.to_vec()));
    }

    #[test]
    fn of_many_files_some_are_named() {
        let many =
            |value: &'static str| -> Vec<(String, &'static str)> { (0..30).map(|at| (format!("file /{at}"), value)).collect() };
        let parts = |files: &[(String, &'static str)]| {
            step(2, "COPY . /", &files.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>())
        };
        let reasons = reasons(&parts(&many("2")), &[parts(&many("1"))]);
        assert_eq!((reasons.len(), reasons.last().map(String::as_str)), (11, Some("and 20 more")));
    }
}
