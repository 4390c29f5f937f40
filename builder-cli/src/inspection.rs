//! What was found in a Dockerfile that is not built, as text for people and as JSON with the names that `docker build
//! --call` gives its fields. Pure.

use crate::progress::output::{Colours, visible};
use crate::report::{self, Trouble};
use crate::request::CallFormat;
use base64::Engine as _;
use builder_core::build::{BuildError, Definition, Place};
use builder_core::dockerfile::Position;
use builder_core::lint::Warning;
use builder_core::outline::{Mounted, Outline, Target};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The warnings of a check, each with its line.
pub fn check_as_text(definition: &Definition, warnings: &[Warning], colours: Colours) -> String {
    let mut text = String::new();
    for warning in warnings {
        let trouble = Trouble {
            chain: vec![format!("{}: {}", warning.rule.name(), warning.message)],
            place: Some(definition.place(warning.position, warning.focus)),
            hint: Some(warning.hint.clone().unwrap_or_else(|| warning.rule.description().to_owned())),
        };
        text.push_str(&report::warning(&trouble, colours));
        text.push('\n');
    }
    let _ = match warnings.len() {
        0 => writeln!(text, "check complete: no warnings"),
        1 => writeln!(text, "check complete: 1 warning"),
        count => writeln!(text, "check complete: {count} warnings"),
    };
    text
}

/// The warnings of a check for programs; `mistakes` are what a build would fail with.
pub fn check_as_json(definition: &Definition, warnings: &[Warning], mistakes: Option<&BuildError>) -> String {
    let warning = |warning: &Warning| {
        json!({
            "ruleName": warning.rule.name(),
            "description": warning.rule.description(),
            "detail": warning.message,
            "location": location(warning.position),
        })
    };
    let mut object = json!({
        "warnings": warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [source(&definition.place(Position::default(), None))],
    });
    if let Some(error) = mistakes {
        object["buildError"] = build_error(error);
    }
    lines(&object)
}

/// The answer of a check where there is no Dockerfile to check.
pub fn unreadable_as_json(error: &BuildError) -> String {
    let sources: Vec<Value> = error.place.iter().map(source).collect();
    lines(&json!({ "warnings": [], "sources": sources, "buildError": build_error(error) }))
}

fn build_error(error: &BuildError) -> Value {
    let mut object = Map::new();
    object.insert("message".to_owned(), json!(error.message));
    object.extend(error.place.as_ref().map(|place| ("location".to_owned(), location(place.position))));
    Value::Object(object)
}

fn source(place: &Place) -> Value {
    json!({ "fileName": place.file_name, "language": "Dockerfile", "data": encoded(&place.text) })
}

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn location(position: Position) -> Value {
    json!({ "ranges": [{ "start": { "line": position.first_line }, "end": { "line": position.last_line } }] })
}

fn lines(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What can be given to the target.
pub fn outline(definition: &Definition, outline: &Outline, format: CallFormat) -> String {
    match format {
        CallFormat::Json => outline_as_json(definition, outline),
        CallFormat::Text => outline_as_text(outline),
    }
}

fn outline_as_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    let head = [("TARGET", &outline.name), ("DESCRIPTION", &outline.description)];
    let head = head.into_iter().filter_map(|(title, text)| Some([format!("{title}:"), text.clone()?]));
    parts.push(table(head.map(Vec::from).collect()));
    let argument = |argument: &builder_core::outline::Argument| {
        let value = argument.value.clone().unwrap_or_default();
        vec![argument.name.clone(), value, yes(argument.required), argument.description.clone().unwrap_or_default()]
    };
    parts.push(titled(
        &["BUILD ARG", "VALUE", "REQUIRED", "DESCRIPTION"],
        &outline.arguments.iter().map(argument).collect::<Vec<_>>(),
    ));
    let mounted = |mounted: &Mounted| vec![mounted.id.clone(), yes(mounted.required)];
    parts.push(titled(&["SECRET", "REQUIRED"], &outline.secrets.iter().map(mounted).collect::<Vec<_>>()));
    parts.push(titled(&["SSH", "REQUIRED"], &outline.ssh.iter().map(mounted).collect::<Vec<_>>()));
    parts.push(titled(&["CACHE MOUNT"], &outline.caches.iter().map(|cache| vec![cache.id.clone()]).collect::<Vec<_>>()));
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { "the target takes nothing\n".to_owned() } else { parts.join("\n") }
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "" }.to_owned()
}

fn outline_as_json(definition: &Definition, outline: &Outline) -> String {
    let argument = |argument: &builder_core::outline::Argument| {
        object([
            ("name", Some(json!(argument.name))),
            ("description", argument.description.as_ref().map(|text| json!(text))),
            ("value", argument.value.as_ref().map(|text| json!(text))),
            ("required", argument.required.then(|| json!(true))),
            ("location", Some(location(argument.position))),
        ])
    };
    let mounted = |mounted: &Mounted| {
        object([
            ("name", Some(json!(mounted.id))),
            ("required", mounted.required.then(|| json!(true))),
            ("location", Some(location(mounted.position))),
        ])
    };
    let cache = |cache: &Mounted| json!({ "ID": cache.id, "location": location(cache.position) });
    let list =
        |values: Vec<Value>| Some(Value::Array(values)).filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
    lines(&object([
        ("name", outline.name.as_ref().map(|text| json!(text))),
        ("description", outline.description.as_ref().map(|text| json!(text))),
        ("args", list(outline.arguments.iter().map(argument).collect())),
        ("secrets", list(outline.secrets.iter().map(mounted).collect())),
        ("ssh", list(outline.ssh.iter().map(mounted).collect())),
        ("cache", list(outline.caches.iter().map(cache).collect())),
        ("sources", Some(json!([encoded(&definition.place(Position::default(), None).text)]))),
    ]))
}

