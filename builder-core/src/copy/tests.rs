//! One test per rule of COPY, ADD and WORKDIR, written as the instruction, the trees and the layer.

use super::*;
use crate::tree::{Timestamp, Tree, TreePath, text};
use std::error::Error;

/// What the sources are in most tests.
const FILES: &str =
    "a.txt 0644 0:0 @5 \"A\"\nb.txt 0644 0:0 \"B\"\nd/ 0755 0:0\nd/c.txt 0644 0:0 \"C\"\nd/e/ 0755 0:0\nd/e/f.txt 0644 0:0 \"F\"";

fn tree(lines: &str) -> Tree {
    let mut tree = Tree::new();
    tree.apply(&text::parse(lines).unwrap());
    tree
}

/// The layer that an instruction such as `--chown=1:2 a.txt d /x/` makes on `base`, or its error. Made directories have the time 99.
fn copy(base: &str, files: &str, instruction: &str) -> Result<String, Box<dyn Error>> {
    let (mut excludes, mut kind, mut ground, mut owner, mut chmod) = (Vec::new(), Kind::Contents, Ground::Tree, None, None);
    let mut words: Vec<&str> = instruction.split(' ').collect();
    while words[0].starts_with("--") {
        match words.remove(0).split_once('=').unwrap_or_default() {
            ("--exclude", pattern) => excludes.push(pattern),
            ("--chown", text) => owner = Some(Accounts::default().owner(text)?),
            ("--chmod", text) => chmod = Some(Chmod::parse(text)?),
            _ if instruction.contains("--parents") => kind = Kind::Parents,
            _ => ground = Ground::Empty,
        }
    }
    let destination = words.pop().unwrap();
    check_destination(words.len(), destination.as_bytes())?;
    let (base, files, excludes) = (tree(base), tree(files), Rules::from_patterns(&excludes)?);
    let mut items = Vec::new();
    for word in words {
        let found = match word.strip_prefix("<<") {
            Some(name) => vec![Selection::inline(name, b"here", Timestamp::from_seconds(99))],
            None => select(&files, word.as_bytes(), kind, &excludes)?,
        };
        assert!(content_digest(&found).is_some(), "all digests are known in text");
        items.extend(found.into_iter().map(Item::Files));
    }
    let (destination, workdir, now) = (destination.into(), TreePath::clamp("work"), Timestamp::from_seconds(99));
    let changes = place(&base, &items, &Placement { destination, workdir, owner, chmod, ground, now })?;
    check_layer(&base, &changes, ground);
    Ok(show(&changes))
}

fn show(changes: &[crate::tree::Change]) -> String {
    changes.iter().map(text::format_change).collect::<Vec<_>>().join("\n")
}

/// The invariants of a layer.
fn check_layer(base: &Tree, changes: &[crate::tree::Change], ground: Ground) {
    use crate::tree::Change;
    let mut seen = Tree::new();
    for (at, change) in changes.iter().enumerate() {
        let path = change.path();
        assert!(at == 0 || changes[at - 1].path() < path, "{path} is sorted and once");
        let parent = path.parent().unwrap();
        let known = parent.is_root() || seen.get(&parent).is_some() || (ground == Ground::Tree && base.get(&parent).is_some());
        assert!(known, "the parent of {path} is known");
        match change {
            Change::Put { entry, .. } => seen.put(path, entry.clone()),
            Change::Link { target, .. } => assert!(seen.get(target).is_some(), "the target of {path} stands before it"),
            Change::Remove { .. } => assert!(base.get(path).is_some(), "{path} exists"),
            Change::Opaque { .. } => panic!("never written"),
        }
    }
}

#[track_caller]
fn copies(base: &str, files: &str, instruction: &str, layer: &str) {
    assert_eq!(copy(base, files, instruction).unwrap(), layer, "COPY {instruction}");
}

#[track_caller]
fn fails(base: &str, files: &str, instruction: &str, message: &str) {
    assert_eq!(copy(base, files, instruction).unwrap_err().to_string(), message, "COPY {instruction}");
}

