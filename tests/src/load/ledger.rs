//! The ledger of the accepted calls, and the invariant checks that compare the theater with it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use anyhow::{Context, ensure};
use serde_json::Value;
use uuid::Uuid;

/// Tickets of a movie.
pub(super) const STOCK: i64 = 150;

/// The accepted calls.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) movies: Vec<Uuid>,
    reservations: HashSet<Uuid>,
    pub(super) cancelled: HashSet<Uuid>,
    pub(super) last_reservation: Option<Uuid>,
}

/// Numbers of reservations by their outcome, and of tickets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcomes {
    pub(super) confirmed: usize,
    refused: usize,
    cancelled: usize,
    late: usize,
    sold: i64,
    left: i64,
    movies: usize,
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { confirmed, refused, cancelled, late, sold, left, movies } = self;
        let published = sold + left;
        write!(
            f,
            "{published} tickets of {movies} movies: {left} left, {sold} sold; {confirmed} reservations confirmed, \
             {refused} refused, {cancelled} cancelled, {late} too late"
        )
    }
}

impl Ledger {
    pub(super) fn add_reservation(&mut self, reservation: Uuid) {
        self.reservations.insert(reservation);
        self.last_reservation = Some(reservation);
    }

    /// Compares the ledger with the reservations, the ids in the reservation list and the tickets left of each movie.
    ///
    /// # Errors
    /// If a reservation is pending or lost, or the services disagree.
    pub(super) fn check(
        &self,
        rows: &[Value],
        listed: &HashSet<Uuid>,
        left: &HashMap<Uuid, i64>,
    ) -> anyhow::Result<Outcomes> {
        let mut outcomes = Outcomes { movies: left.len(), left: left.values().sum(), ..Outcomes::default() };
        let (mut sold, mut confirmed, mut found) = (HashMap::new(), HashSet::new(), HashSet::new());
        for row in rows {
            let (reservation, movie) = (parse_id(&row["id"])?, parse_id(&row["movieId"])?);
            found.insert(reservation);
            let cancelled = self.cancelled.contains(&reservation);
            match (row["reserveStatus"].as_str(), row["cancelReason"].as_str()) {
                (Some("CONFIRMED"), None) if !cancelled => {
                    confirmed.insert(reservation);
                    *sold.entry(movie).or_insert(0) += row["count"].as_i64().context("count")?;
                    outcomes.confirmed += 1;
                }
                (Some("CANCELLED"), Some("CUSTOMER")) => outcomes.cancelled += 1,
                (Some("CANCELLED"), Some("OUT_OF_STOCK")) => outcomes.refused += 1,
                (Some("CANCELLED"), Some("DEADLINE")) => outcomes.late += 1,
                _ => anyhow::bail!("cancelled by its customer: {cancelled}; {row}"),
            }
        }
        for reservation in &self.reservations {
            ensure!(found.contains(reservation), "{reservation} was accepted, and is gone");
        }
        for (movie, left) in left {
            let sold = sold.get(movie).copied().unwrap_or(0);
            ensure!(
                left + sold == STOCK,
                "{STOCK} tickets of {movie} were published: {left} left, {sold} sold"
            );
            outcomes.sold += sold;
        }
        ensure!(*listed == confirmed, "{} confirmed, {} listed", confirmed.len(), listed.len());
        Ok(outcomes)
    }
}

pub(super) fn parse_id(value: &Value) -> anyhow::Result<Uuid> {
    Ok(value.as_str().context("no id")?.parse()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One reservation confirmed, one cancelled by its customer, one refused; 147 tickets left of 150.
    fn consistent_state() -> (Ledger, Vec<Value>, HashSet<Uuid>, HashMap<Uuid, i64>) {
        let (movie, sold, cancelled, refused) =
            (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let ledger = Ledger {
            movies: vec![movie],
            reservations: [sold, cancelled, refused].into(),
            cancelled: [cancelled].into(),
            last_reservation: None,
        };
        let row = |id: Uuid, status: &str, reason: Option<&str>| json!({"id": id, "movieId": movie, "count": 3, "reserveStatus": status, "cancelReason": reason});
        let rows = vec![
            row(sold, "CONFIRMED", None),
            row(cancelled, "CANCELLED", Some("CUSTOMER")),
            row(refused, "CANCELLED", Some("OUT_OF_STOCK")),
        ];
        (ledger, rows, [sold].into(), [(movie, 147)].into())
    }

    #[test]
    fn a_consistent_state_passes() {
        let (ledger, rows, listed, left) = consistent_state();
        let outcomes = ledger.check(&rows, &listed, &left).unwrap();
        let Outcomes { confirmed, refused, cancelled, late, sold, left, movies } = outcomes;
        assert_eq!((confirmed, refused, cancelled, late, sold, left, movies), (1, 1, 1, 0, 3, 147, 1));
    }

    #[test]
    fn every_difference_is_an_error() {
        let error = |change: fn(&mut Vec<Value>, &mut HashSet<Uuid>, &mut HashMap<Uuid, i64>)| {
            let (ledger, mut rows, mut listed, mut left) = consistent_state();
            change(&mut rows, &mut listed, &mut left);
            ledger.check(&rows, &listed, &left).unwrap_err().to_string()
        };
        assert!(error(|rows, _, _| rows.truncate(2)).contains("is gone"));
        assert!(error(|rows, _, _| rows[2]["reserveStatus"] = json!("PENDING")).contains("PENDING"));
        assert!(error(|rows, _, _| rows[1] = json!({"id": rows[1]["id"], "movieId": rows[1]["movieId"], "count": 3, "reserveStatus": "CONFIRMED"})).contains("true"));
        assert!(error(|_, listed, _| listed.clear()).contains("1 confirmed, 0 listed"));
        assert!(
            error(|_, _, left| left.values_mut().for_each(|left| *left += 1)).contains("148 left, 3 sold")
        );
    }
}
