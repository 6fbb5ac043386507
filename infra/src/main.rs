//! `theater`: the whole system from one command.

use std::process::ExitCode;

use clap::Parser;
use service_kit::telemetry;
use theater_infra::demo::{self, Target};
use theater_infra::interrupt::Interrupt;
use theater_infra::options::{Command, Options, Parts};
use theater_infra::theater::{Purpose, Theater};
use theater_infra::{images, show, supervise, tail};

fn main() -> ExitCode {
    supervise::child_entry();
    let options = Options::parse();
    let result = run(&options);
    supervise::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("theater: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    // What is worth a line here is what goes wrong; RUST_LOG shows more.
    let telemetry =
        telemetry::init_with_default_log("theater", &options.telemetry, "warn,actix_http::h1=off")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let interrupt = Interrupt::listen()?;
        match &options.command {
            None => serve(&options.parts, &interrupt).await,
            Some(Command::Demo { gateway }) => play(&options.parts, gateway.as_deref(), &interrupt).await,
            Some(Command::Tail { topics, from_beginning }) => {
                let work = tail::run(&options.parts, topics, *from_beginning);
                interrupt.or(work).await.unwrap_or(Ok(()))
            }
            Some(Command::Images(wanted)) => interrupt.or_fail(images::build(wanted)).await,
        }
    });
    // A stray blocking call must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    telemetry.shutdown();
    result
}

async fn serve(parts: &Parts, interrupt: &Interrupt) -> anyhow::Result<()> {
    let Some(theater) = interrupt.or(Theater::start(parts, Purpose::Serve)).await else { return Ok(()) };
    let mut theater = theater?;
    show::line(&theater.to_string());
    let failed = interrupt.or(theater.failed()).await;
    eprintln!("\n  closing …");
    theater.stop().await;
    failed.map_or(Ok(()), Err)
}

/// On a running theater, or on one of its own.
async fn play(parts: &Parts, gateway: Option<&str>, interrupt: &Interrupt) -> anyhow::Result<()> {
    if let Some(gateway) = gateway {
        let target = Target::running(parts, gateway)?;
        return interrupt.or_fail(demo::play(&target)).await;
    }
    let mut theater = interrupt.or_fail(Theater::start(parts, Purpose::Demo)).await?;
    let target = Target {
        gateway: theater.gateway(),
        broker: theater.broker().clone(),
        topic_prefix: parts.kafka_topic_prefix.clone(),
    };
    let work = async {
        tokio::select! {
            played = demo::play(&target) => played,
            reason = theater.failed() => Err(reason),
        }
    };
    let played = interrupt.or_fail(work).await;
    theater.stop().await;
    played
}
