//! Processes are killed, terminated, frozen, added and removed while customers buy. Exactly the stock must be sold.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::{Fleet, SERVICES};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, eventually};

use crate::workload::TicketRush;

const BINARY: &str = env!("CARGO_BIN_EXE_theater-tests");

/// How long a process stays frozen: longer than the broker's session time-out and the database's idle time-out.
const FROZEN: Duration = Duration::from_secs(10);

async fn fleet(environment: &Environment, replicas: usize) -> anyhow::Result<Fleet> {
    let setup = Setup { deadline_secs: 300, ..Setup::default() };
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    Fleet::start(BINARY, config, replicas).await
}

/// `kill -9` to each process in turn, under load. It is started again at once.
pub(crate) async fn each_killed_once(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let rush = TicketRush::start(&fleet).await?;
    let members = fleet.members.len();
    for index in 0..members {
        rush.wait_for_answers(900 * (index + 1) / (members + 1)).await?;
        fleet.kill(index).await;
        fleet.spawn(index)?;
    }
    for index in 0..members {
        fleet.wait_until_ready(index).await?;
    }
    rush.finish(&fleet).await?;
    fleet.stop().await
}

/// The owners of partitions and of an outbox shard freeze until others have taken them over. Then they resume with stale
/// state.
pub(crate) async fn frozen_owners_of_partitions_and_shards(environment: &Environment) -> anyhow::Result<()> {
    let fleet = fleet(environment, 2).await?;
    let rush = TicketRush::start(&fleet).await?;
    rush.wait_for_answers(100).await?;
    // The owner of the shard is found by its database session. That process owns partitions too, as both replicas do.
    for (service, at) in [("movie", 200), ("reservation", 400)] {
        rush.wait_for_answers(at).await?;
        let owner = relay_owner(&fleet, service).await?;
        // While it is frozen, its shard and its partitions pass to the other replica.
        let taken_over = eventually("the other replica sends the shard", FROZEN, async || {
            ensure!(relay_owner(&fleet, service).await? != owner, "still owned by the frozen one");
            Ok(())
        });
        let (taken_over, ()) = tokio::join!(taken_over, fleet.freeze(owner, FROZEN));
        taken_over?;
    }
    rush.finish(&fleet).await?;
    fleet.stop().await
}

/// The process whose session holds the advisory lock of a service's first shard. The session's application name contains
/// its process id.
async fn relay_owner(fleet: &Fleet, service: &str) -> anyhow::Result<usize> {
    let mut connection = PgConnection::connect(fleet.config.database_url(service)).await?;
    let name: Option<String> = sqlx::query_scalar(
        "select application_name from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and objid = 0 and objsubid = 2 and pg_locks.database =
               (select oid from pg_database where datname = current_database())",
    )
    .fetch_optional(&mut connection)
    .await?;
    let name = name.context("no session owns the shard")?;
    let owner = |index: &usize| fleet.pid(*index).is_some_and(|pid| name.contains(&format!(" {pid} ")));
    fleet
        .members_of(service)
        .into_iter()
        .find(owner)
        .with_context(|| format!("its owner is none of the fleet: {name}"))
}

/// Under load, a replica of each service joins, and later the other replica leaves.
pub(crate) async fn replicas_join_and_leave(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let first: Vec<_> = SERVICES.iter().map(|service| fleet.members_of(service)[0]).collect();
    // The gateway knows their addresses, but they don't run.
    for index in &first {
        fleet.kill(*index).await;
    }
    let rush = TicketRush::start(&fleet).await?;
    rush.wait_for_answers(200).await?;
    for index in &first {
        fleet.spawn(*index)?;
        fleet.wait_until_ready(*index).await?;
    }
    rush.wait_for_answers(500).await?;
    for service in SERVICES {
        let second = fleet.members_of(service)[1];
        let status = fleet.terminate(second).await?;
        ensure!(status.success(), "{service} ended with {status}");
    }
    rush.finish(&fleet).await?;
    fleet.stop().await
}

/// SIGTERM to each process in turn, under load: it drains and exits 0 in time, and is started again.
pub(crate) async fn each_terminated_under_load(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let rush = TicketRush::start(&fleet).await?;
    let members = fleet.members.len();
    for index in 0..members {
        rush.wait_for_answers(900 * (index + 1) / (members + 1)).await?;
        let status = fleet.terminate(index).await?;
        ensure!(status.success(), "{} ended with {status}", fleet.members[index].service);
        fleet.spawn(index)?;
        fleet.wait_until_ready(index).await?;
    }
    rush.finish(&fleet).await?;
    fleet.stop().await
}
