//! Sizes and times as people read them. Pure.

use std::time::Duration;

/// `999 B`, `1.2 kB`, `45.0 MB`: powers of 1000, as registries and disks are sold.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut number = bytes as f64 / 1000.0;
    let mut unit = 0;
    while number >= 999.95 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// `0.1s`, `12.3s`, `2m05s`, `1h02m`.
pub fn time(duration: Duration) -> String {
    let tenths = (duration.as_millis() + 50) / 100;
    let seconds = (duration.as_millis() + 500) / 1000;
    match seconds {
        _ if tenths < 600 => format!("{}.{}s", tenths / 10, tenths % 10),
        0..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, expected) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (45_030_000, "45.0 MB"), (999_999, "1.0 MB"), (u64::MAX, "18446.7 PB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn times_have_two_units() {
        for (milliseconds, expected) in
            [(0, "0.0s"), (49, "0.0s"), (1250, "1.3s"), (59_999, "1m00s"), (125_000, "2m05s"), (3_725_000, "1h02m")]
        {
            assert_eq!(time(Duration::from_millis(milliseconds)), expected);
        }
    }
}
