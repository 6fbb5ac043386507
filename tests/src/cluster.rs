//! The theater on a Kubernetes, as an operator has it there: deployed from `k8s/`, scaled by its autoscaler, updated,
//! drained and misconfigured, under load. No call may fail meanwhile, and the books are exact in the end.
//!
//! # Layout
//!
//! - [`kubectl`]: the cluster, by the operator's own tool; [`watch`]: what happens there, as a timeline.
//! - [`pods`]: programs that are run inside: the demo, the load, [`exports`].
//! - [`scenes`]: what is done to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use theater_infra::shutdown_signal::ShutdownSignal;

pub mod exports;
pub mod kubectl;
pub mod pods;
pub mod scenes;
pub mod watch;

use kubectl::Kubectl;
use scenes::Stage;

/// Where all of it is: as the manifests have it.
const NAMESPACE: &str = "theater";

/// What a namespace has that was made here, and may be taken away here.
const OURS: (&str, &str) = ("theater.example/made-by", "theater-tests");

/// How often it is looked at: each look is a process.
const PERIOD: Duration = Duration::from_secs(1);

/// The five, those first that others stand on.
const SERVICES: [&str; 5] = ["movie", "reservation", "notification", "reservation-list", "gateway"];

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// All of them, one after another, unless some are named
    scenes: Vec<Scene>,
    /// The command that stands for kubectl
    #[arg(long, env = "THEATER_KUBECTL", default_value = "kubectl")]
    kubectl: String,
    /// The manifests
    #[arg(long, value_name = "DIR", default_value = "k8s")]
    manifests: PathBuf,
    /// An image that has `theater`
    #[arg(long, default_value = "theater/theater:0.1.0")]
    demo_image: String,
    /// An image that has `theater-tests`
    #[arg(long, default_value = "theater/theater-tests:0.1.0")]
    load_image: String,
    /// Reservations a second that make movie's autoscaler want three pods
    #[arg(long, default_value = "60")]
    reservations: String,
    /// Looks a second, likewise
    #[arg(long, default_value = "700")]
    looks: String,
    /// Leave the theater where it is at the end
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scene {
    /// The development overlay becomes ready, the demo plays inside, and the console consumer reads the topics
    Deploy,
    /// Under load movie goes from one pod to three, and after it back to one
    Scale,
    /// Every service is updated, a pod of each is deleted, and the nodes are drained against the budgets
    Disrupt,
    /// A changed setting rolls the pods; a wrong one takes nothing away
    Configure,
    /// What one pod exports is read from another
    Export,
}

/// Plays the scenes.
///
/// # Errors
/// The first thing that isn't as it should be.
pub fn main(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let interrupt = ShutdownSignal::listen()?;
        play(options, &interrupt).await
    })
}

async fn play(options: &Options, interrupt: &ShutdownSignal) -> anyhow::Result<()> {
    let chosen = if options.scenes.is_empty() { Scene::value_variants() } else { &options.scenes };
    let stage = Stage::open(options, Kubectl::new(&options.kubectl, NAMESPACE)?).await?;
    let played = interrupt.run_or_fail(async {
        for scene in chosen {
            stage.play(*scene).await.with_context(|| format!("{scene:?}"))?;
        }
        Ok(())
    });
    let played = played.await;
    let left = stage.leave().await;
    played.with_context(|| format!("what was deployed stays in the namespace {NAMESPACE}"))?;
    left?;
    if !options.keep {
        stage.clear().await?;
    }
    Ok(())
}
