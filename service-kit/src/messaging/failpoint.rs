//! Failpoints: the points at which tests kill a process, right before and right after each effect that outlives it.
//!
//! Such an effect is a write to the database, a commit, a send, an acknowledgement, a deletion from the outbox, or a
//! move of a position. Each crate lists its failpoints ([`failpoints`](super::failpoints) is this crate's list). Each
//! has two names, one before the effect and one after it, passed by [`failpoint`] or [`failpoint_sync`] (crate
//! `fail`). A test kills a process at every name, and fails if a name is never passed.
//!
//! Only the tests switch the feature `failpoints` on. Without it neither names nor failpoints are in the program.

/// An effect at which the tests can kill a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failpoint {
    #[cfg(feature = "failpoints")]
    names: [&'static str; 2],
}

/// Lists a crate's failpoints: a constant for each, and `ALL`.
#[macro_export]
macro_rules! failpoints {
    ($($(#[$doc:meta])* $failpoint:ident = $name:literal;)+) => {
        $(
            $(#[$doc])*
            pub const $failpoint: $crate::messaging::failpoint::Failpoint =
                $crate::messaging::failpoint::Failpoint::new(concat!($name, ".before"), concat!($name, ".after"));
        )+
        /// All of them.
        pub const ALL: &[$crate::messaging::failpoint::Failpoint] = &[$($failpoint),+];
    };
}

#[cfg(not(feature = "failpoints"))]
mod absent {
    use super::Failpoint;

    impl Failpoint {
        pub const fn new(_before: &'static str, _after: &'static str) -> Self {
            Self {}
        }
    }

    /// Does the work.
    pub fn failpoint<T, E, F: Future<Output = Result<T, E>>>(_failpoint: Failpoint, work: F) -> F {
        work
    }

    /// Does the work.
    ///
    /// # Errors
    /// If the work fails.
    pub fn failpoint_sync<T, E>(_failpoint: Failpoint, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        work()
    }

    /// Does nothing: this program has no failpoints.
    ///
    /// # Errors
    /// Always.
    pub fn arm(_name: &str, _die: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
        Err("this program was built without failpoints".to_owned())
    }
}
#[cfg(not(feature = "failpoints"))]
pub use absent::{arm, failpoint, failpoint_sync};

#[cfg(feature = "failpoints")]
mod present {
    use super::Failpoint;

    impl Failpoint {
        pub const fn new(before: &'static str, after: &'static str) -> Self {
            Self { names: [before, after] }
        }

        /// The names before and after the effect.
        pub const fn names(self) -> [&'static str; 2] {
            self.names
        }
    }

    /// Does the work between the failpoint's two names. The second one is passed only if the work succeeds.
    ///
    /// # Errors
    /// If the work fails.
    pub async fn failpoint<T, E>(
        failpoint: Failpoint,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let [before, after] = failpoint.names;
        fail::fail_point!(before);
        let done = work.await?;
        fail::fail_point!(after);
        Ok(done)
    }

    /// As [`failpoint`], for work that awaits nothing.
    ///
    /// # Errors
    /// If the work fails.
    pub fn failpoint_sync<T, E>(failpoint: Failpoint, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let [before, after] = failpoint.names;
        fail::fail_point!(before);
        let done = work()?;
        fail::fail_point!(after);
        Ok(done)
    }

    /// Calls `die` whenever this name is passed.
    ///
    /// # Errors
    /// Never, in this build.
    pub fn arm(name: &str, die: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
        fail::cfg_callback(name, die)
    }
}
#[cfg(feature = "failpoints")]
pub use present::{arm, failpoint, failpoint_sync};
