//! A process dies right before and right after every act, under load, and is started again; then nothing is missing and
//! nothing has happened twice.
//!
//! The acts are listed where they are done (`service_kit::messaging::failpoints`, `movie::failpoints` and so on). All that is listed
//! is walked through, so an act that nobody does any more fails here by its name.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use service_kit::messaging::failpoint::Failpoint;
use service_kit::messaging::failpoints as kit;
use sqlx::{Connection, PgConnection};
use theater_tests::fleet::{Fleet, SERVICES};
use theater_tests::mail::MailServer;
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, checks, eventually, topics};

use crate::books;
use crate::market::{Market, SharedBooks};

const BINARY: &str = env!("CARGO_BIN_EXE_theater-tests");

/// Within this time a process must have come to its failpoint.
const VISIT: Duration = Duration::from_secs(40);

/// What is done before a process is ready, or as soon as it is.
const AT_THE_START: &[Failpoint] = &[
    kit::MIGRATE_RUNTIME,
    kit::MIGRATE_SERVICE,
    kit::CREATE_TOPICS,
    kit::FIRST_POSITIONS,
    movie::failpoints::COMMIT_FILLED,
];

/// What each service does under load: its own acts, and of the runtime's those that matter most there. Their code is
/// the same everywhere.
fn under_load() -> [(&'static str, Vec<Failpoint>); 4] {
    let own = |acts: &[Failpoint], kit: &[Failpoint]| {
        acts.iter().chain(kit).copied().filter(|act| !AT_THE_START.contains(act)).collect()
    };
    // A call's effect, its answer, and an event on its way.
    let reservation =
        [kit::STORE_RESPONSE, kit::INSERT_OUTBOX, kit::SEND, kit::ACKNOWLEDGE, kit::DELETE, kit::COMMIT];
    let movie = [kit::COMMIT, kit::PURGE, kit::PURGE_COMMIT];
    // A batch, with records that it can't use and buries.
    let notification = [kit::DEAD_LETTER, kit::TRUNCATE, kit::APPLY, kit::ADVANCE, kit::COMMIT];
    let list = [
        kit::BEGIN,
        kit::APPLY,
        kit::DEAD_LETTER,
        kit::ADVANCE,
        kit::COMMIT,
        kit::COMMIT_OFFSET,
        kit::SEND,
        kit::DELETE,
    ];
    [
        ("reservation", own(reservation::failpoints::ALL, &reservation)),
        ("movie", own(movie::failpoints::ALL, &movie)),
        ("notification", own(notification::failpoints::ALL, &notification)),
        ("reservation-list", own(reservation_list::failpoints::ALL, &list)),
    ]
}

/// Every failpoint there is.
fn all() -> BTreeSet<&'static str> {
    [
        kit::ALL,
        reservation::failpoints::ALL,
        movie::failpoints::ALL,
        notification::failpoints::ALL,
        reservation_list::failpoints::ALL,
    ]
    .into_iter()
    .flatten()
    .flat_map(|act| act.names())
    .collect()
}

pub(crate) async fn a_crash_before_and_after_each(environment: &Environment) -> anyhow::Result<()> {
    let mail = MailServer::start(BINARY).await?;
    let stage = stage(environment, &mail).await?;
    let mut walk = Walk { fleet: Fleet::new(BINARY, stage, 1)?, visited: BTreeSet::new(), deaths: 0 };
    walk.first_starts().await?;
    let books = SharedBooks::default();
    walk.under_load(&books).await?;
    walk.later_starts().await?;
    let Walk { fleet, visited, deaths } = walk;
    books::balanced(&fleet, &books.so_far()).await?;
    books::delivered(&fleet.stage, &mail).await?;
    fleet.stop().await?;
    let missing: Vec<_> = all().difference(&visited).copied().collect();
    ensure!(missing.is_empty(), "nobody died at {missing:?}");
    println!("  {deaths} deaths at {} failpoints", visited.len());
    Ok(())
}

/// Topics of dead letters so narrow that large ones are cut.
async fn stage(environment: &Environment, mail: &MailServer) -> anyhow::Result<Stage> {
    // A member that comes again under its name gets its partitions back at once: it need not be found dead first. And
    // what is sent lingers, so that a crash between sending and deleting is one before the record has left.
    let settings = |service: &str| format!("--kafka-config=group.instance.id={service},linger.ms=50");
    let mut setup = Setup { deadline_secs: 300, ..Setup::default() };
    setup.settings = SERVICES.map(|service| (service, settings(service))).to_vec();
    setup.settings.push(("notification", format!("--smtp-url={}", mail.url_of("theater", true))));
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    for topic in ["reservations.dlq", "movies.dlq"] {
        let name = format!("{}{topic}", stage.prefix);
        topics::create(&stage.bootstrap, &name, &[("max.message.bytes", "2000")]).await?;
    }
    Ok(stage)
}

