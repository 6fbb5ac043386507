//! Waiting for something to hold, never for time to pass.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often it looks, unless told.
const PERIOD: Duration = Duration::from_millis(25);

/// Seconds that nobody waits longer than, whatever the limit: for runs in which much is expected to fail.
const PATIENCE: &str = "THEATER_TEST_PATIENCE_SECS";

static PATIENCE_MAX: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let secs = std::env::var(PATIENCE).ok()?;
    Some(Duration::from_secs(secs.parse().unwrap_or_else(|_| panic!("{PATIENCE} is a number, not {secs}"))))
});

/// Asks again until `check` answers, at most for `limit`.
///
/// # Errors
/// What was seen last, when the time is over.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    eventually_at(PERIOD, what, limit, check).await
}

/// As [`eventually`], for what is costly to look at.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_at<T>(
    period: Duration,
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let limit = PATIENCE_MAX.map_or(limit, |patience| limit.min(patience));
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
