//! A process dies right before and right after every write, commit, send and acknowledgement (a failpoint), under load,
//! and is started again. Afterwards no accepted call is lost, and none has two effects.
//!
//! The failpoints are listed beside the code (`service_kit::messaging::failpoints`, `movie::failpoints` and so on). The
//! test visits every listed failpoint, so it fails with the name of one that no process reaches any more.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use service_kit::messaging::failpoint::Failpoint;
use service_kit::messaging::failpoints as messaging_failpoints;
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::{Fleet, SERVICES};
use theater_tests::mail::MailServer;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, checks, eventually, topics};

use crate::invariants;
use crate::ledger::SharedLedger;
use crate::workload::MixedLoad;

const BINARY: &str = env!("CARGO_BIN_EXE_theater-tests");

/// Within this time a process must reach its failpoint.
const VISIT_TIMEOUT: Duration = Duration::from_secs(40);

/// Failpoints that a process reaches before it is ready, or as soon as it is.
const AT_STARTUP: &[Failpoint] = &[
    messaging_failpoints::MIGRATE_RUNTIME,
    messaging_failpoints::MIGRATE_SERVICE,
    messaging_failpoints::CREATE_TOPICS,
    messaging_failpoints::FIRST_POSITIONS,
    movie::failpoints::COMMIT_BACKFILL,
];

/// The failpoints of each service under load: all of its own, and those of service-kit that matter most there. Its code
/// is the same in all services, so its failpoints need not be visited in each.
fn under_load() -> [(&'static str, Vec<Failpoint>); 4] {
    let service_and_shared = |service: &[Failpoint], shared: &[Failpoint]| {
        service.iter().chain(shared).copied().filter(|failpoint| !AT_STARTUP.contains(failpoint)).collect()
    };
    // A call's effect, its stored response, and an event on its way to Kafka.
    let reservation = [
        messaging_failpoints::STORE_RESPONSE,
        messaging_failpoints::INSERT_OUTBOX,
        messaging_failpoints::SEND,
        messaging_failpoints::ACKNOWLEDGE,
        messaging_failpoints::DELETE,
        messaging_failpoints::COMMIT,
    ];
    let movie =
        [messaging_failpoints::COMMIT, messaging_failpoints::PURGE, messaging_failpoints::PURGE_COMMIT];
    // A batch with malformed records that become dead letters.
    let notification = [
        messaging_failpoints::DEAD_LETTER,
        messaging_failpoints::TRUNCATE,
        messaging_failpoints::APPLY,
        messaging_failpoints::ADVANCE,
        messaging_failpoints::COMMIT,
    ];
    let list = [
        messaging_failpoints::BEGIN,
        messaging_failpoints::APPLY,
        messaging_failpoints::DEAD_LETTER,
        messaging_failpoints::ADVANCE,
        messaging_failpoints::COMMIT,
        messaging_failpoints::COMMIT_OFFSET,
        messaging_failpoints::SEND,
        messaging_failpoints::DELETE,
    ];
    [
        ("reservation", service_and_shared(reservation::failpoints::ALL, &reservation)),
        ("movie", service_and_shared(movie::failpoints::ALL, &movie)),
        ("notification", service_and_shared(notification::failpoints::ALL, &notification)),
        ("reservation-list", service_and_shared(reservation_list::failpoints::ALL, &list)),
    ]
}

/// The names of all failpoints.
fn all_failpoints() -> BTreeSet<&'static str> {
    [
        messaging_failpoints::ALL,
        reservation::failpoints::ALL,
        movie::failpoints::ALL,
        notification::failpoints::ALL,
        reservation_list::failpoints::ALL,
    ]
    .into_iter()
    .flatten()
    .flat_map(|failpoint| failpoint.names())
    .collect()
}

pub(crate) async fn a_crash_before_and_after_each(environment: &Environment) -> anyhow::Result<()> {
    let mail = MailServer::start(BINARY).await?;
    let config = config(environment, &mail).await?;
    let mut tour = Tour { fleet: Fleet::new(BINARY, config, 1)?, visited: BTreeSet::new(), deaths: 0 };
    tour.first_starts().await?;
    let ledger = SharedLedger::default();
    tour.under_load(&ledger).await?;
    tour.later_starts().await?;
    let Tour { fleet, visited, deaths } = tour;
    invariants::all_hold(&fleet, &ledger.snapshot()).await?;
    invariants::all_mails_received(&fleet.config, &mail).await?;
    fleet.stop().await?;
    let missing: Vec<_> = all_failpoints().difference(&visited).copied().collect();
    ensure!(missing.is_empty(), "no process died at {missing:?}");
    println!("  {deaths} deaths at {} failpoints", visited.len());
    Ok(())
}

/// Dead-letter topics with such a small `max.message.bytes` that large dead letters are truncated.
async fn config(environment: &Environment, mail: &MailServer) -> anyhow::Result<TheaterConfig> {
    // `group.instance.id`: a restarted process gets its partitions back at once, without waiting for the session time-out
    // of the dead one. `linger.ms`: a record stays in the client for a while, so that a crash between sending and
    // deleting comes before Kafka has the record.
    let settings = |service: &str| format!("--kafka-config=group.instance.id={service},linger.ms=50");
    let mut setup = Setup { deadline_secs: 300, ..Setup::default() };
    setup.settings = SERVICES.map(|service| (service, settings(service))).to_vec();
    setup.settings.push(("notification", format!("--smtp-url={}", mail.url_with_login("theater", true))));
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    for topic in ["reservations.dlq", "movies.dlq"] {
        let name = format!("{}{topic}", config.prefix);
        topics::create(&config.bootstrap, &name, &[("max.message.bytes", "2000")]).await?;
    }
    Ok(config)
}

