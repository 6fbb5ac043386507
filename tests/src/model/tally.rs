//! What was met on the way, counted: an exploration that never saw a crash, or never a void decision, proves little.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use reservation::reservation::Status;
use shared_events::CancelReason;

use crate::model::rules::Marks;
use crate::model::theater::Action;

const KINDS: [&str; 9] =
    ["call", "expire", "send", "read", "replay", "again", "crash", "repeat", "set aside"];

#[derive(Default)]
pub struct Tally {
    steps: [AtomicU64; KINDS.len()],
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub fn step(&self, action: Action) {
        let kind = match action {
            Action::Call(_) => 0,
            Action::Expire(_) => 1,
            Action::Send(..) => 2,
            Action::Read(..) => 3,
            Action::Replay => 4,
            Action::Again(_) => 5,
            Action::Crash(..) => 6,
            Action::Repeat(_) => 7,
            Action::SetAside(..) => 8,
        };
        self.steps[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// One state of rest: how each reservation stands, and its tickets.
    pub fn ended(&self, reservation: &Marks, movie: &Marks) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, decision) in reservation.0.iter().zip(movie.0) {
            if let (Some(status), Some(outcome)) = (row.status, decision.decided) {
                let status = status.reason().map_or(Status::Confirmed.as_str(), CancelReason::as_str);
                *ends.entry(format!("{status} {outcome:?}")).or_default() += 1;
            }
        }
    }

    /// Steps by their kind, those too that were never made.
    pub fn steps(&self) -> BTreeMap<&'static str, u64> {
        KINDS.into_iter().zip(self.steps.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }

    /// How often reservations ended how, with what was decided about their tickets.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
