//! What in a Dockerfile is allowed and yet probably not meant: the rules of BuildKit's build checks.
//!
//! Takes a parsed file, its plan and facts about the outside world; gives warnings. Which rules count is said by the file
//! (`# check=`), by a comment above one instruction, or by the build argument `BUILDKIT_DOCKERFILE_CHECK`. Pure: facts that
//! need a registry or a disk come in as values, and a rule whose fact is absent stays silent.

mod from;
mod options;
mod rule;
mod stage;
mod text;
#[cfg(test)]
mod tests;

pub use options::{CHECK_ARGUMENT, Options};
pub use rule::Rule;

use crate::copy::Rules;
use crate::dockerfile::{Comment, Dockerfile, ParseError, Position};
use crate::oci::ImageConfig;
use crate::plan::{self, Plan};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be checked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The file.
    pub dockerfile: &'a Dockerfile,
    /// What the user said of the build.
    pub options: &'a plan::Options,
    /// The stages whose instructions are looked at; without a plan, because none can be made, only what needs none is.
    pub plan: Option<&'a Plan>,
    /// What is known of the outside world.
    pub facts: &'a Facts,
}

/// What only a registry or a disk can say. Nothing has to be known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The configs of base images, by the index of the stage that starts from them.
    pub bases: BTreeMap<usize, ImageConfig>,
    /// What the context leaves out.
    pub ignored: Option<Rules>,
}

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The instruction.
    pub position: Position,
    /// The word that it is about.
    pub focus: Option<Position>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the file.
    pub warnings: Vec<Warning>,
    /// What would make a build fail: instructions that make no sense once their variables are known.
    pub mistakes: Vec<ParseError>,
    /// Whether warnings fail a build: `error=true`.
    pub warnings_are_errors: bool,
}

impl Report {
    /// The error that the warnings are, if they are one.
    pub fn violation(&self) -> Option<String> {
        let rules: BTreeSet<&str> = self.warnings.iter().map(|warning| warning.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        (self.warnings_are_errors && !rules.is_empty()).then(|| format!("lint violation found for rules: {}", rules.join(", ")))
    }
}

/// Checks a Dockerfile.
///
/// # Errors
/// The options of the check make no sense.
///
/// ```
/// use builder_core::{dockerfile, lint, oci::Platform, plan};
/// let dockerfile = dockerfile::parse("FROM scratch AS Base\nCOPY $fiel /\n").unwrap();
/// let options = plan::Options {
///     build_args: [].into(),
///     target: None,
///     target_platform: Platform::linux_amd64(),
///     build_platform: Platform::linux_amd64(),
///     contexts: [].into(),
/// };
/// let plan = plan::plan_all(&dockerfile, &options).unwrap();
/// let facts = lint::Facts::default();
/// let report = lint::lint(lint::Subject { dockerfile: &dockerfile, options: &options, plan: Some(&plan), facts: &facts });
/// let rules: Vec<&str> = report.unwrap().warnings.iter().map(|warning| warning.rule.name()).collect();
/// assert_eq!(rules, ["StageNameCasing", "UndefinedVar"]);
/// ```
pub fn lint(subject: Subject<'_>) -> Result<Report, ParseError> {
    let options = Options::of(subject.dockerfile, &subject.options.build_args)?;
    let mut findings = Findings { options, report: Report::default() };
    findings.report.warnings_are_errors = findings.options.warnings_are_errors;
    text::check(subject.dockerfile, &mut findings);
    from::check(subject.dockerfile, subject.options, &mut findings);
    if let Some(plan) = subject.plan {
        stage::check(subject, plan, &mut findings);
    }
    let mut report = findings.report;
    report.warnings.sort_by_key(|warning| (warning.position.first_line, warning.rule, warning.focus));
    report.warnings.dedup();
    report.mistakes.sort_by_key(|mistake| mistake.position);
    Ok(report)
}

/// What was found so far, and which rules count.
struct Findings {
    options: Options,
    report: Report,
}

/// An instruction, as far as a finding needs it.
#[derive(Clone, Copy)]
struct Place<'a> {
    position: Position,
    comments: &'a [Comment],
}

/// What is found about an instruction.
struct Finding {
    rule: Rule,
    message: String,
    hint: Option<String>,
    focus: Option<Position>,
}

impl Finding {
    fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), hint: None, focus: None }
    }

    fn at(self, focus: Position) -> Self {
        Self { focus: Some(focus), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Findings {
    /// Notes a finding, unless its rule is off for the file or for this instruction.
    fn add(&mut self, place: Place<'_>, finding: Finding) {
        let Finding { rule, message, hint, focus } = finding;
        if self.options.wants(rule) && !options::is_skipped_here(place.comments, place.position.first_line, rule) {
            self.report.warnings.push(Warning { rule, message, hint, position: place.position, focus });
        }
    }
}

/// As many slips of the hand still leave a name recognisable.
const MOST_SLIPS: usize = 2;

/// The name that `word` was probably meant to be.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words would only cost time: nothing known is near them.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let rated = known.filter(|known| known.len().abs_diff(word.len()) <= MOST_SLIPS);
    let rated = rated.map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known));
    let (distance, name) = rated.min()?;
    (distance <= MOST_SLIPS && distance * 2 <= name.len()).then_some(name)
}
