//! The model of the theater that stateright explores.

use std::sync::atomic::{AtomicBool, Ordering};

use reservation::reservation::Status;
use shared_events::{Event, ReservationId, Topic};
use stateright::{Model, Property};
use uuid::Uuid;

use crate::model::checks::{self, AllProgress, AllTables};
use crate::model::coverage::Coverage;
use crate::model::event_queue::{EventNumber, EventQueue, EventSet};
use crate::model::state::{Action, PARTITIONS_MAX, SERVICES, State};
use crate::model::transactions::{TransactionInput, Transactions};
use crate::model::{Case, Faults, Scheduling};
use crate::simulation::tables::Service;
use crate::simulation::violation::Violation;
use crate::simulation::workload::Call;

pub struct TheaterModel {
    pub case: Case,
    pub transactions: Transactions,
    pub coverage: Coverage,
    /// Set when the first violation is found. Later ones are ignored, as the first one has the shortest path.
    violation_found: AtomicBool,
}

fn consumers(topic: Topic) -> &'static [Service] {
    match topic {
        Topic::Reservations => &[Service::Movie, Service::Notification, Service::ReservationList],
        Topic::Movies => &[Service::Reservation],
    }
}

/// Whether a service consumes but produces nothing.
const fn is_leaf_consumer(consumer: Service) -> bool {
    matches!(consumer, Service::Notification | Service::ReservationList)
}

impl TheaterModel {
    pub fn new(case: Case) -> Self {
        let calls = case.before.iter().chain(&case.calls).cloned().collect();
        let transactions = Transactions::new(calls, case.decide);
        Self { case, transactions, coverage: Coverage::default(), violation_found: AtomicBool::new(false) }
    }

    fn partition(&self, event: &Event) -> usize {
        event.movie_id().0.as_u128() as usize % self.case.partitions
    }

    fn progress(&self, state: &State, service: Service) -> &AllProgress {
        &self.transactions.content(state.tables[service as usize]).progress
    }

    /// The steps that the services make by themselves. Without any they are at rest.
    fn service_actions(&self, state: &State, actions: &mut Vec<Action>) {
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
        if !state.dead_letters.is_empty() {
            actions.push(Action::Replay);
        }
    }

