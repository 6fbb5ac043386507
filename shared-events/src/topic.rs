//! Names of topics and consumer groups. They never change: a renamed group would read all records again.

/// The partitioner of every producer: Java clients choose the same partition for a key.
pub const PARTITIONER: &str = "murmur2_random";

/// The suffix of a dead-letter topic's name.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

/// A topic of the saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `theater.reservations`: published by reservation.
    Reservations,
    /// `theater.movies`: published by movie.
    Movies,
}

impl Topic {
    pub const ALL: [Self; 2] = [Self::Reservations, Self::Movies];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Reservations => "reservations",
            Self::Movies => "movies",
        }
    }
}

/// A service that consumes a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consumer {
    Reservation,
    Movie,
    Notification,
    ReservationList,
}

impl Consumer {
    pub const ALL: [Self; 4] = [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList];

    /// The topic that the service consumes.
    pub const fn topic(self) -> Topic {
        match self {
            Self::Reservation => Topic::Movies,
            Self::Movie | Self::Notification | Self::ReservationList => Topic::Reservations,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reservation => "reservation",
            Self::Movie => "movie",
            Self::Notification => "notification",
            Self::ReservationList => "reservation-list",
        }
    }
}

/// The names with one prefix: `theater.` by default. Tests use other prefixes to run in parallel.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.suffix())
    }

    /// The topic of the dead letters of a topic's consumers.
    pub fn dead_letters(&self, topic: Topic) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.name(topic))
    }

    pub fn group(&self, consumer: Consumer) -> String {
        format!("{}{}", self.prefix, consumer.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_change() {
        let topics = Topics::new("theater.");
        assert_eq!(topics.name(Topic::Reservations), "theater.reservations");
        assert_eq!(topics.name(Topic::Movies), "theater.movies");
        assert_eq!(topics.dead_letters(Topic::Movies), "theater.movies.dlq");
        assert_eq!(topics.group(Consumer::ReservationList), "theater.reservation-list");
        assert_eq!(topics.group(Consumer::Movie), "theater.movie");
    }
}
