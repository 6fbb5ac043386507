//! The calls that customers and vendors make while processes die. Every call is repeated until it is answered.
//!
//! - [`mixed`]: every kind of call at a fixed rate, recorded in a ledger.
//! - [`rush`]: 1 000 customers who want one ticket each of 500.

mod mixed;
mod rush;

pub(crate) use mixed::{MALFORMED, MixedLoad};
pub(crate) use rush::TicketRush;
