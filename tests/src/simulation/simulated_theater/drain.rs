//! Runs the theater without faults until it is at rest.

use chrono::TimeDelta;
use reservation::reservation::{Reservation, Status};

use super::{BATCH_MAX, SimulatedTheater};
use crate::simulation::log::{PARTITIONS, SHARDS};
use crate::simulation::tables::{DEADLINE_SECS, Service};
use crate::simulation::violation::Violation;

/// The theater must be at rest after this number of rounds.
const ROUNDS: usize = 200;

/// A partition must be consumed after this number of batches.
const BATCHES_MAX: usize = 1_000;

impl SimulatedTheater {
    /// Runs until the theater is at rest, and checks the invariants.
    ///
    /// # Errors
    /// If one is violated, or the theater doesn't come to rest.
    pub fn drain(&mut self) -> Result<(), Violation> {
        log_step!(self, "--- from here on nothing goes wrong");
        for _ in 0..ROUNDS {
            if !self.run_round()? {
                if !self.has_pending_reservations() {
                    return self.checks.check_at_rest(&self.databases, &self.log, &self.workload);
                }
                self.clock += TimeDelta::seconds(DEADLINE_SECS + 1);
                self.sweep();
            }
        }
        Err(Violation::new(format!("it does not come to rest within {ROUNDS} rounds")))
    }

    fn has_pending_reservations(&self) -> bool {
        let is_pending = |row: &Reservation| row.status == Status::Pending;
        self.databases[&Service::Reservation].tables.reservations.values().any(is_pending)
    }

    /// Every replica does all that it can. Returns whether there was something to do.
    fn run_round(&mut self) -> Result<bool, Violation> {
        let mut did_something = self.commit_all()?;
        for call in self.workload.unanswered() {
            did_something |= self.begin_calls(&[call]);
            self.commit_all()?;
        }
        for replica in 0..self.replicas.len() {
            for shard in 0..SHARDS {
                while self.relay(replica, shard, BATCH_MAX)? {
                    did_something = true;
                }
            }
            for partition in 0..PARTITIONS {
                did_something |= self.consume_to_end(replica, partition)?;
            }
        }
        while self.send_dead_letter() {
            did_something = true;
        }
        Ok(did_something)
    }

    fn consume_to_end(&mut self, replica: usize, partition: usize) -> Result<bool, Violation> {
        let mut batches = 0;
        while self.consume(replica, partition, BATCH_MAX) {
            self.commit_all()?;
            batches += 1;
            if batches > BATCHES_MAX {
                let name = self.replica_name(replica);
                return Err(Violation::new(format!("{name} goes on in partition {partition} for ever")));
            }
        }
        Ok(batches > 0)
    }

    fn commit_all(&mut self) -> Result<bool, Violation> {
        let open = std::mem::take(&mut self.open);
        for transaction in &open {
            self.commit(transaction, true)?;
        }
        Ok(!open.is_empty())
    }
}
