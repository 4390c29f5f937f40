//! What commands write, made safe to show: bytes into lines, and lines without the power to move a cursor. Pure.

/// Collects the bytes of one stream and gives whole lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
}

/// A line that does not end is broken here, so that a stream without line ends takes no more memory.
const LONGEST_LINE_BYTES: usize = 32 << 10;

impl LineBuffer {
    /// Takes bytes, gives the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.push(self.take());
            } else {
                self.partial.push(byte);
                if self.partial.len() >= LONGEST_LINE_BYTES {
                    lines.push(self.take());
                }
            }
        }
        lines
    }

    /// What is left at the end of the stream.
    pub fn finish(&mut self) -> Option<String> {
        if self.partial.is_empty() { None } else { Some(self.take()) }
    }

    /// A progress bar redraws its line after a carriage return: the last drawing counts.
    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.partial);
        let line = bytes.strip_suffix(b"\r").unwrap_or(&bytes);
        let start = line.iter().rposition(|byte| *byte == b'\r').map_or(0, |at| at + 1);
        String::from_utf8_lossy(&line[start..]).into_owned()
    }
}

/// Whether colours that a text sets are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Kept, and reset at the end.
    Keep,
    /// Removed.
    Remove,
}

/// The text without control sequences: a line from a command or a server must not draw over what we say.
pub fn visible(text: &str, colours: Colours) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\t' => shown.push('\t'),
            '\u{1b}' => {
                match rest.next_if(|next| matches!(next, '[' | ']' | 'P' | '^' | '_') || ('\u{20}'..'\u{7f}').contains(next)) {
                    Some('[') => {
                        let mut parameters = String::new();
                        let end = loop {
                            match rest.next_if(|next| ('\u{20}'..'\u{7f}').contains(next)) {
                                Some(end @ '\u{40}'..'\u{7f}') => break Some(end),
                                Some(parameter) => parameters.push(parameter),
                                None => break None,
                            }
                        };
                        if end == Some('m') && colours == Colours::Keep {
                            shown.push_str("\u{1b}[");
                            shown.push_str(&parameters);
                            shown.push('m');
                            coloured = true;
                        }
                    }
                    // Titles, links and the like: everything up to their end.
                    Some(']' | 'P' | '^' | '_') => {
                        while let Some(inside) = rest.next() {
                            if inside == '\u{7}' || inside == '\u{1b}' && rest.next_if_eq(&'\\').is_some() {
                                break;
                            }
                        }
                    }
                    _ => {}
                }
            }
            character if character.is_control() => {}
            character => shown.push(character),
        }
    }
    if coloured {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// The text on one line of at most `columns` characters.
pub fn one_line(text: &str, columns: usize) -> String {
    let words = text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
    let words = visible(&words, Colours::Remove);
    match words.char_indices().nth(columns) {
        None => words,
        Some(_) => words.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_however_they_arrive() {
        let mut buffer = LineBuffer::default();
        assert!(buffer.push(b"one, b").is_empty());
        assert_eq!(buffer.push("roken \u{e9}".as_bytes().split_at(7).0), Vec::<String>::new());
        assert_eq!(buffer.push(b"\xa9\ntwo\r\n 10%\r 20%\r100%\nrest"), ["one, broken \u{e9}", "two", "100%"]);
        assert_eq!(buffer.finish().as_deref(), Some("rest"));
        assert_eq!(buffer.finish(), None);
    }

    #[test]
    fn a_stream_without_line_ends_is_broken() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(&vec![b'x'; 3 * LONGEST_LINE_BYTES]).len(), 3);
    }

    #[test]
    fn sequences_that_move_the_cursor_are_removed() {
        for (text, plain, coloured) in [
            ("a\tb", "a\tb", "a\tb"),
            ("\u{1b}[31mred\u{1b}[0m", "red", "\u{1b}[31mred\u{1b}[0m\u{1b}[0m"),
            ("up\u{1b}[2A\u{1b}[Kdone", "updone", "updone"),
            ("\u{1b}]0;title\u{7}text", "text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link", "link"),
            ("bell\u{7}\u{8}\u{9b}2J", "bell2J", "bell2J"),
            ("cut \u{1b}[3", "cut ", "cut "),
            ("\u{1b}", "", ""),
        ] {
            assert_eq!(visible(text, Colours::Remove), plain);
            assert_eq!(visible(text, Colours::Keep), coloured);
        }
    }

    #[test]
    fn an_instruction_of_several_lines_is_shown_on_one() {
        assert_eq!(
            one_line("RUN apt-get update \\\n    && apt-get install gcc", 100),
            "RUN apt-get update && apt-get install gcc"
        );
        assert_eq!(one_line("RUN 123456", 6), "RUN 1…");
    }
}
