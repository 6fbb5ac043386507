use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::*;

impl Progress for u8 {
    fn rank(self) -> u8 {
        self
    }
}

fn waiters(waiters_max: usize) -> StatusWaiters<u8> {
    StatusWaiters::with_capacity(waiters_max, &Registry::new()).unwrap()
}

fn id() -> ReservationId {
    ReservationId(Uuid::now_v7())
}

#[tokio::test]
async fn waiters_receive_the_furthest_status() {
    let waiters = waiters(10);
    let (one, other) = (id(), id());
    let mut several = [waiters.subscribe(one).unwrap(), waiters.subscribe(one).unwrap()];
    let mut apart = waiters.subscribe(other).unwrap();
    waiters.notify(one, 2);
    // Read before the other status was committed, and reported after it.
    waiters.notify(one, 1);
    for waiter in &mut several {
        assert_eq!((waiter.wait_for(1).await, waiter.wait_for(2).await), (2, 2));
        assert!(timeout(PERIOD, waiter.wait_for(3)).await.is_err());
    }
    assert!(timeout(PERIOD, apart.wait_for(0)).await.is_err());
}

#[tokio::test]
async fn waiters_are_bounded_and_unsubscribe_on_drop() {
    let waiters = waiters(2);
    let id = id();
    let waiter = waiters.subscribe(id).unwrap();
    let other = waiters.subscribe(id).unwrap();
    assert!(waiters.subscribe(id).is_none());
    assert_eq!(waiters.shared.gauge.get(), 2);
    drop(waiter);
    let mut last = waiters.subscribe(id).unwrap();
    waiters.notify(id, 1);
    drop(other);
    assert_eq!(last.wait_for(1).await, 1);
    drop(last);
    assert!(waiters.shared.registered().by_reservation.is_empty());
    assert_eq!(waiters.shared.gauge.get(), 0);
}

type QueryResult = Result<Vec<(ReservationId, u8)>, Fault>;

/// A query that counts its calls, and finds every reservation at this rank; or the database unavailable.
fn query(
    queries: Arc<AtomicUsize>,
    rank: Result<u8, ()>,
) -> impl Fn(Vec<ReservationId>) -> std::future::Ready<QueryResult> {
    move |ids| {
        queries.fetch_add(1, Ordering::SeqCst);
        let statuses = rank.map(|rank| ids.into_iter().map(|id| (id, rank)).collect());
        std::future::ready(statuses.map_err(|()| Fault::Transient("away".into())))
    }
}

#[tokio::test(start_paused = true)]
async fn one_query_serves_all_waiters_and_none_runs_without_waiters() {
    let waiters = waiters(1_000);
    let queries = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let polling = tokio::spawn(waiters.clone().run(query(Arc::clone(&queries), Ok(1)), stop.clone()));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(queries.load(Ordering::SeqCst), 0);
    for _ in 0..2 {
        let before = queries.load(Ordering::SeqCst);
        let began = Instant::now();
        let mut several: Vec<_> = (0..1_000).map(|_| waiters.subscribe(id()).unwrap()).collect();
        for waiter in &mut several {
            assert_eq!(waiter.wait_for(1).await, 1);
        }
        assert!(began.elapsed() <= PERIOD * 2, "{:?}", began.elapsed());
        drop(several);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(queries.load(Ordering::SeqCst), before + 1);
    }
    stop.cancel();
    polling.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_database_is_queried_less_often() {
    let waiters = waiters(1);
    let queries = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let polling = tokio::spawn(waiters.clone().run(query(Arc::clone(&queries), Err(())), stop.clone()));
    let mut waiter = waiters.subscribe(id()).unwrap();
    assert!(timeout(Duration::from_secs(10), waiter.wait_for(0)).await.is_err());
    let queried = queries.load(Ordering::SeqCst);
    assert!((10..20).contains(&queried), "{queried} queries in 10 s");
    stop.cancel();
    polling.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_query_that_hangs_is_abandoned() {
    let waiters = waiters(1);
    let queries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&queries);
    let hangs_once = move |ids: Vec<ReservationId>| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok(ids.into_iter().map(|id| (id, 1)).collect())
        }
    };
    let polling = tokio::spawn(waiters.clone().run(hangs_once, CancellationToken::new()));
    let mut waiter = waiters.subscribe(id()).unwrap();
    assert_eq!(timeout(QUERY_LIMIT * 2, waiter.wait_for(1)).await.unwrap(), 1);
    polling.abort();
}
