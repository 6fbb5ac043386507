//! E-mails of outcomes, sent to a real SMTP server and parsed by another library than the one that writes them.

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use theater_tests::api::reservation;
use theater_tests::mail::{Mail, MailServer, REFUSE_NONE};
use theater_tests::{Environment, Setup, Theater, checks, eventually, log, records};
use uuid::Uuid;

use crate::snapshot::metric;

/// The program that contains the mail server.
const MAIL: &str = env!("CARGO_BIN_EXE_theater-tests");

const SOON: Duration = Duration::from_secs(60);

fn setup(smtp_url: &str) -> Setup {
    let settings = vec![
        ("notification", format!("--smtp-url={smtp_url}")),
        ("notification", "--smtp-from=Theater <tickets@theater.example>".to_owned()),
    ];
    // The deadline is long, so it cancels no reservation.
    Setup { deadline_secs: 600, partitions: 2, settings, ..Setup::default() }
}

/// An e-mail that a customer must receive.
struct ExpectedMail {
    to: &'static str,
    subject: &'static str,
    text: &'static str,
    html: &'static str,
}

const HOSTILE_MOVIE: &str =
    "E.T. \u{1f6b2}\r\nBcc: all@example.org\r\n\r\n<script>alert(\"1\" & '2')</script>";
const HOSTILE_NAME: &str = "<b>\"O'Neill\"</b>\r\n.\r\nQUIT";

const EXPECTED_MAILS: [ExpectedMail; 6] = [
    ExpectedMail {
        to: "jane@example.org",
        subject: "Your tickets are confirmed: LALALand",
        text: "Jane, your 45 tickets for LALALand are confirmed.",
        html: "<p>Jane, your 45 tickets for LALALand are confirmed.</p>",
    },
    ExpectedMail {
        to: "jane@example.org",
        subject: "Your reservation is cancelled: LALALand",
        text: "Jane, your reservation of 45 tickets for LALALand is cancelled, as you asked.",
        html: "is cancelled, as you asked.</p>",
    },
    ExpectedMail {
        to: "joe@example.org",
        subject: "Your reservation is cancelled: LALALand",
        text: "Jane, your reservation of 57 tickets for LALALand is cancelled: not enough tickets are left.",
        html: "is cancelled: not enough tickets are left.</p>",
    },
    ExpectedMail {
        to: "ann@example.org",
        subject: "Your reservation is cancelled",
        text: "Jane, your reservation of 1 ticket is cancelled: there is no such movie.",
        html: "is cancelled: there is no such movie.</p>",
    },
    ExpectedMail {
        to: "o'neill@example.org",
        subject: "Your tickets are confirmed: E.T. \u{1f6b2} Bcc: all@example.org \
                  <script>alert(\"1\" & '2')</script>",
        text: "<b>\"O'Neill\"</b> . QUIT, your 2 tickets for E.T. \u{1f6b2} Bcc: all@example.org \
               <script>alert(\"1\" & '2')</script> are confirmed.",
        html: "&#60;b&#62;&#34;O&#39;Neill&#34;&#60;/b&#62; . QUIT, your 2 tickets for E.T. \u{1f6b2} \
               Bcc: all@example.org &#60;script&#62;alert(&#34;1&#34; &#38; &#39;2&#39;)&#60;/script&#62;",
    },
    ExpectedMail {
        to: "kim@example.org",
        subject: "Your tickets are confirmed: LALALand",
        text: "Jane, your ticket for LALALand is confirmed.",
        html: "<p>Jane, your ticket for LALALand is confirmed.</p>",
    },
];

