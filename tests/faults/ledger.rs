//! The ledger of accepted calls: the expected state of a theater once it is at rest.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// What the services have accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) reservations: HashSet<Uuid>,
    /// Reservations whose cancellation was accepted.
    pub(crate) cancelled: HashSet<Uuid>,
    /// Reservations whose deadline the load moved into the past, whether they were decided before or not.
    pub(crate) past_deadline: HashSet<Uuid>,
    /// The tickets of each movie, published and delivered.
    pub(crate) stock: HashMap<Uuid, i64>,
    pub(crate) names: HashMap<Uuid, String>,
    /// Movies that never sell out.
    pub(crate) never_sold_out: HashSet<Uuid>,
    pub(crate) malformed_records: usize,
}

/// A ledger that all parts of a load write to.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// A copy of the entries so far.
    pub(crate) fn snapshot(&self) -> Ledger {
        self.lock().clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