#[test]
fn a_file_goes_to_a_name_or_into_a_directory() {
    copies("", FILES, "a.txt /x", "x 0644 0:0 @5 \"A\"");
    copies("", FILES, "a.txt /y/", "y/ 0755 0:0 @99\ny/a.txt 0644 0:0 @5 \"A\"");
    copies("home/ 0700 1:1", FILES, "a.txt /home", "home/a.txt 0644 0:0 @5 \"A\"");
    copies("", FILES, "b.txt /p/q/r", "p/ 0755 0:0 @99\np/q/ 0755 0:0 @99\np/q/r 0644 0:0 \"B\"");
    copies("", FILES, "a.txt b.txt /z/", "z/ 0755 0:0 @99\nz/a.txt 0644 0:0 @5 \"A\"\nz/b.txt 0644 0:0 \"B\"");
}

#[test]
fn a_relative_destination_starts_at_the_working_directory() {
    copies("work/ 0755 0:0", FILES, "b.txt .", "work/b.txt 0644 0:0 \"B\"");
    copies("work/ 0755 0:0", FILES, "b.txt ../x", "x 0644 0:0 \"B\"");
    copies("work/ 0755 0:0", FILES, "b.txt ../../../x", "x 0644 0:0 \"B\"");
}

#[test]
fn several_sources_need_a_directory() {
    fails("", FILES, "a.txt b.txt /x", "several sources need a destination directory, so \"/x\" has to end with \"/\"");
    copies("work/ 0755 0:0", FILES, "d/c.txt b.txt .", "work/b.txt 0644 0:0 \"B\"\nwork/c.txt 0644 0:0 \"C\"");
}

#[test]
fn a_directory_source_means_its_contents() {
    let contents = "c.txt 0644 0:0 \"C\"\nX/e/ 0755 0:0\nX/e/f.txt 0644 0:0 \"F\"".replace('X', "one");
    for instruction in ["d /one", "d/ /one/", "./d /one", "/d/. /one"] {
        copies("", FILES, instruction, &format!("one/ 0755 0:0 @99\none/{contents}"));
    }
    copies("", FILES, "d/e . /", &format!("{FILES}\nf.txt 0644 0:0 \"F\""));
}

#[test]
fn the_directory_made_for_the_destination_does_not_take_after_the_source() {
    copies("", "d/ 0700 7:7\nd/s/ 1777 8:8", "d /x", "x/ 0755 0:0 @99\nx/s/ 1777 8:8");
}

#[test]
fn a_literal_source_has_to_exist() {
    fails("", FILES, "nothing.txt /x", "\"nothing.txt\" was not found");
    fails("", FILES, "d/c.txt/x /x", "/d/c.txt is not a directory");
    fails("", FILES, "../../../etc/hostname /x", "\"../../../etc/hostname\" was not found");
    fails("", "l -> gone", "l /x", "\"l\" was not found");
}

#[test]
fn a_wildcard_without_a_match_creates_nothing() {
    copies("", FILES, "*.none /nothing/", "");
    copies("", FILES, "b.txt *.none /some/", "some/ 0755 0:0 @99\nsome/b.txt 0644 0:0 \"B\"");
}

#[test]
fn wildcards_match_part_by_part() {
    let files =
        "a1.c 0644 0:0 \"\"\nb.md 0644 0:0 \"\"\nd/in 0644 0:0 \"\"\nd/e/in 0644 0:0 \"\"\nx1.c 0644 0:0 \"\"\n[x] 0644 0:0 \"\"";
    let copied = |sources: &str| copy("t/ 0755 0:0", files, &format!("{sources} /t/")).unwrap().replace(" 0644 0:0 \"\"", "");
    assert_eq!(copied("*.c"), "t/a1.c\nt/x1.c");
    assert_eq!(copied("?.md"), "t/b.md");
    assert_eq!(copied("[ab]?.c"), "t/a1.c");
    assert_eq!(copied("x[!1].c"), "t/x1.c");
    assert_eq!(copied("x[^1].c"), "");
    assert_eq!(copied("*/in"), "t/in");
    assert_eq!(copied("**/in"), "t/in");
    assert_eq!(copied("[[]x]"), "t/[x]");
    assert_eq!(copied("d*"), "t/e/ 0755 0:0\nt/e/in\nt/in");
}

#[test]
fn a_link_named_as_source_is_followed_and_one_inside_is_kept() {
    let files = "d/ 0755 0:0\nd/broken -> gone\nd/inner -> ../real\ndl -> d\nl -> real\nreal 0644 0:0 \"r\"\nup -> ../../real";
    copies("", files, "l /x", "x 0644 0:0 \"r\"");
    copies("", files, "up /x", "x 0644 0:0 \"r\"");
    copies("", files, "l* /g/", "g/ 0755 0:0 @99\ng/l 0644 0:0 \"r\"");
    copies("", files, "dl /x", "x/ 0755 0:0 @99\nx/broken -> gone\nx/inner -> ../real");
    copies("", files, "dl/inner /x", "x 0644 0:0 \"r\"");
}

