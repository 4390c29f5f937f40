//! Rules that the text alone decides: case, names, comments. They look at every stage, needed or not. Pure.

use super::{Finding, Findings, Place, Rule, options};
use crate::dockerfile::{self, Comment, Dockerfile, Instruction, InstructionKind, Position, Span, Stage, Word};
use std::collections::BTreeSet;

/// Names that mean something else where a stage could be named.
const RESERVED: [&str; 2] = ["scratch", "context"];

pub(super) fn check(dockerfile: &Dockerfile, findings: &mut Findings) {
    instruction_casing(dockerfile, findings);
    let mut names = BTreeSet::new();
    for instruction in &dockerfile.global_args {
        instruction_text(dockerfile, instruction, findings);
    }
    for stage in &dockerfile.stages {
        stage_name(stage, &mut names, findings);
        empty_continuation(dockerfile, stage.into(), &stage.empty_continuation_lines, findings);
        if let Some(name) = &stage.name {
            definition_description(stage.into(), "FROM", &[name.name.as_str()], findings);
        }
        for instruction in &stage.instructions {
            instruction_text(dockerfile, instruction, findings);
        }
    }
}

fn instruction_text(dockerfile: &Dockerfile, instruction: &Instruction, findings: &mut Findings) {
    empty_continuation(dockerfile, instruction.into(), &instruction.empty_continuation_lines, findings);
    match &instruction.kind {
        InstructionKind::Arg(pairs) => {
            let names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
            definition_description(instruction.into(), "ARG", &names, findings);
        }
        InstructionKind::Maintainer(_) => findings.add(
            instruction.into(),
            Finding::new(Rule::MaintainerDeprecated, "MAINTAINER is deprecated")
                .at(instruction.keyword.position)
                .hint("write LABEL org.opencontainers.image.authors=\"…\""),
        ),
        _ => {}
    }
}

fn stage_name<'a>(stage: &'a Stage, names: &mut BTreeSet<&'a str>, findings: &mut Findings) {
    let Some(name) = &stage.name else { return };
    let (written, place) = (&name.written, Place::from(stage));
    if written.text != written.text.to_lowercase() {
        let message = format!("the stage name '{}' should be lower case", written.text);
        findings.add(place, Finding::new(Rule::StageNameCasing, message).at(written.position));
    }
    let (from, keyword) = (stage.keyword.text.as_str(), name.as_keyword.text.as_str());
    if is_upper(from) && !is_upper(keyword) || is_lower(from) && !is_lower(keyword) {
        let message = format!("'{keyword}' is not written in the case of '{from}'");
        findings.add(place, Finding::new(Rule::FromAsCasing, message).at(name.as_keyword.position));
    }
    if RESERVED.contains(&name.name.as_str()) {
        let message = format!("{:?} is a reserved word and should name no stage", name.name);
        findings.add(place, Finding::new(Rule::ReservedStageName, message).at(written.position));
    }
    if !names.insert(&name.name) {
        let message = format!("an earlier stage is called {:?} as well: names of stages should be unique", name.name);
        findings.add(place, Finding::new(Rule::DuplicateStageName, message).at(written.position));
    }
}

fn is_upper(word: &str) -> bool {
    word == word.to_uppercase()
}

fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}

/// What most instructions do is right; mixed case counts for neither side, and a draw for upper case.
fn instruction_casing(dockerfile: &Dockerfile, findings: &mut Findings) {
    let stages = dockerfile.stages.iter();
    let of_stages = stages.flat_map(|stage| {
        let instructions = stage.instructions.iter().map(|instruction| (Place::from(instruction), &instruction.keyword));
        std::iter::once((Place::from(stage), &stage.keyword)).chain(instructions)
    });
    let global = dockerfile.global_args.iter().map(|instruction| (Place::from(instruction), &instruction.keyword));
    let keywords: Vec<(Place<'_>, &Word)> = global.chain(of_stages).collect();
    let lower = keywords.iter().filter(|(_, keyword)| is_lower(&keyword.text)).count();
    let upper = keywords.iter().filter(|(_, keyword)| is_upper(&keyword.text)).count();
    let (fits, case): (fn(&str) -> bool, _) = if lower > upper { (is_lower, "lower") } else { (is_upper, "upper") };
    for (place, keyword) in keywords {
        if !fits(&keyword.text) {
            let message = format!("'{}' should be {case} case, as most instructions of the file are", keyword.text);
            findings.add(place, Finding::new(Rule::ConsistentInstructionCasing, message).at(keyword.position));
        }
    }
}

fn empty_continuation(dockerfile: &Dockerfile, place: Place<'_>, lines: &[usize], findings: &mut Findings) {
    let Some(&line) = lines.first() else { return };
    let finding = Finding::new(Rule::NoEmptyContinuation, "an empty line stands inside an instruction")
        .at(empty_line(dockerfile, line))
        .hint("remove the line, or begin it with #");
    findings.add(place, finding);
}

fn empty_line(dockerfile: &Dockerfile, line: usize) -> Position {
    let start = dockerfile.source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    Position { first_line: line, last_line: line, column: 1, span: Span { start, end: start } }
}

fn definition_description(place: Place<'_>, instruction: &str, names: &[&str], findings: &mut Findings) {
    let line = place.position.first_line;
    let above = dockerfile::directly_above(place.comments, line);
    let is_about = |name: &&str| dockerfile::description(above, line, name).is_some();
    let Some(comment) = above.iter().rfind(|comment| !options::is_option(comment)) else { return };
    if names.iter().any(is_about) {
        return;
    }
    let name = if let [only] = names { only } else { "NAME" };
    let message = format!("the comment above {instruction} should begin with the name that it describes: # {name} description");
    let finding = Finding::new(Rule::InvalidDefinitionDescription, message)
        .hint(format!("put an empty line below line {} if the comment is about something else", comment.line));
    findings.add(place, finding);
}

impl<'a> From<&'a Stage> for Place<'a> {
    fn from(stage: &'a Stage) -> Self {
        Self { position: stage.position, comments: &stage.comments }
    }
}

impl<'a> From<&'a Instruction> for Place<'a> {
    fn from(instruction: &'a Instruction) -> Self {
        let comments: &'a [Comment] = &instruction.comments;
        Self { position: instruction.position, comments }
    }
}
