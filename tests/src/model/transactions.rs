//! What a service's transaction does, decided by the production code once for each thing that is asked of each
//! content of its tables, and then remembered.
//!
//! A transaction is one step here. Its rows are locked until its end, so two of one aggregate follow one another;
//! what comes of it when its inserts collide, its answer is lost or its position was moved is the simulation's to show.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use chrono::DateTime;
use notification::notification as told;
use reservation_list::projection as listed;
use service_kit::messaging::Delivery;
use service_kit::telemetry::trace_context::TraceParent;
use shared_events::{Event, EventId, ReservationId, Timestamp};
use uuid::Uuid;

use crate::model::numbered::Numbered;
use crate::model::queue::{Fact, Facts, Queue};
use crate::model::rules::{self, Marks};
use crate::simulation::calls::Call;
use crate::simulation::checks::Violation;
use crate::simulation::tables::{self, Locks, Service, Tables, Work, Writes};

/// What decides: the production folds, unless a test wants to see a wrong one found.
pub type Decide = fn(&Tables, &Work, &Locks, Timestamp) -> Writes;

/// Contents of tables that can be told apart.
const DATABASES_MAX: usize = 1 << 14;
const VIOLATIONS_MAX: usize = 64;

/// The content of one service's tables, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Database(u16);

/// Something that does not hold, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Broken(u8);

/// What a transaction is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// One of the calls of the case.
    Call(usize),
    /// The sweeper finds that a deadline has passed.
    Expire(ReservationId),
    /// A batch of records.
    Read(Queue),
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub database: Database,
    pub told: Queue,
    pub broken: Option<Broken>,
}

/// Tables, and what stands out in them.
pub struct Content {
    pub tables: Tables,
    pub marks: Marks,
}

/// What there is to know of a fact.
pub struct Known {
    pub delivery: Delivery,
    /// The reservation, or the movie for catalogue facts.
    about: Uuid,
}

pub struct Transactions {
    decide: Decide,
    calls: Vec<Call>,
    databases: Numbered<Tables, Content>,
    facts: Numbered<String, Known>,
    violations: Numbered<String, Violation>,
    remembered: RwLock<HashMap<(Service, Database, Asked), Outcome>>,
}

impl Transactions {
    pub fn new(calls: Vec<Call>, decide: Decide) -> Self {
        Self {
            decide,
            calls,
            databases: Numbered::new(DATABASES_MAX),
            facts: Numbered::new(Fact::LIMIT),
            violations: Numbered::new(VIOLATIONS_MAX),
            remembered: RwLock::default(),
        }
    }

    pub fn empty(&self) -> Database {
        self.database(Tables::default())
    }

    pub fn content(&self, database: Database) -> &Content {
        self.databases.get(database.0.into())
    }

    pub fn delivery(&self, fact: Fact) -> &Delivery {
        &self.facts.get(fact.number()).delivery
    }

    pub fn event(&self, fact: Fact) -> &Event {
        &self.delivery(fact).event
    }

    /// # Errors
    /// Why `fact` must not be told after those that were.
    pub fn tell(&self, told: Facts, fact: Fact) -> Result<(), Violation> {
        let about = self.facts.get(fact.number()).about;
        let before = told.facts().filter(|before| self.facts.get(before.number()).about == about);
        rules::told(before.map(|before| self.event(before)), self.event(fact))
    }

    pub fn call(&self, number: usize) -> &Call {
        &self.calls[number]
    }

    pub fn violation(&self, broken: Broken) -> &Violation {
        self.violations.get(broken.0.into())
    }

    pub fn broken(&self, violation: Violation) -> Broken {
        let number = self.violations.number(violation.what().to_owned(), |_| violation.clone());
        Broken(u8::try_from(number).unwrap_or(u8::MAX))
    }

