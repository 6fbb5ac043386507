//! Placing reservations: what arrives while one commit runs goes into the next one, and each caller is
//! answered after its commit. So no timer is needed, and a burst costs few transactions.

use service_kit::http::problem::Problem;
use service_kit::messaging::{Fault, database};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::UnitOfWork;
use crate::placement::{PlaceOutcome, PlaceRequest};

/// Reservations placed in one transaction at most.
const BATCH: usize = 256;

/// Calls that wait for their transaction at most; one more is answered 503.
const WAITING: usize = 2_048;

/// How often a batch is decided anew because one of its ids or keys was inserted at the same moment.
const TRIES: usize = 3;

pub struct Waiting {
    placing: PlaceRequest,
    answer: oneshot::Sender<PlaceOutcome>,
}

/// Where calls wait.
#[derive(Clone)]
pub struct Intake(mpsc::Sender<Waiting>);

pub fn channel() -> (Intake, mpsc::Receiver<Waiting>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Intake(sender), receiver)
}

impl Intake {
    /// Places one reservation and waits for its commit.
    ///
    /// # Errors
    /// 503 when too many wait, or the database is away; what the placing was refused with.
    pub async fn place(&self, placing: PlaceRequest) -> PlaceOutcome {
        let (answer, answered) = oneshot::channel();
        self.0
            .try_send(Waiting { placing, answer })
            .map_err(|_| Problem::unavailable(format!("{WAITING} reservations wait already")))?;
        answered.await.map_err(|_| Problem::unavailable("the service is stopping"))?
    }
}

/// Places what arrives until told to stop, and then what has arrived.
///
/// # Errors
/// None: faults are the callers' answers.
pub async fn run(
    mut calls: mpsc::Receiver<Waiting>,
    unit_of_work: UnitOfWork,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            biased;
            received = calls.recv_many(&mut batch, BATCH) => received,
            () = stop.cancelled() => {
                calls.close();
                calls.recv_many(&mut batch, BATCH).await
            }
        };
        if received == 0 {
            return Ok(());
        }
        // Whose request has timed out meanwhile was told so: it is not placed behind its back.
        batch.retain(|call: &Waiting| !call.answer.is_closed());
        if !batch.is_empty() {
            place(&unit_of_work, std::mem::take(&mut batch)).await;
        }
    }
}

async fn place(unit_of_work: &UnitOfWork, batch: Vec<Waiting>) {
    let (requests, callers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|call| (call.placing, call.answer)).unzip();
    match execute(unit_of_work, &requests).await {
        Ok(answers) => {
            for (caller, answer) in callers.into_iter().zip(answers) {
                // Whoever has gone away repeats the call with the same id or key.
                caller.send(answer).ok();
            }
        }
        Err(Fault::Poison(_)) if requests.len() > 1 => {
            for (caller, placing) in callers.into_iter().zip(requests) {
                let answers = execute(unit_of_work, &[placing]).await;
                caller.send(answers.map_err(Problem::from).and_then(one)).ok();
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

fn one(mut answers: Vec<PlaceOutcome>) -> PlaceOutcome {
    answers.pop().ok_or_else(Problem::internal)?
}

async fn execute(unit_of_work: &UnitOfWork, requests: &[PlaceRequest]) -> Result<Vec<PlaceOutcome>, Fault> {
    let mut tries = 0;
    loop {
        tries += 1;
        match database::bounded(unit_of_work.place(requests)).await {
            Err(Fault::Fenced) if tries < TRIES => {}
            result => return result,
        }
    }
}
