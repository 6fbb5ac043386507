//! Where the tests let a process die: right before and right after each act whose effect outlives the process.
//!
//! An act is a write to the database, a commit, a send, an acknowledgement, a deletion from the outbox, a move of a
//! position. Each has a name, in a list of its crate ([`acts`](super::acts) is the kit's own), and each name has two
//! failpoints (crate `fail`), passed by whatever goes through [`around`] or [`within`]. A test lets a process die at
//! every one of them, and fails when one can't be reached.
//!
//! All of that is in feature `failpoints`, which only the tests switch on. Without it an act is nothing but a word in
//! the source: neither its names nor its failpoints are in the program.

/// What the tests can crash a process before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    #[cfg(feature = "failpoints")]
    points: [&'static str; 2],
}

/// Lists a crate's acts: a constant for each, and `ALL`.
#[macro_export]
macro_rules! acts {
    ($($(#[$doc:meta])* $act:ident = $name:literal;)+) => {
        $(
            $(#[$doc])*
            pub const $act: $crate::events::failpoint::Act =
                $crate::events::failpoint::Act::new(concat!($name, ".before"), concat!($name, ".after"));
        )+
        /// All of them.
        pub const ALL: &[$crate::events::failpoint::Act] = &[$($act),+];
    };
}

#[cfg(not(feature = "failpoints"))]
mod absent {
    use super::Act;

    impl Act {
        pub const fn new(_before: &'static str, _after: &'static str) -> Self {
            Self {}
        }
    }

    /// The work, and nothing else.
    pub fn around<T, E, F: Future<Output = Result<T, E>>>(_act: Act, work: F) -> F {
        work
    }

    /// The work, and nothing else.
    ///
    /// # Errors
    /// The work's.
    pub fn within<T, E>(_act: Act, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        work()
    }

    /// Refuses: there is nothing to arm.
    ///
    /// # Errors
    /// Always.
    pub fn arm(_point: &str, _die: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
        Err("this program was built without failpoints".to_owned())
    }
}
#[cfg(not(feature = "failpoints"))]
pub use absent::{arm, around, within};

#[cfg(feature = "failpoints")]
mod present {
    use super::Act;

    impl Act {
        pub const fn new(before: &'static str, after: &'static str) -> Self {
            Self { points: [before, after] }
        }

        /// The names of its failpoints, in the order in which they are passed.
        pub const fn points(self) -> [&'static str; 2] {
            self.points
        }
    }

    /// Does the work between the act's failpoints. The second one is passed only if the work is done.
    ///
    /// # Errors
    /// The work's.
    pub async fn around<T, E>(act: Act, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let [before, after] = act.points;
        fail::fail_point!(before);
        let done = work.await?;
        fail::fail_point!(after);
        Ok(done)
    }

    /// [`around`] what awaits nothing.
    ///
    /// # Errors
    /// The work's.
    pub fn within<T, E>(act: Act, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let [before, after] = act.points;
        fail::fail_point!(before);
        let done = work()?;
        fail::fail_point!(after);
        Ok(done)
    }

    /// Has `die` called by whoever passes this failpoint.
    ///
    /// # Errors
    /// None here.
    pub fn arm(point: &str, die: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
        fail::cfg_callback(point, die)
    }
}
#[cfg(feature = "failpoints")]
pub use present::{arm, around, within};