#[test]
fn links_in_the_destination_are_followed_inside_the_root() {
    let base = "abs -> /real\nchain -> abs/sub\nfile -> real/f\nout -> ../../../new\nreal/ 0755 0:0\nreal/f 0600 0:0 \"\"\nreal/sub/ 0755 0:0";
    copies(base, FILES, "b.txt /abs/x", "real/x 0644 0:0 \"B\"");
    copies(base, FILES, "b.txt /abs", "real/b.txt 0644 0:0 \"B\"");
    copies(base, FILES, "d/e /chain/", "real/sub/f.txt 0644 0:0 \"F\"");
    copies(base, FILES, "b.txt /file", "real/f 0644 0:0 \"B\"");
    copies(base, FILES, "b.txt /out/", "new/ 0755 0:0 @99\nnew/b.txt 0644 0:0 \"B\"");
}

#[test]
fn what_is_there_is_replaced_by_its_kind_only() {
    copies("f 4711 1:50 \"old\"", FILES, "b.txt /f", "f 0644 0:0 \"B\"");
    copies("t/ 0755 0:0\nt/b.txt -> /etc", FILES, "b.txt /t/", "t/b.txt 0644 0:0 \"B\"");
    fails("f 0644 0:0 \"\"", FILES, "b.txt /f/", "/f is not a directory");
    fails("f 0644 0:0 \"\"", FILES, "b.txt /f/sub/x", "/f is not a directory");
    fails("f 0644 0:0 \"\"", FILES, "d /f", "cannot replace /f with a directory: it is a file or a symbolic link");
    fails("t/e -> /", FILES, "d /t/", "cannot replace /t/e with a directory: it is a file or a symbolic link");
    fails("t/c.txt/ 0755 0:0", FILES, "d /t/", "cannot replace the directory /t/c.txt with a file");
    fails("l -> l", FILES, "b.txt /l/x", "too many levels of symbolic links at /l");
}

#[test]
fn an_existing_destination_keeps_its_attributes_and_directories_below_take_the_sources() {
    let base = "tmp/ 1777 0:0\ntmp/e/ 0700 9:9";
    let all = "tmp/c.txt 0770 1:2 \"C\"\ntmp/e/ 0770 1:2\ntmp/e/f.txt 0770 1:2 \"F\"";
    copies(base, FILES, "--chown=1:2 --chmod=770 d /tmp/", all);
    copies(base, FILES, "d /tmp/", "tmp/c.txt 0644 0:0 \"C\"\ntmp/e/ 0755 0:0\ntmp/e/f.txt 0644 0:0 \"F\"");
    copies("tmp/e/ 0755 0:0 @3", FILES, "d/e /tmp/e", "tmp/e/f.txt 0644 0:0 \"F\"");
}

#[test]
fn chown_applies_to_all_and_to_made_directories() {
    let files = "d/ 0755 0:0\nd/f 0644 0:0 \"\"\nd/l -> f";
    copies("", files, "--chown=5 d /x/y", "x/ 0755 5:5 @99\nx/y/ 0755 5:5 @99\nx/y/f 0644 5:5 \"\"\nx/y/l -> f 5:5");
    copies("", "f 0640 7:8 cap=01 \"\"", "f /x/f", "x/ 0755 0:0 @99\nx/f 0640 7:8 cap=01 \"\"");
}

#[test]
fn chmod_applies_to_files_directories_and_made_directories() {
    copies("", FILES, "--chmod=4755 a.txt /suid", "suid 4755 0:0 @5 \"A\"");
    copies("", FILES, "--chmod=751 d/e /t", "t/ 0751 0:0 @99\nt/f.txt 0751 0:0 \"F\"");
    copies("", FILES, "--chmod=600 --chown=1 b.txt /both/", "both/ 0600 1:1 @99\nboth/b.txt 0600 1:1 \"B\"");
    let files = "d/s/ 0700 0:0\nd/s/l -> x\nd/s/x 0700 0:0 \"\"\nd/s/y 0600 0:0 \"\"";
    let symbolic = "t/ 0755 0:0 @99\nt/s/ 0755 0:0\nt/s/l -> x\nt/s/x 0755 0:0 \"\"\nt/s/y 0644 0:0 \"\"";
    copies("", files, "--chmod=u=rwX,go=rX d /t", symbolic);
    fails("", FILES, "--chmod=rwxq a.txt /f", &ChmodError("rwxq".to_owned()).to_string());
}

