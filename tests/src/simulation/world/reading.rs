//! Partitions' owners, and who takes itself for one: batches of records, each in one transaction with the position.

use service_kit::messaging::Delivery;
use service_kit::messaging::record::DecodedRecord;

use super::{BATCH, Move, Transaction, World};
use crate::simulation::bus::{DeadLetter, Entry, Foreign, PARTITIONS, topic};
use crate::simulation::history;
use crate::simulation::tables::{Service, Work};

impl World {
    pub(super) fn consume_any(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        let partition = self.choices.below(PARTITIONS);
        let most = 1 + self.choices.below(BATCH);
        self.consume(replica, partition, most)
    }

    /// Decides what is waiting.
    pub(super) fn consume(&mut self, replica: usize, partition: usize, most: usize) -> bool {
        let service = self.replicas[replica].service;
        let busy = |tx: &Transaction| {
            tx.replica == replica && tx.moves.as_ref().is_some_and(|moves| moves.partition == partition)
        };
        if self.open.iter().any(busy) {
            return false;
        }
        let stored = self.databases[&service].offsets[partition];
        if self.assigned[&(service, partition)] == replica {
            self.replicas[replica].positions.entry(partition).or_insert(stored);
        }
        let Some(&expected) = self.replicas[replica].positions.get(&partition) else { return false };
        let careful = self.replicas[replica].careful.get(&partition).copied();
        let most = careful.map_or(most, |size| size.clamp(1, most));
        let waiting = self.log.partition(topic(service), partition).get(expected..).unwrap_or_default();
        let entries: Vec<Entry> = waiting.iter().take(most).cloned().collect();
        if entries.is_empty() {
            return false;
        }
        if self.assigned[&(service, partition)] != replica {
            self.tally.count("read by a former owner");
        }
        let place = (service, partition, expected);
        let (batch, dead_letters) =
            if careful == Some(0) { (Vec::new(), vec![place]) } else { self.sort(place, &entries) };
        if !dead_letters.is_empty() {
            let (name, first) = (self.name(replica), history::entry(&entries[0]));
            tell!(
                self,
                "{name} buries {} of {} records, the first is {first}",
                dead_letters.len(),
                entries.len()
            );
        }
        let moves = Move { partition, expected, new: expected + entries.len(), dead_letters };
        self.begin(replica, &Work::Batch(service, batch), Some(moves), Vec::new())
    }

    /// What is read of a batch that begins there, and what can't be.
    fn sort(&mut self, first: DeadLetter, entries: &[Entry]) -> (Vec<Delivery>, Vec<DeadLetter>) {
        let (mut batch, mut dead_letters) = (Vec::new(), Vec::new());
        let (service, partition, offset) = first;
        for (place, entry) in (offset..).zip(entries) {
            let foreign = match entry {
                Entry::Ours(record) => {
                    batch.push(record.delivery());
                    continue;
                }
                Entry::Foreign(foreign) => foreign,
            };
            match foreign.decode() {
                Ok(DecodedRecord::Event(delivery)) => batch.push(*delivery),
                Ok(DecodedRecord::Unknown(_)) => self.tally.count("an event of an unknown type"),
                Err(_) => {
                    if entries.len() > 1 {
                        self.tally.count("poison within a batch");
                    }
                    dead_letters.push((service, partition, place));
                }
            }
        }
        (batch, dead_letters)
    }

    /// The database refuses a batch: half of it is tried, and what is refused alone is poison.
    pub(super) fn be_careful(&mut self, replica: usize, refused: &Move) {
        let size = refused.new - refused.expected;
        tell!(self, "{} is refused a batch of {size} in partition {}", self.name(replica), refused.partition);
        self.tally.count("the database refuses a batch");
        self.replicas[replica].careful.insert(refused.partition, size / 2);
    }

    /// Something that no service wrote enters the log.
    pub(super) fn foreign_record(&mut self) -> bool {
        self.foreign += 1;
        let foreign = match self.choices.below(4) {
            0 => Foreign::Broken,
            1 => Foreign::Unknown,
            2 => Foreign::Refused(self.foreign),
            _ => Foreign::Stray(self.foreign),
        };
        let service = if self.choices.below(2) == 0 { Service::Movie } else { Service::Reservation };
        let partition = self.choices.below(PARTITIONS);
        tell!(self, "somebody puts {foreign:?} into {:?}", topic(service));
        self.tally.count("a foreign record");
        self.log.put(topic(service), partition, foreign);
        true
    }
}
