//! The SQL of the catalogue: the search texts of movies, and pages of movies.

use service_kit::messaging::database::Transaction;
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::{Fault, Step};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Row};

use super::{movie_columns, movie_from_row, select_movie};
use crate::failpoints;
use crate::movie::Movie;
use crate::search::{Condition, CursorPosition, ListQuery, SearchText, Sort, TextQuery};

/// The most movies that one transaction of the backfill locks: their sales wait for it.
const BACKFILL_BATCH_MAX: i64 = 100;

/// Saves the search texts of the movies. The movies must be locked or new, so that no other transaction writes the same
/// rows.
///
/// # Errors
/// If the database fails.
pub(super) async fn save_search_texts(
    connection: &mut PgConnection,
    movies: &[Movie],
) -> Result<(), sqlx::Error> {
    if movies.is_empty() {
        return Ok(());
    }
    let (mut names, mut words) = (Vec::new(), Vec::new());
    for movie in movies {
        let text = SearchText::new(&movie.name, &movie.description);
        names.push(text.name);
        words.push(text.words.join(" "));
    }
    let saved = sqlx::query(
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
    failpoint(failpoints::SAVE_SEARCH_TEXT, saved).await?;
    Ok(())
}

/// Saves the search texts of a batch of movies that a replica of an older release, which doesn't know this table, has
/// published or edited. Skips movies that another transaction has locked: a sale, or another replica's backfill.
///
/// # Errors
/// If the database fails.
pub async fn backfill_search_texts(pool: &PgPool) -> Result<Step, Fault> {
    let mut transaction = Transaction::begin(pool).await?;
    let rows = sqlx::query(select_movie!(
        "where not exists (
             select from movie_text where movie_text.seq = movie.seq and movie_text.edition = movie.edition
         )
         order by id limit $1 for update skip locked"
    ))
    .bind(BACKFILL_BATCH_MAX)
    .fetch_all(&mut *transaction)
    .await?;
    let movies = rows.iter().map(movie_from_row).collect::<Result<Vec<_>, _>>()?;
    save_search_texts(&mut transaction, &movies).await?;
    failpoint(failpoints::COMMIT_BACKFILL, transaction.commit()).await?;
    Ok(if movies.is_empty() { Step::Idle } else { Step::Done })
}

/// The movies that follow `after`, with their positions.
///
/// # Errors
/// If the database fails.
pub async fn list(
    connection: &mut PgConnection,
    query: &ListQuery,
    after: Option<&CursorPosition>,
    limit: i64,
) -> Result<Vec<(CursorPosition, Movie)>, sqlx::Error> {
    let Some(mut sql) = statement(query, after, limit) else { return Ok(Vec::new()) };
    // Not cached as a prepared statement: there is one for each form of a query, and each is planned for its words.
    let rows = sql.build().persistent(false).fetch_all(connection).await?;
    let position = |row: &PgRow| {
        let seq = row.try_get("seq")?;
        Ok::<_, sqlx::Error>(match query.sort {
            Sort::Newest => CursorPosition::Newest(seq),
            Sort::Name => CursorPosition::Name(row.try_get("text_name")?, seq),
            Sort::Qty => CursorPosition::Qty(row.try_get("qty")?, seq),
            Sort::Relevance => CursorPosition::Relevance(row.try_get("relevance")?, seq),
        })
    };
    rows.iter().map(|row| Ok((position(row)?, movie_from_row(row)?))).collect()
}

/// The statement for one page; `None` if the query can't match any movie.
pub fn statement(
    query: &ListQuery,
    after: Option<&CursorPosition>,
    limit: i64,
) -> Option<QueryBuilder<Postgres>> {
    let ListQuery { text, min_qty, sort } = query;
    let mut sql = QueryBuilder::new("");
    if let Some(text) = text {
        let conditions = text.conditions();
        if conditions.is_empty() {
            return None;
        }
        push_found(&mut sql, text, conditions, *sort);
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
    if text.is_some() {
        sql.push(" join found using (seq)");
    } else if *sort == Sort::Name {
        sql.push(" join (select seq, name as text_name from movie_text) as found using (seq)");
    }
    sql.push(" where qty >= ").push_bind(*min_qty);
    match after {
        None => {}
        Some(CursorPosition::Newest(seq)) => {
            sql.push(" and seq < ").push_bind(*seq);
        }
        Some(CursorPosition::Name(name, seq)) => {
            sql.push(" and (text_name, found.seq) > (").push_bind(name.clone());
            sql.push(", ").push_bind(*seq).push(")");
        }
        Some(CursorPosition::Qty(key, seq)) => {
            sql.push(" and (qty, seq) < (").push_bind(*key).push(", ").push_bind(*seq).push(")");
        }
        Some(CursorPosition::Relevance(key, seq)) => {
            sql.push(" and (relevance, seq) < (").push_bind(*key).push(", ").push_bind(*seq).push(")");
        }
    }
    sql.push(" order by ").push(order).push(" limit ").push_bind(limit);
    Some(sql)
}

/// Pushes the common table expression `found`: the movies that match. It is materialized, so they are found by the indexes
/// first, and then sorted. Otherwise the planner, which assumes that every word is frequent, might read all movies in the
/// page's order and test each.
fn push_found(sql: &mut QueryBuilder<Postgres>, query: &TextQuery, conditions: Vec<Condition>, sort: Sort) {
    sql.push("with found as materialized (select seq, name as text_name");
    if sort == Sort::Relevance {
        // How similar a part of the name is, then how similar the whole name is. An integer, because cursors compare it
        // for equality.
        let text = query.text();
        sql.push(", (1000000 * (strict_word_similarity(").push_bind(text.clone());
        sql.push(", name) + similarity(").push_bind(text).push(", name)))::bigint as relevance");
    }
    sql.push(" from movie_text where true");
    for condition in conditions {
        match condition {
            Condition::Prefixes(words) => {
                sql.push(" and words @@ ").push_bind(words).push("::tsquery");
            }
            Condition::PrefixOrSimilar(words, word) => {
                sql.push(" and (words @@ ").push_bind(words).push("::tsquery or ").push_bind(word);
                sql.push(" <<% name)");
            }
        }
    }
    sql.push(") ");
}
