//! `Prefer: wait=N`: a call that places a reservation waits for its outcome.

use std::time::Instant;

use service_kit::http::Stopping;
use service_kit::messaging::waiters::StatusWaiters;
use tokio::time::timeout_at;

use crate::reservation::{Reservation, Status};

/// Waits until the reservation is decided, the deadline has passed, or the service stops, and updates its status. Returns
/// false if there are too many waiters: then the preference is not honoured, and the call succeeds all the same.
pub(super) async fn until_decided(
    waiters: &StatusWaiters<Status>,
    reservation: &mut Reservation,
    deadline: Instant,
    Stopping(stopping): &Stopping,
) -> bool {
    if reservation.status != Status::Pending {
        return true;
    }
    // A decision between the commit of the placement and this line is found by the waiters' next query.
    let Some(mut waiter) = waiters.subscribe(reservation.id) else { return false };
    let decided = stopping.run_until_cancelled(waiter.wait_for(Status::DECIDED));
    if let Ok(Some(status)) = timeout_at(deadline.into(), decided).await {
        reservation.status = status;
    }
    true
}
