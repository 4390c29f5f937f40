//! Users and groups of an image: what `USER` and `--chown` mean there. Pure.

use std::num::NonZeroU32;

/// The accounts of an image.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups, in ascending order.
    pub groups: Vec<u32>,
    /// The home directory, `/` for who has none.
    pub home: String,
}

/// A name that the image does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("there is no user {0:?} in the image's /etc/passwd")]
    User(String),
    /// No such group.
    #[error("there is no group {0:?} in the image's /etc/group")]
    Group(String),
    /// A number beyond what a file system can hold.
    #[error("{0:?} is no user or group number")]
    Number(String),
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; a missing file is empty. Lines that are none are skipped, as the C library does.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let home = fields.nth(1).unwrap_or_default();
            Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned() })
        });
        let groups = group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let gid = fields.next()?.parse().ok()?;
            let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
            Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// Whom `--chown` names: `user`, `user:group`, names or numbers. Without a group it is the user's own; a number without a
    /// group is also the group's number. `root` and nothing are 0, whatever the image knows.
    ///
    /// # Errors
    /// [`AccountError`] for a name that the image does not know.
    pub fn owner(&self, text: &str) -> Result<(u32, u32), AccountError> {
        let (user, group) = split(text);
        let (uid, own_gid) = match fixed(user)? {
            Some(uid) => (uid, uid),
            None => self.named(user).map(|account| (account.uid, account.gid))?,
        };
        Ok((uid, group.map_or(Ok(own_gid), |group| self.owner_group(group))?))
    }

    /// Whom a directory belongs to that WORKDIR makes for this `USER`: as [`owner`](Self::owner) says, but a name that is not
    /// known is root's, because an image may name its user before it has one, or have no list of users at all (BuildKit).
    ///
    /// # Errors
    /// [`AccountError::Number`] for a number that is none.
    pub fn maker(&self, text: &str) -> Result<(u32, u32), AccountError> {
        let (user, group) = split(text);
        let known = |found: Result<(u32, u32), AccountError>, otherwise| match found {
            Err(AccountError::User(_) | AccountError::Group(_)) => Ok(otherwise),
            found => found,
        };
        let (uid, own_gid) = known(self.owner(user), (0, 0))?;
        let with_group = |group| self.owner_group(group).map(|gid| (uid, gid));
        group.map_or(Ok((uid, own_gid)), |group| known(with_group(group), (uid, own_gid)))
    }

    /// Whom `USER` names, as a process: a known user comes with the groups of `/etc/group` unless a group is named, an
    /// unknown number is in group 0.
    ///
    /// # Errors
    /// [`AccountError`] for a name that the image does not know.
    pub fn user(&self, text: &str) -> Result<User, AccountError> {
        let (user, group) = split(if text.is_empty() { "0" } else { text });
        let uid = number(user)?;
        let account = match uid {
            Some(uid) => self.users.iter().find(|account| account.uid == uid),
            None => Some(self.named(user)?),
        };
        let gid = group.map(|group| self.group(group)).transpose()?;
        let mut groups: Vec<u32> = match (account, gid) {
            (Some(account), None) => {
                let belongs = self.groups.iter().filter(|group| group.members.contains(&account.name));
                belongs.map(|group| group.gid).collect()
            }
            _ => Vec::new(),
        };
        groups.sort_unstable();
        groups.dedup();
        let home = account.map(|account| account.home.clone()).filter(|home| !home.is_empty());
        Ok(User {
            uid: account.map_or(uid.unwrap_or_default(), |account| account.uid),
            gid: gid.or(account.map(|account| account.gid)).unwrap_or_default(),
            groups,
            home: home.unwrap_or_else(|| "/".to_owned()),
        })
    }

    fn named(&self, name: &str) -> Result<&Account, AccountError> {
        self.users.iter().find(|account| account.name == name).ok_or_else(|| AccountError::User(name.to_owned()))
    }

    fn owner_group(&self, text: &str) -> Result<u32, AccountError> {
        fixed(text)?.map_or_else(|| self.group(text), Ok)
    }

    fn group(&self, text: &str) -> Result<u32, AccountError> {
        // BuildKit takes `user:` for group 0.
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(gid) = number(text)? {
            return Ok(gid);
        }
        let known = self.groups.iter().find(|group| group.name == text);
        known.map(|group| group.gid).ok_or_else(|| AccountError::Group(text.to_owned()))
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)))
}

