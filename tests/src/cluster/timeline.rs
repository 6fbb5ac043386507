//! The output of a run: what happens in the cluster, as a timeline.

use std::time::Instant;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::sleep;

use super::QUERY_PERIOD;
use super::kubectl::Kubectl;

/// Prints lines with the seconds since its start.
#[derive(Clone, Copy, Debug)]
pub struct Timeline(Instant);

impl Timeline {
    #[expect(clippy::new_without_default, reason = "the timeline starts when it is created")]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn line(&self, text: &str) {
        println!("{:7.1} s  {text}", self.0.elapsed().as_secs_f64());
    }

    /// Prints the status of an autoscaler whenever it changes. Never returns.
    ///
    /// # Errors
    /// If kubectl doesn't exist.
    pub async fn follow_autoscaler(&self, kubectl: &Kubectl, autoscaler: &str) -> anyhow::Result<()> {
        loop {
            let mut watch = kubectl.spawn(&["get", "hpa", autoscaler, "--watch", "--request-timeout=5m"])?;
            let mut lines = BufReader::new(watch.stdout.take().context("stdout")?).lines();
            while let Some(line) = lines.next_line().await? {
                self.line(&line);
            }
            // The API server ends watches from time to time.
            watch.wait().await?;
            sleep(QUERY_PERIOD).await;
        }
    }
}
