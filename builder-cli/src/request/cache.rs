//! Which caches a build shares with others: Kaniko's flags and those of `docker build`. Pure.

use super::{note_problem, pair};
use crate::args::{BuildArgs, Problem};
use crate::environment::Environment;
use builder_core::build::{CacheLayers, CachePlace, CacheRequest, CacheTarget};
use builder_core::oci::Reference;
use std::path::Path;

const NO_PLACE: &str = "name a repository with --cache-repo REGISTRY/REPOSITORY, or a directory with --cache-repo oci:PATH; \
     what this machine keeps is used without --cache too";

/// Reads all flags of caches. `destinations` give the place of the cache where none is named.
pub(super) fn cache(
    args: &BuildArgs,
    environment: &Environment,
    destinations: &[Reference],
    problems: &mut Vec<Problem>,
) -> CacheRequest {
    let mut request = CacheRequest {
        ttl_seconds: args.cache_ttl.as_deref().and_then(|text| note_problem(seconds(text), "--cache-ttl", problems)),
        copy_layers: args.cache_copy_layers.unwrap_or(true),
        run_layers: args.cache_run_layers.unwrap_or(true),
        explain: args.explain_cache.unwrap_or(false),
        ..CacheRequest::default()
    };
    let read_only = args.no_push_cache.unwrap_or(false);
    if read_only && !args.cache_to.is_empty() {
        problems.push(Problem::new("--no-push-cache and --cache-to exclude each other"));
    }
    // To name the place is to ask for it.
    if args.cache.unwrap_or(args.cache_repo.is_some())
        && let Some(place) = repository(args, environment, destinations, problems)
    {
        request.from.push(place.clone());
        if !read_only {
            request.to.push(CacheTarget { place, layers: CacheLayers::Max });
        }
    }
    for text in &args.cache_from {
        request.from.extend(note_problem(from(text, environment), "--cache-from", problems).into_iter().flatten());
    }
    for text in &args.cache_to {
        request.to.extend(note_problem(to(text, environment), "--cache-to", problems));
    }
    request
}

/// Where Kaniko has its cache.
fn repository(
    args: &BuildArgs,
    environment: &Environment,
    destinations: &[Reference],
    problems: &mut Vec<Problem>,
) -> Option<CachePlace> {
    if let Some(text) = &args.cache_repo {
        return note_problem(place(text, environment), "--cache-repo", problems);
    }
    // Without a destination there are other problems too, if one was meant.
    let Some(first) = destinations.first() else {
        problems.push(Problem::with_hint("--cache has no place for what it shares with other machines", NO_PLACE));
        return None;
    };
    let name = format!("{}/{}/cache", first.registry(), first.repository());
    note_problem(reference(&name).map(CachePlace::Registry), "--cache", problems)
}

/// Reads the value of `--cache-repo`.
pub(super) fn place(text: &str, environment: &Environment) -> Result<CachePlace, String> {
    match text.strip_prefix("oci:") {
        Some("") => Err("the directory is missing".to_owned()),
        Some(path) => Ok(CachePlace::Layout(environment.absolute(Path::new(path)))),
        None => reference(text).map(CachePlace::Registry),
    }
}

/// Reads `REF` or `type=…,…` of `--cache-from`. A registry is asked for a cache of its own and for an image that is one.
fn from(text: &str, environment: &Environment) -> Result<Vec<CachePlace>, String> {
    if !text.contains('=') {
        let of = |text: &str| reference(text).map(|name| [CachePlace::Registry(name.clone()), CachePlace::Inline(Some(name))]);
        return Ok(text.split(',').map(of).collect::<Result<Vec<_>, _>>()?.concat());
    }
    let mut attributes = Attributes::parse(text)?;
    let places = match attributes.kind()?.as_str() {
        "registry" => {
            let name = reference(&attributes.take("ref")?)?;
            vec![CachePlace::Registry(name.clone()), CachePlace::Inline(Some(name))]
        }
        "inline" => vec![CachePlace::Inline(Some(reference(&attributes.take("ref")?)?))],
        "local" => vec![CachePlace::Layout(environment.absolute(Path::new(&attributes.take("src")?)))],
        other => return Err(unsupported(other)),
    };
    attributes.finish()?;
    Ok(places)
}

/// Reads `REF` or `type=…,…` of `--cache-to`.
fn to(text: &str, environment: &Environment) -> Result<CacheTarget, String> {
    if !text.contains('=') {
        return Ok(CacheTarget { place: CachePlace::Registry(reference(text)?), layers: CacheLayers::Min });
    }
    let mut attributes = Attributes::parse(text)?;
    let kind = attributes.kind()?;
    let place = match kind.as_str() {
        "registry" => CachePlace::Registry(reference(&attributes.take("ref")?)?),
        "local" => CachePlace::Layout(environment.absolute(Path::new(&attributes.take("dest")?))),
        "inline" => CachePlace::Inline(None),
        other => return Err(unsupported(other)),
    };
    let layers = match attributes.take_optional("mode").as_deref() {
        None | Some("min") => CacheLayers::Min,
        Some("max") if kind == "inline" => {
            return Err("an image has no other layers than its own: mode=max is none of inline".to_owned());
        }
        Some("max") => CacheLayers::Max,
        Some(other) => return Err(format!("the mode {other:?} is neither min nor max")),
    };
    // What is always so.
    for (name, value) in [("image-manifest", "true"), ("oci-mediatypes", "true"), ("ignore-error", "true")] {
        match attributes.take_optional(name) {
            Some(other) if other != value => return Err(format!("{name}={other} is not supported: it is always {value}")),
            _ => {}
        }
    }
    if attributes.take_optional("compression").is_some_and(|format| format != "gzip") {
        return Err("its layers are those of the image: --compression says how these are compressed".to_owned());
    }
    attributes.finish()?;
    Ok(CacheTarget { place, layers })
}

fn unsupported(kind: &str) -> String {
    format!("type={kind} is not supported: there are registry, local and inline")
}

/// Pairs of `KEY=VALUE`, each of which somebody has to take.
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(pair).collect::<Result<Vec<_>, _>>().map(Self)
    }

    fn kind(&mut self) -> Result<String, String> {
        self.take_optional("type").ok_or_else(|| "the type is missing: registry, local or inline".to_owned())
    }

    fn take(&mut self, name: &str) -> Result<String, String> {
        self.take_optional(name).filter(|value| !value.is_empty()).ok_or_else(|| format!("{name}=… is missing"))
    }

    fn take_optional(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    fn finish(self) -> Result<(), String> {
        match self.0.first() {
            Some((key, value)) => Err(format!("unexpected {key}={value}")),
            None => Ok(()),
        }
    }
}

fn reference(text: &str) -> Result<Reference, String> {
    let name: Reference = text.parse().map_err(super::chain)?;
    match name.digest() {
        Some(_) => Err(format!("{text:?} has a digest: what a cache holds changes")),
        None => Ok(name),
    }
}

/// Reads a duration as Go writes it: `336h`, `1h30m`, `90s`; the fraction of a second does not count.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration, as 336h or 1h30m are");
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        total += number.parse::<f64>().map_err(|_| wrong())? * seconds;
        rest = after;
    }
    if total > 1e12 {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 1e12")]
    Ok(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("336h", Some(1_209_600)),
            ("1h30m", Some(5400)),
            ("1.5h", Some(5400)),
            ("0", Some(0)),
            ("1500ms", Some(1)),
            ("", None),
            ("5", None),
            ("-1h", None),
            ("1d", None),
            ("h", None),
            ("1e3s", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }
}