    /// Transactions that were decided, each once.
    pub fn decided(&self) -> usize {
        self.remembered.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// One transaction of a service.
    pub fn run(&self, service: Service, database: Database, asked: Asked) -> Outcome {
        let key = (service, database, asked);
        let known = self.remembered.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(outcome) = known {
            return outcome;
        }
        let outcome = self.first(service, database, asked);
        self.remembered.write().unwrap_or_else(PoisonError::into_inner).insert(key, outcome);
        outcome
    }

    fn first(&self, service: Service, database: Database, asked: Asked) -> Outcome {
        let before = self.content(database);
        let (work, locks) = self.work(service, asked);
        let writes = (self.decide)(&before.tables, &work, &locks, now());
        let mut after = before.tables.clone();
        let applied = tables::apply(&mut after, &writes, now().moment());
        // What a notification is called depends on its place in the batch.
        after.notifications.values_mut().for_each(|row| row.id = Uuid::nil());
        let mut told = Queue::default();
        writes.events().iter().for_each(|(event, _)| told.push(self.fact(event.clone())));
        let checked = match applied {
            Ok(()) => rules::transaction(&before.tables, &after, &work, &writes),
            Err(tables::Conflict) => Err(Violation::new(format!("{service:?} inserts what is there"))),
        };
        let outcome = Outcome { database: self.database(after), told, broken: None };
        let checked = checked.and_then(|()| self.same_one_by_one(service, database, asked, &outcome));
        Outcome { broken: checked.err().map(|violation| self.broken(violation)), ..outcome }
    }

    fn work(&self, service: Service, asked: Asked) -> (Work, Locks) {
        match asked {
            Asked::Call(number) => (Call::work(&[&self.calls[number]]).1, Locks::new()),
            Asked::Expire(id) => (Work::Sweep, Locks::from([id.0])),
            Asked::Read(batch) => {
                let batch = batch.facts().map(|fact| self.delivery(fact).clone()).collect();
                (Work::Batch(service, batch), Locks::new())
            }
        }
    }

    /// A batch does what its records would have done, each in a transaction of its own.
    fn same_one_by_one(
        &self,
        service: Service,
        database: Database,
        asked: Asked,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let Asked::Read(mut rest) = asked else { return Ok(()) };
        if rest.len() == 1 {
            return Ok(());
        }
        let first = self.run(service, database, Asked::Read(rest.take(1)));
        let others = self.run(service, first.database, Asked::Read(rest));
        let mut told = first.told;
        others.told.facts().for_each(|fact| told.push(fact));
        if outcome.database == others.database && outcome.told == told {
            return Ok(());
        }
        Err(Violation::new(format!("a batch of {service:?} does other than its records one by one")))
    }

    fn database(&self, tables: Tables) -> Database {
        let know = |tables: &Tables| Content { tables: tables.clone(), marks: Marks::of(tables) };
        let number = self.databases.number(tables, know);
        Database(u16::try_from(number).unwrap_or(u16::MAX))
    }

    /// Two events are the same fact if every reader understands the same by them: nobody reads the quantity and the
    /// version, which depend on what else the movie decided. (They were compared with the tables before.)
    fn fact(&self, event: Event) -> Fact {
        let id = EventId(format!("{} of {}", event.event_type(), event.correlation_id()));
        // Traces change no decision.
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let delivery = Delivery { event, id, trace: trace.unwrap_or_else(TraceParent::random) };
        let understood = format!(
            "{} {:?} {:?} {:?} {:?}",
            delivery.id,
            reservation::events::input(&delivery),
            movie::events::input(&delivery),
            told::Notification::from_event(&delivery.event, Uuid::nil()),
            listed::Reservation::from_event(&delivery.event)
        );
        let about = delivery.event.reservation_id().map_or(delivery.event.movie_id().0, |id| id.0);
        Fact::new(self.facts.number(understood, |_| Known { delivery, about }))
    }

    pub fn events(&self, facts: Facts) -> impl Iterator<Item = &Event> {
        facts.facts().map(|fact| self.event(fact))
    }
}

/// All happens at one moment: time decides nothing but when deadlines pass, and that may be any time.
fn now() -> Timestamp {
    Timestamp::new(DateTime::UNIX_EPOCH)
}