struct Walk {
    fleet: Fleet,
    visited: BTreeSet<&'static str>,
    deaths: usize,
}

/// Who is to die where.
type Death = (usize, &'static str);

impl Walk {
    fn member(&self, service: &str) -> usize {
        self.fleet.of(service)[0]
    }

    /// Nothing is there yet: each start goes one act further than the last one.
    async fn first_starts(&mut self) -> anyhow::Result<()> {
        let everybody: Vec<usize> = SERVICES.iter().map(|service| self.member(service)).collect();
        let (one, movie) = ([self.member("reservation")], [self.member("movie")]);
        let starts: [(Failpoint, &[usize]); 5] = [
            (kit::MIGRATE_RUNTIME, &everybody),
            (kit::MIGRATE_SERVICE, &everybody),
            // Whoever comes second finds them there.
            (kit::CREATE_TOPICS, &one),
            (kit::FIRST_POSITIONS, &everybody),
            (movie::failpoints::COMMIT_FILLED, &movie),
        ];
        for (act, members) in starts {
            for point in act.names() {
                let deaths: Vec<Death> = members.iter().map(|member| (*member, point)).collect();
                self.die_at_the_start(&deaths).await?;
            }
        }
        for index in 0..self.fleet.members.len() {
            self.fleet.spawn(index)?;
        }
        for index in 0..self.fleet.members.len() {
            self.fleet.ready(index).await?;
        }
        Ok(())
    }

    async fn die_at_the_start(&mut self, deaths: &[Death]) -> anyhow::Result<()> {
        for (index, point) in deaths {
            self.fleet.spawn_dying_at(*index, point)?;
        }
        self.await_deaths(deaths, |_, _| Ok(())).await
    }

    /// In each round every service dies once, somewhere else.
    async fn under_load(&mut self, books: &SharedBooks) -> anyhow::Result<()> {
        let plans = under_load().map(|(service, acts)| {
            let member = self.member(service);
            acts.into_iter().flat_map(Failpoint::names).map(|point| (member, point)).collect::<Vec<Death>>()
        });
        let rounds = plans.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let deaths: Vec<Death> = plans.iter().filter_map(|plan| plan.get(round)).copied().collect();
            self.round(&deaths, books).await.with_context(|| format!("after deaths at {deaths:?}"))?;
        }
        Ok(())
    }

    async fn round(&mut self, deaths: &[Death], books: &SharedBooks) -> anyhow::Result<()> {
        let market = Market::opens(&self.fleet.api, &self.fleet.stage, books).await?;
        let deaths = async {
            for (index, point) in deaths {
                self.fleet.die_at(*index, point)?;
            }
            self.await_deaths(deaths, Fleet::spawn).await?;
            for (index, _) in deaths {
                self.fleet.ready(*index).await?;
            }
            market.closes();
            anyhow::Ok(())
        };
        tokio::try_join!(market.trades(), deaths)?;
        books::balanced(&self.fleet, &books.so_far()).await
    }

    /// Waits until each has died where it was to, and does then what is to be done.
    async fn await_deaths(
        &mut self,
        deaths: &[Death],
        then: fn(&mut Fleet, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut living = deaths.to_vec();
        let fleet = &mut self.fleet;
        eventually("every one dies where it was told to", VISIT, async || {
            let mut next = 0;
            while let Some(&(index, point)) = living.get(next) {
                if fleet.has_died_at(index, point)? {
                    living.remove(next);
                    then(fleet, index)?;
                } else {
                    next += 1;
                }
            }
            ensure!(living.is_empty(), "nobody has come to {living:?}");
            Ok(())
        })
        .await?;
        self.visited.extend(deaths.iter().map(|(_, point)| *point));
        self.deaths += deaths.len();
        Ok(())
    }

    /// A movie service that finds a catalogue without its words.
    async fn later_starts(&mut self) -> anyhow::Result<()> {
        let index = self.member("movie");
        self.fleet.kill(index).await;
        let url = self.fleet.stage.movie_url.clone();
        let mut database = PgConnection::connect(&url).await?;
        sqlx::query("delete from movie_text").execute(&mut database).await?;
        for point in movie::failpoints::COMMIT_FILLED.names() {
            self.die_at_the_start(&[(index, point)]).await?;
        }
        self.fleet.spawn(index)?;
        self.fleet.ready(index).await?;
        eventually("all movies have their words", VISIT, async || {
            let nameless = checks::count(
                &url,
                "select (select count(*) from movie) - (select count(*) from movie_text)",
            );
            let nameless = nameless.await?;
            ensure!(nameless == 0, "{nameless} movies without their words");
            Ok(())
        })
        .await
    }
}
