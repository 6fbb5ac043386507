//! The theater as a state and its steps, for stateright to explore.

use std::sync::atomic::{AtomicBool, Ordering};

use reservation::reservation::Status;
use shared_events::{Event, ReservationId, Topic};
use stateright::{Model, Property};
use uuid::Uuid;

use crate::model::queue::{Fact, Facts, Queue};
use crate::model::rules::{self, All, Marks};
use crate::model::tally::Tally;
use crate::model::transactions::{Asked, Broken, Database, Transactions};
use crate::model::{Case, Misfortunes, Pace};
use crate::simulation::calls::Call;
use crate::simulation::checks::Violation;
use crate::simulation::tables::Service;

const PARTITIONS_MAX: usize = 2;
const SERVICES: usize = Service::ALL.len();

/// One moment of the theater. What every reader has read is forgotten, but for the facts that were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub databases: [Database; SERVICES],
    /// What is committed and not sent, by producer and partition.
    outboxes: [[Queue; PARTITIONS_MAX]; SERVICES],
    /// What lies in the log behind a reader's position, by reader and partition.
    unread: [[Queue; PARTITIONS_MAX]; SERVICES],
    /// Dead letters that were not replayed yet.
    pub set_aside: Queue,
    pub told: Facts,
    /// Calls that were made, a bit each.
    made: u16,
    left: Misfortunes,
    pub broken: Option<Broken>,
}

impl State {
    pub const fn outbox(&self, service: Service, partition: usize) -> Queue {
        self.outboxes[service as usize][partition]
    }

    pub const fn unread(&self, service: Service, partition: usize) -> Queue {
        self.unread[service as usize][partition]
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call of the case is made for the first time.
    Call(usize),
    /// A deadline passes.
    Expire(ReservationId),
    /// A relay sends the first row of an outbox, and deletes it.
    Send(Service, usize),
    /// A service handles the next record of a partition.
    Read(Service, usize),
    /// A dead letter goes back into the log.
    Replay,
    /// A call is made again: its answer was lost.
    Again(usize),
    /// A service dies: its relay has sent so many rows, and deleted none.
    Crash(Service, usize, usize),
    /// Somebody who relays no more, or an operator, sends what was sent before.
    Repeat(Fact),
    /// A reader can't handle a record: it goes to the dead letters.
    SetAside(Service, usize),
}

pub struct Theater {
    pub case: Case,
    pub transactions: Transactions,
    pub tally: Tally,
    /// Something wrong was found. What comes after it would take its place: it is the shortest way that is shown.
    found: AtomicBool,
}

fn readers(topic: Topic) -> &'static [Service] {
    match topic {
        Topic::Reservations => &[Service::Movie, Service::Notification, Service::ReservationList],
        Topic::Movies => &[Service::Reservation],
    }
}

const fn is_last(reader: Service) -> bool {
    matches!(reader, Service::Notification | Service::ReservationList)
}

impl Theater {
    pub fn new(case: Case) -> Self {
        let calls = case.before.iter().chain(&case.calls).cloned().collect();
        let transactions = Transactions::new(calls, case.decide);
        Self { case, transactions, tally: Tally::default(), found: AtomicBool::new(false) }
    }

    fn partition(&self, event: &Event) -> usize {
        event.movie_id().0.as_u128() as usize % self.case.partitions
    }

    fn marks(&self, state: &State, service: Service) -> &Marks {
        &self.transactions.content(state.databases[service as usize]).marks
    }

    /// What the services do by themselves. When there is nothing of it they are at rest.
    fn services(&self, state: &State, actions: &mut Vec<Action>) {
        for service in Service::ALL {
            for partition in 0..self.case.partitions {
                if !state.outboxes[service as usize][partition].is_empty() {
                    actions.push(Action::Send(service, partition));
                }
                if !state.unread[service as usize][partition].is_empty() {
                    actions.push(Action::Read(service, partition));
                }
            }
        }
        if !state.set_aside.is_empty() {
            actions.push(Action::Replay);
        }
    }