#[test]
fn excludes_leave_out_below_a_directory() {
    let all = "t/ 0755 0:0 @99\nt/b.txt 0644 0:0 \"B\"\nt/d/ 0755 0:0\nt/d/c.txt 0644 0:0 \"C\"\nt/d/e/ 0755 0:0\nt/d/e/f.txt 0644 0:0 \"F\"";
    copies("", FILES, "--exclude=a.txt . /t/", all);
    copies("", FILES, "--exclude=**/*.txt . /t/", "t/ 0755 0:0 @99\nt/d/ 0755 0:0\nt/d/e/ 0755 0:0");
    copies("", FILES, "--exclude=e d /t/", "t/ 0755 0:0 @99\nt/c.txt 0644 0:0 \"C\"");
    copies(
        "",
        FILES,
        "--exclude=* --exclude=!d/e . /t/",
        "t/ 0755 0:0 @99\nt/d/ 0755 0:0\nt/d/e/ 0755 0:0\nt/d/e/f.txt 0644 0:0 \"F\"",
    );
}

#[test]
fn excludes_do_not_concern_a_file_that_a_source_names() {
    copies("", FILES, "--exclude=b.* b.txt /t/", "t/ 0755 0:0 @99\nt/b.txt 0644 0:0 \"B\"");
}

#[test]
fn parents_keep_the_path() {
    let files = "d/ 0711 3:3\nd/c.txt 0644 0:0 \"C\"\nd/e/ 0755 0:0\nd/e/f.txt 0644 0:0 \"F\"\nm.txt 0644 0:0 \"M\"";
    copies("", files, "--parents d/e /q/", "q/ 0755 0:0 @99\nq/d/ 0711 3:3\nq/d/e/ 0755 0:0\nq/d/e/f.txt 0644 0:0 \"F\"");
    copies(
        "",
        files,
        "--parents ./d/c.txt m.txt /r/",
        "r/ 0755 0:0 @99\nr/d/ 0711 3:3\nr/d/c.txt 0644 0:0 \"C\"\nr/m.txt 0644 0:0 \"M\"",
    );
    copies("", files, "--parents d/./e/f.txt /r", "r/ 0755 0:0 @99\nr/e/ 0755 0:0\nr/e/f.txt 0644 0:0 \"F\"");
    copies("", files, "--parents **/f.txt /r/", "r/ 0755 0:0 @99\nr/d/ 0711 3:3\nr/d/e/ 0755 0:0\nr/d/e/f.txt 0644 0:0 \"F\"");
    copies(
        "",
        files,
        "--parents d/*/ /r/",
        "r/ 0755 0:0 @99\nr/d/ 0711 3:3\nr/d/c.txt 0644 0:0 \"C\"\nr/d/e/ 0755 0:0\nr/d/e/f.txt 0644 0:0 \"F\"",
    );
    copies(
        "",
        files,
        "--parents --exclude=**/f.txt d/* /r/",
        "r/ 0755 0:0 @99\nr/d/ 0711 3:3\nr/d/c.txt 0644 0:0 \"C\"\nr/d/e/ 0755 0:0",
    );
    copies("", files, "--parents *.none /r/", "r/ 0755 0:0 @99");
    fails("", files, "--parents d/absent.txt /r/", "\"d/absent.txt\" was not found");
}

#[test]
fn parents_change_only_the_mode_of_a_directory_that_exists() {
    copies("r/ 0700 1:1\nr/d/ 0700 5:5 @7", FILES, "--parents d/c.txt /r/", "r/d/ 0755 5:5 @7\nr/d/c.txt 0644 0:0 \"C\"");
}

#[test]
fn link_makes_a_layer_of_its_own() {
    let base = "abs -> /real\nlinked/ 0700 7:7\nreal/ 0755 0:0";
    copies(base, FILES, "--link b.txt /linked/b", "linked/ 0755 0:0 @99\nlinked/b 0644 0:0 \"B\"");
    copies(
        base,
        FILES,
        "--link --chown=12:34 d/e /linked/d/",
        "linked/ 0755 12:34 @99\nlinked/d/ 0755 12:34 @99\nlinked/d/f.txt 0644 12:34 \"F\"",
    );
    copies(base, FILES, "--link b.txt /abs/b", "abs/ 0755 0:0 @99\nabs/b 0644 0:0 \"B\"");
    copies(base, FILES, "--link b.txt rel/", "work/ 0755 0:0 @99\nwork/rel/ 0755 0:0 @99\nwork/rel/b.txt 0644 0:0 \"B\"");
}

