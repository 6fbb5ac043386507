//! A violated invariant, which ends a schedule.

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl Violation {
    pub const fn new(message: String) -> Self {
        Self(message)
    }

    pub fn message(&self) -> &str {
        &self.0
    }
}

/// Returns a [`Violation`] unless the condition holds.
macro_rules! check {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err(Violation::new(format!($($arg)+)));
        }
    };
}
pub(crate) use check;
