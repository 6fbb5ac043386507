//! Ctrl-C and SIGTERM: the first one asks for an orderly end, the second ends the process where it stands.

use std::future::Future;

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether we were told to end.
#[derive(Clone, Debug)]
pub struct Interrupt(CancellationToken);

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// If no signal handler can be installed.
    pub fn listen() -> anyhow::Result<Self> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let told = CancellationToken::new();
        let teller = told.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if teller.is_cancelled() {
                    // What the children leave is the reaper's.
                    std::process::exit(130);
                }
                teller.cancel();
            }
        });
        Ok(Self(told))
    }

    /// Drives `work` until it is done; `None` if we are told to end before.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }

    /// As [`or`](Self::or), for what is a failure if it is cut short.
    ///
    /// # Errors
    /// That of `work`, or that it was interrupted.
    pub async fn or_fail<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.or(work).await.unwrap_or_else(|| Err(anyhow!("interrupted")))
    }
}
