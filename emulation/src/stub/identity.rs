//! Whom the program takes itself for: numbers of our own, changed by the rules of the kernel for root and for others.

use super::kernel::{Answer, EINVAL, EPERM};

/// The identities of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    pub(crate) filesystem: u32,
}

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    group_count: usize,
    groups: [u32; 64],
    /// `PR_SET_KEEPCAPS`: rights stay when root becomes another user.
    pub(crate) keeps: bool,
    /// Rights that were kept that way.
    kept: bool,
}

/// What a system call leaves as it is.
const UNCHANGED: u32 = u32::MAX;

impl Credentials {
    pub(crate) const NUMBERS: usize = 8 + 1 + 64;
    pub(crate) const ROOT: Self =
        Self { user: Ids::all(0), group: Ids::all(0), group_count: 0, groups: [0; 64], keeps: false, kept: false };

    /// Supplementary groups.
    pub(crate) fn groups(&self) -> &[u32] {
        &self.groups[..self.group_count]
    }

    /// Takes other groups; of very many, the first.
    pub(crate) fn set_groups(&mut self, groups: &[u32]) {
        self.group_count = groups.len().min(self.groups.len());
        self.groups[..self.group_count].copy_from_slice(&groups[..self.group_count]);
    }

    pub(crate) fn is_in_group(&self, group: u32) -> bool {
        self.group.filesystem == group || self.groups().contains(&group)
    }

    /// Whether the program has root's rights.
    pub(crate) fn is_privileged(&self) -> bool {
        self.user.effective == 0 || self.kept
    }

    /// For an exec: the eight ids, the number of groups, and the groups; as many numbers always.
    pub(crate) fn numbers(&self) -> [u32; Self::NUMBERS] {
        let mut numbers = [0; Self::NUMBERS];
        let ids = [self.user, self.group].map(|ids| [ids.real, ids.effective, ids.saved, ids.filesystem]);
        numbers[..4].copy_from_slice(&ids[0]);
        numbers[4..8].copy_from_slice(&ids[1]);
        numbers[8] = self.group_count as u32;
        numbers[9..].copy_from_slice(&self.groups);
        numbers
    }

    pub(crate) fn from_numbers(numbers: &[u32; Self::NUMBERS]) -> Self {
        let ids = |at: usize| Ids {
            real: numbers[at],
            effective: numbers[at + 1],
            saved: numbers[at + 2],
            filesystem: numbers[at + 3],
        };
        let mut credentials = Self { user: ids(0), group: ids(4), ..Self::ROOT };
        credentials.set_groups(&numbers[9..9 + (numbers[8] as usize).min(64)]);
        credentials
    }

    /// After an exec of a file with this owner and mode. Says whether that gave the program something.
    pub(crate) fn execute(&mut self, uid: u32, gid: u32, mode: u32) -> bool {
        if mode & 0o4000 != 0 {
            self.user.effective = uid;
        }
        if mode & 0o2010 == 0o2010 {
            self.group.effective = gid;
        }
        for ids in [&mut self.user, &mut self.group] {
            ids.saved = ids.effective;
            ids.filesystem = ids.effective;
        }
        (self.keeps, self.kept) = (false, false);
        self.user.real != self.user.effective || self.group.real != self.group.effective
    }

    /// Changes users by `change`, which is told whether the program is privileged.
    pub(crate) fn change_user(&mut self, change: impl FnOnce(&mut Ids, bool) -> Answer) -> Answer {
        let was_root = self.user.effective == 0;
        let privileged = self.is_privileged();
        let answer = change(&mut self.user, privileged);
        if was_root && self.user.effective != 0 {
            self.kept = self.keeps;
        }
        answer
    }

    /// The same for groups.
    pub(crate) fn change_group(&mut self, change: impl FnOnce(&mut Ids, bool) -> Answer) -> Answer {
        let privileged = self.is_privileged();
        change(&mut self.group, privileged)
    }
}

