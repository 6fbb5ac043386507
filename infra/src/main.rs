//! wip
fn main() { theater_infra::supervise::child_entry(); }