/// The stages that can be built.
pub fn targets(definition: &Definition, targets: &[Target], format: CallFormat) -> String {
    let as_text = |target: &Target| {
        let name = if target.is_named { target.name.clone() } else { format!("(stage {})", target.name) };
        let name = if target.is_default { format!("{name} (default)") } else { name };
        let platform = target.platform.clone().unwrap_or_default();
        vec![name, target.base.clone(), platform, target.description.clone().unwrap_or_default()]
    };
    let as_json = |target: &Target| {
        object([
            ("name", target.is_named.then(|| json!(target.name))),
            ("default", target.is_default.then(|| json!(true))),
            ("description", target.description.as_ref().map(|text| json!(text))),
            ("base", Some(json!(target.base))),
            ("platform", target.platform.as_ref().map(|text| json!(text))),
            ("location", Some(location(target.position))),
        ])
    };
    match format {
        CallFormat::Text => {
            titled(&["TARGET", "BASE", "PLATFORM", "DESCRIPTION"], &targets.iter().map(as_text).collect::<Vec<_>>())
        }
        CallFormat::Json => lines(&json!({
            "targets": targets.iter().map(as_json).collect::<Vec<_>>(),
            "sources": [encoded(&definition.place(Position::default(), None).text)],
        })),
    }
}

/// The fields that there are.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    Value::Object(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// A table under titles; nothing if there are no rows. A column in which no row says anything is left out.
fn titled(titles: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let used: Vec<usize> = (0..titles.len()).filter(|column| rows.iter().any(|row| !row[*column].is_empty())).collect();
    let pick = |row: &[String]| used.iter().map(|column| row[*column].clone()).collect::<Vec<_>>();
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    table(std::iter::once(pick(&titles)).chain(rows.iter().map(|row| pick(row))).collect())
}

/// Rows in columns, two blanks between them.
pub fn table(mut rows: Vec<Vec<String>>) -> String {
    // What a file says may not draw on the terminal.
    rows.iter_mut().flatten().for_each(|cell| *cell = visible(cell, Colours::Remove));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let line = row.iter().zip(&widths).fold(String::new(), |line, (cell, width)| format!("{line}{cell:<width$}  "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder_core::build::{BuildRequest, ContextSource, DockerfileSource, read_definition};
    use builder_core::plan;
    use builder_core::{dockerfile, lint};

    const TEXT: &str = "# IMAGE what to start from\nARG IMAGE=scratch\n\n# build makes it\nFROM $IMAGE as build\n\
        ARG JOBS=4\nRUN --mount=type=secret,id=token,required --mount=type=cache,id=go,target=/go make\n\n\
        FROM --platform=$TARGETPLATFORM scratch\nCOPY --from=build $fiel \\\n  /\nMAINTAINER me\nEXPOSE many\n";

    fn definition(text: &str) -> Result<Definition, BuildError> {
        let request = BuildRequest {
            context: ContextSource::Empty,
            dockerfile: DockerfileSource::Inline { name: "Dockerfile".to_owned(), text: text.to_owned() },
            ..BuildRequest::new("/nowhere")
        };
        tokio::runtime::Runtime::new().unwrap().block_on(read_definition(request))
    }

    /// The report of a check that asks no registry.
    fn report(text: &str) -> lint::Report {
        let dockerfile = dockerfile::parse(text).unwrap();
        let options = plan::Options {
            build_args: [].into(),
            target: None,
            target_platform: builder_core::oci::Platform::linux_amd64(),
            build_platform: builder_core::oci::Platform::linux_amd64(),
            contexts: [].into(),
        };
        let plan = plan::plan_all(&dockerfile, &options).ok();
        let facts = lint::Facts::default();
        lint::lint(lint::Subject { dockerfile: &dockerfile, options: &options, plan: plan.as_ref(), facts: &facts }).unwrap()
    }

    fn check(name: &str, actual: &str) {
        crate::golden::check(&format!("{}/testdata/inspection/{name}", env!("CARGO_MANIFEST_DIR")), actual);
    }

    #[test]
    fn a_check_is_text_for_people_and_json_for_programs() {
        let (definition, report) = (definition(TEXT).unwrap(), report(TEXT));
        let mistakes = definition.mistakes(report.mistakes.clone());
        check("check.txt", &check_as_text(&definition, &report.warnings, Colours::Remove));
        check("check.json", &check_as_json(&definition, &report.warnings, Some(&mistakes)));
        assert_eq!(check_as_text(&definition, &[], Colours::Remove), "check complete: no warnings\n");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_build_error() {
        let error = definition("FROM scratch\nCPY a /b\n").unwrap_err();
        check("unreadable.json", &unreadable_as_json(&error));
    }

    #[test]
    fn what_can_be_given_and_the_stages_are_tables_and_json() {
        let definition = definition(TEXT).unwrap();
        let target = definition.outline().unwrap();
        check("outline.txt", &outline(&definition, &target, CallFormat::Text));
        check("outline.json", &outline(&definition, &target, CallFormat::Json));
        check("targets.txt", &targets(&definition, &definition.targets(), CallFormat::Text));
        check("targets.json", &targets(&definition, &definition.targets(), CallFormat::Json));
        assert_eq!(outline(&definition, &Outline::default(), CallFormat::Text), "the target takes nothing\n");
    }
}
