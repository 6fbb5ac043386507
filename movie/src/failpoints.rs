//! The failpoints of this service, in addition to those of `service_kit::messaging::failpoints`. Tests kill the process
//! right before and right after each.

service_kit::failpoints! {
    /// Commits the missing search texts that were added.
    COMMIT_BACKFILL = "movie.commit-backfill";
    /// Inserts a published movie.
    INSERT = "movie.insert";
    /// Updates the columns that sales and deliveries change.
    UPDATE = "movie.update";
    /// Updates the columns that the vendor edits.
    EDIT = "movie.edit";
    /// Saves the search texts of movies.
    SAVE_SEARCH_TEXT = "movie.save-search-text";
    /// Inserts decisions about reservations.
    INSERT_DECISION = "movie.insert-decision";
    /// Updates decisions about released reservations.
    RELEASE = "movie.release";
    /// Inserts a delivery.
    INSERT_DELIVERY = "movie.insert-delivery";
    /// Commits a vendor's call.
    COMMIT_CALL = "movie.commit-call";
}
