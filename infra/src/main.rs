//! `theater`: the whole system from one command.

use std::process::ExitCode;

use clap::Parser;
use service_kit::telemetry;
use theater_infra::demo::{self, Target};
use theater_infra::options::{Command, LauncherOptions, Options};
use theater_infra::shutdown_signal::ShutdownSignal;
use theater_infra::theater::{Mode, Theater};
use theater_infra::{images, supervise, tail, terminal};

fn main() -> ExitCode {
    supervise::child_entry();
    let options = Options::parse();
    let result = run(&options);
    supervise::stop_reaper();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("theater: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    // Only warnings and errors by default: the launcher prints its own progress. RUST_LOG shows more.
    let telemetry =
        telemetry::init_with_default_log("theater", &options.telemetry, "warn,actix_http::h1=off")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = ShutdownSignal::listen()?;
        match &options.command {
            None => serve(&options.launcher, &shutdown).await,
            Some(Command::Demo { gateway }) => {
                run_demo(&options.launcher, gateway.as_deref(), &shutdown).await
            }
            Some(Command::Tail { topics, from_beginning }) => {
                let work = tail::run(&options.launcher, topics, *from_beginning);
                shutdown.run_until(work).await.unwrap_or(Ok(()))
            }
            Some(Command::Images(image_options)) => shutdown.run_or_fail(images::build(image_options)).await,
        }
    });
    // Don't wait long for blocking calls that still run.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    telemetry.shutdown();
    result
}

async fn serve(options: &LauncherOptions, shutdown: &ShutdownSignal) -> anyhow::Result<()> {
    let Some(theater) = shutdown.run_until(Theater::start(options, Mode::Serve)).await else {
        return Ok(());
    };
    let mut theater = theater?;
    terminal::print_line(&theater.to_string());
    let failure = shutdown.run_until(theater.wait_for_failure()).await;
    eprintln!("\n  closing …");
    theater.stop().await;
    failure.map_or(Ok(()), Err)
}

/// Against a running theater's `gateway`, or against a theater of its own.
async fn run_demo(
    options: &LauncherOptions,
    gateway: Option<&str>,
    shutdown: &ShutdownSignal,
) -> anyhow::Result<()> {
    if let Some(gateway) = gateway {
        let target = Target::running(options, gateway)?;
        return shutdown.run_or_fail(demo::run(&target)).await;
    }
    let mut theater = shutdown.run_or_fail(Theater::start(options, Mode::Demo)).await?;
    let target = Target {
        gateway: theater.gateway(),
        broker: theater.broker_config().clone(),
        topic_prefix: options.kafka_topic_prefix.clone(),
    };
    let work = async {
        tokio::select! {
            result = demo::run(&target) => result,
            reason = theater.wait_for_failure() => Err(reason),
        }
    };
    let result = shutdown.run_or_fail(work).await;
    theater.stop().await;
    result
}
