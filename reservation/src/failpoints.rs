//! What a crash may come right before or right after, beside the runtime's own acts.

service_kit::failpoints! {
    /// New reservations are written.
    INSERT = "reservation.insert";
    /// What became of reservations is.
    UPDATE = "reservation.update";
    /// A batch of placings is committed; only then are its callers answered.
    COMMIT_PLACED = "reservation.commit-placed";
    /// A customer's cancellation is.
    COMMIT_CALL = "reservation.commit-call";
    /// What the sweeper has cancelled is.
    COMMIT_SWEPT = "reservation.commit-swept";
}
