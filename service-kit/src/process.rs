//! A process from its first line to its exit status. Every service's `main` is one call of [`main`].

use std::{ffi::OsString, future::Future, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::{config::TelemetryConfig, telemetry};

/// How long a process may take from the signal to its end, the time until load balancers have noticed included.
/// Whoever kills it then has to wait longer: by default Kubernetes does for 30 s, Docker for 10 s.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long blocking work left behind by `serve` may hold up the exit.
const RUNTIME_LIMIT: Duration = Duration::from_secs(2);

/// Parses the configuration, sets up telemetry, and runs `serve` until it ends or SIGTERM or SIGINT
/// asks it to, through the token it is given.
///
/// The exit status is 0 when `serve` drained, and 1, with the reason in the log, when it failed, ended
/// unasked or didn't drain within [`DRAIN_LIMIT`]. What clap refuses exits with 2 and names the setting.
pub fn main<C: Parser>(
    service: &'static str,
    telemetry: fn(&C) -> &TelemetryConfig,
    serve: impl AsyncFnOnce(C, CancellationToken) -> anyhow::Result<()>,
) -> ExitCode {
    main_with(service, std::env::args_os(), telemetry, serve)
}

/// [`main`] with a command line of the caller's, the program's name included.
pub fn main_with<C: Parser>(
    service: &'static str,
    args: impl IntoIterator<Item = OsString>,
    telemetry: fn(&C) -> &TelemetryConfig,
    serve: impl AsyncFnOnce(C, CancellationToken) -> anyhow::Result<()>,
) -> ExitCode {
    let config = C::parse_from(args);
    let telemetry = telemetry(&config).clone();
    self::serve(service, &telemetry, |shutdown| serve(config, shutdown))
}

/// [`main`] of what has been parsed already.
pub fn serve<F: Future<Output = anyhow::Result<()>>>(
    service: &'static str,
    telemetry: &TelemetryConfig,
    serve: impl FnOnce(CancellationToken) -> F,
) -> ExitCode {
    within(service, telemetry, async {
        let signal = signal()?;
        let shutdown = CancellationToken::new();
        until(signal, DRAIN_LIMIT, serve(shutdown.clone()), shutdown).await
    })
}

/// Runs what ends by itself, such as an operator's command; SIGTERM or SIGINT cuts it off.
pub fn once(
    service: &'static str,
    telemetry: &TelemetryConfig,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    within(service, telemetry, async {
        tokio::select! {
            outcome = work => outcome,
            signal = signal()? => bail!("cut off by {signal}"),
        }
    })
}

fn within(
    service: &'static str,
    telemetry: &TelemetryConfig,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    // Before the runtime and after it: the exporter has a thread and a blocking client of its own.
    let telemetry = match telemetry::init(service, telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{service}: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = run(work);
    if let Err(error) = &outcome {
        tracing::error!(error = format!("{error:#}"), "{service} failed");
    }
    telemetry.shutdown();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(RUNTIME_LIMIT);
    outcome
}

/// Completes at the first SIGTERM or SIGINT. The handlers stand as soon as this returns.
pub fn signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Runs `serve`; cancels `shutdown` at the signal, and then gives `serve` no longer than `limit`.
async fn until(
    signal: impl Future<Output = &'static str>,
    limit: Duration,
    serve: impl Future<Output = anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::pin!(serve);
    tokio::select! {
        outcome = &mut serve => {
            outcome?;
            bail!("ended without being asked to");
        }
        signal = signal => tracing::info!(signal, "draining"),
    }
    shutdown.cancel();
    match tokio::time::timeout(limit, serve).await {
        Ok(outcome) => {
            outcome?;
            tracing::info!("drained");
            Ok(())
        }
        Err(_) => bail!("not drained within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_signal_cancels_and_awaits_the_drain() {
        let shutdown = CancellationToken::new();
        let drained = shutdown.clone();
        let serve = async move {
            drained.cancelled().await;
            Ok(())
        };
        until(ready("SIGTERM"), SHORT, serve, shutdown).await.unwrap();
    }

    #[tokio::test]
    async fn a_drain_that_hangs_is_cut_off() {
        let error = until(ready("SIGTERM"), SHORT, pending(), CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("not drained within 20ms"), "{error}");
    }

    #[tokio::test]
    async fn failures_are_handed_on() {
        let fault = || async { bail!("the broker is gone") };
        let before = until(pending(), SHORT, fault(), CancellationToken::new()).await.unwrap_err();
        let unasked = until(pending(), SHORT, ready(Ok(())), CancellationToken::new()).await.unwrap_err();
        assert_eq!(before.to_string(), "the broker is gone");
        assert_eq!(unasked.to_string(), "ended without being asked to");
    }
}
