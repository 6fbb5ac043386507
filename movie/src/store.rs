//! The SQL of movies, decisions and deliveries. Rows are always locked and written in the order of their ids, so that two
//! transactions can't wait for each other.
//!
//! [`catalogue`]: search and lists.

use std::collections::HashMap;

use service_kit::messaging::failpoint::failpoint;
use shared_events::{Count, DeliveryId, MovieId, ReservationId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::failpoints;
use crate::movie::{Command, Decision, Delivery, Input, Movie, Outcome, State, Writes};

pub mod catalogue;

/// Lists the columns by name: a column that a newer replica's migration adds must not change what a prepared statement of
/// this replica returns.
macro_rules! movie_columns {
    () => {
        "seq, id, name, description, published_name, published_description, published, added, allocated, qty, \
         version, edition"
    };
}
macro_rules! select_movie {
    ($rest:literal) => {
        concat!("select ", $crate::store::movie_columns!(), " from movie ", $rest)
    };
}
use {movie_columns, select_movie};

/// Loads the movies of the inputs and locks them; then loads the decisions and deliveries, which the movies' locks
/// protect: every transaction that writes them locks their movie first.
///
/// # Errors
/// If the database fails.
pub async fn load(connection: &mut PgConnection, inputs: &[Input]) -> Result<State, sqlx::Error> {
    let mut movies: Vec<Uuid> = inputs.iter().map(|input| input.command.movie_id().0).collect();
    movies.sort_unstable();
    movies.dedup();
    let rows = sqlx::query(select_movie!("where id = any ($1) order by id for update"))
        .bind(&movies)
        .fetch_all(&mut *connection)
        .await?;
    let movies = rows
        .iter()
        .map(|row| movie_from_row(row).map(|movie| (movie.id, movie)))
        .collect::<Result<_, _>>()?;
    Ok(State {
        movies,
        decisions: load_decisions(connection, inputs).await?,
        deliveries: load_deliveries(connection, inputs).await?,
    })
}

async fn load_decisions(
    connection: &mut PgConnection,
    inputs: &[Input],
) -> Result<HashMap<ReservationId, Decision>, sqlx::Error> {
    let reservations: Vec<Uuid> = inputs
        .iter()
        .filter_map(|input| match &input.command {
            Command::Allocate { reservation_id, .. } | Command::Release { reservation_id, .. } => {
                Some(reservation_id.0)
            }
            Command::Publish { .. } | Command::Edit { .. } | Command::Deliver { .. } => None,
        })
        .collect();
    if reservations.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "select reservation_id, movie_id, outcome, count from decision where reservation_id = any ($1)",
    )
    .bind(&reservations)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let decision = Decision {
                movie_id: MovieId(row.try_get("movie_id")?),
                outcome: outcome_from_text(row.try_get("outcome")?)?,
                count: count(row)?,
            };
            Ok((ReservationId(row.try_get("reservation_id")?), decision))
        })
        .collect()
}

async fn load_deliveries(
    connection: &mut PgConnection,
    inputs: &[Input],
) -> Result<HashMap<DeliveryId, Delivery>, sqlx::Error> {
    let ids: Vec<Uuid> = inputs
        .iter()
        .filter_map(|input| match &input.command {
            Command::Deliver { delivery_id, .. } => Some(delivery_id.0),
            _ => None,
        })
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query("select id, movie_id, count from delivery where id = any ($1)")
        .bind(&ids)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let delivery = Delivery { movie_id: MovieId(row.try_get("movie_id")?), count: count(row)? };
            Ok((DeliveryId(row.try_get("id")?), delivery))
        })
        .collect()
}

/// Writes the rows that a fold has created or changed.
///
/// # Errors
/// If the database fails; also if a movie or delivery was inserted since `load`, which violates its primary key.
pub async fn save(connection: &mut PgConnection, writes: &Writes) -> Result<(), sqlx::Error> {
    for movie in &writes.new_movies {
        failpoint(failpoints::INSERT, insert_movie(connection, movie)).await?;
    }
    if !writes.changed_movies.is_empty() {
        failpoint(failpoints::UPDATE, update_movies(connection, &writes.changed_movies)).await?;
    }
    if !writes.edited_movies.is_empty() {
        failpoint(failpoints::EDIT, edit_movies(connection, &writes.edited_movies)).await?;
    }
    catalogue::save_search_texts(connection, &writes.new_movies).await?;
    catalogue::save_search_texts(connection, &writes.edited_movies).await?;
    if !writes.new_decisions.is_empty() {
        failpoint(failpoints::INSERT_DECISION, insert_decisions(connection, &writes.new_decisions)).await?;
    }
    if !writes.released.is_empty() {
        let ids: Vec<Uuid> = writes.released.iter().map(|id| id.0).collect();
        let released =
            sqlx::query("update decision set outcome = 'RELEASED' where reservation_id = any ($1)")
                .bind(ids)
                .execute(&mut *connection);
        failpoint(failpoints::RELEASE, released).await?;
    }
    for (id, delivery) in &writes.new_deliveries {
        let delivered = sqlx::query("insert into delivery (id, movie_id, count) values ($1, $2, $3)")
            .bind(id.0)
            .bind(delivery.movie_id.0)
            .bind(delivery.count.get())
            .execute(&mut *connection);
        failpoint(failpoints::INSERT_DELIVERY, delivered).await?;
    }
    Ok(())
}