pub(crate) async fn each_outcome_is_mailed_once(environment: &Environment) -> anyhow::Result<()> {
    let server = MailServer::start(MAIL).await?;
    let theater = Theater::start(environment, setup(&server.url_with_login("theater", true))).await?;
    let api = &theater.api;
    let movie = api.publish(100).await?;
    let first = reserve(&theater, movie, 45, Some("jane@example.org")).await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    reserve(&theater, movie, 57, Some("joe@example.org")).await?;
    reserve(&theater, Uuid::now_v7(), 1, Some("ann@example.org")).await?;
    reserve(&theater, movie, 1, Some("kim@example.org")).await?;
    let without_address = reserve(&theater, movie, 1, None).await?;
    let hostile = Uuid::now_v7();
    let answer = api.post("/movies", &json!({"id": hostile, "movieName": HOSTILE_MOVIE, "qty": 2})).await?;
    ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
    let mut body = reservation(Uuid::now_v7(), hostile, 2);
    (body["userName"], body["email"]) = (json!(HOSTILE_NAME), json!("o'neill@example.org"));
    let answer = api.post("/reservations", &body).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    let answer = api.delete(&format!("/reservations/{first}")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    wait_for_all(&theater, "SENT", EXPECTED_MAILS.len()).await?;
    expect_mails(&server.received()?, &notification_ids(&theater).await?)?;
    for row in api.list_all(&format!("/notifications?reserveId={without_address}")).await? {
        ensure!(row.get("emailStatus").is_none(), "{row}");
    }

    // Every event is delivered again: no e-mail is sent a second time.
    let topic = format!("{}reservations", theater.config.prefix);
    let producer = records::producer(&theater.config.bootstrap)?;
    for entry in log::read(&theater.config.bootstrap, &topic).await? {
        records::produce(&producer, &topic, &entry).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    wait_for_all(&theater, "SENT", EXPECTED_MAILS.len()).await?;
    ensure!(server.received()?.len() == EXPECTED_MAILS.len(), "sent again");
    let sent = metric(theater.port("notification"), "email_attempts_total", "\"sent\"").await?;
    ensure!(sent == EXPECTED_MAILS.len() as f64, "{sent} are counted");

    // A confirmation that comes after the cancellation is recorded, but not mailed.
    let late = Uuid::now_v7();
    for golden in [
        include_str!("../../shared-events/golden/ReservationCancelled.v1.json"),
        include_str!("../../shared-events/golden/ReservationConfirmed.v1.json"),
    ] {
        let mut event: Value = serde_json::from_str(golden)?;
        (event["reservationId"], event["email"]) = (json!(late), json!("late@example.org"));
        let record = records::without_headers("late", event.to_string().as_bytes());
        records::produce(&producer, &topic, &record).await?;
    }
    wait_for_all(&theater, "SENT", EXPECTED_MAILS.len() + 1).await?;
    let states = eventually("both are recorded", SOON, async || {
        let rows = api.list_all(&format!("/notifications?reserveId={late}")).await?;
        ensure!(rows.len() == 2, "{rows:?}");
        let state = |row: &Value| (row["reserveStatus"].clone(), row.get("emailStatus").cloned());
        Ok(rows.iter().map(state).collect::<Vec<_>>())
    })
    .await?;
    let expected = [(json!("CONFIRMED"), None), (json!("CANCELLED"), Some(json!("SENT")))];
    ensure!(states == expected, "{states:?}");
    theater.stop().await
}

/// The received e-mails are the expected ones, each with the id of its own notification.
fn expect_mails(mails: &[Mail], notified: &HashSet<String>) -> anyhow::Result<()> {
    ensure!(mails.len() == EXPECTED_MAILS.len(), "{} mails: {mails:#?}", mails.len());
    for expected in &EXPECTED_MAILS {
        let mail =
            mails.iter().find(|mail| mail.recipient == expected.to && mail.subject == expected.subject);
        let mail = mail.with_context(|| format!("{} {}: {mails:#?}", expected.to, expected.subject))?;
        ensure!(mail.to == expected.to && mail.from == "tickets@theater.example", "{mail:#?}");
        ensure!(mail.user == "theater", "{mail:#?}");
        ensure!(mail.text.contains(expected.text), "{mail:#?}");
        ensure!(mail.html.contains(expected.html) && !mail.html.contains("<script"), "{mail:#?}");
        ensure!(mail.headers.iter().filter(|name| *name == "Subject").count() == 1, "{mail:#?}");
        ensure!(!mail.headers.iter().any(|name| name.eq_ignore_ascii_case("bcc")), "{mail:#?}");
        ensure!(mail.headers.iter().any(|name| name == "Auto-Submitted"), "{mail:#?}");
    }
    let ids: HashSet<_> =
        mails.iter().filter_map(|mail| Some(mail.id.strip_suffix("@theater.example")?.to_owned())).collect();
    ensure!(ids.len() == mails.len() && ids.is_subset(notified), "{ids:?} of {notified:?}");
    Ok(())
}

pub(crate) async fn an_unavailable_mail_server_delays_no_saga(
    environment: &Environment,
) -> anyhow::Result<()> {
    let mut server = MailServer::new(MAIL)?;
    sagas_complete(environment, &server.url(), async |theater| {
        wait_for_all(theater, "PENDING", 20).await?;
        let port = theater.port("notification");
        eventually("pending e-mails are counted", SOON, async || {
            let pending = metric(port, "email_backlog", "\"pending\"").await?;
            ensure!(pending == 20.0, "{pending} are pending");
            let again = metric(port, "email_attempts_total", "\"again\"").await?;
            ensure!(again >= 20.0, "{again} were tried");
            Ok(())
        })
        .await?;
        server.listen(REFUSE_NONE).await?;
        wait_for_all(theater, "SENT", 20).await?;
        let mails = server.received()?;
        let recipients: HashSet<_> = mails.iter().map(|mail| &mail.recipient).collect();
        ensure!(mails.len() == 20 && recipients.len() == 20, "{mails:#?}");
        Ok(())
    })
    .await?;

    // A server that accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("smtp://{}", silent.local_addr()?);
    sagas_complete(environment, &url, async |theater| wait_for_all(theater, "PENDING", 20).await).await
}

/// 20 reservations with an address are decided, listed and notified, although the mail server is unavailable. Then `then`
/// runs. The services drain in time.
async fn sagas_complete(
    environment: &Environment,
    smtp_url: &str,
    then: impl AsyncFnOnce(&Theater) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, setup(smtp_url)).await?;
    let movie = theater.api.publish(30).await?;
    for customer in 0..20 {
        reserve(&theater, movie, 1, Some(&format!("customer{customer}@example.org"))).await?;
    }
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    checks::invariants(&theater.config, &theater.api).await?;
    then(&theater).await?;
    theater.stop().await
}

pub(crate) async fn failed_emails_are_sent_again_on_command(environment: &Environment) -> anyhow::Result<()> {
    let mut server = MailServer::new(MAIL)?;
    server.listen("refused").await?;
    let mut setup = setup(&server.url_with_login("theater", true));
    setup.settings.push(("notification", "--smtp-attempts-max=2".to_owned()));
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(30).await?;
    let accepted = reserve(&theater, movie, 1, Some("taken@example.org")).await?;
    let refused = reserve(&theater, movie, 1, Some("refused@example.org")).await?;
    let unusable = reserve(&theater, movie, 1, Some("un@usable@example.org")).await?;
    wait_for_email(&theater, accepted, "SENT").await?;
    wait_for_email(&theater, refused, "FAILED").await?;
    wait_for_email(&theater, unusable, "FAILED").await?;
    server.stop().await;
    let unreached = reserve(&theater, movie, 1, Some("unreached@example.org")).await?;
    wait_for_email(&theater, unreached, "FAILED").await?;
    let failures = [(refused, 1, "550"), (unusable, 1, "address"), (unreached, 2, "Connection error")];
    for (reservation, expected_attempts, expected_error) in failures {
        let (tried, error) = attempts(&theater, reservation).await?;
        ensure!(
            tried == expected_attempts && error.contains(expected_error),
            "{expected_error}: {tried} attempts: {error}"
        );
    }

    server.listen(REFUSE_NONE).await?;
    let printed = retry(&theater, Some(refused)).await?;
    ensure!(printed == "1 failed e-mail is to be sent again\n", "{printed}");
    wait_for_email(&theater, refused, "SENT").await?;
    wait_for_email(&theater, unreached, "FAILED").await?;
    let printed = retry(&theater, None).await?;
    ensure!(printed == "2 failed e-mails are to be sent again\n", "{printed}");
    wait_for_email(&theater, unreached, "SENT").await?;
    wait_for_email(&theater, unusable, "FAILED").await?;
    let mut recipients: Vec<_> = server.received()?.into_iter().map(|mail| mail.recipient).collect();
    recipients.sort();
    ensure!(recipients == ["refused@example.org", "unreached@example.org"], "{recipients:?}");
    theater.stop().await?;

    // A wrong password says nothing about the recipient, so the e-mail is retried.
    let mut config = theater_config(environment, &server.url_with_login("theater", false)).await?;
    config.settings.push(("notification", "--smtp-attempts-max=50".to_owned()));
    let theater = Theater::start_with(config, 1).await?;
    let movie = theater.api.publish(1).await?;
    let locked_out = reserve(&theater, movie, 1, Some("taken@example.org")).await?;
    wait_for_email(&theater, locked_out, "PENDING").await?;
    eventually("it was tried", SOON, async || {
        let (tried, error) = attempts(&theater, locked_out).await?;
        ensure!(tried >= 2 && error.contains("535"), "{tried} attempts: {error}");
        Ok(())
    })
    .await?;
    wait_for_email(&theater, locked_out, "PENDING").await?;
    theater.stop().await
}

async fn theater_config(
    environment: &Environment,
    smtp_url: &str,
) -> anyhow::Result<theater_tests::theater::TheaterConfig> {
    let setup = setup(smtp_url);
    theater_tests::theater::TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup)
        .await
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
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    wait_for_all(&theater, "SENT", CUSTOMERS).await?;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in server.received()? {
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

/// Waits until exactly `count` notifications have an e-mail, each in this state.
async fn wait_for_all(theater: &Theater, status: &str, count: usize) -> anyhow::Result<()> {
    eventually("the e-mails' states", SOON, async || {
        let rows = theater.api.list_all("/notifications").await?;
        let states: Vec<&Value> = rows.iter().filter_map(|row| row.get("emailStatus")).collect();
        ensure!(states.len() == count && states.iter().all(|state| *state == status), "{states:?}");
        Ok(())
    })
    .await
}

/// Waits until the reservation's only notification has an e-mail in this state.
async fn wait_for_email(theater: &Theater, reservation: Uuid, status: &str) -> anyhow::Result<()> {
    eventually("the e-mail's state", SOON, async || {
        let rows = theater.api.list_all(&format!("/notifications?reserveId={reservation}")).await?;
        ensure!(rows.len() == 1 && rows[0]["emailStatus"] == status, "not {status}: {rows:?}");
        Ok(())
    })
    .await
}

async fn notification_ids(theater: &Theater) -> anyhow::Result<HashSet<String>> {
    let rows = theater.api.list_all("/notifications").await?;
    Ok(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
}

/// The number of attempts to send the reservation's e-mail, and the last error.
async fn attempts(theater: &Theater, reservation: Uuid) -> anyhow::Result<(i32, String)> {
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect(&theater.config.notification_url).await?;
    let row = sqlx::query_as(
        "select attempts, coalesce(last_error, '') from email
         join notification on id = notification_id where reservation_id = $1",
    );
    Ok(row.bind(reservation).fetch_one(&mut connection).await?)
}

/// Runs the operator's command as a process of its own. Returns its output.
async fn retry(theater: &Theater, reservation: Option<Uuid>) -> anyhow::Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_theater-tests"));
    command
        .args(["fleet", "notification", "retry-failed"])
        .env("DATABASE_URL", &theater.config.notification_url);
    if let Some(reservation) = reservation {
        command.arg(format!("--reservation={reservation}"));
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}
