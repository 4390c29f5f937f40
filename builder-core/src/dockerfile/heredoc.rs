//! Finds the heredoc markers of an instruction. Takes a line, gives the markers. Pure.

use super::expand::{split_heredoc_name, split_verbatim};

/// `<<NAME` as it stands in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) file_descriptor: Option<u32>,
}

/// The markers of `line` in their order, which is the order of the bodies below it.
pub(super) fn markers(line: &str) -> Vec<Marker> {
    if !line.contains("<<") {
        return Vec::new();
    }
    // A line with an open quote has no heredocs at all: BuildKit gives up on it, too.
    let words = split_verbatim(line).unwrap_or_default();
    words.iter().filter_map(|word| marker(word)).collect()
}

/// Reads one word as a marker: digits, `<<`, perhaps `-`, and a name that is one shell word.
pub(super) fn marker(word: &str) -> Option<Marker> {
    let after_digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &word[..word.len() - after_digits.len()];
    let rest = after_digits.strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let (plain, quoted) = split_heredoc_name(rest)?;
    let ([name], [quoted]) = (plain.as_slice(), quoted.as_slice()) else {
        return None;
    };
    let quotes = |text: &str| text.matches(['"', '\'']).count();
    Some(Marker { name: name.clone(), expand: quotes(name) == quotes(quoted), strip_tabs, file_descriptor: digits.parse().ok() })
}

/// Whether `text` is one marker and nothing else.
pub(super) fn is_marker(text: &str) -> bool {
    marker(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        let describe = |marker: Marker| {
            let descriptor = marker.file_descriptor.map_or(String::new(), |fd| fd.to_string());
            let dash = if marker.strip_tabs { "-" } else { "" };
            let expand = if marker.expand { "expanded" } else { "verbatim" };
            format!("{descriptor}<<{dash}{} {expand}", marker.name)
        };
        markers(line).into_iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn markers_are_found_in_a_line() {
        for (line, expected) in [
            ("RUN <<EOF", "<<EOF expanded"),
            ("RUN <<-EOF", "<<-EOF expanded"),
            ("RUN <<\"EOF\"", "<<EOF verbatim"),
            ("RUN <<'EOF' bash", "<<EOF verbatim"),
            ("RUN <<E\"O\"F", "<<EOF verbatim"),
            ("RUN <<\\EOF", "<<EOF expanded"),
            ("RUN <<$EOF", "<<$EOF expanded"),
            ("RUN << EOF", "<<EOF expanded"),
            ("RUN <<- EOF", ""),
            ("RUN cat <<A 3<<-'B' > f", "<<A expanded, 3<<-B verbatim"),
            ("RUN cat <<'one two'", "<<one two verbatim"),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn what_looks_like_a_marker_is_not_always_one() {
        for line in [
            "RUN echo $((1<<2))",
            "RUN cat <<<word",
            "RUN cat<<EOF",
            "RUN echo \"<<EOF\"",
            "RUN echo \\<<EOF",
            "RUN cat <<",
            "RUN echo it's <<EOF",
            "RUN cat <<EOF<X",
        ] {
            assert_eq!(read(line), "", "{line}");
        }
    }
}