    /// What customers, vendors and the clock do, each once and at any time.
    fn world(&self, state: &State, actions: &mut Vec<Action>) {
        let made = |number: usize| state.made & (1 << number) != 0;
        for number in 0..self.case.calls.len() {
            let number = self.case.before.len() + number;
            let possible = match self.transactions.call(number) {
                Call::Cancel { id } => self.status(state, *id).is_some(),
                // Keys are the simulation's: no case has such a call.
                Call::PlaceUnder { .. } => false,
                Call::Place { .. } | Call::Publish { .. } | Call::Deliver { .. } | Call::Edit { .. } => true,
            };
            if made(number) && state.left.again > 0 {
                actions.push(Action::Again(number));
            } else if !made(number) && possible {
                actions.push(Action::Call(number));
            }
        }
        for index in 0..rules::RESERVATIONS_MAX {
            let id = ReservationId(Uuid::from_u128(index as u128 + 1));
            if self.status(state, id) == Some(Status::Pending) {
                actions.push(Action::Expire(id));
            }
        }
    }

    fn misfortunes(&self, state: &State, actions: &mut Vec<Action>) {
        let Misfortunes { repeats, crashes, set_aside, .. } = state.left;
        for service in Service::ALL {
            for partition in 0..self.case.partitions {
                if crashes > 0 {
                    let waiting = state.outboxes[service as usize][partition].len();
                    actions.extend((1..=waiting).map(|count| Action::Crash(service, partition, count)));
                }
                let apart = self.case.last_readers == Pace::AtAnyTime || !is_last(service);
                if set_aside > 0 && apart && !state.unread[service as usize][partition].is_empty() {
                    actions.push(Action::SetAside(service, partition));
                }
            }
        }
        if repeats > 0 {
            let mut unsent = Facts::default();
            state
                .outboxes
                .iter()
                .flatten()
                .flat_map(|queue| queue.facts())
                .for_each(|fact| unsent.insert(fact));
            actions.extend(state.told.without(unsent).facts().map(Action::Repeat));
        }
    }

