//! Ctrl-C and SIGTERM: the first one asks for an orderly shutdown, the second ends the process at once.

use std::future::Future;

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether Ctrl-C or SIGTERM has arrived.
#[derive(Clone, Debug)]
pub struct ShutdownSignal(CancellationToken);

impl ShutdownSignal {
    /// Handles the signals from now on.
    ///
    /// # Errors
    /// If no signal handler can be installed.
    pub fn listen() -> anyhow::Result<Self> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let received = CancellationToken::new();
        let sender = received.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if sender.is_cancelled() {
                    // The reaper ends the children and removes their files.
                    std::process::exit(130);
                }
                sender.cancel();
            }
        });
        Ok(Self(received))
    }

    /// Runs `work`. Returns `None` if a signal arrives first, which cancels `work`.
    pub async fn run_until<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }

    /// As [`run_until`](Self::run_until), for work that fails if it is cancelled.
    ///
    /// # Errors
    /// That of `work`, or that it was interrupted.
    pub async fn run_or_fail<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.run_until(work).await.unwrap_or_else(|| Err(anyhow!("interrupted")))
    }
}
