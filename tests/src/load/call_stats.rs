//! Numbers of calls and failures, and how long the calls took.

use std::fmt;
use std::time::Duration;

/// Longer than the client waits.
const SLOWEST_MS: usize = 31_000;

#[derive(Clone, Debug)]
pub(super) struct CallStats {
    pub(super) calls: usize,
    pub(super) failed: usize,
    /// Numbers of calls by their duration in milliseconds. The last one counts all slower calls.
    durations: Vec<usize>,
}

impl Default for CallStats {
    fn default() -> Self {
        Self { calls: 0, failed: 0, durations: vec![0; SLOWEST_MS + 1] }
    }
}

impl CallStats {
    pub(super) fn record(&mut self, duration: Duration) {
        self.calls += 1;
        let ms = usize::try_from(duration.as_millis()).unwrap_or(SLOWEST_MS);
        self.durations[ms.min(SLOWEST_MS)] += 1;
    }

    /// The duration in milliseconds that `percent` of the calls did not exceed.
    fn percentile_ms(&self, percent: usize) -> usize {
        let mut remaining = (self.calls * percent).div_ceil(100);
        let slowest = self.durations.iter().position(|calls| {
            remaining = remaining.saturating_sub(*calls);
            remaining == 0
        });
        slowest.unwrap_or(SLOWEST_MS)
    }
}

impl fmt::Display for CallStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] = [50, 99, 100].map(|percent| self.percentile_ms(percent));
        write!(
            f,
            "{} calls, {} failed; p50 {p50} ms, p99 {p99} ms, longest {longest} ms",
            self.calls, self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut stats = CallStats::default();
        assert_eq!(stats.percentile_ms(99), 0);
        (1..=200).for_each(|ms| stats.record(Duration::from_millis(ms)));
        assert_eq!([50, 99, 100].map(|percent| stats.percentile_ms(percent)), [100, 198, 200]);
    }
}
