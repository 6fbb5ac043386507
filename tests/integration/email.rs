//! E-mails, sent to a real mail server and read by another library than the one that wrote them.

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use theater_tests::api::reservation;
use theater_tests::mail::{Mail, MailServer, NOBODY};
use theater_tests::{Environment, Setup, Theater, checks, eventually, log, records};
use uuid::Uuid;

use crate::look::metric;

/// The mail server's program.
const MAIL: &str = env!("CARGO_BIN_EXE_theater-tests");

const SOON: Duration = Duration::from_secs(60);

fn setup(smtp_url: &str) -> Setup {
    let settings = vec![
        ("notification", format!("--smtp-url={smtp_url}")),
        ("notification", "--smtp-from=Theater <tickets@theater.example>".to_owned()),
    ];
    // Nothing is to end by its deadline.
    Setup { deadline_secs: 600, partitions: 2, settings, ..Setup::default() }
}

/// What a customer is to read.
struct Told {
    to: &'static str,
    subject: &'static str,
    text: &'static str,
    html: &'static str,
}

const EVIL_MOVIE: &str = "E.T. \u{1f6b2}\r\nBcc: all@example.org\r\n\r\n<script>alert(\"1\" & '2')</script>";
const EVIL_NAME: &str = "<b>\"O'Neill\"</b>\r\n.\r\nQUIT";

const TOLD: [Told; 6] = [
    Told {
        to: "jane@example.org",
        subject: "Your tickets are confirmed: LALALand",
        text: "Jane, your 45 tickets for LALALand are confirmed.",
        html: "<p>Jane, your 45 tickets for LALALand are confirmed.</p>",
    },
    Told {
        to: "jane@example.org",
        subject: "Your reservation is cancelled: LALALand",
        text: "Jane, your reservation of 45 tickets for LALALand is cancelled, as you asked.",
        html: "is cancelled, as you asked.</p>",
    },
    Told {
        to: "joe@example.org",
        subject: "Your reservation is cancelled: LALALand",
        text: "Jane, your reservation of 57 tickets for LALALand is cancelled: not enough tickets are left.",
        html: "is cancelled: not enough tickets are left.</p>",
    },
    Told {
        to: "ann@example.org",
        subject: "Your reservation is cancelled",
        text: "Jane, your reservation of 1 ticket is cancelled: there is no such movie.",
        html: "is cancelled: there is no such movie.</p>",
    },
    Told {
        to: "o'neill@example.org",
        subject: "Your tickets are confirmed: E.T. \u{1f6b2} Bcc: all@example.org \
                  <script>alert(\"1\" & '2')</script>",
        text: "<b>\"O'Neill\"</b> . QUIT, your 2 tickets for E.T. \u{1f6b2} Bcc: all@example.org \
               <script>alert(\"1\" & '2')</script> are confirmed.",
        html: "&#60;b&#62;&#34;O&#39;Neill&#34;&#60;/b&#62; . QUIT, your 2 tickets for E.T. \u{1f6b2} \
               Bcc: all@example.org &#60;script&#62;alert(&#34;1&#34; &#38; &#39;2&#39;)&#60;/script&#62;",
    },
    Told {
        to: "kim@example.org",
        subject: "Your tickets are confirmed: LALALand",
        text: "Jane, your ticket for LALALand is confirmed.",
        html: "<p>Jane, your ticket for LALALand is confirmed.</p>",
    },
];