#[test]
fn hard_links_are_kept_within_one_source() {
    let files = "h/ 0755 0:0\nh/one 0644 0:0 \"same\"\nh/s/ 0755 0:0\nh/s/three = h/one\nh/two = h/one";
    copies("", files, "h /h", "h/ 0755 0:0 @99\nh/one 0644 0:0 \"same\"\nh/s/ 0755 0:0\nh/s/three = h/one\nh/two = h/one");
    copies("", files, "h/two /alone", "alone 0644 0:0 \"same\"");
    copies("t/ 0755 0:0", files, "h/one h/two /t/", "t/one 0644 0:0 \"same\"\nt/two 0644 0:0 \"same\"");
    copies("", files, "--exclude=one h /h", "h/ 0755 0:0 @99\nh/s/ 0755 0:0\nh/s/three 0644 0:0 \"same\"\nh/two = h/s/three");
}

#[test]
fn a_name_that_a_later_source_replaces_leaves_its_links() {
    let files = "h/b.txt 0644 0:0 \"same\"\nh/z = h/b.txt\nb.txt 0644 0:0 \"B\"";
    copies("t/ 0755 0:0", files, "h b.txt /t/", "t/b.txt 0644 0:0 \"B\"\nt/z 0644 0:0 \"same\"");
}

#[test]
fn special_files_are_copied() {
    copies(
        "",
        "d/ 0755 0:0\nd/null 0666 0:0 c 1:3\nd/p 0620 0:0 p",
        "d /x",
        "x/ 0755 0:0 @99\nx/null 0666 0:0 c 1:3\nx/p 0620 0:0 p",
    );
}

#[test]
fn heredocs_are_files_of_their_own() {
    copies("", FILES, "<<EOF /greeting", "greeting 0644 0:0 @99 \"here\"");
    copies(
        "",
        FILES,
        "--chmod=755 --chown=3 <<one.txt <<two.txt /m/",
        "m/ 0755 3:3 @99\nm/one.txt 0755 3:3 @99 \"here\"\nm/two.txt 0755 3:3 @99 \"here\"",
    );
}

#[test]
fn workdir_makes_what_is_missing_for_its_user() {
    let base = tree("abs -> /real\nfile 0644 0:0 \"\"\nreal/ 0700 7:7");
    let made =
        |path: &str| workdir(&base, &TreePath::clamp(path), (1, 2), Timestamp::from_seconds(99)).map(|changes| show(&changes));
    assert_eq!(made("/").unwrap(), "");
    assert_eq!(made("real").unwrap(), "");
    assert_eq!(made("abs/new").unwrap(), "real/new/ 0755 1:2 @99");
    assert_eq!(made("x/y").unwrap(), "x/ 0755 1:2 @99\nx/y/ 0755 1:2 @99");
    assert_eq!(made("file/x"), Err(PlaceError::NotADirectory(TreePath::clamp("file"))));
    assert_eq!(made("file"), Err(PlaceError::NotADirectory(TreePath::clamp("file"))));
}

fn extract(base: &str, archive: &str, destination: &str, owner: Option<(u32, u32)>) -> Result<String, PlaceError> {
    let (base, now) = (tree(base), Timestamp::from_seconds(99));
    let (workdir, ground) = (TreePath::root(), Ground::Tree);
    let placement = Placement { destination: destination.into(), workdir, owner, chmod: None, ground, now };
    let changes = place(&base, &[Item::Archive(text::parse(archive).unwrap())], &placement)?;
    check_layer(&base, &changes, ground);
    Ok(show(&changes))
}

const ARCHIVE: &str = "top/ 0750 1000:50\ntop/f 0640 1000:50 @7 \"in\"\ntop/l -> f\ntop/h = top/f\ntop/x 4755 0:0 \"#\"";

#[test]
fn an_archive_is_extracted_with_its_attributes() {
    let extracted = "o/ 0755 0:0 @99\no/top/ 0750 1000:50\no/top/f 0640 1000:50 @7 \"in\"\no/top/h = o/top/f\no/top/l -> f\no/top/x 4755 0:0 \"#\"";
    for destination in ["/o", "/o/", "o"] {
        assert_eq!(extract("", ARCHIVE, destination, None).unwrap(), extracted);
    }
    let owned = extracted.replace("1000:50", "9:9").replace("0:0", "9:9").replace("-> f", "-> f 9:9");
    assert_eq!(extract("", ARCHIVE, "/o/", Some((9, 9))).unwrap(), owned);
}