    /// The steps of customers, vendors and the clock: each once, at any time.
    fn external_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let was_made = |number: usize| state.calls_made & (1 << number) != 0;
        for number in 0..self.case.calls.len() {
            let number = self.case.before.len() + number;
            let possible = match self.transactions.call(number) {
                Call::Cancel { id } => self.status(state, *id).is_some(),
                // No case has such a call: the simulation tests keys.
                Call::PlaceWithKey { .. } => false,
                Call::Place { .. } | Call::Publish { .. } | Call::Deliver { .. } | Call::Edit { .. } => true,
            };
            if was_made(number) && state.remaining_faults.repeated_calls > 0 {
                actions.push(Action::RepeatCall(number));
            } else if !was_made(number) && possible {
                actions.push(Action::Call(number));
            }
        }
        for index in 0..checks::RESERVATIONS_MAX {
            let id = ReservationId(Uuid::from_u128(index as u128 + 1));
            if self.status(state, id) == Some(Status::Pending) {
                actions.push(Action::Expire(id));
            }
        }
    }

    fn fault_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Faults { redeliveries, crashes, dead_letters, .. } = state.remaining_faults;
        for service in Service::ALL {
            for partition in 0..self.case.partitions {
                if crashes > 0 {
                    let unsent = state.outboxes[service as usize][partition].len();
                    actions.extend((1..=unsent).map(|count| Action::Crash(service, partition, count)));
                }
                let interleaved =
                    self.case.leaf_consumers == Scheduling::Interleaved || !is_leaf_consumer(service);
                if dead_letters > 0 && interleaved && !state.unread[service as usize][partition].is_empty() {
                    actions.push(Action::DeadLetter(service, partition));
                }
            }
        }
        if redeliveries > 0 {
            let mut unsent = EventSet::default();
            state
                .outboxes
                .iter()
                .flatten()
                .flat_map(|queue| queue.events())
                .for_each(|event_number| unsent.insert(event_number));
            actions.extend(state.published.without(unsent).events().map(Action::Redeliver));
        }
    }

    fn status(&self, state: &State, id: ReservationId) -> Option<Status> {
        self.progress(state, Service::Reservation).0[checks::reservation_index(id)].status
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Call(number) | Action::RepeatCall(number) => {
                state.calls_made |= 1 << number;
                let (service, _) = Call::work(&[self.transactions.call(number)]);
                self.transact(state, service, TransactionInput::Call(number));
            }
            Action::Expire(id) => self.transact(state, Service::Reservation, TransactionInput::Expire(id)),
            Action::Read(service, partition) => self.read(state, service, partition),
            Action::Send(service, partition) => {
                let sent = state.outboxes[service as usize][partition].pop();
                sent.into_iter().for_each(|event_number| self.append(state, event_number));
            }
            Action::Crash(service, partition, count) => {
                let sent = state.outboxes[service as usize][partition].first(count);
                sent.events().for_each(|event_number| self.append(state, event_number));
            }
            Action::Redeliver(event_number) => self.append(state, event_number),
            Action::DeadLetter(service, partition) => {
                let record = state.unread[service as usize][partition].pop();
                record.into_iter().for_each(|event_number| state.dead_letters.push(event_number));
            }
            Action::Replay => {
                let replayed = state.dead_letters.pop();
                replayed.into_iter().for_each(|event_number| self.append(state, event_number));
            }
        }
        match action {
            Action::RepeatCall(_) => state.remaining_faults.repeated_calls -= 1,
            Action::Crash(..) => state.remaining_faults.crashes -= 1,
            Action::Redeliver(_) => state.remaining_faults.redeliveries -= 1,
            Action::DeadLetter(..) => state.remaining_faults.dead_letters -= 1,
            Action::Call(_) | Action::Expire(_) | Action::Send(..) | Action::Read(..) | Action::Replay => {}
        }
    }

    /// Rows, outbox and position change in one transaction.
    fn transact(&self, state: &mut State, service: Service, input: TransactionInput) {
        let outcome = self.transactions.run(service, state.tables[service as usize], input);
        state.tables[service as usize] = outcome.tables;
        state.violation = state.violation.or(outcome.violation);
        for event_number in outcome.published.events() {
            let event = self.transactions.event(event_number);
            if let Err(violation) = self.transactions.check_event_order(state.published, event_number) {
                state.violation = state.violation.or(Some(self.transactions.violation_number(violation)));
            }
            state.published.insert(event_number);
            match self.case.relays {
                Scheduling::Interleaved => {
                    state.outboxes[service as usize][self.partition(event)].push(event_number)
                }
                Scheduling::Immediate => self.append(state, event_number),
            }
        }
    }

    fn append(&self, state: &mut State, event_number: EventNumber) {
        let event = self.transactions.event(event_number);
        let partition = self.partition(event);
        for &consumer in consumers(event.topic()) {
            state.unread[consumer as usize][partition].push(event_number);
            if self.case.leaf_consumers == Scheduling::Immediate && is_leaf_consumer(consumer) {
                self.read(state, consumer, partition);
            }
        }
    }

    fn read(&self, state: &mut State, service: Service, partition: usize) {
        let batch = state.unread[service as usize][partition].take(1);
        self.transact(state, service, TransactionInput::Read(batch));
    }

    /// A measure that each step of a service decreases, so that the services come to rest by any order of steps. It counts
    /// the steps that each record still needs. Each published event subtracts more than the steps that the event itself
    /// adds. An event is published once, so the measure can't decrease for ever.
    fn distance_to_rest(&self, state: &State) -> i64 {
        let consumers = 3;
        let (sending, replaying, publishing) = (consumers + 1, consumers + 1, consumers + 2);
        let total = |queues: &[[EventQueue; PARTITIONS_MAX]; SERVICES]| {
            queues.iter().flatten().map(|queue| queue.len()).sum::<usize>()
        };
        let steps =
            total(&state.unread) + sending * total(&state.outboxes) + replaying * state.dead_letters.len();
        i64::try_from(steps).unwrap_or(i64::MAX)
            - i64::try_from(publishing * state.published.len()).unwrap_or(i64::MAX)
    }

    /// Whether a property holds, or another violation was found before.
    fn holds(&self, holds: bool) -> bool {
        holds || self.violation_found.swap(true, Ordering::Relaxed)
    }

    /// # Errors
    /// If the services contradict each other.
    pub fn check_consistency(&self, state: &State) -> Result<(), Violation> {
        let [reservation, movie, notification, list] =
            Service::ALL.map(|service| self.progress(state, service));
        checks::check_consistency(reservation, movie, notification, list)
    }

    /// Checks that every batch that a service could read next has the effect of its records one by one. Then batches lead
    /// to no other states, and the exploration needs no steps for them.
    ///
    /// # Errors
    /// If a batch has another effect.
    pub fn check_batches(&self, state: &State) -> Result<(), Violation> {
        for service in Service::ALL {
            for unread in state.unread[service as usize] {
                for count in 2..=unread.len() {
                    let input = TransactionInput::Read(unread.first(count));
                    let outcome = self.transactions.run(service, state.tables[service as usize], input);
                    if let Some(violation) = outcome.violation {
                        return Err(self.transactions.violation(violation).clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// If the services are at rest, and an invariant is violated.
    pub fn check_at_rest(&self, state: &State) -> Result<(), Violation> {
        let mut actions = Vec::new();
        self.service_actions(state, &mut actions);
        if !actions.is_empty() {
            return Ok(());
        }
        let [reservation, movie, notification, list] =
            state.tables.map(|number| &self.transactions.content(number).tables);
        let accepted = (0..self.case.before.len() + self.case.calls.len())
            .filter(|number| state.calls_made & (1 << number) != 0)
            .filter_map(|number| match self.transactions.call(number) {
                Call::Place { id, .. } => Some(*id),
                _ => None,
            });
        let tables = AllTables { reservation, movie, notification, list };
        checks::check_at_rest(&tables, accepted, self.transactions.events(state.published))?;
        self.coverage
            .count_end(self.progress(state, Service::Reservation), self.progress(state, Service::Movie));
        Ok(())
    }
}

impl Model for TheaterModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            tables: [self.transactions.empty_tables(); SERVICES],
            outboxes: Default::default(),
            unread: Default::default(),
            dead_letters: EventQueue::default(),
            published: EventSet::default(),
            calls_made: 0,
            remaining_faults: self.case.faults,
            violation: None,
        };
        let mut actions: Vec<Action> = (0..self.case.before.len()).rev().map(Action::Call).collect();
        while let Some(action) = actions.pop() {
            self.step(&mut state, action);
            if actions.is_empty() {
                self.service_actions(&state, &mut actions);
                actions.truncate(1);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_none() {
            self.service_actions(state, actions);
            self.external_actions(state, actions);
            self.fault_actions(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        self.step(&mut next, action);
        let is_service_action = matches!(action, Action::Send(..) | Action::Read(..) | Action::Replay);
        if next.violation.is_none()
            && is_service_action
            && self.distance_to_rest(&next) >= self.distance_to_rest(state)
        {
            let violation = Violation::new("a step brings the services no nearer to their rest".to_owned());
            next.violation = Some(self.transactions.violation_number(violation));
        }
        self.coverage.count_step(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every step is right", |theater: &Self, state: &State| {
                theater.holds(state.violation.is_none())
            }),
            Property::always("the services agree", |theater, state| {
                theater.holds(theater.check_consistency(state).is_ok())
            }),
            Property::always("a batch has the effect of its records", |theater, state| {
                theater.holds(theater.check_batches(state).is_ok())
            }),
            Property::always("all is well at rest", |theater, state| {
                theater.holds(theater.check_at_rest(state).is_ok())
            }),
        ]
    }
}
