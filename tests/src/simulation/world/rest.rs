//! Nothing goes wrong any more: everything comes to its end.

use chrono::TimeDelta;
use reservation::reservation::{Reservation, Status};

use super::{BATCH, World};
use crate::simulation::bus::{PARTITIONS, SHARDS};
use crate::simulation::checks::Violation;
use crate::simulation::tables::{DEADLINE_SECS, Service};

/// Rounds in which everything must have come to its end.
const ROUNDS: usize = 200;

/// Batches in which a partition must have been read to its end.
const BATCHES_MAX: usize = 1_000;

impl World {
    /// Everything is carried to its end, and then all must be as promised.
    ///
    /// # Errors
    /// What is not.
    pub fn come_to_rest(&mut self) -> Result<(), Violation> {
        tell!(self, "--- from here on nothing goes wrong");
        for _ in 0..ROUNDS {
            if !self.round()? {
                if !self.undecided() {
                    return self.checks.at_rest(&self.databases, &self.log, &self.calls);
                }
                self.clock += TimeDelta::seconds(DEADLINE_SECS + 1);
                self.sweep();
            }
        }
        Err(Violation::new(format!("it does not come to rest within {ROUNDS} rounds")))
    }

    fn undecided(&self) -> bool {
        let pending = |row: &Reservation| row.status == Status::Pending;
        self.databases[&Service::Reservation].tables.reservations.values().any(pending)
    }

    /// Everybody takes a turn. Says whether somebody had something to do.
    fn round(&mut self) -> Result<bool, Violation> {
        let mut did = self.end_all()?;
        for call in self.calls.unanswered() {
            did |= self.send(&[call]);
            self.end_all()?;
        }
        for replica in 0..self.replicas.len() {
            for shard in 0..SHARDS {
                while self.relay(replica, shard, BATCH)? {
                    did = true;
                }
            }
            for partition in 0..PARTITIONS {
                did |= self.read_to_the_end(replica, partition)?;
            }
        }
        while self.send_dead_letter() {
            did = true;
        }
        Ok(did)
    }

    fn read_to_the_end(&mut self, replica: usize, partition: usize) -> Result<bool, Violation> {
        let mut batches = 0;
        while self.consume(replica, partition, BATCH) {
            self.end_all()?;
            batches += 1;
            if batches > BATCHES_MAX {
                let name = self.name(replica);
                return Err(Violation::new(format!("{name} goes on in partition {partition} for ever")));
            }
        }
        Ok(batches > 0)
    }

    fn end_all(&mut self) -> Result<bool, Violation> {
        let open = std::mem::take(&mut self.open);
        for transaction in &open {
            self.commit(transaction, true)?;
        }
        Ok(!open.is_empty())
    }
}
