//! `Prefer: wait=N`: the customer is told the outcome itself if it comes in time.

use std::time::Instant;

use service_kit::http::Stopping;
use service_kit::messaging::waiters::StatusWaiters;
use tokio::time::timeout_at;

use crate::reservation::{Reservation, Status};

/// Waits until the reservation is decided, at most until then, or until the service stops. Answers whether it
/// could wait at all: when the room is full the preference is not honoured, and nothing else is lost.
pub(super) async fn wait(
    waiters: &StatusWaiters<Status>,
    reservation: &mut Reservation,
    until: Instant,
    Stopping(stopping): &Stopping,
) -> bool {
    if reservation.status != Status::Pending {
        return true;
    }
    // What is decided between the acceptance's commit and here is seen by the room's next look.
    let Some(mut waiter) = waiters.subscribe(reservation.id) else { return false };
    let decided = stopping.run_until_cancelled(waiter.wait_for(Status::DECIDED));
    if let Ok(Some(status)) = timeout_at(until.into(), decided).await {
        reservation.status = status;
    }
    true
}
