//! Exports a movie's reservations as a file for its vendor. A call accepts an export, a worker makes it in the
//! background, and the file stays until it expires.
//!
//! Exports are no part of the saga: no event reports them, and nothing is decided by them.
//!
//! - [`csv_format`]: reservations as CSV. Pure.
//! - [`folder`]: the files, in a folder that all replicas share.

pub mod csv_format;
pub mod folder;

use chrono::{DateTime, Utc};
use shared_events::MovieId;
use uuid::Uuid;

use folder::FileName;

/// The state of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Running,
    Ready,
    Failed,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Ready, Self::Failed];

    /// The name in responses and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A row of the table `export`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub id: Uuid,
    pub movie_id: MovieId,
    pub state: State,
    /// The number of attempts that were begun.
    pub attempt: i32,
    /// Reservations written so far.
    pub rows: i64,
    /// Why it failed.
    pub reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

impl Export {
    /// The file of the latest attempt.
    pub fn file_name(&self) -> FileName {
        FileName::new(self.id, self.attempt, self.expires_at)
    }
}
