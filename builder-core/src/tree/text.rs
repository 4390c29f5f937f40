//! Trees and layers as text, one record a line: what tests read and write. Pure.
//!
//! ```text
//! etc/ 0755 0:0                      a directory
//! etc/hosts 0644 0:0 "127.0.0.1"     a file
//! bin/ping 0755 0:0 cap=0100 "x"     a file with a capability (hex)
//! var/run -> /run                    a symbolic link of 0:0; `-> /run 1:2` of another owner
//! b = a                              a hard link
//! dev/null 0666 0:0 c 1:3            a character device; `b` for a block device
//! pipe 0644 0:0 p                    a named pipe
//! - d                                a whiteout
//! ! d                                an opaque directory
//! ```
//! A path with a blank is written with `\x20`; other bytes outside of ASCII and the backslash alike. `@123` after the
//! owner is the time of modification in seconds.

use super::{Change, Content, ContentDigest, Entry, File, Inode, Node, Timestamp, Tree, TreePath};
use std::{collections::HashMap, fmt::Write as _};

/// A line that is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line_number}: {line:?} is no record of a tree")]
pub struct TextError {
    /// Counted from 1.
    pub line_number: usize,
    /// The line.
    pub line: String,
}

/// Reads a layer. Empty lines are skipped.
///
/// # Errors
/// [`TextError`] with the first line that is no record.
pub fn parse(text: &str) -> Result<Vec<Change>, TextError> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, line)| !line.is_empty());
    lines.map(|(line_number, line)| record(line).ok_or_else(|| TextError { line_number, line: line.to_owned() })).collect()
}

/// Writes a tree, the root left out, hard links after their first name. Contents that are not inline are shown as `size=N`.
#[must_use]
pub fn format(tree: &Tree) -> String {
    let mut first_names: HashMap<Inode, &TreePath> = HashMap::new();
    let mut text = String::new();
    for (path, inode, entry) in tree.iter().filter(|(path, ..)| !path.is_root()) {
        match first_names.get(&inode) {
            Some(first) => writeln!(text, "{} = {}", escape(path.as_bytes()), escape(first.as_bytes())),
            None => writeln!(text, "{}", line(path, entry)),
        }
        .expect("a string takes all text");
        if !entry.is_directory() {
            first_names.entry(inode).or_insert(path);
        }
    }
    text
}

/// Writes one record.
#[must_use]
pub fn format_change(change: &Change) -> String {
    match change {
        Change::Put { path, entry } => line(path, entry),
        Change::Link { path, target } => format!("{} = {}", escape(path.as_bytes()), escape(target.as_bytes())),
        Change::Remove { path } => format!("- {}", escape(path.as_bytes())),
        Change::Opaque { path } => format!("! {}", escape(path.as_bytes())),
    }
}

fn line(path: &TreePath, entry: &Entry) -> String {
    let name = escape(path.as_bytes());
    let owner = format!("{}:{}", entry.uid, entry.gid);
    let time = if entry.mtime == Timestamp::default() { String::new() } else { format!(" @{}", entry.mtime.seconds) };
    let mode = format!("{:04o}", entry.mode);
    let capability = entry
        .capability
        .iter()
        .fold(String::new(), |_, bytes| bytes.iter().fold(" cap=".to_owned(), |text, byte| format!("{text}{byte:02x}")));
    match &entry.node {
        Node::Directory => format!("{name}/ {mode} {owner}{time}{capability}"),
        Node::File(File { content: Content::Inline(bytes), .. }) => {
            format!("{name} {mode} {owner}{time}{capability} \"{}\"", escape_text(bytes))
        }
        Node::File(file) => format!("{name} {mode} {owner}{time}{capability} size={}", file.size_bytes),
        Node::Symlink(target) if owner == "0:0" => format!("{name} -> {}", escape(target)),
        Node::Symlink(target) => format!("{name} -> {} {owner}", escape(target)),
        Node::CharDevice { major, minor } => format!("{name} {mode} {owner}{time} c {major}:{minor}"),
        Node::BlockDevice { major, minor } => format!("{name} {mode} {owner}{time} b {major}:{minor}"),
        Node::Fifo => format!("{name} {mode} {owner}{time} p"),
    }
}

