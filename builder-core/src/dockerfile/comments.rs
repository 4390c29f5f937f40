//! What the comments above an instruction say about it. Pure.

use super::ast::Comment;

/// The comments in the lines directly above `line`, without a line between: only they belong to what stands there.
#[must_use]
pub fn directly_above(comments: &[Comment], line: usize) -> &[Comment] {
    let mut first = comments.len();
    while first > 0 && comments[first - 1].line + (comments.len() - first) + 1 == line {
        first -= 1;
    }
    &comments[first..]
}

/// What a comment directly above `line` says about the stage or argument `name`: the text behind `# name `.
#[must_use]
pub fn description<'a>(comments: &'a [Comment], line: usize, name: &str) -> Option<&'a str> {
    let text = |comment: &'a Comment| comment.text.strip_prefix(name)?.strip_prefix([' ', '\t']);
    directly_above(comments, line).iter().find_map(text).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_of_comments_that_touches_a_line_belongs_to_it() {
        let comments = |lines: &[usize]| -> Vec<Comment> {
            lines.iter().map(|line| Comment { text: format!("name is {line}"), line: *line }).collect()
        };
        for (lines, expected) in [(&[1, 3, 4][..], 2), (&[2, 3, 4], 3), (&[1, 2, 3], 0), (&[], 0), (&[4], 1)] {
            assert_eq!(directly_above(&comments(lines), 5).len(), expected, "{lines:?}");
        }
        assert_eq!(description(&comments(&[4]), 5, "name"), Some("is 4"));
        assert_eq!(description(&comments(&[4]), 5, "nam"), None);
    }
}
