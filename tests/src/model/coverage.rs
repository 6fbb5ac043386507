//! Counts the steps and the ends of an exploration: one without a crash or a void decision would prove little.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use reservation::reservation::Status;
use shared_events::CancelReason;

use crate::model::checks::AllProgress;
use crate::model::state::Action;

const STEP_NAMES: [&str; 9] =
    ["call", "expire", "send", "read", "replay", "again", "crash", "repeat", "set aside"];

#[derive(Default)]
pub struct Coverage {
    steps: [AtomicU64; STEP_NAMES.len()],
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Coverage {
    pub fn count_step(&self, action: Action) {
        let index = match action {
            Action::Call(_) => 0,
            Action::Expire(_) => 1,
            Action::Send(..) => 2,
            Action::Read(..) => 3,
            Action::Replay => 4,
            Action::RepeatCall(_) => 5,
            Action::Crash(..) => 6,
            Action::Redeliver(_) => 7,
            Action::DeadLetter(..) => 8,
        };
        self.steps[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a state at rest: the status of each reservation, and the decision about its tickets.
    pub fn count_end(&self, reservation: &AllProgress, movie: &AllProgress) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, decision) in reservation.0.iter().zip(movie.0) {
            if let (Some(status), Some(outcome)) = (row.status, decision.decided) {
                let status = status.reason().map_or(Status::Confirmed.as_str(), CancelReason::as_str);
                *ends.entry(format!("{status} {outcome:?}")).or_default() += 1;
            }
        }
    }

    /// Numbers of steps by name, including those that never happened.
    pub fn steps(&self) -> BTreeMap<&'static str, u64> {
        STEP_NAMES.into_iter().zip(self.steps.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }

    /// Numbers of ends by a reservation's status and the decision about its tickets.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