fn record(line: &str) -> Option<Change> {
    let (first, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let path_of = |text: &str| TreePath::parse(unescape(text)?).ok();
    if let ("-" | "!", path) = (first, rest) {
        let path = path_of(path)?;
        return Some(if first == "-" { Change::Remove { path } } else { Change::Opaque { path } });
    }
    let path = path_of(first)?;
    if let Some(target) = rest.strip_prefix("= ") {
        return Some(Change::Link { path, target: path_of(target)? });
    }
    if let Some(target) = rest.strip_prefix("-> ") {
        let (target, (uid, gid)) = match target.split_once(' ') {
            Some((target, owner)) => (target, pair(owner)?),
            None => (target, (0, 0)),
        };
        let node = Node::Symlink(unescape(target)?);
        let entry = Entry { node, mode: 0o777, uid, gid, mtime: Timestamp::default(), capability: None };
        return Some(Change::put(path, entry));
    }
    let (mode, rest) = rest.split_once(' ')?;
    let mode = u16::from_str_radix(mode, 8).ok()?;
    let (owner, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (uid, gid) = pair(owner)?;
    let mut entry = Entry { node: Node::Directory, mode, uid, gid, mtime: Timestamp::default(), capability: None };
    loop {
        let (word, next) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Some(seconds) = word.strip_prefix('@') {
            entry.mtime = Timestamp::from_seconds(seconds.parse().ok()?);
        } else if let Some(hex) = word.strip_prefix("cap=") {
            entry.capability = Some(hex.as_bytes().chunks(2).map(hex_byte).collect::<Option<_>>()?);
        } else {
            break;
        }
        rest = next;
    }
    entry.node = match rest.split_once(' ') {
        _ if first.ends_with('/') && rest.is_empty() => Node::Directory,
        _ if rest == "p" => Node::Fifo,
        _ if rest.starts_with('"') => {
            let bytes = unescape(rest.strip_prefix('"')?.strip_suffix('"')?)?;
            Node::File(File {
                size_bytes: bytes.len() as u64,
                digest: Some(ContentDigest::of(&bytes)),
                content: Content::Inline(bytes.into()),
            })
        }
        Some(("c", numbers)) => pair(numbers).map(|(major, minor)| Node::CharDevice { major, minor })?,
        Some(("b", numbers)) => pair(numbers).map(|(major, minor)| Node::BlockDevice { major, minor })?,
        _ => return None,
    };
    Some(Change::put(path, entry))
}

fn pair(text: &str) -> Option<(u32, u32)> {
    let (first, second) = text.split_once(':')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn escape(bytes: &[u8]) -> String {
    escape_text(bytes).replace(' ', "\\x20")
}

fn escape_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\\' | b'"' | 0..=31 | 127.. => write!(text, "\\x{byte:02x}").expect("a string takes all text"),
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut left = text.as_bytes();
    while let [first, rest @ ..] = left {
        left = match (first, rest) {
            (b'\\', [b'n', rest @ ..]) => {
                bytes.push(b'\n');
                rest
            }
            (b'\\', [b'x', high, low, rest @ ..]) => {
                bytes.push(hex_byte(&[*high, *low])?);
                rest
            }
            (b'\\', _) => return None,
            _ => {
                bytes.push(*first);
                rest
            }
        };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_as_it_is_written() {
        let text = "bin/ 0755 0:0\nbin/ping 0755 0:0 @17 cap=0100 \"x\\n\"\nbin/pong = bin/ping\ndev/ 0755 0:0\ndev/null 0666 0:0 c 1:3\n\
                    etc/ 0755 0:0 @5\netc/a\\x20b 4755 1:2 \"\"\npipe 0644 0:0 p\nrun -> /var/run\nsda 0600 0:6 b 8:0\n";
        let mut tree = Tree::new();
        tree.apply(&parse(text).unwrap());
        assert_eq!(format(&tree), text);
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        for line in ["x", "x 0644", "x 0999 0:0 \"\"", "x 0644 0:0", "x 0644 0:0 \"a", "../x 0644 0:0 \"\"", "x 0644 0:0 c 1"] {
            assert_eq!(parse(&format!("a = b\n{line}")).unwrap_err().line_number, 2, "{line}");
        }
    }
}
