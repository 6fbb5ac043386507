//! Things that are worth a name of their own: each gets a small number once, and equal things get the same. A state
//! that is made of numbers is compared and hashed in no time, and still equals another only if everything does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Numbers of things by their `K`, and what is known of each.
pub struct Numbered<K, V> {
    numbers: Mutex<HashMap<K, usize>>,
    /// Read without a lock.
    known: Box<[OnceLock<V>]>,
}

impl<K: Eq + Hash, V> Numbered<K, V> {
    /// For at most `limit` things.
    pub fn new(limit: usize) -> Self {
        let known = (0..limit).map(|_| OnceLock::new()).collect();
        Self { numbers: Mutex::new(HashMap::new()), known }
    }

    /// The number of `key`; `know` says what there is to know of a new one.
    ///
    /// # Panics
    /// If there are more than the limit.
    pub fn number(&self, key: K, know: impl FnOnce(&K) -> V) -> usize {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(&key) {
            return *number;
        }
        let number = numbers.len();
        assert!(number < self.known.len(), "more than {} things to number", self.known.len());
        self.known[number].get_or_init(|| know(&key));
        numbers.insert(key, number);
        number
    }

    /// # Panics
    /// For a number that was not given out.
    pub fn get(&self, number: usize) -> &V {
        self.known[number].get().expect("a number that was given out")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_have_one_number() {
        let names = Numbered::new(2);
        let numbers = ["a", "b", "a"].map(|name| names.number(name, |name| name.to_uppercase()));
        assert_eq!(numbers, [0, 1, 0]);
        assert_eq!(names.get(1), "B");
    }
}
