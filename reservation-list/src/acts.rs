//! What a crash may come right before or right after, beside the runtime's own acts.

service_kit::acts! {
    /// New rows are written.
    INSERT = "list.insert";
    /// Rows whose reservation is cancelled are.
    CANCEL = "list.cancel";
}
