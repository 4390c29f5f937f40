//! What a registry wants to see: `WWW-Authenticate` and the scopes of a token. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// How a registry wants requests to be authorised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token of the server at `realm`.
    Bearer { realm: String, service: Option<String>, scopes: Scopes },
}

impl Challenge {
    /// The strongest challenge that we can answer among the values of `WWW-Authenticate` headers.
    pub(super) fn strongest<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, mut parameters) in values.flat_map(parse) {
            match (scheme.as_str(), parameters.remove("realm")) {
                ("bearer", Some(realm)) => {
                    let scopes = parameters.remove("scope").map(|text| Scopes::parse(&text)).unwrap_or_default();
                    return Some(Self::Bearer { realm, service: parameters.remove("service"), scopes });
                }
                ("basic", _) => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

type Parameters = BTreeMap<String, String>;

/// Schemes with their parameters, names in lower case (RFC 9110, 11.6.1). What is malformed ends the list.
fn parse(value: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find(|character: char| " \t,=".contains(character)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after_blanks = after.trim_start();
        if word.is_empty() {
            break;
        }
        match (after_blanks.strip_prefix('='), challenges.last_mut()) {
            (Some(text), Some((_, parameters))) => {
                let Some((text, after)) = parameter_value(text.trim_start()) else { break };
                parameters.entry(word.to_ascii_lowercase()).or_insert(text);
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                challenges.push((word.to_ascii_lowercase(), Parameters::new()));
                rest = after_blanks;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|character: char| " \t,".contains(character)).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// What a token permits: actions by resource (`repository:library/busybox` → `pull`, `push`). Ordered, so that equal scopes
/// are equal requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// To pull from `repository`.
    pub(super) fn pull(repository: &str) -> Self {
        Self([(format!("repository:{repository}"), BTreeSet::from(["pull".to_owned()]))].into())
    }

    /// To pull from `repository` and push to it.
    pub(super) fn push(repository: &str) -> Self {
        let mut scopes = Self::pull(repository);
        scopes.add(Self::parse(&format!("repository:{repository}:push")));
        scopes
    }

    /// Scopes with blanks between them, as a challenge names them.
    fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for scope in text.split_ascii_whitespace() {
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned);
                scopes.0.entry(resource.to_owned()).or_default().extend(actions);
            }
        }
        scopes
    }

    /// These and those.
    pub(super) fn add(&mut self, other: Self) {
        for (resource, actions) in other.0 {
            self.0.entry(resource).or_default().extend(actions);
        }
    }

    /// One text per resource.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.texts().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_challenge_is_read_in_every_spelling() {
        let bearer = |realm: &str, service: Option<&str>, scopes: &str| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scopes: Scopes::parse(scopes),
            })
        };
        for (values, expected) in [
            (
                &["Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:a/b:pull,push\""][..],
                bearer("https://auth.example/token", Some("registry"), "repository:a/b:pull,push"),
            ),
            (&["bearer realm=https://a/t , Service = x"], bearer("https://a/t", Some("x"), "")),
            (&["Basic realm=\"a, b=\\\"c\\\"\""], Some(Challenge::Basic)),
            (&["Basic realm=\"x\", Bearer realm=\"https://a/t\""], bearer("https://a/t", None, "")),
            (&["Basic", "Bearer realm=\"https://a/t\""], bearer("https://a/t", None, "")),
            (&["Negotiate", "BASIC realm=x"], Some(Challenge::Basic)),
            (&["Bearer service=\"no realm\""], None),
            (&["Bearer realm=\"unterminated"], None),
            (&["=", ",,,", ""], None),
        ] {
            assert_eq!(Challenge::strongest(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn scopes_are_joined_by_resource() {
        let mut scopes = Scopes::push("to");
        scopes.add(Scopes::pull("from"));
        scopes.add(Scopes::parse("repository:to:delete repository:localhost:5000/x:pull"));
        let expected = "repository:from:pull repository:localhost:5000/x:pull repository:to:delete,pull,push";
        assert_eq!(scopes.to_string(), expected);
    }

    proptest! {
        #[test]
        fn no_challenge_panics(value in "[ -~]{0,60}|(Bearer|Basic)? ?([a-z]{1,3}=\"?[^\"]{0,9}\\\\?\"?,? ?){0,4}") {
            let _ = Challenge::strongest(std::iter::once(value.as_str()));
        }
    }
}
