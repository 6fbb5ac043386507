//! The transactions of the services. The production code decides each combination of input and tables once; the result is
//! cached.
//!
//! A transaction is one step of the model, as its rows stay locked until its end. Colliding inserts, lost answers and
//! moved positions are left to the simulation.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use chrono::DateTime;
use notification::notification as notification_domain;
use reservation_list::projection;
use service_kit::messaging::Delivery;
use service_kit::telemetry::trace_context::TraceParent;
use shared_events::{Event, EventId, ReservationId, Timestamp};
use uuid::Uuid;

use crate::model::checks::{self, AllProgress};
use crate::model::event_queue::{EventNumber, EventQueue, EventSet};
use crate::model::interner::Interner;
use crate::simulation::tables::{self, Locks, Service, Tables, Work, Writes};
use crate::simulation::violation::Violation;
use crate::simulation::workload::Call;

/// The function that decides: the production folds, or a faulty one that a test expects to be found.
pub type Decide = fn(&Tables, &Work, &Locks, Timestamp) -> Writes;

/// The maximum of distinct contents of tables.
const TABLES_MAX: usize = 1 << 14;
const VIOLATIONS_MAX: usize = 64;

/// The number of a content of one service's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TablesNumber(u16);

/// The number of a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViolationNumber(u8);

/// The input of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionInput {
    /// One of the calls of the case.
    Call(usize),
    /// The deadline sweeper expires a reservation.
    Expire(ReservationId),
    /// A batch of records.
    Read(EventQueue),
}

/// The result of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub tables: TablesNumber,
    pub published: EventQueue,
    pub violation: Option<ViolationNumber>,
}

/// Tables, and the progress of the reservations in them.
pub struct Content {
    pub tables: Tables,
    pub progress: AllProgress,
}

/// An event and its subject.
pub struct EventInfo {
    pub delivery: Delivery,
    /// The reservation, or the movie of a catalogue event.
    subject: Uuid,
}

pub struct Transactions {
    decide: Decide,
    calls: Vec<Call>,
    tables: Interner<Tables, Content>,
    events: Interner<String, EventInfo>,
    violations: Interner<String, Violation>,
    outcomes: RwLock<HashMap<(Service, TablesNumber, TransactionInput), Outcome>>,
}

impl Transactions {
    pub fn new(calls: Vec<Call>, decide: Decide) -> Self {
        Self {
            decide,
            calls,
            tables: Interner::new(TABLES_MAX),
            events: Interner::new(EventNumber::LIMIT),
            violations: Interner::new(VIOLATIONS_MAX),
            outcomes: RwLock::default(),
        }
    }

    pub fn empty_tables(&self) -> TablesNumber {
        self.tables_number(Tables::default())
    }

    pub fn content(&self, tables: TablesNumber) -> &Content {
        self.tables.get(tables.0.into())
    }

    pub fn delivery(&self, event: EventNumber) -> &Delivery {
        &self.events.get(event.number()).delivery
    }

    pub fn event(&self, event: EventNumber) -> &Event {
        &self.delivery(event).event
    }

    /// # Errors
    /// If `event` may not follow the events in `published`.
    pub fn check_event_order(&self, published: EventSet, event: EventNumber) -> Result<(), Violation> {
        let subject = self.events.get(event.number()).subject;
        let before = published.events().filter(|before| self.events.get(before.number()).subject == subject);
        checks::check_event_order(before.map(|before| self.event(before)), self.event(event))
    }

    pub fn call(&self, number: usize) -> &Call {
        &self.calls[number]
    }

    pub fn violation(&self, violation: ViolationNumber) -> &Violation {
        self.violations.get(violation.0.into())
    }

    pub fn violation_number(&self, violation: Violation) -> ViolationNumber {
        let number = self.violations.intern(violation.message().to_owned(), |_| violation.clone());
        ViolationNumber(u8::try_from(number).unwrap_or(u8::MAX))
    }