/// What an owner means in every image: a number, and as with BuildKit `root` and nothing.
fn fixed(text: &str) -> Result<Option<u32>, AccountError> {
    if matches!(text, "" | "root") { Ok(Some(0)) } else { number(text) }
}

/// A number, if the text is one. The highest one means "nobody" to the kernel and is refused.
fn number(text: &str) -> Result<Option<u32>, AccountError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse::<u32>().ok().filter(|number| NonZeroU32::new(!number).is_some());
    number.map(Some).ok_or_else(|| AccountError::Number(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1000:app:/home/app:/bin/sh\nsvc:x:1001:2001::/:/bin/false\nbad:x:y\n",
            b"root:x:0:\nstaff:x:50:app,svc\nextra:x:2000:app\nsvcgrp:x:2001:\n",
        )
    }

    #[test]
    fn owners_by_name_and_number() {
        for (text, expected) in [
            ("app", (1000, 1000)),
            ("svc", (1001, 2001)),
            ("app:staff", (1000, 50)),
            ("123", (123, 123)),
            ("123:456", (123, 456)),
            ("root:2000", (0, 2000)),
            ("0:extra", (0, 2000)),
            ("app:", (1000, 0)),
        ] {
            assert_eq!(accounts().owner(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn root_owns_in_an_image_without_accounts() {
        for (text, expected) in [
            ("9:8", (9, 8)),
            ("root", (0, 0)),
            ("root:root", (0, 0)),
            ("root:5", (0, 5)),
            ("0:root", (0, 0)),
            (":50", (0, 50)),
            (":root", (0, 0)),
        ] {
            assert_eq!(Accounts::default().owner(text), Ok(expected), "{text}");
        }
        let odd = Accounts::parse(b"root:x:7:8::/:/bin/sh\n", b"root:x:9:\n");
        assert_eq!((odd.owner("root"), odd.owner("5:root")), (Ok((0, 0)), Ok((5, 0))), "the word, not the account");
        assert_eq!(odd.maker("3:root"), Ok((3, 0)));
    }

    #[test]
    fn a_working_directory_of_an_unknown_user_is_roots() {
        for (text, expected) in [
            ("svc", (1001, 2001)),
            ("1001", (1001, 1001)),
            ("svc:staff", (1001, 50)),
            ("phantom", (0, 0)),
            ("phantom:staff", (0, 50)),
            ("svc:phantom", (1001, 2001)),
        ] {
            assert_eq!(accounts().maker(text), Ok(expected), "{text}");
        }
        assert_eq!(Accounts::default().maker("nobody"), Ok((0, 0)));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(accounts().owner("phantom"), Err(AccountError::User("phantom".to_owned())));
        assert_eq!(accounts().owner("app:phantom"), Err(AccountError::Group("phantom".to_owned())));
        assert_eq!(accounts().owner("4294967295"), Err(AccountError::Number("4294967295".to_owned())));
        assert_eq!(accounts().user(":app"), Err(AccountError::User(String::new())));
        assert_eq!(Accounts::default().user("root"), Err(AccountError::User("root".to_owned())));
    }

    #[test]
    fn a_process_has_the_groups_of_its_user() {
        let user = |text: &str| accounts().user(text).map(|user| (user.uid, user.gid, user.groups, user.home)).unwrap();
        assert_eq!(user("app"), (1000, 1000, vec![50, 2000], "/home/app".to_owned()));
        assert_eq!(user("1001"), (1001, 2001, vec![50], "/".to_owned()));
        assert_eq!(user("app:staff"), (1000, 50, vec![], "/home/app".to_owned()));
        assert_eq!(user("99"), (99, 0, vec![], "/".to_owned()));
        assert_eq!(user("77:88"), (77, 88, vec![], "/".to_owned()));
        assert_eq!(user(""), (0, 0, vec![], "/root".to_owned()));
        assert_eq!(Accounts::default().user("0").map(|user| (user.uid, user.gid)), Ok((0, 0)));
    }
}
