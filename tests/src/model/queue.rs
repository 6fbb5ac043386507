//! Facts by their numbers: in a row, and as a set. Both are plain numbers themselves, for states are copied a lot.

/// An event of the saga, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fact(u8);

impl Fact {
    /// Facts that can be told apart; a row has room for the last one's successor.
    pub const LIMIT: usize = 63;

    /// # Panics
    /// Beyond the limit.
    pub fn new(number: usize) -> Self {
        assert!(number < Self::LIMIT, "more than {} facts", Self::LIMIT);
        Self(u8::try_from(number).unwrap_or(u8::MAX))
    }

    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// Facts that wait for their turn. One takes a byte, its number and one; nought is an empty place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue(u128);

impl Queue {
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn len(self) -> usize {
        (u128::BITS - self.0.leading_zeros()).div_ceil(8) as usize
    }

    /// # Panics
    /// If it is full.
    pub fn push(&mut self, fact: Fact) {
        let len = self.len();
        assert!(len < 16, "more than 16 facts wait");
        self.0 |= u128::from(fact.0 + 1) << (8 * len);
    }

    pub fn pop(&mut self) -> Option<Fact> {
        let first = u8::try_from(self.0 & 0xff).unwrap_or_default();
        self.0 >>= 8;
        first.checked_sub(1).map(Fact)
    }

    /// Takes the first `count`, of those that are there.
    pub fn take(&mut self, count: usize) -> Self {
        let mut taken = Self::default();
        for _ in 0..count {
            self.pop().into_iter().for_each(|fact| taken.push(fact));
        }
        taken
    }

    /// The first `count`, which stay.
    pub fn first(mut self, count: usize) -> Self {
        self.take(count)
    }

    pub fn facts(mut self) -> impl Iterator<Item = Fact> {
        std::iter::from_fn(move || self.pop())
    }
}

/// A set of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts(u64);

impl Facts {
    pub const fn insert(&mut self, fact: Fact) {
        self.0 |= 1 << fact.0;
    }

    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn facts(self) -> impl Iterator<Item = Fact> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let first = u8::try_from(rest.trailing_zeros()).ok().filter(|first| *first < 64)?;
            rest &= rest - 1;
            Some(Fact(first))
        })
    }

    /// Those that are not in `others`.
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served() {
        let mut queue = Queue::default();
        for fact in [0, 62, 0, 7].map(Fact::new) {
            queue.push(fact);
        }
        assert_eq!(queue.len(), 4);
        let taken = queue.take(3);
        assert_eq!(taken.facts().collect::<Vec<_>>(), [0, 62, 0].map(Fact::new));
        assert_eq!((queue.len(), queue.pop(), queue.pop()), (1, Some(Fact::new(7)), None));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_set_holds_each_once() {
        let mut set = Facts::default();
        for fact in [3, 0, 3, 62].map(Fact::new) {
            set.insert(fact);
        }
        assert_eq!(set.facts().collect::<Vec<_>>(), [0, 3, 62].map(Fact::new));
        let mut others = Facts::default();
        others.insert(Fact::new(0));
        assert_eq!((set.len(), set.without(others).len()), (3, 2));
    }
}
