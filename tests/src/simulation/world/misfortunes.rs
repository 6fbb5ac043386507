//! What goes wrong.

use chrono::TimeDelta;

use super::World;
use crate::simulation::bus::{PARTITIONS, SHARDS};
use crate::simulation::checks::Violation;
use crate::simulation::history::short;
use crate::simulation::tables::Service;

impl World {
    pub(super) fn wait(&mut self) -> bool {
        let seconds = i64::try_from(self.choices.below(20)).unwrap_or_default();
        self.clock += TimeDelta::seconds(seconds);
        self.tally.count("time passes");
        tell!(self, "{seconds} s pass");
        true
    }

    /// `kill -9`, and started again at once.
    pub(super) fn crash(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        tell!(self, "{} is killed", self.name(replica));
        let open = self.open.len();
        self.open.retain(|tx| tx.replica != replica);
        self.tally.count(if self.open.len() < open { "killed in a transaction" } else { "killed" });
        let dead = &mut self.replicas[replica];
        if dead.sending.iter().any(|sending| !sending.batch.is_empty()) {
            self.tally.count("killed between reading and deleting");
        }
        (dead.positions, dead.careful, dead.sending) = Default::default();
        let service = dead.service;
        for holder in &mut self.database(service).relays {
            if *holder == Some(replica) {
                *holder = None;
            }
        }
        true
    }

    /// A partition is another replica's; the one that had it does not know yet.
    pub(super) fn rebalance(&mut self) -> bool {
        let service = Service::ALL[self.choices.below(Service::ALL.len())];
        let partition = self.choices.below(PARTITIONS);
        let replica = self.any_replica(service);
        let before = self.assigned.insert((service, partition), replica);
        // Its new owner reads where to begin.
        if before != Some(replica) {
            self.replicas[replica].positions.remove(&partition);
            self.replicas[replica].careful.remove(&partition);
            self.tally.count("a partition is given to another");
            tell!(self, "{} is given partition {partition}", self.name(replica));
        }
        before != Some(replica)
    }

    /// A relay's connection is cut: its lock is free, and it goes on sending.
    pub(super) fn lose_relay(&mut self) -> bool {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let shard = self.choices.below(SHARDS);
        let lost = self.database(service).relays[shard].take();
        if let Some(replica) = lost {
            self.tally.count("a relay loses its lock");
            tell!(self, "{} loses shard {shard}, and goes on sending", self.name(replica));
        }
        lost.is_some()
    }

    /// Somebody sends any record again.
    pub(super) fn repeat_record(&mut self) -> Result<bool, Violation> {
        let count = self.log.records().count();
        let number = self.choices.below(count);
        let Some(record) = self.log.records().nth(number).cloned() else { return Ok(false) };
        tell!(self, "again in the log: {}", short(&record));
        self.append(record)?;
        Ok(true)
    }
}
