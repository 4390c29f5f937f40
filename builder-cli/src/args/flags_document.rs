//! Tests only: `docs/flags.md`, made from the definitions of the flags. Pure.

use super::elsewhere::{Accepted, OTHER_FLAGS, OtherFlag, Takes};
use super::{boolean_value, definition, doctor_definition};
use std::fmt::Write;

/// The whole document.
fn flags_document() -> String {
    let mut text = String::from(
        "# Flags\n\n\
         Made from the definitions in `builder-cli/src/args` (`BLESS=1 cargo test -p builder-cli` rewrites it).\n\n\
         `cofferdam build [FLAGS] [CONTEXT]` is the spelling of `docker build`; `cofferdam [FLAGS]` is Kaniko's, with the same flags.\n\
         A switch is on with `--flag` or `--flag=true` and off with `--flag=false`. Flags that may be given several times\n\
         are marked with `…`; of the others the last one counts. Commas separate nothing, except in `--target`.\n",
    );
    let definition = definition();
    let headings = ["Input", "Instead of a build", "Output", "Registries", "Cache", "Building", "Log"];
    for heading in headings {
        let _ = write!(text, "\n## {heading}\n\n| flag | meaning |\n|---|---|\n");
        for arg in definition.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading) && !arg.is_hide_set()) {
            let _ = writeln!(text, "| {} | {} |", cell(&spelling(arg)), cell(&meaning(arg)));
        }
    }
    text.push_str("\n## `cofferdam doctor`\n\nIts flags, and no others:\n\n| flag | meaning |\n|---|---|\n");
    for arg in doctor_definition().get_arguments().filter(|arg| arg.get_id() != "help") {
        let _ = writeln!(text, "| {} | {} |", cell(&spelling(arg)), cell(&meaning(arg)));
    }
    let commands = [
        ("cofferdam warm", super::warm::definition()),
        ("cofferdam cache ls", cache_command("ls")),
        ("cofferdam cache prune", cache_command("prune")),
    ];
    for (name, command) in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, "\n## `{name}`\n\n{about}.\n\n| flag | meaning |\n|---|---|\n");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let _ = writeln!(text, "| {} | {} |", cell(&spelling(arg)), cell(&meaning(arg)));
        }
    }
    text.push_str(
        "\n## Accepted without effect\n\nWhat these flags of Kaniko and `docker build` are for is always the case here; the log says so once.\n\n\
         | flag | why it has no effect |\n|---|---|\n",
    );
    for flag in OTHER_FLAGS.iter().filter(|flag| flag.accepted != Accepted::Only(&[])) {
        let _ = writeln!(text, "| {} | {} |", cell(&accepted_spelling(flag)), cell(flag.reason));
    }
    text.push_str(
        "\n## Refused\n\nThese are known and not honoured; the build does not start.\n\n| flag | what to do instead |\n|---|---|\n",
    );
    for flag in OTHER_FLAGS.iter().filter(|flag| flag.accepted != Accepted::Every) {
        let other_values = if flag.accepted == Accepted::Only(&[]) { "" } else { ", other values" };
        let _ = writeln!(text, "| `--{}`{other_values} | {} |", flag.name, cell(flag.instead));
    }
    let _ = write!(text, "\n{ENVIRONMENT}");
    text
}

fn cache_command(name: &str) -> clap::Command {
    let command = <super::CacheArgs as clap::CommandFactory>::command();
    command.find_subcommand(name).cloned().expect("the document names what there is")
}

const ENVIRONMENT: &str = "## Environment\n
| variable | meaning |
|---|---|
| `COFFERDAM_STATE` | state directory, if `--state-dir` is not given; `KANIKO_DIR` is asked next |
| `KANIKO_NO_PUSH` | as `--no-push` |
| `KANIKO_REGISTRY_MIRROR`, `KANIKO_REGISTRY_MAP` | as `--registry-mirror` (separated by commas) and `--registry-map`, if those are not given |
| `DOCKER_CONFIG` | directory of `config.json` with credentials; else `~/.docker` |
| `DOCKER_AUTH_CONFIG` | the text of such a file, asked first |
| `REGISTRY_AUTH_FILE` | file of credentials as Podman keeps it; else `$XDG_RUNTIME_DIR/containers/auth.json` |
| `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` | proxies, also in lower case |
| `GIT_TOKEN`, or `GIT_USERNAME` and `GIT_PASSWORD` | who we are at the server of a context that is a repository |
| `GIT_PULL_METHOD` | `http`: `--context git://…` does not use TLS |
| `SSL_CERT_FILE`, `SSL_CERT_DIR` | further certificate authorities |
| `SOURCE_DATE_EPOCH` | seconds since 1970: the time of the image, of what the build makes and of what RUN writes |
| `NO_COLOR` | no colours unless `--log-format color` |
";

fn spelling(arg: &clap::Arg) -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_short_and_visible_aliases().unwrap_or_default().iter().map(|short| format!("`-{short}`")));
    names.extend(arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("`--{long}`")));
    let mut text = names.join(", ");
    if !boolean_value(arg) && arg.get_action().takes_values() {
        let value =
            arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect::<Vec<_>>().join(" ");
        let several = if matches!(arg.get_action(), clap::ArgAction::Append) { " …" } else { "" };
        let _ = write!(text, " *{value}*{several}");
    }
    text
}

fn meaning(arg: &clap::Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values = if boolean_value(arg) || !arg.get_action().takes_values() { Vec::new() } else { arg.get_possible_values() };
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(text, ": {}", values.join(", "));
    }
    text
}

fn accepted_spelling(flag: &OtherFlag) -> String {
    match (flag.accepted, flag.takes) {
        (Accepted::Only(values), _) => {
            values.iter().map(|value| format!("`--{}={value}`", flag.name)).collect::<Vec<_>>().join(", ")
        }
        (Accepted::Every, Takes::Boolean) => format!("`--{}`", flag.name),
        (Accepted::Every, Takes::Value) => format!("`--{}` *VALUE*", flag.name),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_flags_md_says_what_the_definitions_say() {
        crate::golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/flags.md"), &flags_document());
    }

    #[test]
    fn every_flag_stands_in_the_document() {
        let document = flags_document();
        for arg in definition().get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "print-request")) else { continue };
            assert!(document.contains(&format!("`--{long}")), "{long}");
        }
    }
}
