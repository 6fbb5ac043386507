//! What a crash may come right before or right after, beside the runtime's own acts.

service_kit::failpoints! {
    /// What no service has described yet is committed with its words.
    COMMIT_FILLED = "movie.commit-filled";
    /// A published movie is written.
    INSERT = "movie.insert";
    /// What sales and deliveries change of movies is.
    UPDATE = "movie.update";
    /// What the vendor changes is.
    EDIT = "movie.edit";
    /// The words that a movie is found by are.
    DESCRIBE = "movie.describe";
    /// New decisions about reservations are.
    DECIDE = "movie.decide";
    /// What was allocated and is no longer is.
    RELEASE = "movie.release";
    /// A delivery is.
    DELIVER = "movie.deliver";
    /// A vendor's call is committed.
    COMMIT_CALL = "movie.commit-call";
}
