//! Whom the program takes itself for: users, groups and capabilities of our own, changed by the rules of the kernel.

use super::kernel::{Answer, EINVAL, EPERM};

/// The identities of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    pub(crate) filesystem: u32,
}

/// What only root may do, each with the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Capability {
    Chown = 0,
    OverrideModes = 1,
    ReadAndSearch = 2,
    OwnAll = 3,
    KeepSetId = 4,
    SetGroup = 6,
    SetUser = 7,
    SetCapabilities = 8,
    ChangeRoot = 18,
    MakeDevices = 27,
    SetFileCapabilities = 31,
}

/// The number of the last capability that the kernel knows.
pub(crate) const LAST_CAPABILITY: u64 = 40;
/// Docker's default set: what root of a step has.
const DOCKERS: u64 = 0xa804_25fb;
/// Those that speak of files: they come and go with the user for files.
const OF_FILES: u64 = 0x1_0800_021f;

/// `SECBIT_NOROOT`: root's programs gain nothing.
const NO_ROOT: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`: a change of users changes no capability.
const NO_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
const KEEP: u32 = 1 << 4;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`.
const NO_AMBIENT: u32 = 1 << 6;
/// All secure bits, and those that lock the one below.
const SECURE_BITS: u32 = 0xff;
const LOCKS: u32 = 0xaa;

/// The sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) bounding: u64,
    pub(crate) ambient: u64,
}

/// Capabilities of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileCapabilities {
    permitted: u64,
    inheritable: u64,
    is_effective: bool,
}

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    group_count: usize,
    groups: [u32; Self::MAX_GROUPS],
    pub(crate) capabilities: Capabilities,
    pub(crate) secure_bits: u32,
    /// `PR_SET_NO_NEW_PRIVS`: programs gain nothing by their owner or capabilities.
    pub(crate) gains_nothing: bool,
}

/// What a system call leaves as it is.
const UNCHANGED: u32 = u32::MAX;

impl Credentials {
    const MAX_GROUPS: usize = 64;
    /// The most numbers that [`numbers`](Self::numbers) gives.
    pub(crate) const MAX_NUMBERS: usize = 8 + 5 + 3 + Self::MAX_GROUPS;
    /// Nothing but zeros: what stands in memory before anything is known.
    pub(crate) const NOBODY: Self = Self {
        user: Ids::all(0),
        group: Ids::all(0),
        group_count: 0,
        groups: [0; Self::MAX_GROUPS],
        capabilities: Capabilities { effective: 0, permitted: 0, inheritable: 0, bounding: 0, ambient: 0 },
        secure_bits: 0,
        gains_nothing: false,
    };
    /// Root of a step.
    pub(crate) const ROOT: Self = Self {
        capabilities: Capabilities { effective: DOCKERS, permitted: DOCKERS, inheritable: 0, bounding: DOCKERS, ambient: 0 },
        ..Self::NOBODY
    };

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

    /// Whether the program may do this now.
    pub(crate) fn may(&self, what: Capability) -> bool {
        self.capabilities.effective >> (what as u8) & 1 == 1
    }

    /// Whether modes of files and directories do not concern the program.
    pub(crate) fn may_pass_everywhere(&self) -> bool {
        const EITHER: u64 = 1 << Capability::OverrideModes as u8 | 1 << Capability::ReadAndSearch as u8;
        self.capabilities.effective & EITHER != 0
    }

    /// For an exec: ids, sets, the number of groups, and the groups. Gives how many numbers it has written.
    pub(crate) fn numbers(&self, numbers: &mut [u64; Self::MAX_NUMBERS]) -> usize {
        let ids = [self.user, self.group].map(|ids| [ids.real, ids.effective, ids.saved, ids.filesystem].map(u64::from));
        numbers[..4].copy_from_slice(&ids[0]);
        numbers[4..8].copy_from_slice(&ids[1]);
        let sets = self.capabilities;
        numbers[8..13].copy_from_slice(&[sets.effective, sets.permitted, sets.inheritable, sets.bounding, sets.ambient]);
        numbers[13] = u64::from(self.secure_bits);
        numbers[14] = u64::from(self.gains_nothing);
        numbers[15] = self.group_count as u64;
        for (place, group) in numbers[16..].iter_mut().zip(self.groups()) {
            *place = u64::from(*group);
        }
        16 + self.group_count
    }

