//! Runs a process from its command line to its exit status. A service's `main` only calls [`main`].

use std::{ffi::OsString, future::Future, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::{config::TelemetryConfig, telemetry};

/// How long a process may take from the signal to its end, including the drain delay. A supervisor must wait longer
/// before it kills the process: by default Kubernetes waits 30 s, Docker 10 s.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long blocking calls that still run may delay the exit.
const BLOCKING_LIMIT: Duration = Duration::from_secs(2);

/// Parses `args` as the configuration, and runs `service` as [`run_until_signal`] does. The first of `args` is the
/// name of the program. If clap rejects one, the process exits with 2 and names it.
pub fn main<C: Parser>(
    name: &'static str,
    args: impl IntoIterator<Item = OsString>,
    telemetry: fn(&C) -> &TelemetryConfig,
    service: impl AsyncFnOnce(C, CancellationToken) -> anyhow::Result<()>,
) -> ExitCode {
    let config = C::parse_from(args);
    let telemetry = telemetry(&config).clone();
    run_until_signal(name, &telemetry, |shutdown| service(config, shutdown))
}

/// Sets up telemetry, and runs `service` until it ends. SIGTERM or SIGINT cancels its token, and then it must drain
/// within [`DRAIN_LIMIT`].
///
/// The exit status is 0 if `service` drained. It is 1, with the reason in the log, if `service` failed, ended without a
/// signal, or didn't drain in time.
pub fn run_until_signal<F: Future<Output = anyhow::Result<()>>>(
    name: &'static str,
    telemetry: &TelemetryConfig,
    service: impl FnOnce(CancellationToken) -> F,
) -> ExitCode {
    run(name, telemetry, async {
        let signal = shutdown_signal()?;
        let shutdown = CancellationToken::new();
        drain_on_signal(signal, DRAIN_LIMIT, service(shutdown.clone()), shutdown).await
    })
}

/// Sets up telemetry, and runs `work` to its end, such as an operator's command. SIGTERM or SIGINT aborts it.
pub fn run_to_end(
    name: &'static str,
    telemetry: &TelemetryConfig,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    run(name, telemetry, async {
        tokio::select! {
            result = work => result,
            signal = shutdown_signal()? => bail!("cut off by {signal}"),
        }
    })
}

fn run(
    name: &'static str,
    telemetry: &TelemetryConfig,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    // Telemetry starts before the runtime and ends after it: the exporter has its own thread and a blocking client.
    let telemetry = match telemetry::init(name, telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let result = block_on(work);
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "{name} failed");
    }
    telemetry.shutdown();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKING_LIMIT);
    result
}

/// Completes at the first SIGTERM or SIGINT. The signal handlers are installed when this returns.
fn shutdown_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
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

/// Runs `service`. Cancels `shutdown` at the signal, and fails if `service` then takes longer than `limit`.
async fn drain_on_signal(
    signal: impl Future<Output = &'static str>,
    limit: Duration,
    service: impl Future<Output = anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::pin!(service);
    tokio::select! {
        result = &mut service => {
            result?;
            bail!("ended without being asked to");
        }
        signal = signal => tracing::info!(signal, "draining"),
    }
    shutdown.cancel();
    match tokio::time::timeout(limit, service).await {
        Ok(result) => {
            result?;
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
    async fn a_signal_cancels_the_token_and_awaits_the_drain() {
        let shutdown = CancellationToken::new();
        let drain = shutdown.clone();
        let service = async move {
            drain.cancelled().await;
            Ok(())
        };
        drain_on_signal(ready("SIGTERM"), SHORT, service, shutdown).await.unwrap();
    }

    #[tokio::test]
    async fn a_drain_that_hangs_is_aborted() {
        let error =
            drain_on_signal(ready("SIGTERM"), SHORT, pending(), CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("not drained within 20ms"), "{error}");
    }

    #[tokio::test]
    async fn failures_are_returned() {
        let failing = || async { bail!("the broker is gone") };
        let failed =
            drain_on_signal(pending(), SHORT, failing(), CancellationToken::new()).await.unwrap_err();
        let ended =
            drain_on_signal(pending(), SHORT, ready(Ok(())), CancellationToken::new()).await.unwrap_err();
        assert_eq!(failed.to_string(), "the broker is gone");
        assert_eq!(ended.to_string(), "ended without being asked to");
    }
}