/// A fleet whose processes die at one failpoint after another.
struct Tour {
    fleet: Fleet,
    visited: BTreeSet<&'static str>,
    deaths: usize,
}

/// A process and the failpoint at which it dies.
type Death = (usize, &'static str);

impl Tour {
    fn member(&self, service: &str) -> usize {
        self.fleet.members_of(service)[0]
    }

    /// Starts on empty databases: each start gets one failpoint further than the last one.
    async fn first_starts(&mut self) -> anyhow::Result<()> {
        let all: Vec<usize> = SERVICES.iter().map(|service| self.member(service)).collect();
        let (reservation, movie) = ([self.member("reservation")], [self.member("movie")]);
        let starts: [(Failpoint, &[usize]); 5] = [
            (messaging_failpoints::MIGRATE_RUNTIME, &all),
            (messaging_failpoints::MIGRATE_SERVICE, &all),
            // The first service creates the topics; all others find them.
            (messaging_failpoints::CREATE_TOPICS, &reservation),
            (messaging_failpoints::FIRST_POSITIONS, &all),
            (movie::failpoints::COMMIT_BACKFILL, &movie),
        ];
        for (failpoint, members) in starts {
            for point in failpoint.names() {
                let deaths: Vec<Death> = members.iter().map(|member| (*member, point)).collect();
                self.die_at_startup(&deaths).await?;
            }
        }
        for index in 0..self.fleet.members.len() {
            self.fleet.spawn(index)?;
        }
        for index in 0..self.fleet.members.len() {
            self.fleet.wait_until_ready(index).await?;
        }
        Ok(())
    }

    async fn die_at_startup(&mut self, deaths: &[Death]) -> anyhow::Result<()> {
        for (index, point) in deaths {
            self.fleet.spawn_crashing_at(*index, point)?;
        }
        self.await_deaths(deaths, |_, _| Ok(())).await
    }

    /// In each round every service dies once, at its next failpoint.
    async fn under_load(&mut self, ledger: &SharedLedger) -> anyhow::Result<()> {
        let plans = under_load().map(|(service, failpoints)| {
            let member = self.member(service);
            failpoints
                .into_iter()
                .flat_map(Failpoint::names)
                .map(|point| (member, point))
                .collect::<Vec<Death>>()
        });
        let rounds = plans.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let deaths: Vec<Death> = plans.iter().filter_map(|plan| plan.get(round)).copied().collect();
            self.round(&deaths, ledger).await.with_context(|| format!("after deaths at {deaths:?}"))?;
        }
        Ok(())
    }

    async fn round(&mut self, deaths: &[Death], ledger: &SharedLedger) -> anyhow::Result<()> {
        let load = MixedLoad::new(&self.fleet.api, &self.fleet.config, ledger).await?;
        let deaths = async {
            for (index, point) in deaths {
                self.fleet.crash_at(*index, point)?;
            }
            self.await_deaths(deaths, Fleet::spawn).await?;
            for (index, _) in deaths {
                self.fleet.wait_until_ready(*index).await?;
            }
            load.stop();
            anyhow::Ok(())
        };
        tokio::try_join!(load.run(), deaths)?;
        invariants::all_hold(&self.fleet, &ledger.snapshot()).await
    }

    /// Waits until each process has died at its failpoint, and then calls `then` for it.
    async fn await_deaths(
        &mut self,
        deaths: &[Death],
        then: fn(&mut Fleet, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut alive = deaths.to_vec();
        let fleet = &mut self.fleet;
        eventually("every process dies at its failpoint", VISIT_TIMEOUT, async || {
            let mut next = 0;
            while let Some(&(index, point)) = alive.get(next) {
                if fleet.has_crashed_at(index, point)? {
                    alive.remove(next);
                    then(fleet, index)?;
                } else {
                    next += 1;
                }
            }
            ensure!(alive.is_empty(), "not reached: {alive:?}");
            Ok(())
        })
        .await?;
        self.visited.extend(deaths.iter().map(|(_, point)| *point));
        self.deaths += deaths.len();
        Ok(())
    }

    /// Starts of the movie service on a catalogue without search texts, which it fills in.
    async fn later_starts(&mut self) -> anyhow::Result<()> {
        let index = self.member("movie");
        self.fleet.kill(index).await;
        let url = self.fleet.config.movie_url.clone();
        let mut database = PgConnection::connect(&url).await?;
        sqlx::query("delete from movie_text").execute(&mut database).await?;
        for point in movie::failpoints::COMMIT_BACKFILL.names() {
            self.die_at_startup(&[(index, point)]).await?;
        }
        self.fleet.spawn(index)?;
        self.fleet.wait_until_ready(index).await?;
        eventually("all movies have their search texts", VISIT_TIMEOUT, async || {
            let missing = checks::count_rows(
                &url,
                "select (select count(*) from movie) - (select count(*) from movie_text)",
            );
            let missing = missing.await?;
            ensure!(missing == 0, "{missing} movies without their search texts");
            Ok(())
        })
        .await
    }
}
