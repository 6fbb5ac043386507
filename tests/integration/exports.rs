//! `/reservationLists/exports`: the reservations of a movie as a CSV file, in a folder that all replicas should share,
//! also if the replica that writes it is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use theater_tests::api::{Answer, reservation};
use theater_tests::fleet::Fleet;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, Theater, checks, eventually};
use uuid::Uuid;

use crate::calls::{Call, play};
use crate::row_lock::RowLock;
use crate::snapshot::metric;

const SOON: Duration = Duration::from_secs(40);

const EXPORTS: &str = "/reservationLists/exports";

/// The maximal number of exports that are pending or running.
const UNFINISHED_MAX: usize = 100;

/// Hostile input: separators, quotes, line ends, formulas.
const HOSTILE_MOVIE: &str = "=HYPERLINK(\"http://x\", \"Two\")\r\nlines; and \u{1f6b2}";
const HOSTILE_USERS: [&str; 9] = [
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

/// The names of the files in a folder.
fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Requests an export of a movie's reservations. Returns its path.
async fn request(api: &Api, movie: Uuid) -> anyhow::Result<String> {
    let answer = Call::post(EXPORTS, &json!({"movieId": movie}), 202).play(api).await?;
    let shown = answer.json()?;
    ensure!(shown["status"] == "PENDING" && shown["rows"] == 0, "{shown}");
    let path = format!("{EXPORTS}/{}", shown["id"].as_str().context("id")?);
    ensure!(answer.header("location") == Some(&path), "{answer:?}");
    Ok(path)
}

async fn wait_for_status(api: &Api, path: &str, status: &str) -> anyhow::Result<Value> {
    eventually("the export has the status", SOON, async || {
        let shown =
            Call::get(path, 200).expect_header("cache-control", "no-store").play(api).await?.json()?;
        ensure!(shown["status"] == status, "{shown}");
        Ok(shown)
    })
    .await
}

async fn download(api: &Api, path: &str) -> anyhow::Result<Answer> {
    Call::get(format!("{path}/file"), 200).play(api).await
}

/// Parses a file into rows as the list shows them, the newest first.
fn parse_csv(file: &str) -> anyhow::Result<Vec<Value>> {
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
        // The list leaves out a missing name.
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
    let hostile = json!({"id": movie, "movieName": HOSTILE_MOVIE, "qty": 5});
    Call::post("/movies", &hostile, 201).play(api).await?;
    let mut first = None;
    for (turn, user) in HOSTILE_USERS.iter().enumerate() {
        for movie in [movie, other, nowhere] {
            let mut body = reservation(Uuid::now_v7(), movie, 1 + i64::from(turn == 0));
            body["userId"] = json!(user);
            Call::post("/reservations", &body, 202).play(api).await?;
            first.get_or_insert(body["id"].as_str().context("id")?.to_owned());
        }
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    Call::delete(format!("/reservations/{}", first.context("first")?), 202).play(api).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let listed = api.list_all("/reservationLists?status=all").await?;
    let (_, ports) = theater.ports.iter().find(|(name, _)| *name == "reservation-list").context("list")?;
    let replicas = ports.iter().map(|port| Api::new(format!("http://127.0.0.1:{port}")));
    let replicas = replicas.collect::<anyhow::Result<Vec<_>>>()?;

    for (of, row_count) in [(movie, 9), (other, 9), (nowhere, 9), (Uuid::now_v7(), 0)] {
        let path = request(&replicas[0], of).await?;
        let shown = wait_for_status(&replicas[1], &path, "READY").await?;
        ensure!(shown["rows"] == row_count && shown["movieId"] == json!(of), "{shown}");
        let expected: Vec<_> = listed.iter().filter(|row| row["movieId"] == json!(of)).cloned().collect();
        // One of the two replicas did not write the file.
        for replica in &replicas {
            let answer = download(replica, &path).await?;
            ensure!(parse_csv(&answer.text)? == expected, "{}, not {expected:?}", answer.text);
            expect_download(&answer, of)?;
        }
    }
    let shown: Vec<_> = listed.iter().filter(|row| row["movieId"] == json!(movie)).collect();
    ensure!(shown.iter().any(|row| row["reserveStatus"] == "CANCELLED"), "{shown:?}");
    ensure!(shown.iter().any(|row| row["movieName"] == HOSTILE_MOVIE), "{shown:?}");
    let names = files(folder.path())?;
    ensure!(names.len() == 4 && names.iter().all(|name| name.ends_with(".csv")), "{names:?}");
    through_the_gateway(api, movie).await?;
    theater.stop().await
}

fn expect_download(answer: &Answer, movie: Uuid) -> anyhow::Result<()> {
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

/// The calls through the gateway, and downloads through it, plain and compressed.
async fn through_the_gateway(api: &Api, movie: Uuid) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let body = json!({"id": id.to_string().to_uppercase(), "movieId": movie});
    let path = format!("{EXPORTS}/{id}");
    Call::post(EXPORTS, &body, 202).expect_header("location", &path).play(api).await?;
    let ready = wait_for_status(api, &path, "READY").await?;
    let plain = download(api, &path).await?;
    expect_download(&plain, movie)?;
    let compressed = api.request(Method::GET, &format!("{path}/file")).header("accept-encoding", "gzip");
    let compressed = compressed.send().await?;
    ensure!(compressed.headers().get("content-encoding").context("it was not compressed")? == "gzip");
    let compressed = compressed.bytes().await?;
    let decompressed = std::io::read_to_string(flate2::read::GzDecoder::new(compressed.as_ref()))?;
    ensure!(decompressed == plain.text, "{decompressed}, not {}", plain.text);
    let head = Call::new(Method::HEAD, format!("{path}/file"), 200).play(api).await?;
    ensure!(head.text.is_empty() && head.header("content-length") == plain.header("content-length"));
    let nothing = format!("{EXPORTS}/{}", Uuid::now_v7());
    let calls = [
        // A repeat is answered with the current state of the export.
        Call::post(EXPORTS, &body, 202).expect_header("location", &path).expect_body(ready),
        Call::post(EXPORTS, &json!({"id": id, "movieId": Uuid::now_v7()}), 409).expect_detail("another body"),
        Call::get(&nothing, 404).expect_detail("there is no export"),
        Call::get(format!("{nothing}/file"), 404).expect_detail("there is no export"),
    ];
    play(api, calls).await
}

/// No file can be downloaded before it is complete. The export of a replica that is killed in the middle is restarted when
/// its lease expires, and not before.
pub(crate) async fn the_export_of_a_killed_replica_is_restarted(
    environment: &Environment,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = setup(folder.path(), &[]);
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let mut fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), config, 1).await?;
    let api = fleet.api.clone();
    let movie = api.publish(10).await?;
    for _ in 0..3 {
        api.reserve(movie, 1).await?;
    }
    checks::wait_until_at_rest(&fleet.config, SOON).await?;
    let url = fleet.config.reservation_list_url.clone();
    let mut lock = RowLock::acquire(&url, "lock table reservation in access exclusive mode").await?;
    let path = request(&api, movie).await?;
    lock.wait_until_blocking(1, "select seq, id, status").await?;
    ensure!(wait_for_status(&api, &path, "RUNNING").await?["rows"] == 0);
    Call::get(format!("{path}/file"), 409).expect_detail("RUNNING, not READY yet").play(&api).await?;
    let drafts = files(folder.path())?;
    ensure!(drafts.len() == 1 && drafts[0].ends_with(".part"), "{drafts:?}");
    let leased = "select count(*) from export where state = 'RUNNING' and due_at > now()";
    ensure!(checks::count_rows(&url, leased).await? == 1, "there is no lease");

    let list = fleet.members_of("reservation-list")[0];
    fleet.kill(list).await;
    // Long enough for the following steps on a slow machine.
    set_lease(&url, 600).await?;
    lock.release().await?;
    fleet.spawn(list)?;
    fleet.wait_until_ready(list).await?;
    // A replica that has made a later export has looked for due ones, and did not take this one.
    let next = request(&api, movie).await?;
    wait_for_status(&api, &next, "READY").await?;
    ensure!(wait_for_status(&api, &path, "RUNNING").await?["rows"] == 0);
    set_lease(&url, 0).await?;
    ensure!(wait_for_status(&api, &path, "READY").await?["rows"] == 3);
    ensure!(parse_csv(&download(&api, &path).await?.text)?.len() == 3);
    let names = files(folder.path())?;
    ensure!(names.len() == 2 && names.iter().all(|name| name.ends_with(".csv")), "{names:?}");
    fleet.stop().await
}

