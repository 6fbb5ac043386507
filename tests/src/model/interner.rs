//! An interner: gives each distinct value a small number. States that consist of numbers are compared and hashed quickly,
//! and are equal only if their values are.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The numbers of keys, and a value for each.
pub struct Interner<K, V> {
    numbers: Mutex<HashMap<K, usize>>,
    /// The values by number, which are read without a lock.
    values: Box<[OnceLock<V>]>,
}

impl<K: Eq + Hash, V> Interner<K, V> {
    /// An interner of at most `limit` keys.
    pub fn new(limit: usize) -> Self {
        let values = (0..limit).map(|_| OnceLock::new()).collect();
        Self { numbers: Mutex::new(HashMap::new()), values }
    }

    /// The number of `key`. `value` computes the value of a new key.
    ///
    /// # Panics
    /// If there are more keys than the limit.
    pub fn intern(&self, key: K, value: impl FnOnce(&K) -> V) -> usize {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(&key) {
            return *number;
        }
        let number = numbers.len();
        assert!(number < self.values.len(), "more than {} things to number", self.values.len());
        self.values[number].get_or_init(|| value(&key));
        numbers.insert(key, number);
        number
    }

    /// # Panics
    /// If no key has this number.
    pub fn get(&self, number: usize) -> &V {
        self.values[number].get().expect("a number that was given out")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_the_same_number() {
        let names = Interner::new(2);
        let numbers = ["a", "b", "a"].map(|name| names.intern(name, |name| name.to_uppercase()));
        assert_eq!(numbers, [0, 1, 0]);
        assert_eq!(names.get(1), "B");
    }
}