    /// Reads what [`numbers`](Self::numbers) wrote; each comes from `next`.
    pub(crate) fn from_numbers(mut next: impl FnMut() -> Option<u64>) -> Option<Self> {
        let mut numbers = [0; 16];
        for number in &mut numbers {
            *number = next()?;
        }
        let ids = |at: usize| {
            let id = |at: usize| numbers[at] as u32;
            Ids { real: id(at), effective: id(at + 1), saved: id(at + 2), filesystem: id(at + 3) }
        };
        let [effective, permitted, inheritable, bounding, ambient] = *numbers[8..].first_chunk()?;
        let mut credentials = Self {
            user: ids(0),
            group: ids(4),
            capabilities: Capabilities { effective, permitted, inheritable, bounding, ambient },
            secure_bits: numbers[13] as u32,
            gains_nothing: numbers[14] != 0,
            ..Self::ROOT
        };
        credentials.group_count = usize::try_from(numbers[15]).ok().filter(|count| *count <= Self::MAX_GROUPS)?;
        for at in 0..credentials.group_count {
            credentials.groups[at] = next()? as u32;
        }
        Some(credentials)
    }

    /// After an exec of a file with this owner, mode and capabilities. Says whether that gave the program something.
    pub(crate) fn execute(&mut self, uid: u32, gid: u32, mode: u32, file: Option<FileCapabilities>) -> bool {
        let before = *self;
        let file = file.filter(|_| !self.gains_nothing);
        if !self.gains_nothing && mode & 0o4000 != 0 {
            self.user.effective = uid;
        }
        if !self.gains_nothing && mode & 0o2010 == 0o2010 {
            self.group.effective = gid;
        }
        for ids in [&mut self.user, &mut self.group] {
            ids.saved = ids.effective;
            ids.filesystem = ids.effective;
        }
        let sets = &mut self.capabilities;
        let mut of_file = file.unwrap_or_default();
        let (is_root, is_effective_root) = (self.user.real == 0 || self.user.effective == 0, self.user.effective == 0);
        let mut is_effective = of_file.is_effective;
        // A program with capabilities of its own, set to root by its owner, gets just those.
        let only_its_own = file.is_some() && self.user.real != 0 && is_effective_root;
        if self.secure_bits & NO_ROOT == 0 && is_root && !only_its_own {
            (of_file.permitted, of_file.inheritable) = (u64::MAX, u64::MAX);
            is_effective |= is_effective_root;
        }
        let changes_user = self.user.effective != before.user.real || self.group.effective != before.group.real;
        if file.is_some() || changes_user {
            sets.ambient = 0;
        }
        sets.permitted = sets.inheritable & of_file.inheritable | sets.bounding & of_file.permitted | sets.ambient;
        sets.effective = if is_effective { sets.permitted } else { sets.ambient };
        self.secure_bits &= !KEEP;
        changes_user || self.user.real != 0 && (is_effective || sets.permitted & !sets.ambient != 0)
    }

    /// Changes users by `change`, which is told whether the program may take any.
    pub(crate) fn change_user(&mut self, change: impl FnOnce(&mut Ids, bool) -> Answer) -> Answer {
        let before = self.user;
        let privileged = self.may(Capability::SetUser);
        let answer = change(&mut self.user, privileged);
        let after = self.user;
        if self.secure_bits & NO_FIXUP == 0 {
            let sets = &mut self.capabilities;
            let was_root = [before.real, before.effective, before.saved].contains(&0);
            if was_root && ![after.real, after.effective, after.saved].contains(&0) {
                if self.secure_bits & KEEP == 0 {
                    (sets.permitted, sets.effective) = (0, 0);
                }
                sets.ambient = 0;
            }
            match (before.effective == 0, after.effective == 0) {
                (true, false) => sets.effective = 0,
                (false, true) => sets.effective = sets.permitted,
                // As `setfsuid`, which changes nothing else.
                _ => match (before.filesystem == 0, after.filesystem == 0) {
                    (true, false) => sets.effective &= !OF_FILES,
                    (false, true) => sets.effective |= sets.permitted & OF_FILES,
                    _ => {}
                },
            }
        }
        answer
    }

    /// The same for groups.
    pub(crate) fn change_group(&mut self, change: impl FnOnce(&mut Ids, bool) -> Answer) -> Answer {
        let privileged = self.may(Capability::SetGroup);
        change(&mut self.group, privileged)
    }

