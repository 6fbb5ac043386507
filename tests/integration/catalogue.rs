//! The catalogue of movies: full-text search, filters, order, and the indexes that they need.

use std::time::Duration;

use anyhow::{Context, ensure};
use movie::search::{ListQuery, SIMILARITY_THRESHOLD, Sort, TextQuery};
use movie::store::catalogue;
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Execute, PgConnection, Row};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(20);

/// Within this time the search texts of twenty thousand movies are written.
const BACKFILL_TIMEOUT: Duration = Duration::from_secs(120);

/// Names, tickets left, and descriptions.
const MOVIES: [(&str, i64, &str); 12] = [
    ("LALALand", 100, "A pianist and an actress fall in love in Los Angeles"),
    ("Amélie", 7, "Une serveuse à Montmartre"),
    ("Die Straße", 0, "Zampanò und Gelsomina; über die Landstraße"),
    ("Спутник", 3, "Космонавт возвращается не один"),
    ("天空の城ラピュタ", 12, "Laputa: Castle in the Sky"),
    ("Spider-Man", 50, "With great power…"),
    ("2001: A Space Odyssey", 50, "HAL 9000 & Dave"),
    ("M - Eine Stadt sucht einen Mörder", 1, ""),
    ("???", 0, "a film without a name that is a word"),
    ("amelie", 8, "another one of that name"),
    ("The Odd Couple", 1_000_000, "'quoted' \\ :* | ! ( ) <-> \"text\""),
    ("Ødipus Æther", 2, "e\u{301}tude"),
];

/// Search texts, and the names of the movies found, the newest first.
const SEARCHES: [(&str, &[&str]); 40] = [
    // The beginning of a word in the name or the description, in upper or lower case.
    ("lala", &["LALALand"]),
    ("LALALAND", &["LALALand"]),
    ("pian", &["LALALand"]),
    ("montmartre", &["Amélie"]),
    ("martre", &[]),
    ("9000", &["2001: A Space Odyssey"]),
    // Accents are ignored in text and query, composed or decomposed.
    ("amelie", &["amelie", "Amélie"]),
    ("AMÉLIE", &["amelie", "Amélie"]),
    ("ame\u{301}lie", &["amelie", "Amélie"]),
    ("Étude", &["Ødipus Æther"]),
    ("strasse", &["Die Straße"]),
    ("STRAẞE", &["Die Straße"]),
    ("uber", &["Die Straße"]),
    ("Zampano", &["Die Straße"]),
    ("mörder", &["M - Eine Stadt sucht einen Mörder"]),
    ("odipus aether", &["Ødipus Æther"]),
    // Other scripts, also transliterated.
    ("Спутник", &["Спутник"]),
    ("СПУТ", &["Спутник"]),
    ("sputnik", &["Спутник"]),
    ("天空", &["天空の城ラピュタ"]),
    // Typing errors are tolerated in names only.
    ("lalland", &["LALALand"]),
    ("lalaladn", &["LALALand"]),
    ("amlie", &["amelie", "Amélie"]),
    ("spiderman", &["Spider-Man"]),
    ("oddysey", &["2001: A Space Odyssey"]),
    ("montmarte", &[]),
    // Every word must occur, in any order; a repeated word counts once.
    ("space 2001", &["2001: A Space Odyssey"]),
    ("space space odyssey", &["2001: A Space Odyssey"]),
    ("space montmartre", &[]),
    ("love lalland", &["LALALand"]),
    ("a", &["Ødipus Æther", "amelie", "???", "2001: A Space Odyssey", "Amélie", "LALALand"]),
    // Text without words finds nothing, and there are no operators.
    ("?!… —", &[]),
    ("???", &[]),
    (" ", &[]),
    ("'", &[]),
    ("lala:*", &["LALALand"]),
    ("!lala | amelie", &[]),
    ("'quoted' \\ :* & ! (", &["The Odd Couple"]),
    ("%", &[]),
    ("love) or true --", &[]),
];

