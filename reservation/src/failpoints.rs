//! The failpoints of this service, in addition to those of `service_kit::messaging::failpoints`. Tests kill the process
//! right before and right after each.

service_kit::failpoints! {
    /// Inserts new reservations.
    INSERT = "reservation.insert";
    /// Updates the status of reservations.
    UPDATE = "reservation.update";
    /// Commits a batch of placements. Its callers are answered after this.
    COMMIT_PLACEMENTS = "reservation.commit-placements";
    /// Commits a customer's cancellation.
    COMMIT_CANCELLATION = "reservation.commit-cancellation";
    /// Commits what the sweeper has cancelled.
    COMMIT_SWEEP = "reservation.commit-sweep";
}
