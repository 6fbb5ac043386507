//! The catalogue's rows: what movies are found by, and pages of them.

use service_kit::messaging::database::Transaction;
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::{Fault, Step};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Row};

use super::{movie, movie_columns, select_movie};
use crate::failpoints;
use crate::movie::Movie;
use crate::search::{Condition, Listing, Place, Query, Sort, Text};

/// Movies whose texts are made up for in one transaction: sales of them wait for it.
const FILLED_AT_ONCE: i64 = 100;

/// Writes what the movies are found by. They must be locked or new, so that nobody else writes the same rows.
///
/// # Errors
/// The database's.
pub(super) async fn describe(connection: &mut PgConnection, movies: &[Movie]) -> Result<(), sqlx::Error> {
    if movies.is_empty() {
        return Ok(());
    }
    let (mut names, mut words) = (Vec::new(), Vec::new());
    for movie in movies {
        let text = Text::new(&movie.name, &movie.description);
        names.push(text.name);
        words.push(text.words.join(" "));
    }
    let described = sqlx::query(
        "insert into movie_text (seq, edition, name, words)
         select movie.seq, row.edition, row.name, array_to_tsvector(string_to_array(row.words, ' '))
         from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) as row (id, edition, name, words)
         join movie on movie.id = row.id
         order by row.id
         on conflict on constraint movie_text_pkey do update
         set edition = excluded.edition, name = excluded.name, words = excluded.words",
    )
    .bind(movies.iter().map(|movie| movie.id.0).collect::<Vec<_>>())
    .bind(movies.iter().map(|movie| movie.edition).collect::<Vec<_>>())
    .bind(names)
    .bind(words)
    .execute(connection);
    failpoint(failpoints::DESCRIBE, described).await?;
    Ok(())
}

/// Describes a batch of the movies that a service published or edited which does not know of this table; those that
/// are being sold just now, or described by another replica, are left out.
///
/// # Errors
/// The database's.
pub async fn fill(pool: &PgPool) -> Result<Step, Fault> {
    let mut transaction = Transaction::begin(pool).await?;
    let rows = sqlx::query(select_movie!(
        "where not exists (
             select from movie_text where movie_text.seq = movie.seq and movie_text.edition = movie.edition
         )
         order by id limit $1 for update skip locked"
    ))
    .bind(FILLED_AT_ONCE)
    .fetch_all(&mut *transaction)
    .await?;
    let movies = rows.iter().map(movie).collect::<Result<Vec<_>, _>>()?;
    describe(&mut transaction, &movies).await?;
    failpoint(failpoints::COMMIT_FILLED, transaction.commit()).await?;
    Ok(if movies.is_empty() { Step::Idle } else { Step::Done })
}

/// The movies that follow `after`, with their places.
///
/// # Errors
/// The database's.
pub async fn list(
    connection: &mut PgConnection,
    listing: &Listing,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<(Place, Movie)>, sqlx::Error> {
    let Some(mut sql) = statement(listing, after, limit) else { return Ok(Vec::new()) };
    // Not kept: there are as many statements as there are forms of a query, and each is planned for its words.
    let rows = sql.build().persistent(false).fetch_all(connection).await?;
    let place = |row: &PgRow| {
        let seq = row.try_get("seq")?;
        Ok::<_, sqlx::Error>(match listing.sort {
            Sort::Newest => Place::Newest(seq),
            Sort::Name => Place::Name(row.try_get("text_name")?, seq),
            Sort::Qty => Place::Qty(row.try_get("qty")?, seq),
            Sort::Relevance => Place::Relevance(row.try_get("relevance")?, seq),
        })
    };
    rows.iter().map(|row| Ok((place(row)?, movie(row)?))).collect()
}

/// What is asked of the database for a page; `None` where nothing can be found.
pub fn statement(listing: &Listing, after: Option<&Place>, limit: i64) -> Option<QueryBuilder<Postgres>> {
    let Listing { query, min_qty, sort } = listing;
    let mut sql = QueryBuilder::new("");
    if let Some(query) = query {
        let conditions = query.conditions();
        if conditions.is_empty() {
            return None;
        }
        push_found(&mut sql, query, conditions, *sort);
    }
    sql.push(concat!("select ", movie_columns!()));
    let order = match sort {
        Sort::Newest => "seq desc",
        Sort::Name => "text_name, found.seq",
        Sort::Qty => "qty desc, seq desc",
        Sort::Relevance => "relevance desc, seq desc",
    };
    match sort {
        Sort::Newest | Sort::Qty => sql.push(" from movie"),
        Sort::Name => sql.push(", text_name from movie"),
        Sort::Relevance => sql.push(", relevance from movie"),
    };
    if query.is_some() {
        sql.push(" join found using (seq)");
    } else if *sort == Sort::Name {
        sql.push(" join (select seq, name as text_name from movie_text) as found using (seq)");
    }
    sql.push(" where qty >= ").push_bind(*min_qty);
    match after {
        None => {}
        Some(Place::Newest(seq)) => {
            sql.push(" and seq < ").push_bind(*seq);
        }
        Some(Place::Name(name, seq)) => {
            sql.push(" and (text_name, found.seq) > (").push_bind(name.clone());
            sql.push(", ").push_bind(*seq).push(")");
        }
        Some(Place::Qty(key, seq)) => {
            sql.push(" and (qty, seq) < (").push_bind(*key).push(", ").push_bind(*seq).push(")");
        }
        Some(Place::Relevance(key, seq)) => {
            sql.push(" and (relevance, seq) < (").push_bind(*key).push(", ").push_bind(*seq).push(")");
        }
    }
    sql.push(" order by ").push(order).push(" limit ").push_bind(limit);
    Some(sql)
}

/// Materialized: found by their indexes first, then sorted. Else the planner, who takes every word for a frequent
/// one, might walk all movies in the page's order and look at each.
fn push_found(sql: &mut QueryBuilder<Postgres>, query: &Query, conditions: Vec<Condition>, sort: Sort) {
    sql.push("with found as materialized (select seq, name as text_name");
    if sort == Sort::Relevance {
        // How well a part of the name fits; then how little else there is. An integer: it is compared for equality.
        let text = query.text();
        sql.push(", (1000000 * (strict_word_similarity(").push_bind(text.clone());
        sql.push(", name) + similarity(").push_bind(text).push(", name)))::bigint as relevance");
    }
    sql.push(" from movie_text where true");
    for condition in conditions {
        match condition {
            Condition::Words(words) => {
                sql.push(" and words @@ ").push_bind(words).push("::tsquery");
            }
            Condition::WordOrSimilar(words, word) => {
                sql.push(" and (words @@ ").push_bind(words).push("::tsquery or ").push_bind(word);
                sql.push(" <<% name)");
            }
        }
    }
    sql.push(") ");
}
