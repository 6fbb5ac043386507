//! `/reservationLists/exports`: a movie's reservations as a file, in a folder that replicas share or don't, whatever
//! becomes of who writes it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::api::{Answer, reservation};
use theater_tests::fleet::Fleet;
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};
use crate::holder::Holder;
use crate::look::metric;

const SOON: Duration = Duration::from_secs(40);

const EXPORTS: &str = "/reservationLists/exports";

/// Exports that may wait or be made at once.
const UNFINISHED_MAX: usize = 100;

/// What somebody may type: separators, quotes, ends of lines, formulas.
const EVIL_MOVIE: &str = "=HYPERLINK(\"http://x\", \"Two\")\r\nlines; and \u{1f6b2}";
const EVIL_USERS: [&str; 9] = [
    "7",
    "O\"Neill, Jane",
    "two\nlines",
    "\r\n",
    "=1+1",
    "-2",
    "'quoted'",
    "\t=1",
    "\u{ff1d}J\u{fc}rgen \u{1f600}",
];

fn setup(folder: &Path, more: &[&str]) -> Setup {
    let settings = std::iter::once(format!("--exports-dir={}", folder.display()))
        .chain(more.iter().map(|setting| (*setting).to_owned()));
    let settings = settings.map(|setting| ("reservation-list", setting)).collect();
    Setup { deadline_secs: 300, settings, ..Setup::default() }
}

/// The names of a folder's files.
fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

async fn ask(api: &Api, movie: Uuid) -> anyhow::Result<String> {
    let answer = Call::post(EXPORTS, &json!({"movieId": movie}), 202).play(api).await?;
    let shown = answer.json()?;
    ensure!(shown["status"] == "PENDING" && shown["rows"] == 0, "{shown}");
    let path = format!("{EXPORTS}/{}", shown["id"].as_str().context("id")?);
    ensure!(answer.header("location") == Some(&path), "{answer:?}");
    Ok(path)
}

async fn becomes(api: &Api, path: &str, status: &str) -> anyhow::Result<Value> {
    eventually("the export is concluded", SOON, async || {
        let shown = Call::get(path, 200).header("cache-control", "no-store").play(api).await?.json()?;
        ensure!(shown["status"] == status, "{shown}");
        Ok(shown)
    })
    .await
}

async fn file(api: &Api, path: &str) -> anyhow::Result<Answer> {
    Call::get(format!("{path}/file"), 200).play(api).await
}

/// The rows of a file as the list shows them, the newest first.
fn rows(file: &str) -> anyhow::Result<Vec<Value>> {
    let mut reader = csv::Reader::from_reader(file.as_bytes());
    let names = reader.headers()?.clone();
    let expected = ["reserveId", "reserveStatus", "userId", "movieId", "movieName", "count", "date"];
    ensure!(names.iter().eq(expected), "{names:?}");
    let mut rows = Vec::new();
    for record in reader.records() {
        let mut row = json!({});
        for (name, cell) in names.iter().zip(&record?) {
            ensure!(
                !cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}']),
                "a formula: {cell}"
            );
            row[name] = json!(cell.strip_prefix('\'').unwrap_or(cell));
        }
        row["count"] = json!(row["count"].as_str().context("count")?.parse::<i64>()?);
        // Left out in the list.
        if row["movieName"] == "" {
            row.as_object_mut().context("row")?.remove("movieName");
        }
        rows.push(row);
    }
    rows.reverse();
    Ok(rows)
}