pub(crate) async fn each_outcome_is_told_once(environment: &Environment) -> anyhow::Result<()> {
    let server = MailServer::start(MAIL).await?;
    let theater = Theater::start(environment, setup(&server.url_of("theater", true))).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let first = reserve(&theater, movie, 45, Some("jane@example.org")).await?;
    checks::at_rest(&theater.stage, SOON).await?;
    reserve(&theater, movie, 57, Some("joe@example.org")).await?;
    reserve(&theater, Uuid::now_v7(), 1, Some("ann@example.org")).await?;
    reserve(&theater, movie, 1, Some("kim@example.org")).await?;
    let silent = reserve(&theater, movie, 1, None).await?;
    let evil = Uuid::now_v7();
    let answer = api.post("/movies", &json!({"id": evil, "movieName": EVIL_MOVIE, "qty": 2})).await?;
    ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
    let mut body = reservation(Uuid::now_v7(), evil, 2);
    (body["userName"], body["email"]) = (json!(EVIL_NAME), json!("o'neill@example.org"));
    let answer = api.post("/reservations", &body).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    let answer = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    checks::at_rest(&theater.stage, SOON).await?;
    all_have(&theater, "SENT", TOLD.len()).await?;
    told(&server.mails()?, &notified(&theater).await?)?;
    for row in api.all(&format!("/notifications?reserveId={silent}")).await? {
        ensure!(row.get("emailStatus").is_none(), "{row}");
    }

    // Every event again: nobody is told a second time.
    let topic = format!("{}reservations", theater.stage.prefix);
    let producer = records::producer(&theater.stage.bootstrap)?;
    for entry in log::read(&theater.stage.bootstrap, &topic).await? {
        records::produce(&producer, &topic, &entry).await?;
    }
    checks::at_rest(&theater.stage, SOON).await?;
    all_have(&theater, "SENT", TOLD.len()).await?;
    ensure!(server.mails()?.len() == TOLD.len(), "told again");
    let sent = metric(theater.port("notification"), "email_attempts_total", "\"sent\"").await?;
    ensure!(sent == TOLD.len() as f64, "{sent} are counted");

    // A confirmation that is read after the cancellation is recorded, and told to nobody.
    let late = Uuid::now_v7();
    for golden in [
        include_str!("../../shared-events/golden/ReservationCancelled.v1.json"),
        include_str!("../../shared-events/golden/ReservationConfirmed.v1.json"),
    ] {
        let mut event: Value = serde_json::from_str(golden)?;
        (event["reservationId"], event["email"]) = (json!(late), json!("late@example.org"));
        let record = records::bare("late", event.to_string().as_bytes());
        records::produce(&producer, &topic, &record).await?;
    }
    all_have(&theater, "SENT", TOLD.len() + 1).await?;
    let states = eventually("both are recorded", SOON, async || {
        let rows = api.all(&format!("/notifications?reserveId={late}")).await?;
        ensure!(rows.len() == 2, "{rows:?}");
        let state = |row: &Value| (row["reserveStatus"].clone(), row.get("emailStatus").cloned());
        Ok(rows.iter().map(state).collect::<Vec<_>>())
    })
    .await?;
    let expected = [(json!("CONFIRMED"), None), (json!("CANCELLED"), Some(json!("SENT")))];
    ensure!(states == expected, "{states:?}");
    theater.stop().await
}

/// The mails are those that are to be, each of its own notification.
fn told(mails: &[Mail], notified: &HashSet<String>) -> anyhow::Result<()> {
    ensure!(mails.len() == TOLD.len(), "{} mails: {mails:#?}", mails.len());
    for told in &TOLD {
        let mail = mails.iter().find(|mail| mail.recipient == told.to && mail.subject == told.subject);
        let mail = mail.with_context(|| format!("{} {}: {mails:#?}", told.to, told.subject))?;
        ensure!(mail.to == told.to && mail.from == "tickets@theater.example", "{mail:#?}");
        ensure!(mail.user == "theater", "{mail:#?}");
        ensure!(mail.text.contains(told.text), "{mail:#?}");
        ensure!(mail.html.contains(told.html) && !mail.html.contains("<script"), "{mail:#?}");
        ensure!(mail.headers.iter().filter(|name| *name == "Subject").count() == 1, "{mail:#?}");
        ensure!(!mail.headers.iter().any(|name| name.eq_ignore_ascii_case("bcc")), "{mail:#?}");
        ensure!(mail.headers.iter().any(|name| name == "Auto-Submitted"), "{mail:#?}");
    }
    let ids: HashSet<_> =
        mails.iter().filter_map(|mail| Some(mail.id.strip_suffix("@theater.example")?.to_owned())).collect();
    ensure!(ids.len() == mails.len() && ids.is_subset(notified), "{ids:?} of {notified:?}");
    Ok(())
}

