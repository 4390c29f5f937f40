//! Which capabilities root of a step has: Docker's default set, and no more. Pure.
//!
//! Programs in Dockerfiles are written against this set. Whatever the builder holds beyond it (mounting, tracing, loading
//! modules) is out of reach of the step, also through programs with the setuid bit or file capabilities.

/// The set, as bits.
pub(super) const DEFAULT: u64 = 1 << 0 // CHOWN: give files away
    | 1 << 1 // DAC_OVERRIDE: read and write any file
    | 1 << 3 // FOWNER: act as the owner of any file
    | 1 << 4 // FSETID: keep setuid and setgid bits
    | 1 << 5 // KILL: signal any process
    | 1 << 6 // SETGID
    | 1 << 7 // SETUID
    | 1 << 8 // SETPCAP: drop capabilities of one's own
    | 1 << 10 // NET_BIND_SERVICE: ports below 1024
    | 1 << 13 // NET_RAW: ping
    | 1 << 18 // SYS_CHROOT
    | 1 << 27 // MKNOD: device nodes
    | 1 << 29 // AUDIT_WRITE: su and login
    | 1 << 31; // SETFCAP: file capabilities

/// Whatever the builder has.
pub(super) const ALL: u64 = u64::MAX;

/// The number above which the kernel knows no capability; it is asked one by one until it says so.
pub(super) const MAX: u32 = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_security_md_names_each_capability_of_a_step() {
        const NAMES: [(&str, u32); 14] = [
            ("CHOWN", 0),
            ("DAC_OVERRIDE", 1),
            ("FOWNER", 3),
            ("FSETID", 4),
            ("KILL", 5),
            ("SETGID", 6),
            ("SETUID", 7),
            ("SETPCAP", 8),
            ("NET_BIND_SERVICE", 10),
            ("NET_RAW", 13),
            ("SYS_CHROOT", 18),
            ("MKNOD", 27),
            ("AUDIT_WRITE", 29),
            ("SETFCAP", 31),
        ];
        let document = include_str!("../../../docs/security.md");
        let section = document.split("\n## ").find(|section| section.starts_with("Capabilities\n")).unwrap();
        let documented: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(documented, NAMES.map(|(name, _)| name));
        assert_eq!(NAMES.iter().fold(0, |set, (_, bit)| set | 1 << bit), DEFAULT);
    }
}
