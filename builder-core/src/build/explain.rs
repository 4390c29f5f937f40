//! Why a step is not known: its key compared with that of the last build, part by part. Pure.

use super::{StepId, copy::MOST_EXPLAINED_FILES};
use crate::cache::{FileParts, Key, Part, StepKey};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The part that stands for the image that a stage began with. It is in no key, but in what is below.
const BASE: &str = "base image";
/// The part that the files are the finer ones of.
const CONTENT: &str = "content";
/// Parts that the text of an instruction does not show, beside its variables.
const UNWRITTEN: [&str; 6] = [CONTENT, "what is below", "version", "download", "commit", "SOURCE_DATE_EPOCH"];
/// More differences of one step are counted, not named.
const MOST_NAMED: usize = 10;
/// The most bytes of the files of one build: those of further steps are only counted.
const MOST_FILE_BYTES: usize = 32 << 20;
/// First bytes of encoded parts: raise the number when [`StepParts`] changes.
const VERSION: &[u8] = b"csp2";

/// What a step depended on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepParts {
    stage: String,
    number: u32,
    /// A digest of the instruction as it is written.
    text: [u8; 8],
    parts: Vec<Part>,
    files: FileParts,
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
            files: key.files.clone(),
        }
    }
}

/// Equal steps give equal bytes.
pub(super) fn encode(steps: &[&StepParts]) -> Vec<u8> {
    encode_within(MOST_FILE_BYTES, steps)
}

fn encode_within(mut left_bytes: usize, steps: &[&StepParts]) -> Vec<u8> {
    let mut bounded: Vec<Cow<'_, StepParts>> = Vec::new();
    for step in steps.iter().copied() {
        bounded.push(match left_bytes.checked_sub(step.files.size_bytes()) {
            Some(left) => {
                left_bytes = left;
                Cow::Borrowed(step)
            }
            None => Cow::Owned(StepParts { files: step.files.without_names(), ..step.clone() }),
        });
    }
    postcard::to_extend(&bounded, VERSION.to_vec()).expect("parts are texts and numbers")
}

/// `None` for what this version did not write. A shared cache may hold what somebody else wrote: of a step with more files than
/// ours have, none is named.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<StepParts>> {
    let mut steps: Vec<StepParts> = postcard::from_bytes(bytes.strip_prefix(VERSION)?).ok()?;
    for step in steps.iter_mut().filter(|step| step.files.count() > MOST_EXPLAINED_FILES as u64) {
        step.files = step.files.without_names();
    }
    Some(steps)
}

