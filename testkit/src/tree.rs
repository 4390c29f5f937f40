//! A tree of files as text: the same text for input, difference and expectation, in the form that the library's own
//! `tree::text` has too.
//!
//! ```text
//! etc/ 0755 0:0                        a directory
//! etc/hosts 0644 0:0 "127.0.0.1\n"     a file
//! bin/ping 0755 0:0 cap=0100 "x"       a file with a capability (hex)
//! f 0644 0:0 @17 user.note=6869 "x"    a time of modification in seconds, an extended attribute (hex)
//! data 0644 0:0 random=1048576         a file of so many bytes that do not compress, always the same ones
//! var/run -> /run                      a symbolic link of 0:0; `-> /run 1:2` of another owner
//! b = a                                a hard link
//! dev/null 0666 0:0 c 1:3              a character device; `b` for a block device
//! pipe 0644 0:0 p                      a named pipe
//! - d                                  a whiteout
//! ! d                                  an opaque directory
//! ```
//! (What stands on the right is explanation and not part of the form.) In a path a blank is written `\x20`; bytes
//! outside of ASCII and backslashes alike. Lines that begin with `#` are comments. Text that is read back leaves
//! times out, and shows contents that are long or not text as `size=N sha256=…`.
//!
//! [`tar()`] writes what the text says and nothing else: no missing parents, no cleaned-up names. So the same lines
//! make hostile layers: `../escape 0644 0:0 "x"`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// When an entry without `@` was modified: 2010-01-01, as in every base image of the tests.
pub const MTIME_SECONDS: u64 = 1_262_304_000;

/// One entry of a tree or of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// As in the archive, without the `/` that ends the name of a directory and without the marks of whiteouts.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The owning group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime_seconds: u64,
    /// Extended attributes by name.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with these bytes.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(PathBuf),
    /// Another name of the file at this path.
    HardLink(PathBuf),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// What lay at this path below is gone.
    Whiteout,
    /// The directory at this path shows nothing of what lay in it below.
    Opaque,
}

/// Reads the text form.
#[must_use]
pub fn parse(text: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        nodes.push(parse_line(line).unwrap_or_else(|reason| panic!("tree text: {reason}: {line}")));
    }
    nodes
}

