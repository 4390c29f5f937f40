//! The machine around us: variables, the current directory, the terminal, and which directories can be written.
//!
//! The only file that reads them. [`Environment`] is a value, so what is made of it is decided elsewhere and tested
//! without a machine.

use crate::request::StateCandidate;
use builder_core::oci::Platform;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the process was started with. No `Debug`: variables hold secrets.
#[derive(Clone)]
pub struct Environment {
    /// The variables whose name and value are UTF-8.
    pub variables: BTreeMap<String, String>,
    /// The current directory.
    pub current_directory: PathBuf,
    /// What this machine is.
    pub platform: Platform,
    /// The user, as the system outside counts.
    pub user_id: u32,
    /// Whether standard error is a terminal.
    pub terminal: bool,
}

impl Environment {
    /// Looks around.
    pub fn read() -> Self {
        let utf8 =
            |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self {
            variables: std::env::vars_os().filter_map(utf8).collect(),
            current_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            platform: Platform::new("linux", std::env::consts::ARCH, None),
            user_id: rustix::process::geteuid().as_raw(),
            terminal: io::stderr().is_terminal(),
        }
    }

    /// The value of a variable that is set to something.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `path`, seen from the current directory.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        let joined = self.current_directory.join(path);
        // `.` and a slash at the end say nothing; `..` stays, because only the kernel knows where a link leads.
        joined.components().collect()
    }
}

/// The width of the terminal on standard error, now.
pub fn terminal_columns() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether user ids are not those of the machine, as in a pod with `hostUsers: false`. Once a build has entered a namespace of its
/// own, always.
pub fn is_in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_every_id_to_itself(&map))
}

fn maps_every_id_to_itself(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// The first of `paths` that exists, else the last.
pub fn first_existing(paths: &[PathBuf]) -> PathBuf {
    let found = paths.iter().find(|path| path.exists()).or(paths.last());
    found.cloned().unwrap_or_default()
}

/// Reads a Dockerfile that is piped to us.
pub fn read_standard_input() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Makes the first candidate that can be written and says which, along with those that were refused and why.
///
/// # Errors
/// The refusals, if there were nothing but refusals.
pub fn prepare_state_directory(candidates: &[StateCandidate]) -> Result<(PathBuf, Vec<StateRefusal>), Vec<StateRefusal>> {
    let mut refusals = Vec::new();
    for candidate in candidates {
        match prepare(candidate) {
            Ok(()) => return Ok((candidate.path.clone(), refusals)),
            Err(reason) => refusals.push(StateRefusal { path: candidate.path.clone(), asked_for: candidate.asked_for, reason }),
        }
    }
    Err(refusals)
}

/// A directory that cannot hold our state.
#[derive(Debug)]
pub struct StateRefusal {
    /// Which.
    pub path: PathBuf,
    /// Whether the user named it.
    pub asked_for: bool,
    /// Why not.
    pub reason: io::Error,
}

fn prepare(candidate: &StateCandidate) -> io::Result<()> {
    if let Some(parent) = &candidate.inside
        && !parent.is_dir()
    {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", parent.display())));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&candidate.path)?;
    // What lies between the two, as ~/.cache where the home directory is /tmp: whose it is could put another in place of ours.
    let between = candidate.path.ancestors().skip(1).take_while(|path| Some(*path) != candidate.inside.as_deref());
    for path in between.filter(|_| candidate.inside.is_some()) {
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} belongs to another user", path.display())));
        }
    }
    let found = std::fs::symlink_metadata(&candidate.path)?;
    let refused = |reason: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    // In a directory that all may write to, another user could have made it before us: whoever writes there decides what is
    // taken for a result of ours.
    if !candidate.asked_for {
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return refused("it belongs to another user");
        }
        if found.mode() & 0o022 != 0 {
            return refused("other users can write to it");
        }
    }
    let probe = candidate.path.join(format!(".writable-{}", std::process::id()));
    std::fs::File::create(&probe)?;
    match std::fs::remove_file(&probe) {
        // Another container on the same volume may have our number, and have been faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_writable_directory_holds_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let candidate = |inside: Option<PathBuf>, path: PathBuf| StateCandidate { inside, path, asked_for: false };
        let candidates = [
            candidate(None, file.join("below-a-file")),
            candidate(Some(directory.path().join("absent")), directory.path().join("absent/state")),
            candidate(Some(directory.path().to_owned()), directory.path().join("a/b")),
            candidate(None, directory.path().join("never")),
        ];
        let (chosen, refusals) = prepare_state_directory(&candidates).unwrap();
        assert_eq!(chosen, directory.path().join("a/b"));
        assert_eq!(refusals.len(), 2);
        assert!(!directory.path().join("never").exists() && !directory.path().join("absent").exists());
        assert_eq!(std::fs::read_dir(&chosen).unwrap().count(), 0);
        assert_eq!(prepare_state_directory(&candidates[..2]).unwrap_err().len(), 2);
    }

    #[test]
    fn a_map_of_ids_tells_the_machine_from_a_user_namespace() {
        assert!(maps_every_id_to_itself("         0          0 4294967295\n"));
        for map in
            ["         0    1000000      65536\n", "         0          0          1\n         1     100000      65536\n", ""]
        {
            assert!(!maps_every_id_to_itself(map), "{map:?}");
        }
    }

    #[test]
    fn what_others_can_write_to_is_trusted_only_if_it_was_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cofferdam-0");
        std::fs::create_dir(&path).unwrap();
        for (mode, owner, asked_for, expected) in [
            (0o700, None, false, Ok(())),
            (0o755, None, false, Ok(())),
            (0o777, None, false, Err("other users can write to it")),
            (0o770, None, false, Err("other users can write to it")),
            (0o777, None, true, Ok(())),
            (0o700, Some(54_321), false, Err("it belongs to another user")),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            if owner.is_some() && std::os::unix::fs::chown(&path, owner, None).is_err() {
                // Only root can play another user.
                continue;
            }
            let tried = prepare_state_directory(&[StateCandidate { inside: None, path: path.clone(), asked_for }]);
            let tried = tried.map(|_| ()).map_err(|refusals| refusals[0].reason.to_string());
            assert_eq!(tried, expected.map_err(str::to_owned), "{mode:o} {owner:?} {asked_for}");
        }
    }

    #[test]
    fn what_lies_between_a_home_that_all_share_and_the_state_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        let candidate = StateCandidate { inside: Some(home.to_owned()), path: home.join(".cache/cofferdam"), asked_for: false };
        assert!(prepare_state_directory(std::slice::from_ref(&candidate)).is_ok());
        std::fs::rename(home.join(".cache"), home.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", home.join(".cache")).unwrap();
        let refusals = prepare_state_directory(&[candidate]).unwrap_err();
        assert!(refusals[0].reason.to_string().ends_with(".cache belongs to another user"), "{}", refusals[0].reason);
    }

    #[test]
    fn a_link_left_by_another_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("cofferdam-0");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(prepare_state_directory(&[StateCandidate { inside: None, path: link, asked_for: false }]).is_err());
    }
}
