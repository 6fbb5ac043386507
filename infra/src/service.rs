//! The five services, and their names.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Reservation,
    Movie,
    Notification,
    ReservationList,
    Gateway,
}

impl Service {
    /// In the order in which they start: the gateway last.
    pub const ALL: [Self; 5] =
        [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList, Self::Gateway];
    /// The services with a database.
    pub const STATEFUL: [Self; 4] =
        [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Reservation => "reservation",
            Self::Movie => "movie",
            Self::Notification => "notification",
            Self::ReservationList => "reservation-list",
            Self::Gateway => "gateway",
        }
    }

    /// The name of its database; the gateway has none.
    pub fn database(self) -> String {
        self.name().replace('-', "_")
    }

    pub const fn default_port(self) -> u16 {
        match self {
            Self::Reservation => 8082,
            Self::Movie => 8083,
            Self::Notification => 8084,
            Self::ReservationList => 8085,
            Self::Gateway => 8088,
        }
    }
}