/// What has changed in a step since the last build, a sentence each.
pub(super) fn reasons(step: &StepParts, last: &[StepParts]) -> Vec<String> {
    if last.is_empty() {
        return vec!["no earlier build of this image is known".to_owned()];
    }
    // The same instruction wherever it stands now, or else what stood in this place.
    let same_stage = || last.iter().filter(|other| other.stage == step.stage);
    let same_text = same_stage().filter(|other| other.text == step.text);
    let same_text = same_text.map(|other| (differences(step, other), other));
    let closest = same_text.min_by_key(|(found, other)| (found.len(), other.number.abs_diff(step.number)));
    let same_place = || same_stage().find(|other| other.number == step.number).map(|other| (differences(step, other), other));
    let Some((found, other)) = closest.or_else(same_place) else {
        return vec!["the last build had no such step".to_owned()];
    };
    let mut reasons = Vec::new();
    if other.text != step.text {
        reasons.push("the instruction has changed".to_owned());
    }
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

/// What is different, a sentence each: first what is below the step, then by name.
fn differences(step: &StepParts, other: &StepParts) -> Vec<String> {
    let parts = |step: &StepParts| step.parts.iter().map(|part| (part.name.clone(), part.value)).collect::<Vec<_>>();
    let mut changed = changes(parts(step), parts(other));
    let is_base_other = changed.iter().any(|(name, _)| name == BASE);
    // Another text shows how it differs; what it does not show is said.
    let is_shown = |name: &str| other.text != step.text && !name.starts_with("variable ") && !UNWRITTEN.contains(&name);
    changed.retain(|(name, _)| name != BASE && !is_shown(name));
    let content = changed.iter().position(|(name, _)| name == CONTENT);
    let mut too_many = None;
    if step.files.is_listed() && other.files.is_listed() {
        let files = if step.files == other.files { Vec::new() } else { changes(step.files.iter(), other.files.iter()) };
        // What is the sum of files is said by those.
        if let Some(at) = content.filter(|_| !files.is_empty()) {
            changed.remove(at);
        }
        changed.extend(files.into_iter().map(|(path, change)| (format!("file {path}"), change)));
    } else if let Some(at) = content {
        let count = step.files.count().max(other.files.count());
        changed.remove(at);
        too_many = Some((true, format!("one of {count} files has changed: they are too many to say which")));
    }
    let sentence = |(name, change): (String, Change)| match (&*name, change) {
        ("what is below", _) if is_base_other => (false, "its base image has changed".to_owned()),
        ("what is below", _) => (false, "a step before it has changed".to_owned()),
        ("version", _) => (false, "the builder is of another version".to_owned()),
        (_, Change::New) => (true, format!("{name} is new")),
        (_, Change::Gone) => (true, format!("{name} is gone")),
        (_, Change::Changed) => (true, format!("{name} has changed")),
    };
    let mut sentences: Vec<(bool, String)> = changed.into_iter().map(sentence).chain(too_many).collect();
    sentences.sort();
    sentences.into_iter().map(|(_, sentence)| sentence).collect()
}

#[derive(Clone, Copy)]
enum Change {
    New,
    Gone,
    Changed,
}

/// The names whose values differ: those of what is there now from those of what was there `then`. A name may have several.
fn changes<N: Ord + Clone, V: PartialEq>(
    now: impl IntoIterator<Item = (N, V)>,
    then: impl IntoIterator<Item = (N, V)>,
) -> Vec<(N, Change)> {
    let mut all: Vec<(N, bool, V)> = now.into_iter().map(|(name, value)| (name, false, value)).collect();
    all.extend(then.into_iter().map(|(name, value)| (name, true, value)));
    all.sort_by(|one, two| (&one.0, one.1).cmp(&(&two.0, two.1)));
    let change = |same: &[(N, bool, V)]| {
        let (now, then) = same.split_at(same.partition_point(|(_, is_then, _)| !is_then));
        let change = match (now, then) {
            (_, []) => Change::New,
            ([], _) => Change::Gone,
            _ if now.iter().map(|(.., value)| value).eq(then.iter().map(|(.., value)| value)) => return None,
            _ => Change::Changed,
        };
        Some((same.first()?.0.clone(), change))
    };
    all.chunk_by(|one, two| one.0 == two.0).filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;
    use crate::tree::TreePath;

    fn step(number: usize, text: &str, parts: &[(&str, &str)]) -> StepParts {
        let mut key = KeyBuilder::new("RUN", None);
        let file = |(name, value): &(&str, &str)| Some((TreePath::clamp(name.strip_prefix("file ")?), [value.as_bytes()[0]; 4]));
        key.note_files(FileParts::listed(parts.iter().filter_map(file)));
        for (name, value) in parts.iter().filter(|part| file(part).is_none()) {
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
                vec!["the instruction has changed"],
            ),
            (
                step(2, "COPY . /", &[("content", "2"), ("file /a", "1"), ("file /b", "1"), ("destination", "/")]),
                // Of what is not among the files, or not in the few bytes that are kept of them.
                vec!["content has changed"],
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

    #[test]
    fn of_100_000_files_the_one_that_has_changed_is_named() {
        let name = |at: u32| TreePath::clamp(format!("node_modules/package-{}/src/file-{at:06}.js", at / 50));
        let many = |numbers: std::ops::Range<u32>| numbers.map(|at| (name(at), at.to_le_bytes()));
        let then = step_of(many(0..100_000));
        let now =
            step_of(many(1..100_001).map(|(path, value)| if path == name(70_000) { (path, [9; 4]) } else { (path, value) }));
        let bytes = encode(&[&then]);
        assert!(bytes.len() < 2_000_000, "{}", bytes.len());
        let expected = [
            "file /node_modules/package-0/src/file-000000.js is gone",
            "file /node_modules/package-1400/src/file-070000.js has changed",
            "file /node_modules/package-2000/src/file-100000.js is new",
        ];
        assert_eq!(reasons(&now, &decode(&bytes).unwrap()), expected);
    }

    #[test]
    fn of_too_many_files_it_is_said_that_one_has_changed() {
        let few = step_of([(TreePath::clamp("a"), [1; 4])]);
        let many = StepParts { files: FileParts::counted(300_000), ..step_of([(TreePath::clamp("a"), [2; 4])]) };
        let expected = ["one of 300000 files has changed: they are too many to say which"];
        assert_eq!(reasons(&many, std::slice::from_ref(&few)), expected);
        assert_eq!(reasons(&few, std::slice::from_ref(&many)), expected);
        // A build whose steps read very many altogether keeps the names of the first ones.
        let kept = decode(&encode_within(2 * few.files.size_bytes(), &[&few, &few, &few])).unwrap();
        assert_eq!(kept.iter().map(|step| step.files.is_listed()).collect::<Vec<_>>(), [true, true, false]);
    }

    /// A COPY of these files.
    fn step_of(files: impl IntoIterator<Item = (TreePath, [u8; 4])>) -> StepParts {
        let files = FileParts::listed(files);
        let content: Vec<u8> = files.iter().flat_map(|(_, value)| value).collect();
        let mut step = step(2, "COPY . /", &[]);
        step.parts.push(Part::new(CONTENT, content));
        StepParts { files, ..step }
    }
}