pub(crate) async fn a_movies_reservations_are_exported(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = Setup { replicas: 2, ..setup(folder.path(), &[]) };
    let theater = Theater::start(environment, setup).await?;
    let api = &theater.api;
    let (movie, other, nowhere) = (Uuid::now_v7(), api.publish(10).await?, Uuid::now_v7());
    let evil = json!({"id": movie, "movieName": EVIL_MOVIE, "qty": 5});
    Call::post("/movies", &evil, 201).play(api).await?;
    let mut first = None;
    for (turn, user) in EVIL_USERS.iter().enumerate() {
        for movie in [movie, other, nowhere] {
            let mut body = reservation(Uuid::now_v7(), movie, 1 + i64::from(turn == 0));
            body["userId"] = json!(user);
            Call::post("/reservations", &body, 202).play(api).await?;
            first.get_or_insert(body["id"].as_str().context("id")?.to_owned());
        }
    }
    checks::at_rest(&theater.stage, SOON).await?;
    Call::delete(format!("/reservations/{}", first.context("first")?), 202).play(api).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let listed = api.all("/reservationLists?status=all").await?;
    let (_, ports) = theater.ports.iter().find(|(name, _)| *name == "reservation-list").context("list")?;
    let replicas = ports.iter().map(|port| Api::new(format!("http://127.0.0.1:{port}")));
    let replicas = replicas.collect::<anyhow::Result<Vec<_>>>()?;

    for (of, rows_of) in [(movie, 9), (other, 9), (nowhere, 9), (Uuid::now_v7(), 0)] {
        let path = ask(&replicas[0], of).await?;
        let shown = becomes(&replicas[1], &path, "READY").await?;
        ensure!(shown["rows"] == rows_of && shown["movieId"] == json!(of), "{shown}");
        let expected: Vec<_> = listed.iter().filter(|row| row["movieId"] == json!(of)).cloned().collect();
        // One of the two has not made it.
        for replica in &replicas {
            let answer = file(replica, &path).await?;
            ensure!(rows(&answer.text)? == expected, "{}, not {expected:?}", answer.text);
            is_a_download(&answer, of)?;
        }
    }
    let shown: Vec<_> = listed.iter().filter(|row| row["movieId"] == json!(movie)).collect();
    ensure!(shown.iter().any(|row| row["reserveStatus"] == "CANCELLED"), "{shown:?}");
    ensure!(shown.iter().any(|row| row["movieName"] == EVIL_MOVIE), "{shown:?}");
    let names = files(folder.path())?;
    ensure!(names.len() == 4 && names.iter().all(|name| name.ends_with(".csv")), "{names:?}");
    through_the_gateway(api, movie).await?;
    theater.stop().await
}

fn is_a_download(answer: &Answer, movie: Uuid) -> anyhow::Result<()> {
    let name = format!("attachment; filename=\"reservations-{movie}.csv\"");
    let length = answer.text.len().to_string();
    for (header, expected) in [
        ("content-type", "text/csv; charset=utf-8; header=present"),
        ("content-disposition", &name),
        ("content-length", &length),
        ("cache-control", "no-store"),
    ] {
        ensure!(answer.header(header) == Some(expected), "{header}: {answer:?}");
    }
    Ok(())
}

/// The calls' own rules, and that a download passes the gateway whole, plain and packed.
async fn through_the_gateway(api: &Api, movie: Uuid) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let body = json!({"id": id.to_string().to_uppercase(), "movieId": movie});
    let path = format!("{EXPORTS}/{id}");
    Call::post(EXPORTS, &body, 202).header("location", &path).play(api).await?;
    let ready = becomes(api, &path, "READY").await?;
    let plain = file(api, &path).await?;
    is_a_download(&plain, movie)?;
    let packed = api.request(Method::GET, &format!("{path}/file")).header("accept-encoding", "gzip");
    let packed = packed.send().await?;
    ensure!(packed.headers().get("content-encoding").context("it came plain")? == "gzip");
    let packed = packed.bytes().await?;
    let unpacked = std::io::read_to_string(flate2::read::GzDecoder::new(packed.as_ref()))?;
    ensure!(unpacked == plain.text, "{unpacked}, not {}", plain.text);
    let head = Call::new(Method::HEAD, format!("{path}/file"), 200).play(api).await?;
    ensure!(head.text.is_empty() && head.header("content-length") == plain.header("content-length"));
    let nothing = format!("{EXPORTS}/{}", Uuid::now_v7());
    let calls = [
        // The same once more: the export as it stands now.
        Call::post(EXPORTS, &body, 202).header("location", &path).shows(ready),
        Call::post(EXPORTS, &json!({"id": id, "movieId": Uuid::now_v7()}), 409).says("another body"),
        Call::get(&nothing, 404).says("there is no export"),
        Call::get(format!("{nothing}/file"), 404).says("there is no export"),
    ];
    play(api, calls).await
}