    /// `capset`.
    pub(crate) fn set_capabilities(&mut self, effective: u64, permitted: u64, inheritable: u64) -> Answer {
        let sets = self.capabilities;
        let within = |inner: u64, outer: u64| inner & !outer == 0;
        if !within(permitted, sets.permitted)
            || !within(effective, permitted)
            || !within(inheritable, sets.inheritable | sets.bounding)
            || !self.may(Capability::SetCapabilities) && !within(inheritable, sets.inheritable | sets.permitted)
        {
            return EPERM;
        }
        let ambient = sets.ambient & permitted & inheritable;
        self.capabilities = Capabilities { effective, permitted, inheritable, ambient, ..sets };
        0
    }

    /// `PR_CAPBSET_DROP`.
    pub(crate) fn drop_from_bounding(&mut self, capability: u64) -> Answer {
        if !self.may(Capability::SetCapabilities) {
            return EPERM;
        }
        if capability > LAST_CAPABILITY {
            return EINVAL;
        }
        self.capabilities.bounding &= !(1 << capability);
        0
    }

    /// `PR_CAP_AMBIENT`.
    pub(crate) fn change_ambient(&mut self, how: u64, capability: u64) -> Answer {
        const IS_SET: u64 = 1;
        const RAISE: u64 = 2;
        const LOWER: u64 = 3;
        const CLEAR: u64 = 4;
        let sets = &mut self.capabilities;
        if how == CLEAR {
            if capability != 0 {
                return EINVAL;
            }
            sets.ambient = 0;
            return 0;
        }
        if capability > LAST_CAPABILITY {
            return EINVAL;
        }
        let bit = 1 << capability;
        match how {
            IS_SET => i64::from(sets.ambient & bit != 0),
            RAISE if sets.permitted & sets.inheritable & bit == 0 || self.secure_bits & NO_AMBIENT != 0 => EPERM,
            RAISE => {
                sets.ambient |= bit;
                0
            }
            LOWER => {
                sets.ambient &= !bit;
                0
            }
            _ => EINVAL,
        }
    }

    /// `PR_GET_KEEPCAPS`.
    pub(crate) fn keeps(&self) -> bool {
        self.secure_bits & KEEP != 0
    }

    /// `PR_SET_KEEPCAPS`.
    pub(crate) fn keep(&mut self, wanted: u64) -> Answer {
        if wanted > 1 {
            return EINVAL;
        }
        if self.secure_bits & KEEP << 1 != 0 {
            return EPERM;
        }
        self.secure_bits = self.secure_bits & !KEEP | if wanted == 1 { KEEP } else { 0 };
        0
    }

    /// `PR_SET_SECUREBITS`.
    pub(crate) fn set_secure_bits(&mut self, wanted: u64) -> Answer {
        let before = self.secure_bits;
        let Ok(wanted) = u32::try_from(wanted) else { return EPERM };
        let locked = (before & LOCKS) >> 1;
        if wanted & !SECURE_BITS != 0
            || (before ^ wanted) & locked != 0
            || before & LOCKS & !wanted != 0
            || !self.may(Capability::SetCapabilities)
        {
            return EPERM;
        }
        self.secure_bits = wanted;
        0
    }
}

