//! When a request is sent again, and after how long. Pure.

use super::StatusCode;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// How often and how patiently requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most, the first time included.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait that nobody asked for.
    pub longest_wait: Duration,
    /// The longest wait that a server may ask for; if it asks for a longer one, the request is given up.
    pub longest_asked: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(300),
            longest_wait: Duration::from_mins(1),
            // Registries that count requests give some back within minutes. Whoever is told of an hour has something better to
            // do than to wait.
            longest_asked: Duration::from_mins(5),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `attempts` failed ones; `None` gives up. `jitter` (0 to 1) spreads the clients that failed
    /// together over half of the wait.
    pub fn wait(&self, attempts: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
        if attempts >= self.attempts || retry_after.and_then(|asked| self.too_long(asked)).is_some() {
            return None;
        }
        let exponential = self.first_wait.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(self.longest_wait);
        let spread = exponential.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        Some(spread.max(retry_after.unwrap_or_default()))
    }

    /// The wait that a server asks for, if it is too long.
    pub fn too_long(&self, asked: Duration) -> Option<LongWait> {
        (asked > self.longest_asked).then_some(LongWait { asked, longest: self.longest_asked })
    }
}

/// A wait that is too long; reads after the one who asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongWait {
    /// What a server asks for.
    pub asked: Duration,
    /// What is waited at most.
    pub longest: Duration,
}

impl fmt::Display for LongWait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, longest } = self;
        write!(formatter, "asks to come back in {} s, more than the {} s that are waited", asked.as_secs(), longest.as_secs())
    }
}

/// Whether a server that answers `status` may well answer otherwise a moment later.
pub fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Reads a `Retry-After` header: a number of seconds or a date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = SystemTime::from(jiff::fmt::rfc2822::parse(value).ok()?.timestamp());
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let (first_wait, longest_wait) = (Duration::from_millis(100), Duration::from_millis(300));
        let policy = RetryPolicy { attempts: 4, first_wait, longest_wait, ..RetryPolicy::default() };
        let waits: Vec<_> = (1..=4).map(|attempts| policy.wait(attempts, None, 1.0).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(100), Some(200), Some(300), None]);
        assert_eq!(policy.wait(1, None, 0.0), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_server_may_ask_for_a_longer_wait_up_to_a_bound() {
        let policy = RetryPolicy::default();
        for (asked, expected) in [(7, Some(7)), (300, Some(300)), (301, None), (3600, None)] {
            let wait = policy.wait(1, Some(Duration::from_secs(asked)), 0.5);
            assert_eq!(wait.map(|wait| wait.as_secs()), expected, "{asked}");
        }
        assert_eq!(policy.wait(5, Some(Duration::from_secs(7)), 0.5), None, "patience ends all the same");
        let long = policy.too_long(Duration::from_hours(1)).unwrap();
        assert_eq!(long.to_string(), "asks to come back in 3600 s, more than the 300 s that are waited");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, expected) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now).map(|wait| wait.as_secs()), expected, "{value:?}");
        }
    }
}