/// Sets the lease of the running export to end this many seconds from now.
async fn set_lease(url: &str, secs: u32) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(url).await?;
    let update = "update export set due_at = now() + make_interval(secs => $1) where state = 'RUNNING'";
    let updated = sqlx::query(update).bind(f64::from(secs)).execute(&mut database).await?;
    ensure!(updated.rows_affected() == 1, "no export is running");
    Ok(())
}

pub(crate) async fn expired_exports_are_deleted(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &[])).await?;
    let api = &theater.api;
    let (kept, expired) = (request(api, Uuid::now_v7()).await?, request(api, Uuid::now_v7()).await?);
    wait_for_status(api, &kept, "READY").await?;
    wait_for_status(api, &expired, "READY").await?;
    let mut own = files(folder.path())?;
    ensure!(own.len() == 2, "{own:?}");
    // An old draft of an export that no row knows, which must be deleted, and a file of another program, which must not.
    std::fs::write(folder.path().join(format!("{}.1.1700000000.part", Uuid::now_v7())), "half")?;
    std::fs::write(folder.path().join("notes.csv"), "mine")?;
    // One export expires: in its row, and in the time that its file name states.
    let id = expired.rsplit('/').next().context("id")?;
    let file = own.iter().find(|name| name.starts_with(id)).context("no file")?;
    std::fs::rename(folder.path().join(file), folder.path().join(format!("{id}.1.1700000000.csv")))?;
    let mut database = PgConnection::connect(&theater.config.reservation_list_url).await?;
    let expire = sqlx::query("update export set expires_at = now() where id = $1::uuid").bind(id);
    ensure!(expire.execute(&mut database).await?.rows_affected() == 1);
    // Both paths answer 404 at once, before the row is deleted.
    Call::get(&expired, 404).expect_detail("or it has expired").play(api).await?;
    Call::get(format!("{expired}/file"), 404).expect_detail("or it has expired").play(api).await?;
    own.retain(|name| !name.starts_with(id));
    own.push("notes.csv".to_owned());
    own.sort();
    eventually("what has expired is deleted", SOON, async || {
        let rows =
            checks::count_rows(&theater.config.reservation_list_url, "select count(*) from export").await?;
        let mut left = files(folder.path())?;
        left.sort();
        ensure!(rows == 1 && left == own, "{rows} rows, {left:?}");
        Ok(())
    })
    .await?;
    download(api, &kept).await?;
    theater.stop().await
}

