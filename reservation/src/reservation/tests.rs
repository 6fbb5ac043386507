//! Examples in the form given/when/then, and properties that hold for any interleaving and repetition of commands.

use proptest::prelude::*;
use shared_events::EventId;
use uuid::Uuid;

use super::*;

const ID: ReservationId = ReservationId(Uuid::from_u128(1));

fn request(count: i64) -> Request {
    Request {
        user_id: "7".into(),
        user_name: "Jane".into(),
        email: None,
        movie_id: MovieId(Uuid::from_u128(1)),
        count: Count::new(count).unwrap(),
        date: None,
    }
}

fn place() -> Command {
    Command::Place(request(2))
}

fn confirm() -> Command {
    Command::Confirm { movie_name: "LALALand".into() }
}

fn reject() -> Command {
    Command::Reject { reason: RejectReason::OutOfStock, movie_name: Some("LALALand".into()) }
}

#[derive(Default)]
struct Tables {
    state: State,
    log: Vec<(Event, Origin)>,
}

impl Tables {
    fn given(commands: &[Command]) -> Self {
        let mut tables = Self::default();
        tables.when(commands);
        tables
    }

    fn when(&mut self, commands: &[Command]) -> Vec<Answer> {
        let inputs: Vec<_> = commands.iter().map(|command| input(command.clone())).collect();
        let writes = fold(self.state.clone(), &inputs, Timestamp::now());
        for reservation in writes.new {
            assert!(self.state.insert(reservation.id, reservation).is_none(), "inserted twice");
        }
        for reservation in writes.changed {
            assert!(self.state.insert(reservation.id, reservation).is_some(), "updated what isn't there");
        }
        self.log.extend(writes.events);
        writes.answers
    }

    fn status(&self) -> Status {
        self.state[&ID].status
    }

    fn event_types(&self) -> Vec<&'static str> {
        self.log.iter().map(|(event, _)| event.event_type()).collect()
    }
}

/// The command with its origin: movie's answers are caused by an event, the others are not.
fn input(command: Command) -> Input {
    let origin = match &command {
        Command::Place(_) => Origin { traceparent: Some("place".into()), causation: None },
        Command::Confirm { .. } | Command::Reject { .. } => {
            Origin { traceparent: Some("reply".into()), causation: Some(EventId("cause".into())) }
        }
        Command::Cancel => Origin { traceparent: Some("cancel".into()), causation: None },
        Command::Expire => Origin::default(),
    };
    Input { id: ID, command, origin }
}

fn cancelled(reason: CancelReason) -> Status {
    Status::Cancelled(reason)
}

#[test]
fn every_status_meets_every_command() {
    use CancelReason::{Customer, Deadline, OutOfStock};
    let histories: [(&[Command], Status); 5] = [
        (&[place()], Status::Pending),
        (&[place(), confirm()], Status::Confirmed),
        (&[place(), reject()], cancelled(OutOfStock)),
        (&[place(), Command::Cancel], cancelled(Customer)),
        (&[place(), Command::Expire], cancelled(Deadline)),
    ];
    for (history, status) in histories {
        let outcomes = [confirm(), reject(), Command::Cancel, Command::Expire].map(|command| {
            let mut tables = Tables::given(history);
            assert_eq!(tables.status(), status);
            let events = tables.log.len();
            tables.when(&[command]);
            let changed = tables.status() != status;
            assert_eq!(tables.log.len() - events, usize::from(changed), "an event for each change, no other");
            tables.status()
        });
        let expected = match status {
            Status::Pending => {
                [Status::Confirmed, cancelled(OutOfStock), cancelled(Customer), cancelled(Deadline)]
            }
            Status::Confirmed => [status, status, cancelled(Customer), status],
            Status::Cancelled(_) => [status; 4],
        };
        assert_eq!(outcomes, expected, "from {status:?}");
    }
}

#[test]
fn commands_to_a_missing_reservation_are_not_found() {
    for command in [confirm(), reject(), Command::Cancel, Command::Expire] {
        let mut tables = Tables::default();
        assert_eq!(tables.when(&[command]), [Answer::NotFound]);
        assert!(tables.state.is_empty() && tables.log.is_empty());
    }
}

#[test]
fn a_repeated_placement_returns_the_reservation_and_another_body_is_a_conflict() {
    let mut tables = Tables::given(&[place(), confirm()]);
    let answers = tables.when(&[place(), Command::Place(request(3))]);
    let Answer::Done { reservation, changed } = &answers[0] else { panic!() };
    assert_eq!((reservation.status, *changed), (Status::Confirmed, false));
    assert_eq!(answers[1], Answer::Conflict);
    assert_eq!(tables.event_types(), ["ReservationPlaced", "ReservationConfirmed"]);
}

#[test]
fn one_trace_covers_the_saga() {
    let tables = Tables::given(&[place(), confirm(), Command::Cancel]);
    let traces: Vec<_> = tables.log.iter().map(|(_, origin)| origin.traceparent.as_deref()).collect();
    assert_eq!(traces, [Some("place"), Some("reply"), Some("place")]);
    let causes: Vec<_> = tables.log.iter().map(|(_, origin)| origin.causation.is_some()).collect();
    assert_eq!(causes, [false, true, false]);
}

#[test]
fn a_cancellation_keeps_the_movie_name() {
    let tables = Tables::given(&[place(), confirm(), Command::Cancel]);
    let (Event::ReservationCancelled(cancelled), _) = &tables.log[2] else { panic!() };
    assert_eq!(cancelled.movie_name.as_deref(), Some("LALALand"));
    assert_eq!(cancelled.reason, CancelReason::Customer);
}

#[test]
fn the_default_date_is_the_moment_of_placing() {
    let tables = Tables::given(&[place()]);
    let (Event::ReservationPlaced(placed), _) = &tables.log[0] else { panic!() };
    assert_eq!(placed.date, placed.timestamp.to_string());
    assert_eq!(tables.state[&ID].date(), placed.date);
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![Just(place()), Just(confirm()), Just(reject()), Just(Command::Cancel), Just(Command::Expire),]
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Confirmed => 1,
        Status::Cancelled(_) => 2,
    }
}

proptest! {
    #[test]
    fn the_status_only_moves_forward_and_each_step_is_published_once(
        commands in prop::collection::vec(any_command(), 1..30),
    ) {
        let mut tables = Tables::given(&[place()]);
        let mut before = tables.status();
        for command in commands {
            tables.when(&[command]);
            let after = tables.status();
            prop_assert!(after == before || rank(after) > rank(before), "{:?} to {:?}", before, after);
            before = after;
        }
        let event_types = tables.event_types();
        for event in ["ReservationPlaced", "ReservationConfirmed", "ReservationCancelled"] {
            prop_assert!(event_types.iter().filter(|event_type| **event_type == event).count() <= 1);
        }
    }

    #[test]
    fn every_placed_reservation_ends(commands in prop::collection::vec(any_command(), 0..10)) {
        let mut tables = Tables::given(&[place()]);
        tables.when(&commands);
        tables.when(&[Command::Expire]);
        prop_assert!(tables.status() != Status::Pending);
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in prop::collection::vec(any_command(), 1..20),
        size in 1..6_usize,
    ) {
        let (mut whole, mut batched) = (Tables::default(), Tables::default());
        whole.when(&commands);
        for batch in commands.chunks(size) {
            batched.when(batch);
        }
        prop_assert_eq!(whole.event_types(), batched.event_types());
        prop_assert_eq!(whole.state.get(&ID).map(|r| r.status), batched.state.get(&ID).map(|r| r.status));
    }
}