async fn insert_movie(connection: &mut PgConnection, movie: &Movie) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into movie (id, name, description, published_name, published_description, published, added,
                            allocated, qty, version, edition)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(movie.id.0)
    .bind(&movie.name)
    .bind(&movie.description)
    .bind(&movie.published_name)
    .bind(&movie.published_description)
    .bind(movie.published)
    .bind(movie.added)
    .bind(movie.allocated)
    .bind(movie.qty)
    .bind(movie.version)
    .bind(movie.edition)
    .execute(connection)
    .await?;
    Ok(())
}

/// Updates the columns that sales and deliveries change, the stock included.
async fn update_movies(connection: &mut PgConnection, movies: &[Movie]) -> Result<(), sqlx::Error> {
    let numbers = |field: fn(&Movie) -> i64| movies.iter().map(field).collect::<Vec<_>>();
    sqlx::query(
        "update movie
         set added = row.added, allocated = row.allocated, qty = row.qty, version = row.version
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
             as row (id, added, allocated, qty, version)
         where movie.id = row.id",
    )
    .bind(movies.iter().map(|movie| movie.id.0).collect::<Vec<_>>())
    .bind(numbers(|movie| movie.added))
    .bind(numbers(|movie| movie.allocated))
    .bind(numbers(|movie| movie.qty))
    .bind(numbers(|movie| movie.version))
    .execute(connection)
    .await?;
    Ok(())
}

/// Updates the columns that the vendor edits. Not part of `update_movies`, which would store a long description again with every
/// batch of sales.
async fn edit_movies(connection: &mut PgConnection, movies: &[Movie]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update movie set name = row.name, description = row.description, edition = row.edition
         from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) as row (id, name, description, edition)
         where movie.id = row.id",
    )
    .bind(movies.iter().map(|movie| movie.id.0).collect::<Vec<_>>())
    .bind(movies.iter().map(|movie| movie.name.as_str()).collect::<Vec<_>>())
    .bind(movies.iter().map(|movie| movie.description.as_str()).collect::<Vec<_>>())
    .bind(movies.iter().map(|movie| movie.edition).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_decisions(
    connection: &mut PgConnection,
    decisions: &[(ReservationId, Decision)],
) -> Result<(), sqlx::Error> {
    // `decisions` is sorted by id.
    sqlx::query(
        "insert into decision (reservation_id, movie_id, outcome, count)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])",
    )
    .bind(decisions.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
    .bind(decisions.iter().map(|(_, decision)| decision.movie_id.0).collect::<Vec<_>>())
    .bind(decisions.iter().map(|(_, decision)| outcome_text(decision.outcome)).collect::<Vec<_>>())
    .bind(decisions.iter().map(|(_, decision)| decision.count.get()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The present state of one movie, without a lock.
///
/// # Errors
/// If the database fails.
pub async fn find(connection: &mut PgConnection, id: MovieId) -> Result<Option<Movie>, sqlx::Error> {
    let row = sqlx::query(select_movie!("where id = $1")).bind(id.0).fetch_optional(connection).await?;
    row.as_ref().map(movie_from_row).transpose()
}

fn movie_from_row(row: &PgRow) -> Result<Movie, sqlx::Error> {
    Ok(Movie {
        id: MovieId(row.try_get("id")?),
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        published_name: row.try_get("published_name")?,
        published_description: row.try_get("published_description")?,
        published: row.try_get("published")?,
        added: row.try_get("added")?,
        allocated: row.try_get("allocated")?,
        qty: row.try_get("qty")?,
        version: row.try_get("version")?,
        edition: row.try_get("edition")?,
    })
}

fn count(row: &PgRow) -> Result<Count, sqlx::Error> {
    Count::new(row.try_get("count")?).ok_or_else(|| sqlx::Error::Decode("a count below 1".into()))
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allocated => "ALLOCATED",
        Outcome::Rejected => "REJECTED",
        Outcome::Released => "RELEASED",
        Outcome::Void => "VOID",
    }
}

fn outcome_from_text(text: &str) -> Result<Outcome, sqlx::Error> {
    [Outcome::Allocated, Outcome::Rejected, Outcome::Released, Outcome::Void]
        .into_iter()
        .find(|outcome| outcome_text(*outcome) == text)
        .ok_or_else(|| sqlx::Error::Decode(format!("an unknown outcome: {text}").into()))
}
