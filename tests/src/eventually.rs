//! Waiting for something to hold, never for time to pass.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(25);

/// Asks again until `check` answers, at most for `limit`.
///
/// # Errors
/// What was seen last, when the time is over.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut tick = interval(PERIOD);
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
