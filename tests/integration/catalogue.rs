//! What is found in the catalogue, and in which order it is shown.

use std::time::Duration;

use anyhow::{Context, ensure};
use movie::search::{Listing, Query, SIMILAR, Sort};
use movie::store::catalogue;
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Execute, PgConnection, Row};
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};

const SOON: Duration = Duration::from_secs(20);

/// Twenty thousand movies are described within.
const MADE_UP_FOR: Duration = Duration::from_secs(120);

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

/// What is asked, and the names that are found, the newest first.
const SEARCHES: [(&str, &[&str]); 40] = [
    // A word's beginning, in the name or the description, in any case.
    ("lala", &["LALALand"]),
    ("LALALAND", &["LALALand"]),
    ("pian", &["LALALand"]),
    ("montmartre", &["Amélie"]),
    ("martre", &[]),
    ("9000", &["2001: A Space Odyssey"]),
    // Without accents, on both sides, however they are written.
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
    // In other scripts, and without them.
    ("Спутник", &["Спутник"]),
    ("СПУТ", &["Спутник"]),
    ("sputnik", &["Спутник"]),
    ("天空", &["天空の城ラピュタ"]),
    // With a typing error, in the name only.
    ("lalland", &["LALALand"]),
    ("lalaladn", &["LALALand"]),
    ("amlie", &["amelie", "Amélie"]),
    ("spiderman", &["Spider-Man"]),
    ("oddysey", &["2001: A Space Odyssey"]),
    ("montmarte", &[]),
    // Every word must be there, in whatever order; the same one twice is one.
    ("space 2001", &["2001: A Space Odyssey"]),
    ("space space odyssey", &["2001: A Space Odyssey"]),
    ("space montmartre", &[]),
    ("love lalland", &["LALALand"]),
    ("a", &["Ødipus Æther", "amelie", "???", "2001: A Space Odyssey", "Amélie", "LALALand"]),
    // What is not a word finds nothing, and what looks like an operator is none.
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

pub(crate) async fn movies_are_found(environment: &Environment) -> anyhow::Result<()> {
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

    // An edit counts at once, and what was is forgotten.
    let id = api.publish(1).await?;
    let path = format!("/movies/{id}");
    let edited = json!({"movieName": "Whiplash", "description": "drums"});
    Call::patch(&path, &edited, 200).with("if-match", "*").play(api).await?;
    for (text, names) in
        [("whiplash", vec!["Whiplash"]), ("drum", vec!["Whiplash"]), ("lala", vec!["LALALand"])]
    {
        let found = search(api, &[("q", text)]).await?;
        ensure!(found == names, "{text}: {found:?}");
    }
    theater.stop().await
}

/// A query's names and values.
type Parameters<'a> = &'a [(&'a str, &'a str)];

pub(crate) async fn movies_are_sorted_and_chosen(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    publish_all(api).await?;
    let named = |indices: &[usize]| indices.iter().map(|index| MOVIES[*index].0).collect::<Vec<_>>();
    let cases: [(Parameters<'_>, Vec<&str>); 13] = [
        (&[], named(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "newest")], named(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "relevance")], named(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        (&[("sort", "name")], named(&[8, 6, 1, 9, 2, 0, 7, 11, 5, 3, 10, 4])),
        (&[("sort", "qty")], named(&[10, 0, 6, 5, 4, 9, 1, 3, 11, 7, 8, 2])),
        (&[("minQty", "50")], named(&[10, 6, 5, 0])),
        (&[("minQty", "51"), ("sort", "name")], named(&[0, 10])),
        (&[("minQty", "1000000")], named(&[10])),
        (&[("minQty", "0"), ("sort", "qty"), ("q", "amelie")], named(&[9, 1])),
        (&[("minQty", "8"), ("q", "amelie")], named(&[9])),
        (&[("sort", "name"), ("q", "land")], named(&[2, 0])),
        (&[("sort", "relevance"), ("q", "land")], named(&[0, 2])),
        (&[("sort", "relevance"), ("q", "the")], named(&[10, 4])),
    ];
    for (parameters, names) in cases {
        let found = search(api, parameters).await?;
        ensure!(found == names, "{parameters:?}: {found:?}, not {names:?}");
    }
    play(api, refused(api).await?).await?;
    theater.stop().await
}

/// What is no listing, and cursors of other ones.
async fn refused(api: &Api) -> anyhow::Result<Vec<Call>> {
    let choices = "must be newest, name, qty or relevance";
    let long = "%F0%9F%8E%AC".repeat(201);
    let mut calls = vec![
        Call::get("/movies?q=", 422).names("/q", "must have between 1 and 200 characters"),
        Call::get(format!("/movies?q={long}"), 422).names("/q", "must have between 1 and 200 characters"),
        Call::get("/movies?q=a%00b", 400).names("/q", "must not contain NUL"),
        Call::get("/movies?minQty=-1", 422).names("/minQty", "must be between 0 and 1000000"),
        Call::get("/movies?minQty=1000001", 422).names("/minQty", "must be between 0 and 1000000"),
        Call::get("/movies?minQty=few", 400).names("/minQty", "expected a whole number"),
        Call::get("/movies?sort=", 400).names("/sort", choices),
        Call::get("/movies?sort=Name", 400).names("/sort", choices),
        Call::get("/movies?sort=relevance,name", 400).names("/sort", choices),
        Call::get("/movies?minqty=1", 400).names("/minqty", "q, minQty, sort, cursor, limit"),
    ];
    let ways =
        ["", "sort=name", "sort=qty", "minQty=1", "q=a", "q=a&sort=relevance", "q=a&sort=qty&minQty=1"];
    for from in ways {
        let page = Call::get(format!("/movies?limit=1&{from}"), 200).play(api).await?.json()?;
        let cursor = page["next"].as_str().context("no cursor")?;
        for to in ways {
            let target = format!("/movies?{to}&cursor={cursor}");
            calls.push(match from == to {
                true => Call::get(target, 200),
                false => {
                    Call::get(target, 400).names("/cursor", "must be a cursor that this collection gave out")
                }
            });
        }
    }
    Ok(calls)
}

/// Texts that are as long as they may be, and fit neither a lexeme nor an index entry as they are.
pub(crate) async fn the_longest_texts_are_taken(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    // Of four bytes each, all of them different; and those that become the longest words.
    let signs = |from: u32, count: usize| -> String {
        (from..).filter_map(char::from_u32).filter(|c| c.is_alphabetic()).take(count).collect()
    };
    let spaced = |text: &str| text.chars().flat_map(|c| [c, ' ']).take(4_000).collect::<String>();
    let emoji: String = ('\u{1f300}'..'\u{1f5ff}').cycle().take(4_000).collect();
    let names = [
        "x".repeat(200),
        signs(0x2_0000, 200),
        emoji.chars().take(200).collect(),
        "\u{fdfd}".repeat(200),
        spaced(&signs(0x1_0000, 100)),
    ];
    let descriptions = [
        "x".repeat(4_000),
        signs(0x2_0000, 4_000),
        signs(0x4e00, 4_000),
        spaced(&signs(0x2_0000, 2_000)),
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
            Call::patch(&path, &json!({"movieName": name}), 200).with("if-match", "*").play(api).await?;
        }
    }
    let all = api.all("/movies?sort=name").await?.len();
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

/// A sale writes the movie's row where it stands: no index and no text is written with it.
pub(crate) async fn sales_leave_the_texts_alone(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    let movie = theater.api.publish(1_000).await?;
    for _ in 0..20 {
        theater.api.reserve(movie, 1).await?;
    }
    checks::at_rest(&theater.stage, SOON).await?;
    // Sessions that end tell what they have counted.
    theater.stop_service("movie").await?;
    let mut database = PgConnection::connect(theater.stage.database_url("movie")).await?;
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

/// Movies of a replica that knows no texts are found soon, and by an index.
pub(crate) async fn texts_are_made_up_for_and_indexed(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let edited = theater.api.publish(1).await?;
    let mut database = PgConnection::connect(theater.stage.database_url("movie")).await?;
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
        eventually(text, MADE_UP_FOR, async || {
            let found = search(api, &[("q", text), ("limit", "3")]).await?;
            ensure!(found == names, "{text}: {found:?}");
            Ok(())
        })
        .await?;
    }

    sqlx::raw_sql("analyze").execute(&mut database).await?;
    let (name, value) = SIMILAR;
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

/// How the database does what the service asks.
async fn plan(database: &mut PgConnection, q: Option<&str>, sort: Sort) -> anyhow::Result<String> {
    let listing = Listing { query: q.map(Query::new), min_qty: 0, sort };
    let mut statement = catalogue::statement(&listing, None, 51).context("nothing is asked")?;
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

/// The names of what is found, in its order.
async fn search(api: &Api, parameters: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let answer = Api::send(api.request(Method::GET, "/movies").query(parameters)).await?;
    ensure!(answer.status == 200, "{parameters:?}: {}", answer.text);
    let page = answer.json()?;
    let items = page["items"].as_array().context("items")?;
    items.iter().map(|item| Ok(item["movieName"].as_str().context("movieName")?.to_owned())).collect()
}
