//! STOPSIGNAL: the names and numbers of Linux. Pure.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR",
    "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
    "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether `text` is a signal: a name with or without `SIG`, `RTMIN+n`, `RTMAX-n`, or a number. Which numbers a kernel
/// knows is not asked, as with BuildKit; none is zero.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, most: u8| {
        name.strip_prefix(prefix).is_some_and(|digits| (1..=most).any(|number| number.to_string() == digits))
    };
    NAMES.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "SIGRTMIN", "65", "-1"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "SIGNOSUCH", "SIG", "RTMIN+0", "RTMIN+01", "RTMIN+16", "-", "1.5"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