    /// The number of transactions that were decided.
    pub fn decided(&self) -> usize {
        self.outcomes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Runs a transaction of a service.
    pub fn run(&self, service: Service, tables: TablesNumber, input: TransactionInput) -> Outcome {
        let key = (service, tables, input);
        let cached = self.outcomes.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(outcome) = cached {
            return outcome;
        }
        let outcome = self.decide(service, tables, input);
        self.outcomes.write().unwrap_or_else(PoisonError::into_inner).insert(key, outcome);
        outcome
    }

    fn decide(&self, service: Service, tables: TablesNumber, input: TransactionInput) -> Outcome {
        let before = self.content(tables);
        let (work, locks) = self.work(service, input);
        let writes = (self.decide)(&before.tables, &work, &locks, now());
        let mut after = before.tables.clone();
        let applied = tables::apply(&mut after, &writes, now().moment());
        // A notification's id depends on its index in the batch.
        after.notifications.values_mut().for_each(|row| row.id = Uuid::nil());
        let mut published = EventQueue::default();
        writes.events().iter().for_each(|(event, _)| published.push(self.event_number(event.clone())));
        let checked = match applied {
            Ok(()) => checks::check_transaction(&before.tables, &after, &work, &writes),
            Err(tables::Conflict) => Err(Violation::new(format!("{service:?} inserts what is there"))),
        };
        let outcome = Outcome { tables: self.tables_number(after), published, violation: None };
        let checked = checked.and_then(|()| self.check_batch(service, tables, input, &outcome));
        Outcome { violation: checked.err().map(|violation| self.violation_number(violation)), ..outcome }
    }

    fn work(&self, service: Service, input: TransactionInput) -> (Work, Locks) {
        match input {
            TransactionInput::Call(number) => (Call::work(&[&self.calls[number]]).1, Locks::new()),
            TransactionInput::Expire(id) => (Work::Sweep, Locks::from([id.0])),
            TransactionInput::Read(batch) => {
                let batch = batch.events().map(|event| self.delivery(event).clone()).collect();
                (Work::Batch(service, batch), Locks::new())
            }
        }
    }

    /// Checks that a batch has the effect that its records would have in transactions of their own.
    fn check_batch(
        &self,
        service: Service,
        tables: TablesNumber,
        input: TransactionInput,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let TransactionInput::Read(mut rest) = input else { return Ok(()) };
        if rest.len() == 1 {
            return Ok(());
        }
        let first = self.run(service, tables, TransactionInput::Read(rest.take(1)));
        let others = self.run(service, first.tables, TransactionInput::Read(rest));
        let mut published = first.published;
        others.published.events().for_each(|event| published.push(event));
        if outcome.tables == others.tables && outcome.published == published {
            return Ok(());
        }
        Err(Violation::new(format!("a batch of {service:?} does other than its records one by one")))
    }

    fn tables_number(&self, tables: Tables) -> TablesNumber {
        let content =
            |tables: &Tables| Content { tables: tables.clone(), progress: AllProgress::from_tables(tables) };
        let number = self.tables.intern(tables, content);
        TablesNumber(u16::try_from(number).unwrap_or(u16::MAX))
    }

    /// The number of an event. Two events have the same number if every consumer reads the same from them. No consumer reads
    /// the quantity and the version, which depend on movie's other decisions; [`checks::check_transaction`] has compared
    /// them with the tables.
    fn event_number(&self, event: Event) -> EventNumber {
        let id = EventId(format!("{} of {}", event.event_type(), event.correlation_id()));
        // Traces change no decision.
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let delivery = Delivery { event, id, trace: trace.unwrap_or_else(TraceParent::random) };
        let content = format!(
            "{} {:?} {:?} {:?} {:?}",
            delivery.id,
            reservation::events::input(&delivery),
            movie::events::input(&delivery),
            notification_domain::Notification::from_event(&delivery.event, Uuid::nil()),
            projection::Reservation::from_event(&delivery.event)
        );
        let subject = delivery.event.reservation_id().map_or(delivery.event.movie_id().0, |id| id.0);
        EventNumber::new(self.events.intern(content, |_| EventInfo { delivery, subject }))
    }

    pub fn events(&self, events: EventSet) -> impl Iterator<Item = &Event> {
        events.events().map(|event| self.event(event))
    }
}

/// All transactions have the same time. Time decides only when deadlines expire, which may be at any time.
fn now() -> Timestamp {
    Timestamp::new(DateTime::UNIX_EPOCH)
}