fn parse_line(line: &str) -> Result<Node, String> {
    let (name, rest) = line.split_once(' ').ok_or("it is only one word")?;
    let rest = rest.trim_start();
    let mut node = Node {
        path: path(&unescape(name.strip_suffix('/').unwrap_or(name))?),
        kind: if name.ends_with('/') { Kind::Directory } else { Kind::File(Vec::new()) },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_seconds: MTIME_SECONDS,
        attributes: BTreeMap::new(),
    };
    if name == "-" || name == "!" {
        node.path = path(&unescape(rest)?);
        node.kind = if name == "-" { Kind::Whiteout } else { Kind::Opaque };
        return Ok(node);
    }
    if let Some(target) = rest.strip_prefix("= ") {
        node.kind = Kind::HardLink(path(&unescape(target)?));
        return Ok(node);
    }
    if let Some(target) = rest.strip_prefix("-> ") {
        let (target, owner) = target.split_once(' ').unwrap_or((target, "0:0"));
        (node.uid, node.gid) = pair(owner)?;
        node.mode = 0o777;
        node.kind = Kind::Symlink(path(&unescape(target)?));
        return Ok(node);
    }
    let (mode, rest) = rest.split_once(' ').ok_or("the owner is missing")?;
    node.mode = u32::from_str_radix(mode, 8).map_err(|error| format!("mode: {error}"))?;
    let (owner, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    (node.uid, node.gid) = pair(owner)?;

    while !rest.is_empty() {
        if let Some(content) = rest.strip_prefix('"') {
            let content = content.strip_suffix('"').ok_or("the closing quote is missing")?;
            node.kind = Kind::File(unescape(content)?);
            break;
        }
        let (word, next) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = next;
        match word.split_once('=') {
            Some(("random", size)) => node.kind = Kind::File(random_bytes(number(size)?)),
            Some(("cap", value)) => drop(node.attributes.insert(CAPABILITY.to_owned(), bytes_of_hex(value)?)),
            Some((name, value)) => drop(node.attributes.insert(name.to_owned(), bytes_of_hex(value)?)),
            None if word == "p" => node.kind = Kind::Fifo,
            None if word.starts_with('@') => node.mtime_seconds = number(&word[1..])?,
            None if word == "c" || word == "b" => {
                let (number, next) = rest.split_once(' ').unwrap_or((rest, ""));
                let (major, minor) = pair(number)?;
                node.kind = if word == "c" { Kind::Char(major, minor) } else { Kind::Block(major, minor) };
                rest = next;
            }
            None => return Err(format!("what is {word:?}?")),
        }
    }
    Ok(node)
}

const CAPABILITY: &str = "security.capability";

/// Writes the text form, one line for each node, in the order given. Times are left out.
#[must_use]
pub fn text(nodes: &[Node]) -> String {
    nodes.iter().map(|node| line_of(node) + "\n").collect()
}

fn line_of(node: &Node) -> String {
    let name = escape(node.path.as_os_str().as_bytes()).replace(' ', "\\x20");
    let target = |path: &Path| escape(path.as_os_str().as_bytes()).replace(' ', "\\x20");
    let attributes = node.attributes.iter().fold(String::new(), |text, (name, value)| {
        format!("{text} {}={}", if name == CAPABILITY { "cap" } else { name }, hex(value))
    });
    let owner = format!("{}:{}", node.uid, node.gid);
    let head = format!("{name} {:04o} {owner}{attributes}", node.mode);
    match &node.kind {
        Kind::Directory => format!("{name}/{}", &head[name.len()..]),
        Kind::File(content) if content.len() <= 400 && content.is_ascii() => format!("{head} \"{}\"", escape(content)),
        Kind::File(content) => format!("{head} size={} sha256={}", content.len(), &crate::image::sha256(content)[7..23]),
        Kind::Symlink(path) if owner == "0:0" => format!("{name} -> {}", target(path)),
        Kind::Symlink(path) => format!("{name} -> {} {owner}", target(path)),
        Kind::HardLink(path) => format!("{name} = {}", target(path)),
        Kind::Char(major, minor) => format!("{head} c {major}:{minor}"),
        Kind::Block(major, minor) => format!("{head} b {major}:{minor}"),
        Kind::Fifo => format!("{head} p"),
        Kind::Whiteout => format!("- {name}"),
        Kind::Opaque => format!("! {name}"),
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\\' | b'"' | 0..=31 | 127.. => text.extend(["\\x", &hex(&[*byte])]),
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut left = text.as_bytes();
    while let [first, rest @ ..] = left {
        left = match (first, rest) {
            (b'\\', [b'n', rest @ ..]) => {
                bytes.push(b'\n');
                rest
            }
            (b'\\', [b'x', high, low, rest @ ..]) => {
                bytes.extend(bytes_of_hex(&String::from_utf8_lossy(&[*high, *low]))?);
                rest
            }
            (b'\\', _) => return Err(format!("the escapes are \\n and \\xNN, not in {text:?}")),
            _ => {
                bytes.push(*first);
                rest
            }
        };
    }
    Ok(bytes)
}

/// Makes a tar archive of the text: exactly these entries, in this order, PAX where a field is too small.
#[must_use]
pub fn tar(text: &str) -> Vec<u8> {
    tar_of(&parse(text))
}

/// Makes a tar archive of the nodes, as [`tar()`] does of text.
#[must_use]
pub fn tar_of(nodes: &[Node]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for node in nodes {
        append(&mut archive, node).expect("writing to memory");
    }
    archive.into_inner().expect("writing to memory")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, node: &Node) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    let mut extensions: Vec<(String, Vec<u8>)> = Vec::new();
    let mut name = match node.kind {
        Kind::Whiteout => marked(&node.path),
        Kind::Opaque => node.path.join(OPAQUE),
        _ => node.path.clone(),
    }
    .into_os_string()
    .into_vec();
    let mut content: &[u8] = &[];
    let mut link: Option<&Path> = None;
    let entry_type = match &node.kind {
        Kind::Directory => {
            name.push(b'/');
            tar::EntryType::Directory
        }
        Kind::File(bytes) => {
            content = bytes;
            tar::EntryType::Regular
        }
        Kind::Symlink(target) => {
            link = Some(target);
            tar::EntryType::Symlink
        }
        Kind::HardLink(target) => {
            link = Some(target);
            tar::EntryType::Link
        }
        Kind::Char(major, minor) => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            tar::EntryType::Char
        }
        Kind::Block(major, minor) => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            tar::EntryType::Block
        }
        Kind::Fifo => tar::EntryType::Fifo,
        Kind::Whiteout | Kind::Opaque => tar::EntryType::Regular,
    };
    header.set_entry_type(entry_type);
    header.set_mode(node.mode);
    header.set_uid(node.uid);
    header.set_gid(node.gid);
    header.set_mtime(node.mtime_seconds);
    header.set_size(content.len() as u64);
    // Straight into the fields: the crate's own setters refuse the names that hostile archives are made of.
    let fields = header.as_ustar_mut().expect("made as ustar");
    if name.len() <= fields.name.len() {
        fields.name[..name.len()].copy_from_slice(&name);
    } else {
        extensions.push(("path".to_owned(), name));
    }
    if let Some(target) = link.map(|target| target.as_os_str().as_bytes()) {
        if target.len() <= fields.linkname.len() {
            fields.linkname[..target.len()].copy_from_slice(target);
        } else {
            extensions.push(("linkpath".to_owned(), target.to_vec()));
        }
    }
    for (name, value) in &node.attributes {
        extensions.push((format!("SCHILY.xattr.{name}"), value.clone()));
    }
    header.set_cksum();
    if !extensions.is_empty() {
        archive.append_pax_extensions(extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    }
    archive.append(&header, content)
}

