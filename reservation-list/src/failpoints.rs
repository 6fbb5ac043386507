//! What a crash may come right before or right after, beside the runtime's own acts.
//!
//! Those of the projection. An export isn't among them: it is no part of the saga, nothing follows from it, and whoever
//! comes after a crash makes it anew under another name. `tests/integration/exports.rs` has one die in the middle.

service_kit::failpoints! {
    /// New rows are written.
    INSERT = "list.insert";
    /// Rows whose reservation is cancelled are.
    CANCEL = "list.cancel";
}
