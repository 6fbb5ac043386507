//! Examples in the form given/when/then, and properties that hold for any interleaving and repetition of commands.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn movie_id(n: u128) -> MovieId {
    MovieId(Uuid::from_u128(n))
}

fn reservation_id(n: u128) -> ReservationId {
    ReservationId(Uuid::from_u128(n))
}

fn count(n: i64) -> Count {
    Count::new(n).unwrap()
}

fn publish(n: u128, qty: i64) -> Command {
    Command::Publish { movie_id: movie_id(n), name: "LALALand".into(), description: String::new(), qty }
}

fn allocate(reservation: u128, movie: u128, n: i64) -> Command {
    Command::Allocate {
        movie_id: movie_id(movie),
        reservation_id: reservation_id(reservation),
        count: count(n),
    }
}

fn release(reservation: u128, movie: u128, n: i64) -> Command {
    Command::Release {
        movie_id: movie_id(movie),
        reservation_id: reservation_id(reservation),
        count: count(n),
    }
}

fn deliver(delivery: u128, movie: u128, n: i64) -> Command {
    let delivery_id = DeliveryId(Uuid::from_u128(delivery));
    Command::Deliver { movie_id: movie_id(movie), delivery_id, count: count(n) }
}

fn edit(movie: u128, name: &str, editions: Editions) -> Command {
    Command::Edit { movie_id: movie_id(movie), name: Some(name.into()), description: None, editions }
}

/// The tables as maps.
#[derive(Default)]
struct Tables {
    state: State,
    log: Vec<Event>,
}

impl Tables {
    fn given(commands: &[Command]) -> Self {
        let mut tables = Self::default();
        tables.when(commands);
        tables
    }

    fn when(&mut self, commands: &[Command]) -> Vec<Answer> {
        let inputs: Vec<_> = commands
            .iter()
            .map(|command| Input { command: command.clone(), origin: Origin::default() })
            .collect();
        let writes = fold(self.state.clone(), &inputs, Timestamp::now());
        for movie in writes.new_movies {
            assert!(self.state.movies.insert(movie.id, movie).is_none(), "inserted twice");
        }
        for new in writes.changed_movies {
            let movie = self.state.movies.get_mut(&new.id).expect("updated what isn't there");
            let Movie { name, description, edition, .. } = movie.clone();
            *movie = Movie { name, description, edition, ..new };
        }
        for new in writes.edited_movies {
            let movie = self.state.movies.get_mut(&new.id).expect("edited what isn't there");
            (movie.name, movie.description, movie.edition) = (new.name, new.description, new.edition);
        }
        for (id, decision) in writes.new_decisions {
            assert!(self.state.decisions.insert(id, decision).is_none(), "decided twice");
        }
        for id in writes.released {
            self.state.decisions.get_mut(&id).unwrap().outcome = Outcome::Released;
        }
        for (id, delivery) in writes.new_deliveries {
            assert!(self.state.deliveries.insert(id, delivery).is_none(), "delivered twice");
        }
        self.log.extend(writes.events.into_iter().map(|(event, _)| event));
        writes.answers
    }

    fn qty(&self, movie: u128) -> i64 {
        self.state.movies[&movie_id(movie)].qty
    }

    fn outcome(&self, reservation: u128) -> Outcome {
        self.state.decisions[&reservation_id(reservation)].outcome
    }

    fn event_types(&self) -> Vec<&'static str> {
        self.log.iter().map(Event::event_type).collect()
    }
}

#[test]
fn the_golden_run() {
    let mut tables = Tables::given(&[publish(1, 100)]);
    tables.when(&[allocate(1, 1, 45)]);
    assert_eq!(tables.qty(1), 55);
    tables.when(&[allocate(2, 1, 57)]);
    assert_eq!((tables.qty(1), tables.outcome(2)), (55, Outcome::Rejected));
    tables.when(&[allocate(3, 1, 55)]);
    assert_eq!(tables.qty(1), 0, "exactly the tickets that are left can be allocated");
    tables.when(&[release(1, 1, 45)]);
    assert_eq!((tables.qty(1), tables.outcome(1)), (45, Outcome::Released));
    let expected =
        ["MoviePublished", "TicketsAllocated", "AllocationRejected", "TicketsAllocated", "TicketsReleased"];
    assert_eq!(tables.event_types(), expected);
}

