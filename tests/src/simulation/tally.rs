//! What happened in schedules, counted: a misfortune that no schedule meets any more proves nothing, and nobody would
//! notice.

use std::collections::BTreeMap;

/// How often, by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
        self
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}
