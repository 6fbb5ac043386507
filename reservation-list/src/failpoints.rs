//! The service's own failpoints, beside those of service-kit.
//!
//! Only the projection has failpoints. Exports have none: they are no part of the saga, nothing follows from them, and
//! after a crash another attempt makes the file again under another name. `tests/integration/exports.rs` kills a
//! replica in the middle of an export.

service_kit::failpoints! {
    /// Inserts new rows.
    INSERT = "list.insert";
    /// Cancels existing rows.
    CANCEL = "list.cancel";
}