#[test]
fn a_rejection_contains_its_reason_and_the_version() {
    let mut tables = Tables::given(&[publish(1, 5)]);
    tables.when(&[allocate(1, 1, 6), allocate(2, 9, 1)]);
    let Event::AllocationRejected(short) = &tables.log[1] else { panic!() };
    assert_eq!((short.reason, short.qty, short.version), (RejectReason::OutOfStock, Some(5), Some(1)));
    assert_eq!(short.movie_name.as_deref(), Some("LALALand"));
    let Event::AllocationRejected(missing) = &tables.log[2] else { panic!() };
    assert_eq!((missing.reason, missing.qty, missing.version), (RejectReason::MovieNotFound, None, None));
}

#[test]
fn a_rejected_placement_stays_rejected_once_tickets_are_back() {
    let mut tables = Tables::given(&[publish(1, 1), allocate(1, 1, 1), allocate(2, 1, 1), release(1, 1, 1)]);
    let before = tables.event_types().len();
    tables.when(&[allocate(2, 1, 1), allocate(1, 1, 1)]);
    assert_eq!((tables.qty(1), tables.event_types().len()), (1, before));
}

#[test]
fn a_cancellation_without_a_placement_is_kept_for_it() {
    let mut tables = Tables::given(&[publish(1, 5)]);
    tables.when(&[release(1, 1, 2)]);
    tables.when(&[allocate(1, 1, 2), release(1, 1, 2)]);
    assert_eq!((tables.qty(1), tables.outcome(1)), (5, Outcome::Void));
    assert_eq!(tables.event_types(), ["MoviePublished"]);
}

#[test]
fn tickets_are_released_once_and_only_as_many_as_were_allocated() {
    let mut tables = Tables::given(&[publish(1, 5), publish(2, 5), allocate(1, 1, 2)]);
    tables.when(&[release(1, 2, 2)]);
    assert_eq!((tables.qty(1), tables.qty(2)), (3, 5), "another movie's tickets are not touched");
    tables.when(&[release(1, 1, 4), release(1, 1, 2)]);
    tables.when(&[release(1, 1, 2)]);
    assert_eq!(tables.qty(1), 5);
    tables.when(&[allocate(2, 1, 9), release(2, 1, 9)]);
    assert_eq!(tables.qty(1), 5, "a rejection has no tickets that could be released");
}

#[test]
fn a_repeated_call_changes_nothing_and_another_body_is_a_conflict() {
    let mut tables = Tables::given(&[publish(1, 5), deliver(1, 1, 3)]);
    let answers = tables.when(&[publish(1, 5), publish(1, 6), deliver(1, 1, 3), deliver(1, 1, 4)]);
    assert!(matches!(&answers[0], Answer::Done(movie) if movie.qty == 8));
    assert_eq!(answers[1], Answer::Conflict);
    assert!(matches!(&answers[2], Answer::Done(movie) if movie.qty == 8));
    assert_eq!(answers[3], Answer::Conflict);
    assert_eq!(tables.event_types(), ["MoviePublished", "TicketsAdded"]);
}

#[test]
fn a_delivery_may_not_exceed_the_stock_limit() {
    let mut tables = Tables::given(&[publish(1, QTY_MAX - 1)]);
    let answers = tables.when(&[deliver(1, 1, 2), deliver(2, 1, 1), deliver(3, 9, 1)]);
    assert_eq!(answers[0], Answer::TooMany { qty: QTY_MAX - 1 });
    assert!(matches!(&answers[1], Answer::Done(movie) if movie.qty == QTY_MAX));
    assert_eq!(answers[2], Answer::NoSuchMovie);
}

#[test]
fn an_edit_needs_the_edition_that_stands() {
    let mut tables = Tables::given(&[publish(1, 5), allocate(1, 1, 1)]);
    let answers = tables.when(&[
        edit(1, "New", Editions::OneOf(vec![7, 1])),
        edit(1, "Newer", Editions::OneOf(vec![1])),
        edit(1, "Newest", Editions::Any),
        edit(1, "Newest", Editions::OneOf(vec![3])),
        edit(9, "x", Editions::Any),
    ]);
    assert!(matches!(&answers[0], Answer::Done(movie) if movie.edition == 2 && movie.version == 3));
    assert_eq!(answers[1], Answer::Stale);
    assert!(matches!(&answers[2], Answer::Done(movie) if movie.edition == 3 && movie.name == "Newest"));
    assert!(matches!(&answers[3], Answer::Done(movie) if movie.edition == 3), "no change, no event");
    assert_eq!(answers[4], Answer::NoSuchMovie);
    assert_eq!(tables.event_types(), ["MoviePublished", "TicketsAllocated", "MovieUpdated", "MovieUpdated"]);
}

