use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::*;

impl Progress for u8 {
    fn rank(self) -> u8 {
        self
    }
}

fn room(waiters_max: usize) -> Room<u8> {
    Room::with_capacity(waiters_max, &Registry::new()).unwrap()
}

fn id() -> ReservationId {
    ReservationId(Uuid::now_v7())
}

#[tokio::test]
async fn who_waits_is_told_the_furthest_status() {
    let room = room(10);
    let (one, other) = (id(), id());
    let mut seats = [room.enter(one).unwrap(), room.enter(one).unwrap()];
    let mut apart = room.enter(other).unwrap();
    room.tell(one, 2);
    // Read before, told after.
    room.tell(one, 1);
    for seat in &mut seats {
        assert_eq!((seat.reaches(1).await, seat.reaches(2).await), (2, 2));
        assert!(timeout(PERIOD, seat.reaches(3)).await.is_err());
    }
    assert!(timeout(PERIOD, apart.reaches(0)).await.is_err());
}

#[tokio::test]
async fn seats_are_few_and_given_back() {
    let room = room(2);
    let id = id();
    let seat = room.enter(id).unwrap();
    let other = room.enter(id).unwrap();
    assert!(room.enter(id).is_none());
    assert_eq!(room.shared.gauge.get(), 2);
    drop(seat);
    let mut last = room.enter(id).unwrap();
    room.tell(id, 1);
    drop(other);
    assert_eq!(last.reaches(1).await, 1);
    drop(last);
    assert!(room.shared.seats().of.is_empty());
    assert_eq!(room.shared.gauge.get(), 0);
}

type Seen = Result<Vec<(ReservationId, u8)>, Fault>;

/// Counts the looks, each of which sees every reservation at the rank that stands there.
fn look(
    looks: Arc<AtomicUsize>,
    rank: Result<u8, ()>,
) -> impl Fn(Vec<ReservationId>) -> std::future::Ready<Seen> {
    move |ids| {
        looks.fetch_add(1, Ordering::SeqCst);
        let seen = rank.map(|rank| ids.into_iter().map(|id| (id, rank)).collect());
        std::future::ready(seen.map_err(|()| Fault::Passing("away".into())))
    }
}

#[tokio::test(start_paused = true)]
async fn one_look_serves_all_and_none_is_taken_for_nobody() {
    let room = room(1_000);
    let looks = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let watching = tokio::spawn(room.clone().run(look(Arc::clone(&looks), Ok(1)), stop.clone()));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(looks.load(Ordering::SeqCst), 0);
    for _ in 0..2 {
        let before = looks.load(Ordering::SeqCst);
        let began = Instant::now();
        let mut seats: Vec<_> = (0..1_000).map(|_| room.enter(id()).unwrap()).collect();
        for seat in &mut seats {
            assert_eq!(seat.reaches(1).await, 1);
        }
        assert!(began.elapsed() <= PERIOD * 2, "{:?}", began.elapsed());
        drop(seats);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(looks.load(Ordering::SeqCst), before + 1);
    }
    stop.cancel();
    watching.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_asked_ever_more_seldom() {
    let room = room(1);
    let looks = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let watching = tokio::spawn(room.clone().run(look(Arc::clone(&looks), Err(())), stop.clone()));
    let mut seat = room.enter(id()).unwrap();
    assert!(timeout(Duration::from_secs(10), seat.reaches(0)).await.is_err());
    let asked = looks.load(Ordering::SeqCst);
    assert!((10..20).contains(&asked), "{asked} looks in 10 s");
    stop.cancel();
    watching.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_database_that_hangs_is_given_up() {
    let room = room(1);
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let hangs_once = move |ids: Vec<ReservationId>| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok(ids.into_iter().map(|id| (id, 1)).collect())
        }
    };
    let watching = tokio::spawn(room.clone().run(hangs_once, CancellationToken::new()));
    let mut seat = room.enter(id()).unwrap();
    assert_eq!(timeout(LOOK_LIMIT * 2, seat.reaches(1)).await.unwrap(), 1);
    watching.abort();
}
