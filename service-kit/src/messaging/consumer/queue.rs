//! The bounded queue between the receiving task and a partition's own task.
//!
//! Each assignment has its own queue: a record that belongs to an older assignment is in an older queue, whose
//! task has ended. When a partition restarts at another offset, the receiving task clears its queue, so no record
//! from before is left.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::messaging::record::Record;

/// The most records in a queue: two batches.
pub(super) const QUEUE_RECORDS: usize = 1_000;

/// A queue with this many bytes counts as full, so that large records can't fill the memory.
pub(super) const QUEUE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<Record>,
    bytes: usize,
    closed: bool,
    /// The partition's task waits for records.
    task_waits: bool,
    /// A record was returned: wake the receiving task when there is capacity again.
    push_refused: bool,
    /// The broker said that some position is outside the log: the task must check its own.
    out_of_range: bool,
}

/// The next event for a partition's task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueEvent {
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
    /// `capacity_freed` is notified when a queue that returned a record has capacity for it.
    pub(super) fn new(capacity_freed: Arc<Notify>) -> Self {
        Self { capacity_freed, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If the queue is full: returns the record, for the caller to keep until there is capacity.
    pub(super) fn push(&self, record: Record) -> Result<(), Record> {
        let mut inner = self.lock();
        if inner.records.len() >= QUEUE_RECORDS || inner.bytes >= QUEUE_BYTES {
            inner.push_refused = true;
            return Err(record);
        }
        inner.bytes += record.memory_bytes();
        inner.records.push_back(record);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for the next event; takes up to `max_records` records.
    pub(super) async fn next_event(&self, max_records: usize) -> QueueEvent {
        loop {
            if let Some(event) = self.try_next_event(max_records) {
                return event;
            }
            self.filled.notified().await;
        }
    }

    fn try_next_event(&self, max_records: usize) -> Option<QueueEvent> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(QueueEvent::Closed);
        }
        if std::mem::take(&mut inner.out_of_range) {
            return Some(QueueEvent::OutOfRange);
        }
        let count = max_records.min(inner.records.len());
        inner.task_waits = count == 0;
        if count == 0 {
            return None;
        }
        let records: Vec<_> = inner.records.drain(..count).collect();
        inner.bytes -= records.iter().map(Record::memory_bytes).sum::<usize>();
        if std::mem::take(&mut inner.push_refused) {
            self.capacity_freed.notify_one();
        }
        Some(QueueEvent::Records(records))
    }

    /// Drops the records: the partition restarts at another offset.
    pub(super) fn clear(&self) {
        let mut inner = self.lock();
        inner.records.clear();
        inner.bytes = 0;
    }

    pub(super) fn report_out_of_range(&self) {
        self.lock().out_of_range = true;
        self.filled.notify_one();
    }

    /// Ends the task: the partition was revoked, or the process stops.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Whether the task has no batch in work and no record to take.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.task_waits && inner.records.is_empty()
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
    async fn records_are_taken_in_order_and_in_batches() {
        let queue = Queue::default();
        for offset in 0..5 {
            queue.push(record(offset, 1)).unwrap();
        }
        let QueueEvent::Records(first) = queue.next_event(3).await else { panic!() };
        let QueueEvent::Records(rest) = queue.next_event(3).await else { panic!() };
        let offsets: Vec<_> = first.iter().chain(&rest).map(|record| record.offset).collect();
        assert_eq!((offsets, first.len()), (vec![0, 1, 2, 3, 4], 3));
    }

    #[tokio::test]
    async fn a_full_queue_returns_the_record() {
        let queue = Queue::default();
        let returned = (0..).find_map(|offset| queue.push(record(offset, 1)).err()).unwrap();
        assert_eq!(returned.offset, i64::try_from(QUEUE_RECORDS).unwrap());
        queue.next_event(1).await;
        queue.push(returned).unwrap();

        let queue = Queue::default();
        queue.push(record(0, QUEUE_BYTES)).unwrap();
        assert!(queue.push(record(1, 1)).is_err(), "full by bytes");
    }

    #[tokio::test]
    async fn closing_wakes_the_task_and_comes_before_records() {
        let queue = Queue::default();
        queue.push(record(0, 1)).unwrap();
        queue.close();
        assert_eq!(queue.next_event(1).await, QueueEvent::Closed);
    }
}