fn any_command() -> impl Strategy<Value = Command> {
    let movie = 1..3_u128;
    let reservation = 1..8_u128;
    prop_oneof![
        1 => (movie.clone(), 0..12_i64).prop_map(|(movie, qty)| publish(movie, qty)),
        1 => (movie.clone(), "[ab]").prop_map(|(movie, name)| edit(movie, &name, Editions::Any)),
        1 => (1..4_u128, movie.clone(), 1..4_i64).prop_map(|(delivery, movie, n)| deliver(delivery, movie, n)),
        6 => (reservation.clone(), movie.clone(), 1..6_i64).prop_map(|(id, movie, n)| allocate(id, movie, n)),
        5 => (reservation, movie, 1..6_i64).prop_map(|(id, movie, n)| release(id, movie, n)),
    ]
}

/// Checks that published + added = left + allocated, that the decisions add up to the allocated tickets, and that the
/// chain of versions and quantities in the log is unbroken.
fn check(tables: &Tables) {
    for movie in tables.state.movies.values() {
        let decided: i64 = tables
            .state
            .decisions
            .values()
            .filter(|decision| decision.movie_id == movie.id && decision.outcome == Outcome::Allocated)
            .map(|decision| decision.count.get())
            .sum();
        assert_eq!(movie.allocated, decided);
        assert_eq!(movie.published + movie.added, movie.qty + movie.allocated);
        assert!(movie.qty >= 0);
        check_chain(&tables.log, movie);
    }
}

fn check_chain(log: &[Event], movie: &Movie) {
    let (mut version, mut qty) = (0, 0);
    for event in log.iter().filter(|event| event.movie_id() == movie.id) {
        let (change, next, left) = match event {
            Event::MoviePublished(event) => (event.qty, event.version, event.qty),
            Event::MovieUpdated(event) => (0, event.version, event.qty),
            Event::TicketsAdded(event) => (event.count.get(), event.version, event.qty),
            Event::TicketsReleased(event) => (event.count.get(), event.version, event.qty),
            Event::TicketsAllocated(event) => (-event.count.get(), event.version, event.qty),
            Event::AllocationRejected(event) => {
                assert!(event.version.is_none_or(|at| at == version), "decided at the present version");
                continue;
            }
            other => panic!("not a movie's event: {other:?}"),
        };
        assert_eq!((next, left), (version + 1, qty + change));
        (version, qty) = (next, left);
    }
    assert_eq!((version, qty), (movie.version, movie.qty));
}

proptest! {
    #[test]
    fn any_interleaving_and_repetition_keeps_the_ledger(
        batches in prop::collection::vec(prop::collection::vec(any_command(), 1..12), 1..12),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut tables = Tables::default();
        for batch in &batches {
            tables.when(batch);
            check(&tables);
        }
        for index in again {
            tables.when(&batches[index.index(batches.len())]);
            check(&tables);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in prop::collection::vec(any_command(), 1..40),
        size in 1..10_usize,
    ) {
        let mut whole = Tables::default();
        whole.when(&commands);
        let mut batched = Tables::default();
        for batch in commands.chunks(size) {
            batched.when(batch);
        }
        prop_assert_eq!(whole.event_types(), batched.event_types());
        prop_assert_eq!(whole.state.movies, batched.state.movies);
        prop_assert_eq!(whole.state.decisions, batched.state.decisions);
    }

    #[test]
    fn repeating_all_placements_and_cancellations_changes_nothing(
        commands in prop::collection::vec(any_command(), 1..40),
        reverse in any::<bool>(),
    ) {
        let mut tables = Tables::default();
        tables.when(&commands);
        let (events, movies) = (tables.event_types().len(), tables.state.movies.clone());
        // Only cancellations of reservations that have ended: another one may not be a repeat.
        let has_ended = |id: &ReservationId| tables.state.decisions[id].outcome != Outcome::Allocated;
        let mut again: Vec<_> = commands
            .into_iter()
            .filter(|command| match command {
                Command::Allocate { .. } => true,
                Command::Release { reservation_id, .. } => has_ended(reservation_id),
                _ => false,
            })
            .collect();
        if reverse {
            again.reverse();
        }
        tables.when(&again);
        prop_assert_eq!(tables.event_types().len(), events);
        prop_assert_eq!(tables.state.movies, movies);
    }
}