/// Reads an uncompressed tar archive, with a reader that is not ours.
#[must_use]
pub fn of_tar(archive: &[u8]) -> Vec<Node> {
    let mut archive = tar::Archive::new(archive);
    let mut nodes = Vec::new();
    // PAX records are read here, because the crate splits them at line ends and not by their length: it loses every
    // capability that has a byte 10.
    let mut extensions = BTreeMap::new();
    for entry in archive.entries().expect("a tar archive").raw(true) {
        let mut entry = entry.expect("a complete tar archive");
        if entry.header().entry_type() == tar::EntryType::XHeader {
            extensions = pax_records(&content_of(&mut entry));
        } else {
            nodes.push(read_entry(&mut entry, &std::mem::take(&mut extensions)));
        }
    }
    nodes
}

fn content_of(entry: &mut tar::Entry<'_, &[u8]>) -> Vec<u8> {
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("a complete tar archive");
    content
}

fn pax_records(mut records: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut extensions = BTreeMap::new();
    while !records.is_empty() {
        let parts = || {
            let blank = records.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
            let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((length, String::from_utf8(record[..equals].to_vec()).ok()?, record[equals + 1..].to_vec()))
        };
        let (length, key, value) = parts().expect("a well-formed PAX record");
        extensions.insert(key, value);
        records = &records[length..];
    }
    extensions
}

