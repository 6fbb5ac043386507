//! One service's simulated database.

use crate::simulation::log::{DeadLetter, Outbox, PARTITIONS, SHARDS};
use crate::simulation::tables::Tables;

#[derive(Clone, Debug, Default)]
pub struct Database {
    pub tables: Tables,
    pub outbox: Outbox,
    /// The dead letters whose sending is not confirmed yet.
    pub dead_letters: Vec<DeadLetter>,
    pub last_seq: u64,
    /// The highest `seq` of a row that a relay has read.
    pub highest_read_seq: u64,
    pub offsets: [usize; PARTITIONS],
    /// The replica that holds the lock of each shard.
    pub shard_owners: [Option<usize>; SHARDS],
}