pub(crate) async fn a_mail_server_that_is_away_holds_nobody(environment: &Environment) -> anyhow::Result<()> {
    let mut server = MailServer::away(MAIL)?;
    moves_on(environment, &server.url(), async |theater| {
        all_have(theater, "PENDING", 20).await?;
        let port = theater.port("notification");
        eventually("what waits is counted", SOON, async || {
            let pending = metric(port, "email_backlog", "\"pending\"").await?;
            ensure!(pending == 20.0, "{pending} are pending");
            let again = metric(port, "email_attempts_total", "\"again\"").await?;
            ensure!(again >= 20.0, "{again} were tried");
            Ok(())
        })
        .await?;
        server.come(NOBODY).await?;
        all_have(theater, "SENT", 20).await?;
        let mails = server.mails()?;
        let recipients: HashSet<_> = mails.iter().map(|mail| &mail.recipient).collect();
        ensure!(mails.len() == 20 && recipients.len() == 20, "{mails:#?}");
        Ok(())
    })
    .await?;

    // Accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("smtp://{}", silent.local_addr()?);
    moves_on(environment, &url, async |theater| all_have(theater, "PENDING", 20).await).await
}

/// 20 reservations with an address are decided, listed and notified, and then what `then` says. The theater drains in
/// time, whatever the mail server does.
async fn moves_on(
    environment: &Environment,
    smtp_url: &str,
    then: impl AsyncFnOnce(&Theater) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup(smtp_url)).await?;
    let movie = theater.api.publish(30).await?;
    for customer in 0..20 {
        reserve(&theater, movie, 1, Some(&format!("customer{customer}@example.org"))).await?;
    }
    checks::at_rest(&theater.stage, SOON).await?;
    checks::invariants(&theater.stage, &theater.api).await?;
    then(&theater).await?;
    theater.stop().await
}

pub(crate) async fn what_failed_is_sent_at_the_operators_command(
    environment: &Environment,
) -> anyhow::Result<()> {
    let mut server = MailServer::away(MAIL)?;
    server.come("refused").await?;
    let mut setup = setup(&server.url_of("theater", true));
    setup.settings.push(("notification", "--smtp-attempts-max=2".to_owned()));
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(30).await?;
    let taken = reserve(&theater, movie, 1, Some("taken@example.org")).await?;
    let refused = reserve(&theater, movie, 1, Some("refused@example.org")).await?;
    let unusable = reserve(&theater, movie, 1, Some("un@usable@example.org")).await?;
    has(&theater, taken, "SENT").await?;
    has(&theater, refused, "FAILED").await?;
    has(&theater, unusable, "FAILED").await?;
    server.go().await;
    let unreached = reserve(&theater, movie, 1, Some("unreached@example.org")).await?;
    has(&theater, unreached, "FAILED").await?;
    let errors = [(refused, 1, "550"), (unusable, 1, "address"), (unreached, 2, "Connection error")];
    for (reservation, attempts, error) in errors {
        let (tried, why) = tried(&theater, reservation).await?;
        ensure!(tried == attempts && why.contains(error), "{error}: {tried} attempts: {why}");
    }

    server.come(NOBODY).await?;
    let said = retry(&theater, Some(refused)).await?;
    ensure!(said == "1 failed e-mail is to be sent again\n", "{said}");
    has(&theater, refused, "SENT").await?;
    has(&theater, unreached, "FAILED").await?;
    let said = retry(&theater, None).await?;
    ensure!(said == "2 failed e-mails are to be sent again\n", "{said}");
    has(&theater, unreached, "SENT").await?;
    has(&theater, unusable, "FAILED").await?;
    let mut recipients: Vec<_> = server.mails()?.into_iter().map(|mail| mail.recipient).collect();
    recipients.sort();
    ensure!(recipients == ["refused@example.org", "unreached@example.org"], "{recipients:?}");
    theater.stop().await?;

    // A password that is wrong is nobody's fault who is written to: it is tried again.
    let mut stage = theater_stage(environment, &server.url_of("theater", false)).await?;
    stage.settings.push(("notification", "--smtp-attempts-max=50".to_owned()));
    let theater = Theater::start_on(stage, 1).await?;
    let movie = theater.api.publish(1).await?;
    let locked_out = reserve(&theater, movie, 1, Some("taken@example.org")).await?;
    has(&theater, locked_out, "PENDING").await?;
    eventually("it was tried", SOON, async || {
        let (tried, why) = tried(&theater, locked_out).await?;
        ensure!(tried >= 2 && why.contains("535"), "{tried} attempts: {why}");
        Ok(())
    })
    .await?;
    has(&theater, locked_out, "PENDING").await?;
    theater.stop().await
}