fn read_entry(entry: &mut tar::Entry<'_, &[u8]>, extensions: &BTreeMap<String, Vec<u8>>) -> Node {
    let content = content_of(entry);
    let header = entry.header();
    let name = extensions.get("path").cloned().unwrap_or_else(|| header.path_bytes().into_owned());
    let name = name.strip_suffix(b"/").unwrap_or(&name);
    let link = extensions.get("linkpath").cloned().or_else(|| header.link_name_bytes().map(Cow::into_owned));
    let link = path(&link.unwrap_or_default());
    let number = |key: &str, field: std::io::Result<u64>| {
        let written = extensions.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
        // A time may have a fraction.
        let written = written.map(|text| text.split('.').next().unwrap_or_default().parse());
        written.map_or_else(|| field.expect("a number in the header"), |number| number.expect("a number in a PAX record"))
    };
    let major = header.device_major().ok().flatten().unwrap_or(0);
    let minor = header.device_minor().ok().flatten().unwrap_or(0);
    let mut node = Node {
        path: path(name.strip_prefix(b"./").unwrap_or(name)),
        kind: match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(content),
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link),
            tar::EntryType::Link => Kind::HardLink(link),
            tar::EntryType::Char => Kind::Char(major, minor),
            tar::EntryType::Block => Kind::Block(major, minor),
            tar::EntryType::Fifo => Kind::Fifo,
            other => panic!("an entry of type {other:?} does not belong into a layer"),
        },
        mode: header.mode().expect("a mode") & 0o7777,
        uid: number("uid", header.uid()),
        gid: number("gid", header.gid()),
        mtime_seconds: number("mtime", header.mtime()),
        attributes: extensions
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), value.clone())))
            .collect(),
    };
    let name = node.path.file_name().unwrap_or_default().as_bytes().to_vec();
    if name == OPAQUE.as_bytes() {
        node.path.pop();
        node.kind = Kind::Opaque;
    } else if let Some(gone) = name.strip_prefix(WHITEOUT.as_bytes()) {
        node.path.set_file_name(OsStr::from_bytes(gone));
        node.kind = Kind::Whiteout;
    }
    node
}

/// Applies layers to one another and returns the resulting tree, sorted by path.
///
/// The first path of a file with several names shows the file, the others are hard links to it.
#[must_use]
pub fn flatten(layers: &[Vec<Node>]) -> Vec<Node> {
    let mut files: Vec<Node> = Vec::new();
    let mut paths: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for layer in layers {
        for node in layer {
            match node.kind {
                Kind::Whiteout => paths.retain(|path, _| !path.starts_with(&node.path)),
                Kind::Opaque => paths.retain(|path, _| path == &node.path || !path.starts_with(&node.path)),
                _ => {}
            }
        }
        for node in layer.iter().filter(|node| !matches!(node.kind, Kind::Whiteout | Kind::Opaque)) {
            if node.path.as_os_str().is_empty() || node.path == Path::new(".") {
                continue;
            }
            let is_directory = |index: &usize| files[*index].kind == Kind::Directory;
            if node.kind != Kind::Directory || !paths.get(&node.path).is_some_and(is_directory) {
                paths.retain(|path, _| !path.starts_with(&node.path));
            }
            let index = if let Kind::HardLink(target) = &node.kind {
                let target = target.strip_prefix("./").unwrap_or(target);
                *paths.get(target).unwrap_or_else(|| panic!("a link to {} that is not there", target.display()))
            } else {
                files.push(node.clone());
                files.len() - 1
            };
            paths.insert(node.path.clone(), index);
        }
    }
    let mut first_names: HashMap<usize, PathBuf> = HashMap::new();
    paths
        .into_iter()
        .map(|(path, index)| {
            let mut node = files[index].clone();
            if let Some(first) = first_names.get(&index) {
                node.kind = Kind::HardLink(first.clone());
            } else {
                first_names.insert(index, path.clone());
            }
            node.path = path;
            node
        })
        .collect()
}

