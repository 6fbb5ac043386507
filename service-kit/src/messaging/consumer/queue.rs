//! The bounded way from the receiving task to a partition's own task.
//!
//! One exists per assignment: a record that belongs to an older assignment sits in an older queue, whose
//! task has ended. A seek empties it, in the receiving task, so that nothing from before is left.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::messaging::record::Record;

/// Records that a queue holds at most: what one batch takes, twice.
pub(super) const QUEUE_RECORDS: usize = 1_000;

/// Bytes at which it counts as full, so that large records can't fill the memory.
pub(super) const QUEUE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<Record>,
    bytes: usize,
    closed: bool,
    /// Its task waits for records.
    awaited: bool,
    /// A record was given back: tell the receiving task when there is room again.
    refused: bool,
    /// The broker said that a position is outside the log: the task must look at its own.
    out_of_range: bool,
}

/// What a partition's task finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Records(Vec<Record>),
    OutOfRange,
    Closed,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Notify,
    capacity_freed: Arc<Notify>,
}

impl Queue {
    /// `room` is told when a queue that gave a record back can take it.
    pub(super) fn new(capacity_freed: Arc<Notify>) -> Self {
        Self { capacity_freed, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, or gives it back when there is no room.
    ///
    /// # Errors
    /// The record itself, to be held until there is room.
    pub(super) fn push(&self, record: Record) -> Result<(), Record> {
        let mut inner = self.lock();
        if inner.records.len() >= QUEUE_RECORDS || inner.bytes >= QUEUE_BYTES {
            inner.refused = true;
            return Err(record);
        }
        inner.bytes += record.bytes();
        inner.records.push_back(record);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for records and takes up to `most` of them.
    pub(super) async fn take(&self, most: usize) -> Taken {
        loop {
            if let Some(taken) = self.try_take(most) {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    fn try_take(&self, most: usize) -> Option<Taken> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(Taken::Closed);
        }
        if std::mem::take(&mut inner.out_of_range) {
            return Some(Taken::OutOfRange);
        }
        let count = most.min(inner.records.len());
        inner.awaited = count == 0;
        if count == 0 {
            return None;
        }
        let records: Vec<_> = inner.records.drain(..count).collect();
        inner.bytes -= records.iter().map(Record::bytes).sum::<usize>();
        if std::mem::take(&mut inner.refused) {
            self.capacity_freed.notify_one();
        }
        Some(Taken::Records(records))
    }

    /// Forgets what was received: the consumer seeks.
    pub(super) fn clear(&self) {
        let mut inner = self.lock();
        inner.records.clear();
        inner.bytes = 0;
    }

    pub(super) fn report_out_of_range(&self) {
        self.lock().out_of_range = true;
        self.filled.notify_one();
    }

    /// Ends the task: the partition belongs to someone else, or the process stops.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Whether its task has nothing in work and nothing to take.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.awaited && inner.records.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, bytes: usize) -> Record {
        Record { offset, value: Some(vec![0; bytes]), ..Record::default() }
    }

    #[tokio::test]
    async fn records_leave_in_order_and_in_batches() {
        let queue = Queue::default();
        for offset in 0..5 {
            queue.push(record(offset, 1)).unwrap();
        }
        let Taken::Records(first) = queue.take(3).await else { panic!() };
        let Taken::Records(rest) = queue.take(3).await else { panic!() };
        let offsets: Vec<_> = first.iter().chain(&rest).map(|record| record.offset).collect();
        assert_eq!((offsets, first.len()), (vec![0, 1, 2, 3, 4], 3));
    }

    #[tokio::test]
    async fn a_full_queue_gives_the_record_back() {
        let queue = Queue::default();
        let refused = (0..).find_map(|offset| queue.push(record(offset, 1)).err()).unwrap();
        assert_eq!(refused.offset, i64::try_from(QUEUE_RECORDS).unwrap());
        queue.take(1).await;
        queue.push(refused).unwrap();

        let queue = Queue::default();
        queue.push(record(0, QUEUE_BYTES)).unwrap();
        assert!(queue.push(record(1, 1)).is_err(), "full by bytes");
    }

    #[tokio::test]
    async fn closing_wakes_and_wins() {
        let queue = Queue::default();
        queue.push(record(0, 1)).unwrap();
        queue.close();
        assert_eq!(queue.take(1).await, Taken::Closed);
    }
}
