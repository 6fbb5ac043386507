//! Poison, transient and fatal faults, classified in one exhaustive match.
//!
//! - *Poison* is caused by the input: it fails however often it is tried. The record becomes a dead letter.
//! - *Transient* faults are caused by the environment (database, broker, a concurrent transaction): the same work is
//!   retried, and nothing moves until it succeeds.
//! - *Fatal* faults are bugs or a broken installation: the process stops and says why.

use thiserror::Error;
use tracing::{error, warn};

use crate::http::problem::Problem;

/// Why a unit of work did not commit.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("poison: {0}")]
    Poison(String),
    #[error("transient: {0}")]
    Transient(String),
    /// Transient too, but the work may have been too much for one transaction.
    #[error("timeout: {0}")]
    Timeout(String),
    /// The loaded state is stale: another process moved the consumer's position or inserted the same id, or an
    /// earlier commit of this process succeeded although its answer was lost. Load again.
    #[error("what was loaded has changed since")]
    Fenced,
    #[error("fatal: {0}")]
    Fatal(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(database) => match database.code() {
                Some(code) => from_sqlstate(&code, &error),
                None => Self::Fatal(error.to_string()),
            },
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::WorkerCrashed => Self::Transient(error.to_string()),
            // A connection cut in the middle of a message reads as a violation of the protocol.
            E::Protocol(_) => Self::Transient(error.to_string()),
            // PoolClosed: the process stops in the middle of work. The rest: a statement doesn't match its table.
            _ => Self::Fatal(error.to_string()),
        }
    }
}

/// The HTTP answer to a fault. This is the only place that logs it.
impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transient(_) | Fault::Timeout(_) | Fault::Fenced => {
                warn!(%fault, "the database is unavailable");
                Self::unavailable("the database can't be reached now; repeat the call")
            }
            fault => {
                error!(%fault, "a request failed");
                Self::internal()
            }
        }
    }
}

fn from_sqlstate(code: &str, error: &sqlx::Error) -> Fault {
    match (code.get(..2).unwrap_or(code), code) {
        // 54: the input exceeds a limit of the server, such as a row that is too large for its index.
        ("22" | "23" | "54", _) => Fault::Poison(error.to_string()),
        (_, "57014") => Fault::Timeout(error.to_string()),
        ("08" | "40" | "53" | "55" | "57", _) => Fault::Transient(error.to_string()),
        // 25P03: a transaction idled too long because this process was frozen. 25006: the server is read-only because
        // it was just demoted. 0A000: a statement was prepared before another replica's migration.
        (_, "25P03" | "25006" | "0A000") => Fault::Transient(error.to_string()),
        _ => Fault::Fatal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_classified() {
        let error = || sqlx::Error::RowNotFound;
        for poison in ["22003", "22021", "23505", "23514", "54000"] {
            assert!(matches!(from_sqlstate(poison, &error()), Fault::Poison(_)), "{poison}");
        }
        for transient in ["08006", "40001", "40P01", "53300", "55P03", "57P01", "25P03", "25006", "0A000"] {
            assert!(matches!(from_sqlstate(transient, &error()), Fault::Transient(_)), "{transient}");
        }
        for fatal in ["25P02", "28P01", "42P01", "42601", "XX000", "3D000"] {
            assert!(matches!(from_sqlstate(fatal, &error()), Fault::Fatal(_)), "{fatal}");
        }
    }
}
