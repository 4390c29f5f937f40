//! When a request is sent again, and after how long. Pure.

use super::StatusCode;
use std::time::{Duration, SystemTime};

/// How often and how patiently requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most, the first time included.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait, also if the server asks for a longer one: then the request is given up.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_millis(300), longest_wait: Duration::from_mins(1) }
    }
}

impl RetryPolicy {
    /// How long to wait after `attempts` failed ones; `None` gives up. `jitter` (0 to 1) spreads the clients that failed
    /// together over half of the wait.
    pub fn wait(&self, attempts: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
        if attempts >= self.attempts || retry_after.is_some_and(|asked| asked > self.longest_wait) {
            return None;
        }
        let exponential = self.first_wait.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(self.longest_wait);
        let spread = exponential.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        Some(spread.max(retry_after.unwrap_or_default()))
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
        let policy =
            RetryPolicy { attempts: 4, first_wait: Duration::from_millis(100), longest_wait: Duration::from_millis(300) };
        let waits: Vec<_> = (1..=4).map(|attempts| policy.wait(attempts, None, 1.0).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(100), Some(200), Some(300), None]);
        assert_eq!(policy.wait(1, None, 0.0), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_server_may_ask_for_a_longer_wait_up_to_a_bound() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait(1, Some(Duration::from_secs(7)), 0.5), Some(Duration::from_secs(7)));
        assert_eq!(policy.wait(1, Some(Duration::from_hours(1)), 0.5), None);
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
