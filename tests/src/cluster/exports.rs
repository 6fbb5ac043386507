//! Creates an export and downloads it from each replica of reservation-list. Runs inside the cluster, where replicas
//! have addresses.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::{Api, eventually};

const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The theater's gateway
    #[arg(long, value_name = "URL")]
    gateway: String,
    /// Replicas of reservation-list
    #[arg(value_name = "URL", required = true)]
    replicas: Vec<String>,
}

/// # Errors
/// If a replica doesn't serve the export.
pub fn main(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let api = Api::new(&options.gateway)?;
    let movie = api.publish(10).await?;
    let reservation = api.reserve(movie, 2).await?.to_string();
    eventually("the reservation is listed", TIMEOUT, async || {
        let listed = api.list_all("/reservationLists").await?;
        ensure!(listed.iter().any(|row| row["reserveId"] == json!(reservation)), "{} others", listed.len());
        Ok(())
    })
    .await?;
    let answer = api.post("/reservationLists/exports", &json!({"movieId": movie})).await?;
    ensure!(answer.status == 202, "{answer:?}");
    let path = format!("/reservationLists/exports/{}", answer.json()?["id"].as_str().context("id")?);
    eventually("the export is ready", TIMEOUT, async || {
        let export = api.get(&path).await?.json()?;
        ensure!(export["status"] == "READY", "{export}");
        Ok(())
    })
    .await?;
    for replica in &options.replicas {
        let answer = Api::new(replica)?.get(&format!("{path}/file")).await?;
        ensure!(answer.status == 200 && answer.text.contains(&reservation), "{replica}: {answer:?}");
        println!("{replica} shows the export: {} lines", answer.text.lines().count());
    }
    Ok(())
}
