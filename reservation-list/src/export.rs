//! A movie's reservations as a file for its vendor: asked for, made in the background, kept for a while.
//!
//! It is no part of the saga: no event tells of it, and nothing is decided by it.
//!
//! - [`table`]: reservations as CSV: pure.
//! - [`folder`]: the files, in a folder that all replicas share.
//! - [`maker`]: makes what is asked for, and clears what has expired.

pub mod folder;
pub mod maker;
pub mod table;

use chrono::{DateTime, Utc};
use shared_events::MovieId;
use uuid::Uuid;

use folder::Name;

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Running,
    Ready,
    Failed,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Ready, Self::Failed];

    /// As it stands in answers and in the table.
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

/// An export as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub id: Uuid,
    pub movie_id: MovieId,
    pub state: State,
    /// How often it was begun.
    pub attempt: i32,
    /// Reservations that are written so far.
    pub rows: i64,
    /// Why it failed.
    pub reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

impl Export {
    /// The file of the present attempt.
    pub fn name(&self) -> Name {
        Name::new(self.id, self.attempt, self.expires_at)
    }
}