#[test]
fn an_archive_over_what_exists() {
    let archive = "have/ 0711 0:0\nhave/f 0644 0:0 \"new\"\nsub/g 0644 0:0 \"g\"";
    let base = "real/have/ 0700 5:5\nreal/have/f 0600 5:5 \"old\"\nreal/have/kept 0644 0:0 \"\"\nrel -> real";
    let expected = "real/have/ 0711 0:0\nreal/have/f 0644 0:0 \"new\"\nreal/sub/ 0755 0:0 @99\nreal/sub/g 0644 0:0 \"g\"";
    assert_eq!(extract(base, archive, "/rel/", None).unwrap(), expected);
    assert_eq!(extract("d/ 0755 0:0\nd/old 0644 0:0 \"\"", "d 0644 0:0 \"file\"", "/", None).unwrap(), "d 0644 0:0 \"file\"");
    assert_eq!(extract("d -> /", "d/ 0755 0:0\nd/f 0644 0:0 \"\"", "/", None).unwrap(), "d/ 0755 0:0\nd/f 0644 0:0 \"\"");
}

#[test]
fn a_directory_that_an_archive_takes_away_and_makes_anew_is_empty() {
    let base = "d/ 0755 0:0\nd/old 0644 0:0 \"\"\nd/s/ 0755 0:0\nd/s/old 0644 0:0 \"\"";
    let archive = "d 0644 0:0 \"file\"\nd/ 0700 0:0\nd/s/ 0700 0:0";
    assert_eq!(extract(base, archive, "/", None).unwrap(), "d/ 0700 0:0\n- d/old\nd/s/ 0700 0:0\n- d/s/old");
}

#[test]
fn links_of_an_archive_lead_inside_its_destination() {
    let archive = "l -> /etc\nl/passwd 0644 0:0 \"mine\"\nup -> ../../..\nup/x 0644 0:0 \"\"";
    let expected = "jail/ 0755 0:0 @99\njail/etc/ 0755 0:0 @99\njail/etc/passwd 0644 0:0 \"mine\"\njail/l -> /etc\njail/up -> ../../..\njail/x 0644 0:0 \"\"";
    assert_eq!(extract("etc/passwd 0644 0:0 \"root\"", archive, "/jail", None).unwrap(), expected);
}

#[test]
fn a_hard_link_of_an_archive_to_a_file_of_the_image_takes_it_along() {
    assert_eq!(extract("a 0600 1:1 \"old\"", "b = a", "/", None).unwrap(), "a 0600 1:1 \"old\"\nb = a");
    let (path, target) = (TreePath::clamp("o/b"), TreePath::clamp("o/a"));
    assert_eq!(extract("a 0600 1:1 \"old\"", "b = a", "/o", None), Err(PlaceError::ArchiveLink { path, target }));
}

#[test]
fn whiteouts_of_an_archive_are_refused() {
    assert_eq!(extract("a 0600 1:1 \"old\"", "- a", "/", None), Err(PlaceError::ArchiveWhiteout(TreePath::clamp("a"))));
}

#[test]
fn the_content_digest_sees_what_is_copied_and_no_times() {
    let digest = |files: &str, word: &str| {
        content_digest(&select(&tree(files), word.as_bytes(), Kind::Contents, &Rules::default()).unwrap())
    };
    let base = digest("d/f 0644 0:0 @1 \"x\"", "d");
    assert_eq!(base, digest("d/f 0644 0:0 @2 \"x\"\nother 0644 0:0 \"\"", "d"));
    for other in [
        "d/f 0644 0:0 \"y\"",
        "d/f 0600 0:0 \"x\"",
        "d/f 0644 1:0 \"x\"",
        "d/g 0644 0:0 \"x\"",
        "d/f -> x",
        "d/f/ 0644 0:0",
        "d/f 0644 0:0 cap=01 \"x\"",
    ] {
        assert_ne!(base, digest(other, "d"), "{other}");
    }
    assert_ne!(digest("a 0644 0:0 \"x\"\nb 0644 0:0 \"x\"", "."), digest("a 0644 0:0 \"x\"\nb = a", "."));
}
