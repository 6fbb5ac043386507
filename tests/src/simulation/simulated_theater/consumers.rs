//! Consumers: each batch of records is one transaction with the position. A former owner that doesn't know of the
//! rebalance consumes too.

use service_kit::messaging::Delivery;
use service_kit::messaging::record::DecodedRecord;

use super::{BATCH_MAX, PositionUpdate, SimulatedTheater, Transaction};
use crate::simulation::history;
use crate::simulation::log::{DeadLetter, Entry, ForeignRecord, PARTITIONS, topic_consumed_by};
use crate::simulation::tables::{Service, Work};

impl SimulatedTheater {
    pub(super) fn consume_any(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        let partition = self.choices.below(PARTITIONS);
        let max = 1 + self.choices.below(BATCH_MAX);
        self.consume(replica, partition, max)
    }

    /// Begins a transaction with the next records of a partition.
    pub(super) fn consume(&mut self, replica: usize, partition: usize, max: usize) -> bool {
        let service = self.replicas[replica].service;
        let busy = |tx: &Transaction| {
            tx.replica == replica
                && tx.position_update.as_ref().is_some_and(|update| update.partition == partition)
        };
        if self.open.iter().any(busy) {
            return false;
        }
        let stored = self.databases[&service].offsets[partition];
        if self.assignment[&(service, partition)] == replica {
            self.replicas[replica].positions.entry(partition).or_insert(stored);
        }
        let Some(&expected) = self.replicas[replica].positions.get(&partition) else { return false };
        let reduced_size = self.replicas[replica].reduced_batches.get(&partition).copied();
        let max = reduced_size.map_or(max, |size| size.clamp(1, max));
        let unread =
            self.log.partition(topic_consumed_by(service), partition).get(expected..).unwrap_or_default();
        let entries: Vec<Entry> = unread.iter().take(max).cloned().collect();
        if entries.is_empty() {
            return false;
        }
        if self.assignment[&(service, partition)] != replica {
            self.coverage.count("read by a former owner");
        }
        let first = (service, partition, expected);
        let (batch, dead_letters) = if reduced_size == Some(0) {
            (Vec::new(), vec![first])
        } else {
            self.decode_batch(first, &entries)
        };
        if !dead_letters.is_empty() {
            let (name, first) = (self.replica_name(replica), history::describe_entry(&entries[0]));
            log_step!(
                self,
                "{name} dead-letters {} of {} records, the first is {first}",
                dead_letters.len(),
                entries.len()
            );
        }
        let position_update =
            PositionUpdate { partition, expected, new: expected + entries.len(), dead_letters };
        self.begin(replica, &Work::Batch(service, batch), Some(position_update), Vec::new())
    }

    /// Decodes a batch that starts at `first`: the deliveries, and the records that can't be decoded.
    fn decode_batch(&mut self, first: DeadLetter, entries: &[Entry]) -> (Vec<Delivery>, Vec<DeadLetter>) {
        let (mut batch, mut dead_letters) = (Vec::new(), Vec::new());
        let (service, partition, offset) = first;
        for (offset, entry) in (offset..).zip(entries) {
            let foreign = match entry {
                Entry::Own(record) => {
                    batch.push(record.delivery());
                    continue;
                }
                Entry::Foreign(foreign) => foreign,
            };
            match foreign.decode() {
                Ok(DecodedRecord::Event(delivery)) => batch.push(*delivery),
                Ok(DecodedRecord::Unknown(_)) => self.coverage.count("an event of an unknown type"),
                Err(_) => {
                    if entries.len() > 1 {
                        self.coverage.count("poison within a batch");
                    }
                    dead_letters.push((service, partition, offset));
                }
            }
        }
        (batch, dead_letters)
    }

    /// The database rejects a batch: the next batch has half its size. A record that is rejected alone is poison.
    pub(super) fn reduce_batch(&mut self, replica: usize, rejected: &PositionUpdate) {
        let size = rejected.new - rejected.expected;
        log_step!(
            self,
            "{} is refused a batch of {size} in partition {}",
            self.replica_name(replica),
            rejected.partition
        );
        self.coverage.count("the database refuses a batch");
        self.replicas[replica].reduced_batches.insert(rejected.partition, size / 2);
    }

    /// Appends a record that no service has written.
    pub(super) fn append_foreign_record(&mut self) -> bool {
        self.foreign_records += 1;
        let foreign = match self.choices.below(4) {
            0 => ForeignRecord::Broken,
            1 => ForeignRecord::Unknown,
            2 => ForeignRecord::Refused(self.foreign_records),
            _ => ForeignRecord::Stray(self.foreign_records),
        };
        let service = if self.choices.below(2) == 0 { Service::Movie } else { Service::Reservation };
        let partition = self.choices.below(PARTITIONS);
        log_step!(self, "another program appends {foreign:?} to {:?}", topic_consumed_by(service));
        self.coverage.count("a foreign record");
        self.log.append_foreign(topic_consumed_by(service), partition, foreign);
        true
    }
}
