//! Members of the fleet die, freeze, come and go, while the crowd buys.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::{Fleet, SERVICES};
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, eventually};

use crate::crowd::Crowd;

const BINARY: &str = env!("CARGO_BIN_EXE_theater-tests");

/// How long a member stays frozen: past the broker's session and the database's idle limits.
const FROZEN: Duration = Duration::from_secs(10);

async fn fleet(environment: &Environment, replicas: usize) -> anyhow::Result<Fleet> {
    let setup = Setup { deadline_secs: 300, ..Setup::default() };
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    Fleet::start(BINARY, stage, replicas).await
}

/// Each service's processes, one after another, by `kill -9` in the middle; started again at once.
pub(crate) async fn every_service_once_by_kill_9(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let crowd = Crowd::arrives(&fleet).await?;
    let members = fleet.members.len();
    for index in 0..members {
        crowd.served(900 * (index + 1) / (members + 1)).await?;
        fleet.kill(index).await;
        fleet.spawn(index)?;
    }
    for index in 0..members {
        fleet.ready(index).await?;
    }
    crowd.leaves(&fleet).await?;
    fleet.stop().await
}

/// The owners of a partition and of an outbox's shard stop for longer than anyone waits for them, and then
/// go on as if nothing had been.
pub(crate) async fn frozen_owners_of_partitions_and_shards(environment: &Environment) -> anyhow::Result<()> {
    let fleet = fleet(environment, 2).await?;
    let crowd = Crowd::arrives(&fleet).await?;
    crowd.served(100).await?;
    // The relay's owner is found by its session; the process owns partitions too, as both replicas do.
    for (service, at) in [("movie", 200), ("reservation", 400)] {
        crowd.served(at).await?;
        let owner = relay_owner(&fleet, service).await?;
        // Meanwhile its shard and its partitions pass to the other replica.
        let passed = eventually("the other replica sends the shard", FROZEN, async || {
            ensure!(relay_owner(&fleet, service).await? != owner, "still owned by the frozen one");
            Ok(())
        });
        let (passed, ()) = tokio::join!(passed, fleet.freeze(owner, FROZEN));
        passed?;
    }
    crowd.leaves(&fleet).await?;
    fleet.stop().await
}

/// The member whose session holds the advisory lock of a service's first shard: it says who it is.
async fn relay_owner(fleet: &Fleet, service: &str) -> anyhow::Result<usize> {
    let mut connection = PgConnection::connect(fleet.stage.database_url(service)).await?;
    let name: Option<String> = sqlx::query_scalar(
        "select application_name from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and objid = 0 and objsubid = 2 and pg_locks.database =
               (select oid from pg_database where datname = current_database())",
    )
    .fetch_optional(&mut connection)
    .await?;
    let name = name.context("nobody owns the shard")?;
    let owner = |index: &usize| fleet.pid(*index).is_some_and(|pid| name.contains(&format!(" {pid} ")));
    fleet
        .of(service)
        .into_iter()
        .find(owner)
        .with_context(|| format!("its owner is none of the fleet: {name}"))
}

/// A replica of each service joins in the middle, and the first one leaves.
pub(crate) async fn replicas_come_and_go(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let first: Vec<_> = SERVICES.iter().map(|service| fleet.of(service)[0]).collect();
    // They are known to the gateway, and away.
    for index in &first {
        fleet.kill(*index).await;
    }
    let crowd = Crowd::arrives(&fleet).await?;
    crowd.served(200).await?;
    for index in &first {
        fleet.spawn(*index)?;
        fleet.ready(*index).await?;
    }
    crowd.served(500).await?;
    for service in SERVICES {
        let second = fleet.of(service)[1];
        let status = fleet.terminate(second).await?;
        ensure!(status.success(), "{service} ended with {status}");
    }
    crowd.leaves(&fleet).await?;
    fleet.stop().await
}

/// SIGTERM to each member under load: it drains and exits 0 within its bound, and is started again.
pub(crate) async fn terminated_under_load(environment: &Environment) -> anyhow::Result<()> {
    let mut fleet = fleet(environment, 2).await?;
    let crowd = Crowd::arrives(&fleet).await?;
    let members = fleet.members.len();
    for index in 0..members {
        crowd.served(900 * (index + 1) / (members + 1)).await?;
        let status = fleet.terminate(index).await?;
        ensure!(status.success(), "{} ended with {status}", fleet.members[index].service);
        fleet.spawn(index)?;
        fleet.ready(index).await?;
    }
    crowd.leaves(&fleet).await?;
    fleet.stop().await
}