/// Writes the tree into an existing directory. Owners and devices need root; without it owners are left alone.
pub fn write(text: &str, directory: &Path) {
    let nodes = parse(text);
    for node in &nodes {
        write_node(node, directory).unwrap_or_else(|error| panic!("cannot write {}: {error}", node.path.display()));
    }
    // Last, because every entry made in a directory moves its time.
    for node in nodes.iter().filter(|node| !matches!(node.kind, Kind::HardLink(_))) {
        let time = Timespec { tv_sec: node.mtime_seconds.cast_signed(), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, directory.join(&node.path), &times, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap_or_else(|error| panic!("cannot set the time of {}: {error}", node.path.display()));
    }
}

fn write_node(node: &Node, directory: &Path) -> std::io::Result<()> {
    let place = directory.join(&node.path);
    let special = |kind: FileType, major: u32, minor: u32| {
        rustix::fs::mknodat(CWD, &place, kind, Mode::empty(), rustix::fs::makedev(major, minor))
    };
    match &node.kind {
        Kind::Directory => std::fs::create_dir_all(&place)?,
        Kind::File(content) => std::fs::write(&place, content)?,
        Kind::Symlink(target) => symlink(target, &place)?,
        Kind::HardLink(target) => return std::fs::hard_link(directory.join(target), &place),
        Kind::Char(major, minor) => special(FileType::CharacterDevice, *major, *minor)?,
        Kind::Block(major, minor) => special(FileType::BlockDevice, *major, *minor)?,
        Kind::Fifo => special(FileType::Fifo, 0, 0)?,
        Kind::Whiteout | Kind::Opaque => panic!("a whiteout exists in layers only"),
    }
    if rustix::process::geteuid().is_root() {
        let owner = |id: u64| Some(u32::try_from(id).expect("an owner fits into 32 bits"));
        std::os::unix::fs::lchown(&place, owner(node.uid), owner(node.gid))?;
    }
    if !matches!(node.kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(CWD, &place, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
    }
    for (name, value) in &node.attributes {
        rustix::fs::lsetxattr(&place, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Reads a directory, and returns it in the text form, sorted by path.
#[must_use]
pub fn of_directory(directory: &Path) -> String {
    let mut nodes = Vec::new();
    let mut seen = HashMap::new();
    walk(directory, Path::new(""), &mut seen, &mut nodes)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", directory.display()));
    text(&nodes)
}

fn walk(root: &Path, below: &Path, seen: &mut HashMap<(u64, u64), PathBuf>, nodes: &mut Vec<Node>) -> std::io::Result<()> {
    let mut names: Vec<OsString> =
        std::fs::read_dir(root.join(below))?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        let place = root.join(&path);
        let metadata = std::fs::symlink_metadata(&place)?;
        let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let first = (!metadata.is_dir() && metadata.nlink() > 1)
            .then(|| seen.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone()).clone())
            .filter(|first| first != &path);
        let kind = match (first, FileType::from_raw_mode(metadata.mode())) {
            (Some(first), _) => Kind::HardLink(first),
            (None, FileType::Directory) => Kind::Directory,
            (None, FileType::Symlink) => Kind::Symlink(std::fs::read_link(&place)?),
            (None, FileType::CharacterDevice) => Kind::Char(device.0, device.1),
            (None, FileType::BlockDevice) => Kind::Block(device.0, device.1),
            (None, FileType::Fifo) => Kind::Fifo,
            (None, _) => Kind::File(std::fs::read(&place)?),
        };
        nodes.push(Node {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid().into(),
            gid: metadata.gid().into(),
            mtime_seconds: u64::try_from(metadata.mtime()).unwrap_or(0),
            attributes: attributes_of(&place)?,
            path: path.clone(),
        });
        if metadata.is_dir() {
            walk(root, &path, seen, nodes)?;
        }
    }
    Ok(())
}

fn attributes_of(place: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::llistxattr(place, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        // umoci leaves marks of its own on directories that it unpacks without root.
        if name == "security.selinux" || name.starts_with("user.rootlesscontainers") {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(place, name.as_str(), &mut value)?;
        value.truncate(length);
        attributes.insert(name, value);
    }
    Ok(attributes)
}

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// `etc/.wh.hosts` for `etc/hosts`.
fn marked(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a whiteout has a name");
    let mut marked = OsString::from(WHITEOUT);
    marked.push(name);
    path.with_file_name(marked)
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn number<Number: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Number, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn pair<Number: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(Number, Number), String> {
    let (first, second) = text.split_once(':').ok_or_else(|| format!("{text}: two numbers with a colon"))?;
    Ok((number(first)?, number(second)?))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes_of_hex(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(format!("{text}: an even number of hex digits"));
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|error| format!("{text}: {error}")))
        .collect()
}

/// The same bytes each time, of a kind that no compressor makes smaller.
#[must_use]
pub fn random_bytes(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_way_through_nodes_and_through_a_tar() {
        let lines = "\
a\\x20b/ 0755 0:0
bin/ 0755 0:0
bin/busybox 4755 0:0 \"machine code\\n\"
bin/ls = bin/busybox
bin/ping 0755 0:0 cap=0100000200200a00 user.note=6869 \"\"
bin/sh -> busybox
bin/vi -> busybox 1:2
dev/null 0666 0:0 c 1:3
dev/loop0 0660 0:6 b 7:0
- etc/shadow
! var
home/ 0750 1000:2000
home/\\xff 0600 2000000:0 \"a \\x22quote\\x22 and a back\\x5cslash\"
run/pipe 0644 0:0 p
";
        assert_eq!(text(&parse(lines)), lines);
        assert_eq!(text(&of_tar(&tar(lines))), lines);
    }

    #[test]
    fn a_tar_says_what_the_text_says_even_if_it_is_hostile() {
        let long = format!("{}/x", "d".repeat(200));
        let lines = format!("../escape 0644 0:0 \"x\"\n/abs 0644 0:0 \"x\"\n{long} 0644 0:0 \"\"\nlink -> {long}\n");
        assert_eq!(text(&of_tar(&tar(&lines))), lines);
    }

    #[test]
    fn layers_are_flattened_with_whiteouts_and_links() {
        let layers = [
            "d/ 0755 0:0\nd/a 0644 0:0 \"a\"\nd/b = d/a\no/ 0755 0:0\no/old 0644 0:0 \"\"\ns/ 0755 0:0\ns/in 0644 0:0 \"\"",
            "- d/a\no/ 0700 0:0\n! o\no/new 0644 0:0 \"n\"\ns -> d",
            "d/c = d/b",
        ];
        let layers: Vec<_> = layers.iter().map(|layer| parse(layer)).collect();
        assert_eq!(
            text(&flatten(&layers)),
            "d/ 0755 0:0\nd/b 0644 0:0 \"a\"\nd/c = d/b\no/ 0700 0:0\no/new 0644 0:0 \"n\"\ns -> d\n"
        );
    }

    #[test]
    fn a_directory_reads_back_as_it_was_written() {
        let owner = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // Of a link root is not named.
        let owner_of_link = if owner == "0:0" { String::new() } else { format!(" {owner}") };
        let lines =
            format!("d/ 0750 {owner}\nd/a 0640 {owner} \"text\"\nd/b = d/a\nd/l -> nowhere{owner_of_link}\nd/p 0600 {owner} p\n");
        let directory = tempfile::tempdir().unwrap();
        write(&lines, directory.path());
        assert_eq!(of_directory(directory.path()), lines);
        let mtime = std::fs::metadata(directory.path().join("d")).unwrap().mtime();
        assert_eq!(mtime, MTIME_SECONDS.cast_signed());
    }

    #[test]
    #[should_panic(expected = "what is \"contents\"?: a 0644 0:0 contents")]
    fn a_line_that_means_nothing_is_shown() {
        let _ = parse("a 0644 0:0 contents");
    }
}
