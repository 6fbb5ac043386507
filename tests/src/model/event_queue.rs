//! Queues and sets of numbered events. Both are plain integers, as states are copied often.

/// The number of an event of the saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventNumber(u8);

impl EventNumber {
    /// Numbers are below this limit. A queue's byte can hold the limit itself too.
    pub const LIMIT: usize = 63;

    /// # Panics
    /// If the number reaches the limit.
    pub fn new(number: usize) -> Self {
        assert!(number < Self::LIMIT, "more than {} events", Self::LIMIT);
        Self(u8::try_from(number).unwrap_or(u8::MAX))
    }

    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// A first-in, first-out queue. An event takes a byte, which contains its number plus one; 0 is an empty place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EventQueue(u128);

impl EventQueue {
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn len(self) -> usize {
        (u128::BITS - self.0.leading_zeros()).div_ceil(8) as usize
    }

    /// # Panics
    /// If it is full.
    pub fn push(&mut self, event: EventNumber) {
        let len = self.len();
        assert!(len < 16, "more than 16 events wait");
        self.0 |= u128::from(event.0 + 1) << (8 * len);
    }

    pub fn pop(&mut self) -> Option<EventNumber> {
        let first = u8::try_from(self.0 & 0xff).unwrap_or_default();
        self.0 >>= 8;
        first.checked_sub(1).map(EventNumber)
    }

    /// Removes and returns the first `count` events, or all if there are fewer.
    pub fn take(&mut self, count: usize) -> Self {
        let mut taken = Self::default();
        for _ in 0..count {
            self.pop().into_iter().for_each(|event| taken.push(event));
        }
        taken
    }

    /// The first `count` events, without removing them.
    pub fn first(mut self, count: usize) -> Self {
        self.take(count)
    }

    pub fn events(mut self) -> impl Iterator<Item = EventNumber> {
        std::iter::from_fn(move || self.pop())
    }
}

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EventSet(u64);

impl EventSet {
    pub const fn insert(&mut self, event: EventNumber) {
        self.0 |= 1 << event.0;
    }

    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn events(self) -> impl Iterator<Item = EventNumber> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let first = u8::try_from(rest.trailing_zeros()).ok().filter(|first| *first < 64)?;
            rest &= rest - 1;
            Some(EventNumber(first))
        })
    }

    /// The events that are not in `others`.
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served() {
        let mut queue = EventQueue::default();
        for event in [0, 62, 0, 7].map(EventNumber::new) {
            queue.push(event);
        }
        assert_eq!(queue.len(), 4);
        let taken = queue.take(3);
        assert_eq!(taken.events().collect::<Vec<_>>(), [0, 62, 0].map(EventNumber::new));
        assert_eq!((queue.len(), queue.pop(), queue.pop()), (1, Some(EventNumber::new(7)), None));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_set_holds_each_once() {
        let mut set = EventSet::default();
        for event in [3, 0, 3, 62].map(EventNumber::new) {
            set.insert(event);
        }
        assert_eq!(set.events().collect::<Vec<_>>(), [0, 3, 62].map(EventNumber::new));
        let mut others = EventSet::default();
        others.insert(EventNumber::new(0));
        assert_eq!((set.len(), set.without(others).len()), (3, 2));
    }
}
