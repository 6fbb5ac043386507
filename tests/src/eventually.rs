//! Waiting for a condition instead of for some time.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The time between two checks, unless given.
const PERIOD: Duration = Duration::from_millis(25);

/// An upper bound in seconds for all limits: for runs in which many tests are expected to fail.
const MAX_LIMIT_VARIABLE: &str = "THEATER_TEST_PATIENCE_SECS";

static MAX_LIMIT: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let secs = std::env::var(MAX_LIMIT_VARIABLE).ok()?;
    Some(Duration::from_secs(
        secs.parse().unwrap_or_else(|_| panic!("{MAX_LIMIT_VARIABLE} is a number, not {secs}")),
    ))
});

/// Repeats `check` until it succeeds, at most for `limit`.
///
/// # Errors
/// The last error of `check` if the limit expires.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    eventually_at(PERIOD, what, limit, check).await
}

/// As [`eventually`], with another period, for checks that are expensive.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_at<T>(
    period: Duration,
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let limit = MAX_LIMIT.map_or(limit, |max| limit.min(max));
    let began = Instant::now();
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > limit => {
                return Err(anyhow!("{what}: not within {limit:?}; last seen: {error:#}"));
            }
            Err(_) => {}
        }
    }
}
