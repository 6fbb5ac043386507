//! A state of the model, and the steps between states.

use shared_events::ReservationId;

use crate::model::Faults;
use crate::model::event_queue::{EventNumber, EventQueue, EventSet};
use crate::model::transactions::{TablesNumber, ViolationNumber};
use crate::simulation::tables::Service;

pub(super) const PARTITIONS_MAX: usize = 2;
pub(super) const SERVICES: usize = Service::ALL.len();

/// A state of the theater. It doesn't contain the records that every consumer has read, only the set of all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: [TablesNumber; SERVICES],
    /// The committed rows that are not sent, by producer and partition.
    pub(super) outboxes: [[EventQueue; PARTITIONS_MAX]; SERVICES],
    /// The records behind a consumer's position, by consumer and partition.
    pub(super) unread: [[EventQueue; PARTITIONS_MAX]; SERVICES],
    /// The dead letters that are not replayed yet.
    pub dead_letters: EventQueue,
    /// All events that were committed.
    pub published: EventSet,
    /// The calls that were made, as bits.
    pub(super) calls_made: u16,
    pub(super) remaining_faults: Faults,
    pub violation: Option<ViolationNumber>,
}

impl State {
    pub const fn outbox(&self, service: Service, partition: usize) -> EventQueue {
        self.outboxes[service as usize][partition]
    }

    pub const fn unread(&self, service: Service, partition: usize) -> EventQueue {
        self.unread[service as usize][partition]
    }
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call of the case is made for the first time.
    Call(usize),
    /// A deadline expires.
    Expire(ReservationId),
    /// A relay sends the first row of an outbox, and deletes it.
    Send(Service, usize),
    /// A service consumes the next record of a partition.
    Read(Service, usize),
    /// A dead letter is appended to the log again.
    Replay,
    /// A call is repeated, as its answer was lost.
    RepeatCall(usize),
    /// A service dies after its relay has sent this number of rows and before it deletes them.
    Crash(Service, usize, usize),
    /// A relay without its lock, or an operator, sends a record again.
    Redeliver(EventNumber),
    /// A consumer can't apply a record, which becomes a dead letter.
    DeadLetter(Service, usize),
}