/// Nothing of a file is found before it is whole, and what a process leaves that is killed in the middle is begun
/// again: when its lease is over, and not before.
pub(crate) async fn a_dead_replicas_export_is_begun_again(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = setup(folder.path(), &[]);
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let mut fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), stage, 1).await?;
    let api = fleet.api.clone();
    let movie = api.publish(10).await?;
    for _ in 0..3 {
        api.reserve(movie, 1).await?;
    }
    checks::at_rest(&fleet.stage, SOON).await?;
    let url = fleet.stage.reservation_list_url.clone();
    let mut holder = Holder::of(&url, "lock table reservation in access exclusive mode").await?;
    let path = ask(&api, movie).await?;
    holder.holds_up(1, "select seq, id, status").await?;
    ensure!(becomes(&api, &path, "RUNNING").await?["rows"] == 0);
    Call::get(format!("{path}/file"), 409).says("RUNNING, not READY yet").play(&api).await?;
    let begun = files(folder.path())?;
    ensure!(begun.len() == 1 && begun[0].ends_with(".part"), "{begun:?}");
    let held = "select count(*) from export where state = 'RUNNING' and due_at > now()";
    ensure!(checks::count(&url, held).await? == 1, "there is no lease");

    let list = fleet.of("reservation-list")[0];
    fleet.kill(list).await;
    // However long this machine takes for what follows.
    lease(&url, 600).await?;
    holder.release().await?;
    fleet.spawn(list)?;
    fleet.ready(list).await?;
    // Whoever comes next has looked for what is due, and left it alone.
    let next = ask(&api, movie).await?;
    becomes(&api, &next, "READY").await?;
    ensure!(becomes(&api, &path, "RUNNING").await?["rows"] == 0);
    lease(&url, 0).await?;
    ensure!(becomes(&api, &path, "READY").await?["rows"] == 3);
    ensure!(rows(&file(&api, &path).await?.text)?.len() == 3);
    let names = files(folder.path())?;
    ensure!(names.len() == 2 && names.iter().all(|name| name.ends_with(".csv")), "{names:?}");
    fleet.stop().await
}

/// The lease of the export that is being made ends so many seconds from now.
async fn lease(url: &str, secs: u32) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(url).await?;
    let update = "update export set due_at = now() + make_interval(secs => $1) where state = 'RUNNING'";
    let updated = sqlx::query(update).bind(f64::from(secs)).execute(&mut database).await?;
    ensure!(updated.rows_affected() == 1, "nothing is being made");
    Ok(())
}

pub(crate) async fn expired_exports_are_cleared(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &[])).await?;
    let api = &theater.api;
    let (kept, expired) = (ask(api, Uuid::now_v7()).await?, ask(api, Uuid::now_v7()).await?);
    becomes(api, &kept, "READY").await?;
    becomes(api, &expired, "READY").await?;
    let mut own = files(folder.path())?;
    ensure!(own.len() == 2, "{own:?}");
    // A stray of a process that nobody knows any more, long over; and what isn't ours.
    std::fs::write(folder.path().join(format!("{}.1.1700000000.part", Uuid::now_v7())), "half")?;
    std::fs::write(folder.path().join("notes.csv"), "mine")?;
    // Its time passes: in the row, and in the name that its file has.
    let id = expired.rsplit('/').next().context("id")?;
    let mine = own.iter().find(|name| name.starts_with(id)).context("no file")?;
    std::fs::rename(folder.path().join(mine), folder.path().join(format!("{id}.1.1700000000.csv")))?;
    let mut database = PgConnection::connect(&theater.stage.reservation_list_url).await?;
    let passes = sqlx::query("update export set expires_at = now() where id = $1::uuid").bind(id);
    ensure!(passes.execute(&mut database).await?.rows_affected() == 1);
    // At once, before anybody has cleared it.
    Call::get(&expired, 404).says("or it has expired").play(api).await?;
    Call::get(format!("{expired}/file"), 404).says("or it has expired").play(api).await?;
    own.retain(|name| !name.starts_with(id));
    own.push("notes.csv".to_owned());
    own.sort();
    eventually("what has expired is deleted", SOON, async || {
        let rows = checks::count(&theater.stage.reservation_list_url, "select count(*) from export").await?;
        let mut left = files(folder.path())?;
        left.sort();
        ensure!(rows == 1 && left == own, "{rows} rows, {left:?}");
        Ok(())
    })
    .await?;
    file(api, &kept).await?;
    theater.stop().await
}