/// Exports expire by `--exports-ttl-secs`, without any manipulation by the test.
pub(crate) async fn exports_expire_after_their_ttl(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &["--exports-ttl-secs=3"])).await?;
    let (api, url) = (&theater.api, &theater.config.reservation_list_url);
    let answer = Call::post(EXPORTS, &json!({"movieId": Uuid::now_v7()}), 202).play(api).await?;
    let shown = answer.json()?;
    let moment =
        |field: &str| chrono::DateTime::parse_from_rfc3339(shown[field].as_str().unwrap_or_default());
    ensure!((moment("expiresAt")? - moment("createdAt")?).num_milliseconds() == 3_000, "{shown}");
    let path = answer.header("location").context("Location")?;
    eventually("it has expired", SOON, async || {
        Call::get(path, 404).play(api).await?;
        let rows = checks::count_rows(url, "select count(*) from export").await?;
        let left = files(folder.path())?;
        ensure!(rows == 0 && left.is_empty(), "{rows} rows, {left:?}");
        Ok(())
    })
    .await?;
    theater.stop().await
}

pub(crate) async fn an_unwritable_folder_fails_the_export(environment: &Environment) -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    // A path below a file: not even root can create it.
    let theater = Theater::start(environment, setup(&file.path().join("folder"), &[])).await?;
    expect_failure(&theater, "the file can't be written: Not a directory").await?;
    theater.stop().await?;
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &["--exports-bytes-max=100"])).await?;
    expect_failure(&theater, "larger than the 100 bytes that are left").await?;
    let left = files(folder.path())?;
    ensure!(left.is_empty(), "{left:?}");
    theater.stop().await
}

