//! Relays. A relay that has lost the lock of its shard goes on sending its batch.

use super::{BATCH_MAX, SimulatedTheater};
use crate::simulation::history::describe_record;
use crate::simulation::log::{Record, RelayBatch, SHARDS, shard_of};
use crate::simulation::tables::Service;
use crate::simulation::violation::Violation;

impl SimulatedTheater {
    pub(super) fn relay_any(&mut self) -> Result<bool, Violation> {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let replica = self.choose_replica(service);
        let shard = self.choices.below(SHARDS);
        let max = 1 + self.choices.below(BATCH_MAX);
        self.relay(replica, shard, max)
    }

    /// One step of a relay: acquire the lock, send one row, or delete the sent rows and read the next ones.
    pub(super) fn relay(&mut self, replica: usize, shard: usize, max: usize) -> Result<bool, Violation> {
        let name = self.replica_name(replica);
        let service = self.replicas[replica].service;
        let owner = self.databases[&service].shard_owners[shard];
        let relay_batch = &mut self.replicas[replica].relay_batches[shard];
        if let Some((_, record)) = relay_batch.rows.get(relay_batch.sent) {
            // Even if it no longer holds the lock.
            let record = record.clone();
            relay_batch.sent += 1;
            if owner != Some(replica) {
                self.coverage.count("sent without the lock");
            }
            log_step!(self, "{name} sends {}", describe_record(&record));
            self.append(record)?;
            return Ok(true);
        }
        let sent = std::mem::take(relay_batch);
        if owner == Some(replica) {
            let database = self.database(service);
            sent.rows.iter().for_each(|(seq, _)| drop(database.outbox.remove(seq)));
            let unsent = database.outbox.iter().filter(|(_, row)| shard_of(row) == shard);
            let rows: Vec<_> = unsent.take(max).map(|(seq, row)| (*seq, row.clone())).collect();
            database.highest_read_seq =
                rows.iter().map(|(seq, _)| *seq).fold(database.highest_read_seq, u64::max);
            let did_something = !rows.is_empty() || !sent.rows.is_empty();
            self.replicas[replica].relay_batches[shard] = RelayBatch { rows, sent: 0 };
            return Ok(did_something);
        }
        if owner.is_none() {
            log_step!(self, "{name} takes shard {shard}");
            self.database(service).shard_owners[shard] = Some(replica);
        }
        Ok(owner.is_none())
    }

    /// Appends an event to the log.
    pub(super) fn append(&mut self, record: Record) -> Result<(), Violation> {
        self.checks.check_append(&record, &mut self.coverage)?;
        self.log.append(record);
        Ok(())
    }

    /// Sends a dead letter. The sender may die before it deletes the row.
    pub(super) fn send_dead_letter(&mut self) -> bool {
        let has_dead_letters = |service: &Service| !self.databases[service].dead_letters.is_empty();
        let Some(service) = Service::ALL.into_iter().find(has_dead_letters) else { return false };
        let dies = self.choices.once_in(4);
        let database = self.database(service);
        let dead_letter = database.dead_letters[0];
        if dies {
            self.coverage.count("a dead letter comes to be sent again");
        } else {
            database.dead_letters.remove(0);
        }
        log_step!(self, "{service:?} sends the dead letter of {dead_letter:?}");
        self.log.dead_letters.insert(dead_letter);
        true
    }
}
