//! Counts what happened in schedules. Without the counts nobody would notice that a fault no longer occurs in any
//! schedule.

use std::collections::BTreeMap;

/// Numbers of occurrences by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
        self
    }

    pub fn count_of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}