async fn theater_stage(
    environment: &Environment,
    smtp_url: &str,
) -> anyhow::Result<theater_tests::theater::Stage> {
    let setup = setup(smtp_url);
    theater_tests::theater::Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await
}

pub(crate) async fn two_replicas_send_each_once(environment: &Environment) -> anyhow::Result<()> {
    const CUSTOMERS: usize = 200;
    let server = MailServer::start(MAIL).await?;
    let theater = Theater::start(environment, Setup { replicas: 2, ..setup(&server.url()) }).await?;
    let movies = [theater.api.publish(1000).await?, theater.api.publish(1000).await?];
    stream::iter(0..CUSTOMERS)
        .map(async |customer| {
            let address = format!("customer{customer}@example.org");
            reserve(&theater, movies[customer % 2], 1, Some(&address)).await
        })
        .buffer_unordered(50)
        .try_collect::<Vec<_>>()
        .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    all_have(&theater, "SENT", CUSTOMERS).await?;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in server.mails()? {
        *times.entry(mail.recipient).or_default() += 1;
    }
    ensure!(times.len() == CUSTOMERS && times.values().all(|times| *times == 1), "{times:?}");
    let (_, ports) = theater.ports.iter().find(|(name, _)| *name == "notification").context("no ports")?;
    let mut sent = 0.0;
    for port in ports {
        sent += metric(*port, "email_attempts_total", "\"sent\"").await?;
    }
    ensure!(sent == CUSTOMERS as f64, "{sent} are counted");
    theater.stop().await
}

async fn reserve(theater: &Theater, movie: Uuid, count: i64, email: Option<&str>) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    let mut body = reservation(id, movie, count);
    if let Some(email) = email {
        body["email"] = json!(email);
    }
    let answer = theater.api.post("/reservations", &body).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    Ok(id)
}

/// Exactly `count` notifications have an e-mail, each in that state.
async fn all_have(theater: &Theater, status: &str, count: usize) -> anyhow::Result<()> {
    eventually("the e-mails' states", SOON, async || {
        let rows = theater.api.all("/notifications").await?;
        let states: Vec<&Value> = rows.iter().filter_map(|row| row.get("emailStatus")).collect();
        ensure!(states.len() == count && states.iter().all(|state| *state == status), "{states:?}");
        Ok(())
    })
    .await
}

/// The reservation's one notification has an e-mail in that state.
async fn has(theater: &Theater, reservation: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("the e-mail's state", SOON, async || {
        let rows = theater.api.all(&format!("/notifications?reserveId={reservation}")).await?;
        ensure!(rows.len() == 1 && rows[0]["emailStatus"] == status, "not {status}: {rows:?}");
        Ok(())
    })
    .await
}

async fn notified(theater: &Theater) -> anyhow::Result<HashSet<String>> {
    let rows = theater.api.all("/notifications").await?;
    Ok(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
}

/// How often the reservation's e-mail was tried, and what was wrong last.
async fn tried(theater: &Theater, reservation: Uuid) -> anyhow::Result<(i32, String)> {
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect(&theater.stage.notification_url).await?;
    let row = sqlx::query_as(
        "select attempts, coalesce(last_error, '') from email
         join notification on id = notification_id where reservation_id = $1",
    );
    Ok(row.bind(reservation).fetch_one(&mut connection).await?)
}

/// The operator's command, as a process of its own; answers what it says.
async fn retry(theater: &Theater, reservation: Option<Uuid>) -> anyhow::Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_theater-tests"));
    command
        .args(["fleet", "notification", "retry-failed"])
        .env("DATABASE_URL", &theater.stage.notification_url);
    if let Some(reservation) = reservation {
        command.arg(format!("--reservation={reservation}"));
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}
