//! Every call of the contract, through the gateway: its answers, their headers and exactly their fields.

mod movies;
mod reservations;

pub(crate) use movies::{movies_are_delivered_and_edited, movies_are_published_and_shown};
pub(crate) use reservations::{
    reservations_are_cancelled_and_told, reservations_are_placed_and_shown, rows_are_filtered,
};
