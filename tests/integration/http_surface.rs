//! Every call of the contract, through the gateway: its responses, with their headers and exactly their fields.

mod movies;
mod reservations;

pub(crate) use movies::{movies_are_published_and_shown, tickets_are_delivered_and_movies_edited};
pub(crate) use reservations::{
    collections_are_filtered, outcomes_are_listed_and_notified, reservations_are_placed_and_shown,
};