impl FileCapabilities {
    /// Reads the attribute `security.capability`, of revision 2 or 3.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        const EFFECTIVE: u32 = 1;
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at * 4..at * 4 + 4)?.try_into().ok()?));
        let pair = |at: usize| Some(u64::from(word(at)?) | u64::from(word(at + 2)?) << 32);
        let revision = word(0)?;
        if !matches!((revision >> 24, bytes.len()), (2, 20) | (3, 24)) {
            return None;
        }
        Some(Self { permitted: pair(1)?, inheritable: pair(2)?, is_effective: revision & EFFECTIVE != 0 })
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
        assert_eq!((who.capabilities.effective, who.capabilities.permitted), (0, 0));
    }

    #[test]
    fn an_effective_user_can_be_taken_back_from_the_saved_one() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.change_user(|ids, privileged| ids.set_three(UNCHANGED, 33, UNCHANGED, privileged)), 0);
        assert_eq!((who.user.effective, who.user.filesystem, who.user.saved), (33, 33, 0));
        assert_eq!((who.capabilities.effective, who.capabilities.permitted), (0, DOCKERS));
        assert_eq!(who.change_user(|ids, privileged| ids.set_two(UNCHANGED, 0, privileged)), 0);
        assert!(who.may(Capability::Chown));
    }

    #[test]
    fn kept_capabilities_can_be_taken_up_again() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.keep(1), 0);
        who.change_user(|ids, privileged| ids.set(33, privileged));
        assert!(!who.may(Capability::Chown));
        assert_eq!(who.set_capabilities(1, DOCKERS, 0), 0);
        assert!(who.may(Capability::Chown) && !who.may(Capability::SetUser));
        assert!(!who.execute(0, 0, 0o755, None));
        assert_eq!((who.capabilities.permitted, who.keeps()), (0, false));
    }

    #[test]
    fn the_user_for_files_takes_what_speaks_of_files_along() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.change_user(|ids, privileged| ids.set_filesystem(33, privileged)), 0);
        assert!(!who.may(Capability::Chown) && !who.may_pass_everywhere() && who.may(Capability::SetUser));
        assert_eq!(who.change_user(|ids, privileged| ids.set_filesystem(0, privileged)), 33);
        assert_eq!(who, Credentials::ROOT);
    }

    #[test]
    fn a_setuid_program_gains_its_owner() {
        let mut who = Credentials::ROOT;
        who.change_user(|ids, privileged| ids.set(33, privileged));
        let mut bound = Credentials { gains_nothing: true, ..who };
        assert!(who.execute(0, 0, 0o4755, None));
        assert_eq!((who.user.real, who.user.effective, who.user.saved), (33, 0, 0));
        assert_eq!(who.capabilities.effective, DOCKERS);
        assert!(!bound.execute(0, 0, 0o4755, None));
        assert_eq!(bound.user.effective, 33);
    }

    #[test]
    fn a_program_gains_the_capabilities_of_its_file_within_the_bounds() {
        let mut attribute = [0; 20];
        attribute[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
        // CAP_NET_RAW, and CAP_SYS_ADMIN, which no step has.
        attribute[4..8].copy_from_slice(&(1_u32 << 13 | 1 << 21).to_le_bytes());
        let file = FileCapabilities::parse(&attribute);
        let mut who = Credentials::ROOT;
        who.change_user(|ids, privileged| ids.set(33, privileged));
        assert!(who.execute(0, 0, 0o755, file));
        assert_eq!((who.capabilities.effective, who.capabilities.permitted), (1 << 13, 1 << 13));
        assert_eq!(FileCapabilities::parse(&attribute[..19]), None);
    }

    #[test]
    fn what_is_out_of_bounds_does_not_come_back() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.drop_from_bounding(0), 0);
        assert!(who.may(Capability::Chown));
        assert!(!who.execute(0, 0, 0o755, None));
        assert!(!who.may(Capability::Chown) && who.may(Capability::SetUser));
        assert_eq!(who.drop_from_bounding(LAST_CAPABILITY + 1), EINVAL);
    }

    #[test]
    fn ambient_capabilities_survive_an_exec_by_another_user() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.change_ambient(2, 13), EPERM);
        assert_eq!(who.set_capabilities(DOCKERS, DOCKERS, 1 << 13), 0);
        assert_eq!((who.change_ambient(2, 13), who.change_ambient(1, 13), who.change_ambient(2, 41)), (0, 1, EINVAL));
        assert_eq!(who.set_secure_bits(u64::from(NO_FIXUP)), 0);
        who.change_user(|ids, privileged| ids.set(33, privileged));
        assert!(!who.execute(0, 0, 0o755, None));
        assert_eq!((who.capabilities.effective, who.capabilities.permitted), (1 << 13, 1 << 13));
    }

    #[test]
    fn a_locked_bit_stays() {
        let mut who = Credentials::ROOT;
        assert_eq!(who.set_secure_bits(u64::from(KEEP << 1)), 0);
        assert_eq!((who.keep(1), who.set_secure_bits(0), who.set_secure_bits(0x30)), (EPERM, EPERM, EPERM));
    }

    #[test]
    fn the_numbers_of_an_exec_are_read_back() {
        let mut who = Credentials::ROOT;
        who.set_groups(&[5, 6]);
        who.group.effective = 7;
        who.capabilities.bounding = u64::MAX;
        let mut numbers = [0; Credentials::MAX_NUMBERS];
        let count = who.numbers(&mut numbers);
        let mut written = numbers[..count].iter();
        assert_eq!(Credentials::from_numbers(|| written.next().copied()), Some(who));
        assert!(written.next().is_none());
        assert_eq!(Credentials::from_numbers(|| Some(u64::MAX)), None);
    }
}