/// By the setting alone: nobody changes anything.
pub(crate) async fn exports_expire_by_themselves(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &["--exports-ttl-secs=3"])).await?;
    let (api, url) = (&theater.api, &theater.stage.reservation_list_url);
    let answer = Call::post(EXPORTS, &json!({"movieId": Uuid::now_v7()}), 202).play(api).await?;
    let shown = answer.json()?;
    let moment =
        |field: &str| chrono::DateTime::parse_from_rfc3339(shown[field].as_str().unwrap_or_default());
    ensure!((moment("expiresAt")? - moment("createdAt")?).num_milliseconds() == 3_000, "{shown}");
    let path = answer.header("location").context("Location")?;
    eventually("it has expired", SOON, async || {
        Call::get(path, 404).play(api).await?;
        let rows = checks::count(url, "select count(*) from export").await?;
        let left = files(folder.path())?;
        ensure!(rows == 0 && left.is_empty(), "{rows} rows, {left:?}");
        Ok(())
    })
    .await?;
    theater.stop().await
}

pub(crate) async fn a_folder_that_can_not_be_written_fails_the_export(
    environment: &Environment,
) -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    // Not even root can.
    let theater = Theater::start(environment, setup(&file.path().join("folder"), &[])).await?;
    fails(&theater, "the file can't be written: Not a directory").await?;
    theater.stop().await?;
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &["--exports-bytes-max=100"])).await?;
    fails(&theater, "larger than the 100 bytes that are left").await?;
    let left = files(folder.path())?;
    ensure!(left.is_empty(), "{left:?}");
    theater.stop().await
}

/// An export fails for this reason, and nothing else does.
async fn fails(theater: &Theater, reason: &str) -> anyhow::Result<()> {
    let api = &theater.api;
    let movie = api.publish(10).await?;
    api.reserve(movie, 1).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    let path = ask(api, movie).await?;
    let shown = becomes(api, &path, "FAILED").await?;
    ensure!(shown["reason"].as_str().is_some_and(|said| said.contains(reason)), "{shown}");
    Call::get(format!("{path}/file"), 409).says(reason).play(api).await?;
    let failed = metric(theater.port("reservation-list"), "exports_total", "\"FAILED\"").await?;
    ensure!(failed == 1.0, "{failed} are counted");
    api.reserve(movie, 1).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(api.all("/reservationLists").await?.len() == 2);
    Ok(())
}

pub(crate) async fn replicas_that_share_no_folder_say_so(environment: &Environment) -> anyhow::Result<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut theater = Theater::start(environment, setup(folders[0].path(), &[])).await?;
    theater.stage.settings = setup(folders[1].path(), &[]).settings;
    let ports = [theater.port("reservation-list"), theater.start_service("reservation-list").await?];
    let path = ask(&theater.api, Uuid::now_v7()).await?;
    becomes(&theater.api, &path, "READY").await?;
    for (port, folder) in ports.into_iter().zip(&folders) {
        let api = Api::new(format!("http://127.0.0.1:{port}"))?;
        if files(folder.path())?.is_empty() {
            let call = Call::get(format!("{path}/file"), 503).header("retry-after", "1");
            call.says("they share no volume").play(&api).await?;
        } else {
            file(&api, &path).await?;
        }
    }
    let made = folders.iter().map(|folder| files(folder.path()));
    let made = made.collect::<anyhow::Result<Vec<_>>>()?.concat();
    ensure!(made.len() == 1, "{made:?}");
    theater.stop().await
}

pub(crate) async fn too_many_at_once_are_refused(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &[])).await?;
    let (api, movie) = (&theater.api, Uuid::now_v7());
    let url = &theater.stage.reservation_list_url;
    let holder = Holder::of(url, "lock table reservation in access exclusive mode").await?;
    let body = json!({"movieId": movie});
    for _ in 0..UNFINISHED_MAX {
        Call::post(EXPORTS, &body, 202).play(api).await?;
    }
    let refused = Call::post(EXPORTS, &body, 503).header("retry-after", "1");
    refused.says("100 exports are waiting already").play(api).await?;
    holder.release().await?;
    eventually("all are made", 3 * SOON, async || {
        let ready = checks::count(url, "select count(*) from export where state = 'READY'").await?;
        ensure!(ready == 100, "{ready} are");
        Ok(())
    })
    .await?;
    Call::post(EXPORTS, &body, 202).play(api).await?;
    theater.stop().await
}