impl Ids {
    const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, filesystem: id }
    }

    /// `setuid`, `setgid`.
    pub(crate) fn set(&mut self, id: u32, privileged: bool) -> Answer {
        if id == UNCHANGED {
            return EINVAL;
        }
        if privileged {
            *self = Self::all(id);
            return 0;
        }
        if id != self.real && id != self.saved {
            return EPERM;
        }
        (self.effective, self.filesystem) = (id, id);
        0
    }

    /// `setreuid`, `setregid`.
    pub(crate) fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Answer {
        let known = |id: u32, all: &[u32]| id == UNCHANGED || all.contains(&id);
        let before = *self;
        if !privileged
            && (!known(real, &[before.real, before.effective])
                || !known(effective, &[before.real, before.effective, before.saved]))
        {
            return EPERM;
        }
        if real != UNCHANGED {
            self.real = real;
        }
        if effective != UNCHANGED {
            self.effective = effective;
        }
        if real != UNCHANGED || effective != UNCHANGED && effective != before.real {
            self.saved = self.effective;
        }
        self.filesystem = self.effective;
        0
    }

    /// `setresuid`, `setresgid`.
    pub(crate) fn set_three(&mut self, real: u32, effective: u32, saved: u32, privileged: bool) -> Answer {
        let all = [self.real, self.effective, self.saved];
        if !privileged && [real, effective, saved].iter().any(|id| *id != UNCHANGED && !all.contains(id)) {
            return EPERM;
        }
        for (place, id) in [(&mut self.real, real), (&mut self.effective, effective), (&mut self.saved, saved)] {
            if id != UNCHANGED {
                *place = id;
            }
        }
        self.filesystem = self.effective;
        0
    }

    /// `setfsuid`, `setfsgid`: gives the former one.
    pub(crate) fn set_filesystem(&mut self, id: u32, privileged: bool) -> Answer {
        let before = self.filesystem;
        if id != UNCHANGED && (privileged || [self.real, self.effective, self.saved, before].contains(&id)) {
            self.filesystem = id;
        }
        i64::from(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_becomes_another_user_and_cannot_come_back() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.change_user(|ids, privileged| ids.set(33, privileged)), 0);
        assert_eq!(who.user, Ids::all(33));
        assert_eq!(who.change_user(|ids, privileged| ids.set(0, privileged)), EPERM);
        assert!(!who.is_privileged());
    }

    #[test]
    fn an_effective_user_can_be_taken_back_from_the_saved_one() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.change_user(|ids, privileged| ids.set_three(UNCHANGED, 33, UNCHANGED, privileged)), 0);
        assert_eq!((who.user.effective, who.user.filesystem, who.user.saved), (33, 33, 0));
        assert_eq!(who.change_user(|ids, privileged| ids.set_two(UNCHANGED, 0, privileged)), 0);
        assert!(who.is_privileged());
    }

    #[test]
    fn kept_rights_allow_what_root_could() {
        let mut who = Credentials { keeps: true, ..Credentials::ROOT };
        who.change_user(|ids, privileged| ids.set(33, privileged));
        assert!(who.is_privileged());
        assert!(!who.execute(0, 0, 0o755));
        assert!(!who.is_privileged());
    }

    #[test]
    fn a_setuid_program_gains_its_owner() {
        let mut who = Credentials::ROOT;
        who.change_user(|ids, privileged| ids.set(33, privileged));
        assert!(who.execute(0, 0, 0o4755));
        assert_eq!((who.user.real, who.user.effective, who.user.saved), (33, 0, 0));
    }

    #[test]
    fn the_numbers_of_an_exec_are_read_back() {
        let mut who = Credentials::ROOT;
        who.set_groups(&[5, 6]);
        who.group.effective = 7;
        assert_eq!(Credentials::from_numbers(&who.numbers()), who);
    }
}
