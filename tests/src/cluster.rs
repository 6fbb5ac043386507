//! The theater on a Kubernetes cluster, operated as in production: deployed from `k8s/`, scaled by its autoscaler,
//! updated, drained and misconfigured under load. No call may fail, and the ledger must balance at the end.
//!
//! # Layout
//!
//! - [`scenarios`]: what is done to the theater; [`deployment`]: its manifests, namespace and nodes.
//! - [`kubectl`]: the client of the cluster; [`timeline`]: the output, with times.
//! - [`pods`]: programs that run inside the cluster: the demo, the load, [`exports`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use theater_infra::shutdown_signal::ShutdownSignal;

pub mod deployment;
pub mod exports;
pub mod kubectl;
pub mod pods;
pub mod scenarios;
pub mod timeline;

use deployment::Deployment;
use kubectl::Kubectl;

/// The namespace in the manifests.
const NAMESPACE: &str = "theater";

/// The label of a namespace that this program has created and may delete.
const OWNER_LABEL: (&str, &str) = ("theater.example/made-by", "theater-tests");

/// The time between two queries: each one is a process.
const QUERY_PERIOD: Duration = Duration::from_secs(1);

/// The five services, dependencies first.
const SERVICES: [&str; 5] = ["movie", "reservation", "notification", "reservation-list", "gateway"];

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Runs these, one after another; all if none is named
    scenarios: Vec<Scenario>,
    /// The command to run kubectl
    #[arg(long, env = "THEATER_KUBECTL", default_value = "kubectl")]
    kubectl: String,
    /// The manifests
    #[arg(long, value_name = "DIR", default_value = "k8s")]
    manifests: PathBuf,
    /// An image with the program `theater`
    #[arg(long, default_value = "theater/theater:0.1.0")]
    demo_image: String,
    /// An image with the program `theater-tests`
    #[arg(long, default_value = "theater/theater-tests:0.1.0")]
    load_image: String,
    /// Reservations a second that make movie's autoscaler want three pods
    #[arg(long, default_value = "60")]
    reservations: String,
    /// Reads a second, likewise
    #[arg(long = "looks", value_name = "LOOKS", default_value = "700")]
    reads: String,
    /// Don't delete the theater at the end
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The development overlay becomes ready, the demo runs in a pod, and the console consumer reads the topics
    Deploy,
    /// Under load movie is scaled from one pod to three, and then back to one
    Scale,
    /// Every service is updated, loses a pod, and the nodes are drained against the disruption budgets
    Disrupt,
    /// A changed setting replaces the pods; an invalid one leaves the old pods running
    Configure,
    /// An export of one pod is downloaded from another
    Export,
}

/// Runs the scenarios.
///
/// # Errors
/// If one fails.
pub fn main(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let interrupt = ShutdownSignal::listen()?;
        run(options, &interrupt).await
    })
}

async fn run(options: &Options, interrupt: &ShutdownSignal) -> anyhow::Result<()> {
    let scenarios =
        if options.scenarios.is_empty() { Scenario::value_variants() } else { &options.scenarios };
    let deployment = Deployment::open(options, Kubectl::new(&options.kubectl, NAMESPACE)?).await?;
    let result = interrupt.run_or_fail(async {
        for scenario in scenarios {
            deployment.run(*scenario).await.with_context(|| format!("{scenario:?}"))?;
        }
        Ok(())
    });
    let result = result.await;
    let cleaned_up = deployment.clean_up().await;
    result.with_context(|| format!("what was deployed stays in the namespace {NAMESPACE}"))?;
    cleaned_up?;
    if !options.keep {
        deployment.delete_namespace().await?;
    }
    Ok(())
}