pub(crate) async fn movies_are_found_by_text(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    publish_all(api).await?;
    let mut wrong = Vec::new();
    for (text, names) in SEARCHES {
        let found = search(api, &[("q", text)]).await?;
        if found != names {
            wrong.push(format!("{text:?} finds {found:?}, not {names:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    // After an edit only the new texts are found.
    let id = api.publish(1).await?;
    let path = format!("/movies/{id}");
    let edited = json!({"movieName": "Whiplash", "description": "drums"});
    Call::patch(&path, &edited, 200).send_header("if-match", "*").play(api).await?;
    for (text, names) in
        [("whiplash", vec!["Whiplash"]), ("drum", vec!["Whiplash"]), ("lala", vec!["LALALand"])]
    {
        let found = search(api, &[("q", text)]).await?;
        ensure!(found == names, "{text}: {found:?}");
    }
    theater.stop().await
}

/// Names and values of query parameters.
type Parameters<'a> = &'a [(&'a str, &'a str)];

pub(crate) async fn movies_are_sorted_and_filtered(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    publish_all(api).await?;
    let names_of = |indices: &[usize]| indices.iter().map(|index| MOVIES[*index].0).collect::<Vec<_>>();
    let cases: [(Parameters<'_>, Vec<&str>); 13] = [
        (&[], names_of(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "newest")], names_of(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "relevance")], names_of(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "name")], names_of(&[8, 6, 1, 9, 2, 0, 7, 11, 5, 3, 10, 4])),
        (&[("sort", "qty")], names_of(&[10, 0, 6, 5, 4, 9, 1, 3, 11, 7, 8, 2])),
        (&[("minQty", "50")], names_of(&[10, 6, 5, 0])),
        (&[("minQty", "51"), ("sort", "name")], names_of(&[0, 10])),
        (&[("minQty", "1000000")], names_of(&[10])),
        (&[("minQty", "0"), ("sort", "qty"), ("q", "amelie")], names_of(&[9, 1])),
        (&[("minQty", "8"), ("q", "amelie")], names_of(&[9])),
        (&[("sort", "name"), ("q", "land")], names_of(&[2, 0])),
        (&[("sort", "relevance"), ("q", "land")], names_of(&[0, 2])),
        (&[("sort", "relevance"), ("q", "the")], names_of(&[10, 4])),
    ];
    for (parameters, names) in cases {
        let found = search(api, parameters).await?;
        ensure!(found == names, "{parameters:?}: {found:?}, not {names:?}");
    }
    play(api, refused_queries(api).await?).await?;
    theater.stop().await
}

/// Invalid queries, and cursors of other queries.
async fn refused_queries(api: &Api) -> anyhow::Result<Vec<Call>> {
    let choices = "must be newest, name, qty or relevance";
    let long = "%F0%9F%8E%AC".repeat(201);
    let mut calls = vec![
        Call::get("/movies?q=", 422).expect_error("/q", "must have between 1 and 200 characters"),
        Call::get(format!("/movies?q={long}"), 422)
            .expect_error("/q", "must have between 1 and 200 characters"),
        Call::get("/movies?q=a%00b", 400).expect_error("/q", "must not contain NUL"),
        Call::get("/movies?minQty=-1", 422).expect_error("/minQty", "must be between 0 and 1000000"),
        Call::get("/movies?minQty=1000001", 422).expect_error("/minQty", "must be between 0 and 1000000"),
        Call::get("/movies?minQty=few", 400).expect_error("/minQty", "expected a whole number"),
        Call::get("/movies?sort=", 400).expect_error("/sort", choices),
        Call::get("/movies?sort=Name", 400).expect_error("/sort", choices),
        Call::get("/movies?sort=relevance,name", 400).expect_error("/sort", choices),
        Call::get("/movies?minqty=1", 400).expect_error("/minqty", "q, minQty, sort, cursor, limit"),
    ];
    let queries =
        ["", "sort=name", "sort=qty", "minQty=1", "q=a", "q=a&sort=relevance", "q=a&sort=qty&minQty=1"];
    for from in queries {
        let page = Call::get(format!("/movies?limit=1&{from}"), 200).play(api).await?.json()?;
        let cursor = page["next"].as_str().context("no cursor")?;
        for to in queries {
            let target = format!("/movies?{to}&cursor={cursor}");
            calls.push(match from == to {
                true => Call::get(target, 200),
                false => Call::get(target, 400)
                    .expect_error("/cursor", "must be a cursor that this collection gave out"),
            });
        }
    }
    Ok(calls)
}

/// Texts of the maximal length, which exceed the limits of PostgreSQL's lexemes and index entries.
pub(crate) async fn the_longest_texts_are_accepted(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    // Distinct characters of up to four bytes. Further below: characters that fold into the longest words.
    let characters = |from: u32, count: usize| -> String {
        (from..).filter_map(char::from_u32).filter(|c| c.is_alphabetic()).take(count).collect()
    };
    let spaced = |text: &str| text.chars().flat_map(|c| [c, ' ']).take(4_000).collect::<String>();
    let emoji: String = ('\u{1f300}'..'\u{1f5ff}').cycle().take(4_000).collect();
    let names = [
        "x".repeat(200),
        characters(0x2_0000, 200),
        emoji.chars().take(200).collect(),
        "\u{fdfd}".repeat(200),
        spaced(&characters(0x1_0000, 100)),
    ];
    let descriptions = [
        "x".repeat(4_000),
        characters(0x2_0000, 4_000),
        characters(0x4e00, 4_000),
        spaced(&characters(0x2_0000, 2_000)),
        emoji,
        "\u{fdfd}".repeat(4_000),
        "\u{301}".repeat(4_000),
        (0..1_000).map(|n| format!("{n:03} ")).collect(),
        "'\\:*&|!()<->".chars().cycle().take(4_000).collect(),
    ];
    for (description, name) in descriptions.iter().zip(names.iter().cycle()) {
        let name: String = name.chars().take(200).collect();
        let body = json!({"movieName": name, "qty": 1, "description": description});
        let shown = Call::post("/movies", &body, 201).play(api).await?.json()?;
        ensure!(shown["movieName"] == *name && shown["description"] == *description);
        let path = format!("/movies/{}", shown["id"].as_str().context("id")?);
        for name in ["y", &name] {
            Call::patch(&path, &json!({"movieName": name}), 200)
                .send_header("if-match", "*")
                .play(api)
                .await?;
        }
    }
    let all = api.list_all("/movies?sort=name").await?.len();
    ensure!(all == descriptions.len(), "{all} movies are in the order of names");
    for text in names.iter().chain(&descriptions) {
        let q: String = text.chars().take(200).collect();
        for sort in ["newest", "relevance"] {
            search(api, &[("q", &q), ("sort", sort), ("limit", "1")]).await.with_context(|| q.clone())?;
        }
    }
    let found = search(api, &[("q", &"x".repeat(200))]).await?;
    ensure!(found.len() == 2, "words that are cut are not found: {found:?}");
    theater.stop().await
}

/// A sale updates only the movie's row (heap-only): no index and no search text is written.
pub(crate) async fn sales_write_no_search_text(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(1_000).await?;
    for _ in 0..20 {
        theater.api.reserve(movie, 1).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    // A session reports its statistics when it ends.
    theater.stop_service("movie").await?;
    let mut database = PgConnection::connect(theater.config.database_url("movie")).await?;
    eventually("sales are counted", SOON, async || {
        let row = sqlx::query(
            "select n_tup_upd, n_tup_hot_upd,
                    (select n_tup_ins + n_tup_upd from pg_stat_user_tables where relname = 'movie_text') as texts
             from pg_stat_user_tables where relname = 'movie'",
        )
        .fetch_one(&mut database)
        .await?;
        let (updates, hot, texts): (i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get("texts")?);
        ensure!(updates > 0 && hot == updates, "{hot} of {updates} updates are heap-only");
        ensure!(texts == 1, "{texts} texts were written");
        Ok(())
    })
    .await?;
    theater.stop().await
}

/// Movies written by a replica of a release without search texts are found soon, and through an index.
pub(crate) async fn missing_search_texts_are_backfilled_and_indexed(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let edited = theater.api.publish(1).await?;
    let mut database = PgConnection::connect(theater.config.database_url("movie")).await?;
    sqlx::query(
        "insert into movie (id, name, description, published_name, published_description, published, added,
                            allocated, qty, version, edition)
         select gen_random_uuid(), 'Épisode ' || n, 'x' || md5(n::text) || ' x' || md5(random()::text), '', '', 1,
                0, 0, 1, 1, 1
         from generate_series(1, 20000) as n",
    )
    .execute(&mut database)
    .await?;
    sqlx::query("update movie set name = 'Whiplash', edition = 2 where id = $1")
        .bind(edited)
        .execute(&mut database)
        .await?;
    let api = &theater.api;
    for (text, names) in [
        ("episode 777", vec!["Épisode 7779", "Épisode 7778", "Épisode 7777"]),
        ("epizode 12345", vec!["Épisode 12345"]),
        ("whiplash", vec!["Whiplash"]),
        ("lalaland", vec![]),
    ] {
        eventually(text, BACKFILL_TIMEOUT, async || {
            let found = search(api, &[("q", text), ("limit", "3")]).await?;
            ensure!(found == names, "{text}: {found:?}");
            Ok(())
        })
        .await?;
    }

    sqlx::raw_sql("analyze").execute(&mut database).await?;
    let (name, value) = SIMILARITY_THRESHOLD;
    sqlx::query("select set_config($1, $2, false)").bind(name).bind(value).execute(&mut database).await?;
    for text in ["whiplash", "whplash", "ab 12345", "epizode 12345", "counterrevolution"] {
        for sort in Sort::ALL {
            let plan = plan(&mut database, Some(text), sort).await?;
            ensure!(plan.contains("Bitmap Index Scan on movie_text_"), "{text} by {sort:?}:\n{plan}");
            ensure!(!plan.contains("Seq Scan on movie_text"), "{text} by {sort:?}:\n{plan}");
        }
    }
    for sort in [Sort::Newest, Sort::Name] {
        let plan = plan(&mut database, None, sort).await?;
        ensure!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{sort:?}:\n{plan}");
    }
    theater.stop().await
}

/// The execution plan of the service's query.
async fn plan(database: &mut PgConnection, q: Option<&str>, sort: Sort) -> anyhow::Result<String> {
    let query = ListQuery { text: q.map(TextQuery::new), min_qty: 0, sort };
    let mut statement = catalogue::statement(&query, None, 51).context("no statement")?;
    let mut query = statement.build();
    let arguments = query.take_arguments().map_err(anyhow::Error::from_boxed)?.context("no arguments")?;
    let explain = format!("explain {}", query.sql().as_str());
    let lines: Vec<String> =
        sqlx::query_scalar_with(AssertSqlSafe(explain), arguments).fetch_all(database).await?;
    Ok(lines.join("\n"))
}

async fn publish_all(api: &Api) -> anyhow::Result<()> {
    for (name, qty, description) in MOVIES {
        let body = json!({"id": Uuid::now_v7(), "movieName": name, "qty": qty, "description": description});
        Call::post("/movies", &body, 201).play(api).await?;
    }
    Ok(())
}

/// The names of the movies found, in order.
async fn search(api: &Api, parameters: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let answer = Api::send(api.request(Method::GET, "/movies").query(parameters)).await?;
    ensure!(answer.status == 200, "{parameters:?}: {}", answer.text);
    let page = answer.json()?;
    let items = page["items"].as_array().context("items")?;
    items.iter().map(|item| Ok(item["movieName"].as_str().context("movieName")?.to_owned())).collect()
}
