//! The queue in front of the database: requests that arrive during a commit are placed together in the next transaction,
//! and each caller receives its response after the commit. So no timer is needed, and a burst costs few transactions.

use service_kit::http::problem::Problem;
use service_kit::messaging::{Fault, database};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::placement::{PlaceOutcome, PlaceRequest, RenderAccepted};
use crate::unit_of_work::UnitOfWork;

/// The most reservations placed in one transaction.
const BATCH_MAX: usize = 256;

/// The most requests in the queue; a further one receives 503.
const QUEUE_MAX: usize = 2_048;

/// How many times a batch is tried. It is tried again if another transaction has just inserted one of its ids or keys.
const ATTEMPTS_MAX: usize = 3;

pub struct QueuedRequest {
    request: PlaceRequest,
    reply: oneshot::Sender<PlaceOutcome>,
}

/// The sending half of the queue.
#[derive(Clone)]
pub struct Intake(mpsc::Sender<QueuedRequest>);

pub fn channel() -> (Intake, mpsc::Receiver<QueuedRequest>) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (Intake(sender), receiver)
}

impl Intake {
    /// Places one reservation and waits for its commit.
    ///
    /// # Errors
    /// 503 if the queue is full or the database is unavailable; the problem with which the request was refused.
    pub async fn place(&self, request: PlaceRequest) -> PlaceOutcome {
        let (reply, outcome) = oneshot::channel();
        self.0
            .try_send(QueuedRequest { request, reply })
            .map_err(|_| Problem::unavailable(format!("{QUEUE_MAX} reservations wait already")))?;
        outcome.await.map_err(|_| Problem::unavailable("the service is stopping"))?
    }
}

/// Places the requests in the queue until told to stop; then those that are still in it.
///
/// # Errors
/// Never fails: the callers receive the faults.
pub async fn run(
    mut queue: mpsc::Receiver<QueuedRequest>,
    unit_of_work: UnitOfWork,
    render: RenderAccepted,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            biased;
            received = queue.recv_many(&mut batch, BATCH_MAX) => received,
            () = stop.cancelled() => {
                queue.close();
                queue.recv_many(&mut batch, BATCH_MAX).await
            }
        };
        if received == 0 {
            return Ok(());
        }
        // Skip callers that have timed out: they were told that it failed.
        batch.retain(|queued: &QueuedRequest| !queued.reply.is_closed());
        if !batch.is_empty() {
            place(&unit_of_work, std::mem::take(&mut batch), render).await;
        }
    }
}

/// Places a batch and replies to its callers. If it contains a request that can't be written (poison), each request is
/// placed alone, so that only that one fails.
async fn place(unit_of_work: &UnitOfWork, batch: Vec<QueuedRequest>, render: RenderAccepted) {
    let (requests, callers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|queued| (queued.request, queued.reply)).unzip();
    match place_with_retry(unit_of_work, &requests, render).await {
        Ok(outcomes) => {
            for (caller, outcome) in callers.into_iter().zip(outcomes) {
                // A caller that has left repeats the call with the same id or key.
                caller.send(outcome).ok();
            }
        }
        Err(Fault::Poison(_)) if requests.len() > 1 => {
            for (caller, request) in callers.into_iter().zip(requests) {
                let outcomes = place_with_retry(unit_of_work, &[request], render).await;
                caller.send(outcomes.map_err(Problem::from).and_then(only_outcome)).ok();
            }
        }
        Err(fault) => {
            let problem = Problem::from(fault);
            for caller in callers {
                caller.send(Err(problem.clone())).ok();
            }
        }
    }
}

fn only_outcome(mut outcomes: Vec<PlaceOutcome>) -> PlaceOutcome {
    outcomes.pop().ok_or_else(Problem::internal)?
}

async fn place_with_retry(
    unit_of_work: &UnitOfWork,
    requests: &[PlaceRequest],
    render: RenderAccepted,
) -> Result<Vec<PlaceOutcome>, Fault> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match database::with_time_limit(unit_of_work.place(requests, render)).await {
            Err(Fault::Fenced) if attempts < ATTEMPTS_MAX => {}
            result => return result,
        }
    }
}
