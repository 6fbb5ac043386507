//! The faults, and the time that passes.

use chrono::TimeDelta;

use super::SimulatedTheater;
use crate::simulation::history::describe_record;
use crate::simulation::log::{PARTITIONS, SHARDS};
use crate::simulation::tables::Service;
use crate::simulation::violation::Violation;

impl SimulatedTheater {
    pub(super) fn advance_clock(&mut self) -> bool {
        let seconds = i64::try_from(self.choices.below(20)).unwrap_or_default();
        self.clock += TimeDelta::seconds(seconds);
        self.coverage.count("time passes");
        log_step!(self, "{seconds} s pass");
        true
    }

    /// A replica is killed as by `kill -9`, and started again at once.
    pub(super) fn crash(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        log_step!(self, "{} is killed", self.replica_name(replica));
        let open = self.open.len();
        self.open.retain(|tx| tx.replica != replica);
        self.coverage.count(if self.open.len() < open { "killed in a transaction" } else { "killed" });
        let killed = &mut self.replicas[replica];
        if killed.relay_batches.iter().any(|batch| !batch.rows.is_empty()) {
            self.coverage.count("killed between reading and deleting");
        }
        (killed.positions, killed.reduced_batches, killed.relay_batches) = Default::default();
        let service = killed.service;
        for owner in &mut self.database(service).shard_owners {
            if *owner == Some(replica) {
                *owner = None;
            }
        }
        true
    }

    /// A partition is assigned to another replica. The former owner does not know it yet.
    pub(super) fn rebalance(&mut self) -> bool {
        let service = Service::ALL[self.choices.below(Service::ALL.len())];
        let partition = self.choices.below(PARTITIONS);
        let replica = self.choose_replica(service);
        let before = self.assignment.insert((service, partition), replica);
        // The new owner loads the stored position.
        if before != Some(replica) {
            self.replicas[replica].positions.remove(&partition);
            self.replicas[replica].reduced_batches.remove(&partition);
            self.coverage.count("a partition is given to another");
            log_step!(self, "{} is given partition {partition}", self.replica_name(replica));
        }
        before != Some(replica)
    }

    /// A relay's connection is cut, which releases its lock. The relay goes on sending.
    pub(super) fn lose_shard_lock(&mut self) -> bool {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let shard = self.choices.below(SHARDS);
        let lost = self.database(service).shard_owners[shard].take();
        if let Some(replica) = lost {
            self.coverage.count("a relay loses its lock");
            log_step!(self, "{} loses shard {shard}, and goes on sending", self.replica_name(replica));
        }
        lost.is_some()
    }

    /// Any record is appended again.
    pub(super) fn redeliver_record(&mut self) -> Result<bool, Violation> {
        let count = self.log.records().count();
        let index = self.choices.below(count);
        let Some(record) = self.log.records().nth(index).cloned() else { return Ok(false) };
        log_step!(self, "again in the log: {}", describe_record(&record));
        self.append(record)?;
        Ok(true)
    }
}
