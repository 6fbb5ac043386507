//! Relays, with and without the lock of their shard.

use super::{BATCH, World};
use crate::simulation::bus::{Record, SHARDS, Sending, shard_of};
use crate::simulation::checks::Violation;
use crate::simulation::history::short;
use crate::simulation::tables::Service;

impl World {
    pub(super) fn relay_any(&mut self) -> Result<bool, Violation> {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let replica = self.any_replica(service);
        let shard = self.choices.below(SHARDS);
        let most = 1 + self.choices.below(BATCH);
        self.relay(replica, shard, most)
    }

    /// One step of a relay: take the lock, read, send one row, or delete what is acknowledged.
    pub(super) fn relay(&mut self, replica: usize, shard: usize, most: usize) -> Result<bool, Violation> {
        let name = self.name(replica);
        let service = self.replicas[replica].service;
        let holder = self.databases[&service].relays[shard];
        let sending = &mut self.replicas[replica].sending[shard];
        if let Some((_, record)) = sending.batch.get(sending.sent) {
            // Whether or not it still holds the lock.
            let record = record.clone();
            sending.sent += 1;
            if holder != Some(replica) {
                self.tally.count("sent without the lock");
            }
            tell!(self, "{name} sends {}", short(&record));
            self.append(record)?;
            return Ok(true);
        }
        let sent = std::mem::take(sending);
        if holder == Some(replica) {
            let database = self.database(service);
            sent.batch.iter().for_each(|(seq, _)| drop(database.outbox.remove(seq)));
            let rows = database.outbox.iter().filter(|(_, row)| shard_of(row) == shard);
            let batch: Vec<_> = rows.take(most).map(|(seq, row)| (*seq, row.clone())).collect();
            database.relayed = batch.iter().map(|(seq, _)| *seq).fold(database.relayed, u64::max);
            let did = !batch.is_empty() || !sent.batch.is_empty();
            self.replicas[replica].sending[shard] = Sending { batch, sent: 0 };
            return Ok(did);
        }
        if holder.is_none() {
            tell!(self, "{name} takes shard {shard}");
            self.database(service).relays[shard] = Some(replica);
        }
        Ok(holder.is_none())
    }

    /// An event enters the log.
    pub(super) fn append(&mut self, record: Record) -> Result<(), Violation> {
        self.checks.appended(&record, &mut self.tally)?;
        self.log.append(record);
        Ok(())
    }

    /// A dead letter enters its topic; who has sent it may die before it deletes it.
    pub(super) fn send_dead_letter(&mut self) -> bool {
        let full = |service: &Service| !self.databases[service].dead_letters.is_empty();
        let Some(service) = Service::ALL.into_iter().find(full) else { return false };
        let dies = self.choices.once_in(4);
        let database = self.database(service);
        let letter = database.dead_letters[0];
        if dies {
            self.tally.count("a dead letter comes to be sent again");
        } else {
            database.dead_letters.remove(0);
        }
        tell!(self, "{service:?} sends the dead letter of {letter:?}");
        self.log.dead_letters.insert(letter);
        true
    }
}