    fn status(&self, state: &State, id: ReservationId) -> Option<Status> {
        self.marks(state, Service::Reservation).0[rules::number(id)].status
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Call(number) | Action::Again(number) => {
                state.made |= 1 << number;
                let (service, _) = Call::work(&[self.transactions.call(number)]);
                self.transact(state, service, Asked::Call(number));
            }
            Action::Expire(id) => self.transact(state, Service::Reservation, Asked::Expire(id)),
            Action::Read(service, partition) => self.read(state, service, partition),
            Action::Send(service, partition) => {
                let sent = state.outboxes[service as usize][partition].pop();
                sent.into_iter().for_each(|fact| self.append(state, fact));
            }
            Action::Crash(service, partition, count) => {
                let sent = state.outboxes[service as usize][partition].first(count);
                sent.facts().for_each(|fact| self.append(state, fact));
            }
            Action::Repeat(fact) => self.append(state, fact),
            Action::SetAside(service, partition) => {
                let aside = state.unread[service as usize][partition].pop();
                aside.into_iter().for_each(|fact| state.set_aside.push(fact));
            }
            Action::Replay => {
                let replayed = state.set_aside.pop();
                replayed.into_iter().for_each(|fact| self.append(state, fact));
            }
        }
        match action {
            Action::Again(_) => state.left.again -= 1,
            Action::Crash(..) => state.left.crashes -= 1,
            Action::Repeat(_) => state.left.repeats -= 1,
            Action::SetAside(..) => state.left.set_aside -= 1,
            Action::Call(_) | Action::Expire(_) | Action::Send(..) | Action::Read(..) | Action::Replay => {}
        }
    }

    /// State, outbox and position change in one transaction.
    fn transact(&self, state: &mut State, service: Service, asked: Asked) {
        let outcome = self.transactions.run(service, state.databases[service as usize], asked);
        state.databases[service as usize] = outcome.database;
        state.broken = state.broken.or(outcome.broken);
        for fact in outcome.told.facts() {
            let event = self.transactions.event(fact);
            if let Err(violation) = self.transactions.tell(state.told, fact) {
                state.broken = state.broken.or(Some(self.transactions.broken(violation)));
            }
            state.told.insert(fact);
            match self.case.relays {
                Pace::AtAnyTime => state.outboxes[service as usize][self.partition(event)].push(fact),
                Pace::AtOnce => self.append(state, fact),
            }
        }
    }

    fn append(&self, state: &mut State, fact: Fact) {
        let event = self.transactions.event(fact);
        let partition = self.partition(event);
        for &reader in readers(event.topic()) {
            state.unread[reader as usize][partition].push(fact);
            if self.case.last_readers == Pace::AtOnce && is_last(reader) {
                self.read(state, reader, partition);
            }
        }
    }

    fn read(&self, state: &mut State, service: Service, partition: usize) {
        let batch = state.unread[service as usize][partition].take(1);
        self.transact(state, service, Asked::Read(batch));
    }

    /// How much the services have to do until they rest, at most: each of their steps makes it less, so whatever they
    /// do in whatever order, they come to rest. It counts the steps of each record, and takes off more for each fact
    /// that was told than its own steps are. Facts are told once, so it can't fall for ever.
    fn distance(&self, state: &State) -> i64 {
        let readers = 3;
        let (sending, replaying, telling) = (readers + 1, readers + 1, readers + 2);
        let total = |queues: &[[Queue; PARTITIONS_MAX]; SERVICES]| {
            queues.iter().flatten().map(|queue| queue.len()).sum::<usize>()
        };
        let steps =
            total(&state.unread) + sending * total(&state.outboxes) + replaying * state.set_aside.len();
        i64::try_from(steps).unwrap_or(i64::MAX)
            - i64::try_from(telling * state.told.len()).unwrap_or(i64::MAX)
    }

    fn holds(&self, holds: bool) -> bool {
        holds || self.found.swap(true, Ordering::Relaxed)
    }

    /// # Errors
    /// How the services contradict one another.
    pub fn together(&self, state: &State) -> Result<(), Violation> {
        let [reservation, movie, notification, list] = Service::ALL.map(|service| self.marks(state, service));
        rules::together(reservation, movie, notification, list)
    }

    /// Every batch that a service might take next does what its records do one by one. So batches lead to no state of
    /// their own, and no step of the exploration need be one.
    ///
    /// # Errors
    /// The service whose batch does something else.
    pub fn batches(&self, state: &State) -> Result<(), Violation> {
        for service in Service::ALL {
            for unread in state.unread[service as usize] {
                for count in 2..=unread.len() {
                    let asked = Asked::Read(unread.first(count));
                    let outcome = self.transactions.run(service, state.databases[service as usize], asked);
                    if let Some(broken) = outcome.broken {
                        return Err(self.transactions.violation(broken).clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// What is not as promised, if the services rest.
    pub fn at_rest(&self, state: &State) -> Result<(), Violation> {
        let mut actions = Vec::new();
        self.services(state, &mut actions);
        if !actions.is_empty() {
            return Ok(());
        }
        let [reservation, movie, notification, list] =
            state.databases.map(|database| &self.transactions.content(database).tables);
        let accepted = (0..self.case.before.len() + self.case.calls.len())
            .filter(|number| state.made & (1 << number) != 0)
            .filter_map(|number| match self.transactions.call(number) {
                Call::Place { id, .. } => Some(*id),
                _ => None,
            });
        let all = All { reservation, movie, notification, list };
        rules::at_rest(&all, accepted, self.transactions.events(state.told))?;
        self.tally.ended(self.marks(state, Service::Reservation), self.marks(state, Service::Movie));
        Ok(())
    }
}

impl Model for Theater {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            databases: [self.transactions.empty(); SERVICES],
            outboxes: Default::default(),
            unread: Default::default(),
            set_aside: Queue::default(),
            told: Facts::default(),
            made: 0,
            left: self.case.misfortunes,
            broken: None,
        };
        let mut actions: Vec<Action> = (0..self.case.before.len()).rev().map(Action::Call).collect();
        while let Some(action) = actions.pop() {
            self.step(&mut state, action);
            if actions.is_empty() {
                self.services(&state, &mut actions);
                actions.truncate(1);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            self.services(state, actions);
            self.world(state, actions);
            self.misfortunes(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        self.step(&mut next, action);
        let by_itself = matches!(action, Action::Send(..) | Action::Read(..) | Action::Replay);
        if next.broken.is_none() && by_itself && self.distance(&next) >= self.distance(state) {
            let violation = Violation::new("a step brings the services no nearer to their rest".to_owned());
            next.broken = Some(self.transactions.broken(violation));
        }
        self.tally.step(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every step is right", |theater: &Self, state: &State| {
                theater.holds(state.broken.is_none())
            }),
            Property::always("the services agree", |theater, state| {
                theater.holds(theater.together(state).is_ok())
            }),
            Property::always("a batch is its records", |theater, state| {
                theater.holds(theater.batches(state).is_ok())
            }),
            Property::always("all is well at rest", |theater, state| {
                theater.holds(theater.at_rest(state).is_ok())
            }),
        ]
    }
}