/// An export fails for this reason, and the service goes on.
async fn expect_failure(theater: &Theater, reason: &str) -> anyhow::Result<()> {
    let api = &theater.api;
    let movie = api.publish(10).await?;
    api.reserve(movie, 1).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let path = request(api, movie).await?;
    let shown = wait_for_status(api, &path, "FAILED").await?;
    ensure!(shown["reason"].as_str().is_some_and(|text| text.contains(reason)), "{shown}");
    Call::get(format!("{path}/file"), 409).expect_detail(reason).play(api).await?;
    let failed = metric(theater.port("reservation-list"), "exports_total", "\"FAILED\"").await?;
    ensure!(failed == 1.0, "{failed} are counted");
    api.reserve(movie, 1).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(api.list_all("/reservationLists").await?.len() == 2);
    Ok(())
}

pub(crate) async fn replicas_without_a_shared_folder_answer_503(
    environment: &Environment,
) -> anyhow::Result<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut theater = Theater::start(environment, setup(folders[0].path(), &[])).await?;
    theater.config.settings = setup(folders[1].path(), &[]).settings;
    let ports = [theater.port("reservation-list"), theater.start_service("reservation-list").await?];
    let path = request(&theater.api, Uuid::now_v7()).await?;
    wait_for_status(&theater.api, &path, "READY").await?;
    for (port, folder) in ports.into_iter().zip(&folders) {
        let api = Api::new(format!("http://127.0.0.1:{port}"))?;
        if files(folder.path())?.is_empty() {
            let call = Call::get(format!("{path}/file"), 503).expect_header("retry-after", "1");
            call.expect_detail("they share no volume").play(&api).await?;
        } else {
            download(&api, &path).await?;
        }
    }
    let written = folders.iter().map(|folder| files(folder.path()));
    let written = written.collect::<anyhow::Result<Vec<_>>>()?.concat();
    ensure!(written.len() == 1, "{written:?}");
    theater.stop().await
}

pub(crate) async fn too_many_unfinished_exports_are_refused(environment: &Environment) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let theater = Theater::start(environment, setup(folder.path(), &[])).await?;
    let (api, movie) = (&theater.api, Uuid::now_v7());
    let url = &theater.config.reservation_list_url;
    let lock = RowLock::acquire(url, "lock table reservation in access exclusive mode").await?;
    let body = json!({"movieId": movie});
    for _ in 0..UNFINISHED_MAX {
        Call::post(EXPORTS, &body, 202).play(api).await?;
    }
    let refused = Call::post(EXPORTS, &body, 503).expect_header("retry-after", "1");
    refused.expect_detail("100 exports are waiting already").play(api).await?;
    lock.release().await?;
    eventually("all exports are ready", 3 * SOON, async || {
        let ready = checks::count_rows(url, "select count(*) from export where state = 'READY'").await?;
        ensure!(ready == 100, "{ready} are");
        Ok(())
    })
    .await?;
    Call::post(EXPORTS, &body, 202).play(api).await?;
    theater.stop().await
}
