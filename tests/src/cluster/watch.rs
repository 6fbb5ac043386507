//! What happens at a cluster, as a timeline.

use std::time::Instant;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::sleep;

use super::PERIOD;
use super::kubectl::Kubectl;

/// Lines with the seconds since it began.
#[derive(Clone, Copy, Debug)]
pub struct Timeline(Instant);

impl Timeline {
    #[expect(clippy::new_without_default, reason = "it begins when it is made")]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn line(&self, text: &str) {
        println!("{:7.1} s  {text}", self.0.elapsed().as_secs_f64());
    }

    /// Says, for ever, what an autoscaler sees, whenever that changes.
    ///
    /// # Errors
    /// A command that isn't there.
    pub async fn follows(&self, kubectl: &Kubectl, scaler: &str) -> anyhow::Result<()> {
        loop {
            let mut watch = kubectl.begin(&["get", "hpa", scaler, "--watch", "--request-timeout=5m"])?;
            let mut lines = BufReader::new(watch.stdout.take().context("stdout")?).lines();
            while let Some(line) = lines.next_line().await? {
                self.line(&line);
            }
            // Servers end watches now and then.
            watch.wait().await?;
            sleep(PERIOD).await;
        }
    }
}
