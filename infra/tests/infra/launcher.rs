//! The launcher's binary: it starts, serves, is found by `tail` and `demo`, ends in every way, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use theater_infra::kafka_native::{NativeKafka, Port};
use theater_infra::postgres::Postgres;
use theater_infra::supervise::User;
use theater_infra::{http, port};

use super::launcher_process::{ANY_PORTS, Home, Launcher, MARK, THEATER, errors, list, read_stderr};
use super::supervise::eventually;
use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("launcher::ctrl_c_ends_it_with_0_and_leaves_nothing", ctrl_c_ends_it_with_0_and_leaves_nothing),
        test("launcher::sigterm_while_it_starts_leaves_nothing", sigterm_while_it_starts_leaves_nothing),
        test("launcher::kill_9_leaves_nothing", kill_9_leaves_nothing),
        test("launcher::an_ordinary_user_can_run_it", an_ordinary_user_can_run_it),
        test("launcher::tail_and_demo_find_the_running_theater", tail_and_demo_find_the_running_theater),
        test("launcher::the_demo_succeeds_on_apache_kafka", the_demo_succeeds_on_apache_kafka),
        test("launcher::the_demo_names_the_step_that_fails", the_demo_names_the_step_that_fails),
        test("launcher::a_port_in_use_is_one_clear_message", a_port_in_use_is_one_clear_message),
        test("launcher::data_is_refused_with_the_embedded_broker", data_is_refused_with_the_embedded_broker),
        test("launcher::data_is_kept_between_runs", data_is_kept_between_runs),
        test(
            "launcher::an_existing_database_server_is_left_as_it_was",
            an_existing_database_server_is_left_as_it_was,
        ),
        test(
            "launcher::events_without_their_databases_are_refused",
            events_without_their_databases_are_refused,
        ),
        test("launcher::a_dead_database_server_ends_it_with_1", a_dead_database_server_ends_it_with_1),
    ]
}

async fn publish_movie(gateway: &str) -> anyhow::Result<String> {
    let movie = json!({"movieName": "LALALand", "qty": 100});
    let answer = http::client().build()?.post(format!("{gateway}/movies")).json(&movie).send().await?;
    ensure!(answer.status() == 201, "{}", answer.status());
    let movie: Value = answer.json().await?;
    Ok(movie["id"].as_str().context("an id")?.to_owned())
}

async fn ctrl_c_ends_it_with_0_and_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut theater = Launcher::start(home.command(&[]))?;
    publish_movie(theater.gateway()).await?;
    let port: u16 = theater.gateway().rsplit_once(':').context("a port")?.1.parse()?;
    assert!(!port::is_free(port));
    assert!(home.traces().len() > 2, "the traces are found while it runs: {:?}", home.traces());

    theater.signal(Signal::INT)?;
    let status = theater.ended().await?;
    assert_eq!(status.code(), Some(0), "{}", read_stderr(&mut theater.child)?);
    assert_eq!(home.traces(), Vec::<String>::new());
    assert!(port::is_free(port));
    Ok(())
}

async fn sigterm_while_it_starts_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut child = home.command(&["--gateway-port", "0"]).args(ANY_PORTS[2..].iter()).spawn()?;
    eventually("PostgreSQL's folder is there", || !list(&home.path().join("tmp")).is_empty()).await?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0), "{}", read_stderr(&mut child)?);
    home.wait_until_empty().await
}

async fn kill_9_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut theater = Launcher::start(home.command(&[]))?;
    publish_movie(theater.gateway()).await?;
    theater.signal(Signal::KILL)?;
    theater.ended().await?;
    home.wait_until_empty().await
}

async fn an_ordinary_user_can_run_it() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut command = home.command(&[]);
    if let Some(user) = User::unprivileged() {
        // The binary may be in a folder that only root can enter.
        let binary = home.path().join("theater");
        std::fs::copy(THEATER, &binary)?;
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))?;
        command = {
            let mut other = Command::new(binary);
            other.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            other.env(MARK, home.path()).env("HOME", home.path().join("run")).env_remove("XDG_CACHE_HOME");
            other.env("TMPDIR", home.path().join("tmp")).env("XDG_RUNTIME_DIR", home.path().join("run"));
            other.uid(user.uid).gid(user.gid).current_dir("/");
            other
        };
        for folder in ["tmp", "run"] {
            chown(home.path().join(folder), Some(user.uid), Some(user.gid))?;
        }
    }
    let mut theater = Launcher::start(command)?;
    publish_movie(theater.gateway()).await?;
    theater.signal(Signal::TERM)?;
    assert_eq!(theater.ended().await?.code(), Some(0));
    assert_eq!(home.traces(), Vec::<String>::new());
    Ok(())
}

async fn tail_and_demo_find_the_running_theater() -> anyhow::Result<()> {
    let home = Home::new()?;
    let without_theater = home.output(&["tail"])?;
    assert_eq!(without_theater.status.code(), Some(1));
    assert!(errors(&without_theater).contains("no theater is running here"), "{}", errors(&without_theater));

    let mut theater = Launcher::start(home.command(&[]))?;
    let mut tail = home.command(&["tail", "--from-beginning"]).spawn()?;
    let movie = publish_movie(theater.gateway()).await?;
    let mut lines = BufReader::new(tail.stdout.take().context("no output")?).lines();
    let mut record = Vec::new();
    while record.len() < 3 {
        record.push(lines.next().context("the tail ended")??);
    }
    assert!(
        record[0].starts_with("theater.movies[") && record[0].ends_with(&format!("key={movie}")),
        "{record:?}"
    );
    assert!(record[1].contains("ce_type=theater.movie-published.v1"), "{record:?}");
    assert!(record[2].contains("\"eventType\":\"MoviePublished\""), "{record:?}");

    let demo = home.output(&["demo", "--gateway", theater.gateway()])?;
    assert!(demo.status.success(), "{}", errors(&demo));
    let with_broker =
        home.output(&["demo", "--gateway", theater.gateway(), "--kafka", theater.address("Kafka")])?;
    assert!(with_broker.status.success(), "{}", errors(&with_broker));

    kill_process(Pid::from_child(&tail), Signal::INT)?;
    assert_eq!(tail.wait()?.code(), Some(0));
    theater.signal(Signal::TERM)?;
    theater.ended().await?;
    Ok(())
}

async fn the_demo_succeeds_on_apache_kafka() -> anyhow::Result<()> {
    let home = Home::new()?;
    let demo = home.output(&["--kafka", "native", "demo"])?;
    let shown = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{}\n{shown}", errors(&demo));
    // Every call with its answer, and every event of the golden run.
    for (line, times) in
        [("   > POST /movies ", 1), ("   > POST /reservations ", 3), ("   > DELETE /reservations/", 1)]
    {
        assert_eq!(shown.matches(line).count(), times, "{line}: {shown}");
    }
    assert_eq!(shown.matches("   < 20").count(), 5, "{shown}");
    assert_eq!(shown.matches("   * theater.movies[").count(), 5, "{shown}");
    assert_eq!(shown.matches("   * theater.reservations[").count(), 7, "{shown}");
    assert_eq!(home.traces(), Vec::<String>::new());
    Ok(())
}

/// Starts a proxy to the gateway that changes the order of 57 tickets into one of 50, which is accepted.
fn tampering_proxy(gateway: &str) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let upstream = gateway.trim_start_matches("http://").to_owned();
    let forward = |mut from: TcpStream, mut to: TcpStream| {
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..read]).replace("\"count\":57", "\"count\":50");
            if to.write_all(text.as_bytes()).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&upstream) else { break };
            let (Ok(client_out), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { break };
            std::thread::spawn(move || forward(client, server));
            std::thread::spawn(move || forward(server_in, client_out));
        }
    });
    Ok(url)
}

async fn the_demo_names_the_step_that_fails() -> anyhow::Result<()> {
    let home = Home::new()?;
    let theater = Launcher::start(home.command(&[]))?;
    let proxy = tampering_proxy(theater.gateway())?;
    let demo = home.output(&["demo", "--gateway", &proxy, "--kafka", theater.address("Kafka")])?;
    assert_eq!(demo.status.code(), Some(1));
    let error = errors(&demo);
    for part in ["step 3 failed", "Grace reserves 57", "expected `count` to be 57, and it is 50"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    Ok(())
}

async fn a_port_in_use_is_one_clear_message() -> anyhow::Result<()> {
    let home = Home::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let mut args = ANY_PORTS.to_vec();
    args[5] = &port;
    let output = home.output(&args)?;
    assert_eq!(output.status.code(), Some(1));
    let error = errors(&output);
    for part in ["movie can't listen on 127.0.0.1:", &port, "in use", "--movie-port PORT"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    assert_eq!(error.lines().count(), 1, "one message: {error}");
    Ok(())
}

async fn data_is_refused_with_the_embedded_broker() -> anyhow::Result<()> {
    let home = Home::new()?;
    let data = home.path().join("data").display().to_string();
    let output = home.output(&["--data", &data])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("Add --kafka native"), "{}", errors(&output));
    assert!(!Path::new(&data).exists());
    Ok(())
}

async fn data_is_kept_between_runs() -> anyhow::Result<()> {
    let home = Home::new()?;
    let data = home.path().join("data").display().to_string();
    let start = || Launcher::start(home.command(&["--kafka", "native", "--data", &data]));
    let mut first = start()?;
    let movie = publish_movie(first.gateway()).await?;
    first.signal(Signal::INT)?;
    assert_eq!(first.ended().await?.code(), Some(0));
    assert_eq!(home.traces(), Vec::<String>::new());

    let mut second = start()?;
    let client = http::client().build()?;
    let kept = client.get(format!("{}/movies/{movie}", second.gateway())).send().await?;
    assert_eq!(kept.status(), 200);
    // The demo succeeds: broker and databases agree.
    let gateway = second.gateway().to_owned();
    let demo = home.output(&["demo", "--gateway", &gateway])?;
    assert!(demo.status.success(), "{}", errors(&demo));
    second.signal(Signal::INT)?;
    assert_eq!(second.ended().await?.code(), Some(0));
    Ok(())
}

async fn an_existing_database_server_is_left_as_it_was() -> anyhow::Result<()> {
    let home = Home::new()?;
    let postgres = Postgres::start(None).await?;
    let url = postgres.admin_url();
    let databases = async || -> anyhow::Result<Vec<String>> {
        let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await?;
        let names = "select datname from pg_database order by datname";
        Ok(sqlx::query_scalar(names).fetch_all(&mut connection).await?)
    };
    let before = databases().await?;
    let mut theater = Launcher::start(home.command(&["--postgres", &url]))?;
    assert_eq!(databases().await?.len(), before.len() + 4);
    publish_movie(theater.gateway()).await?;
    theater.signal(Signal::INT)?;
    assert_eq!(theater.ended().await?.code(), Some(0), "{}", read_stderr(&mut theater.child)?);
    assert_eq!(databases().await?, before);
    Ok(())
}

async fn events_without_their_databases_are_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    let kafka = NativeKafka::start(None, Port::Any).await?;
    let args = ["--kafka", &kafka.bootstrap_servers()];
    let mut first = Launcher::start(home.command(&args))?;
    publish_movie(first.gateway()).await?;
    let mut tail = home.command(&["tail", "--from-beginning", "theater.movies"]).spawn()?;
    let mut line = String::new();
    BufReader::new(tail.stdout.take().context("no output")?).read_line(&mut line)?;
    assert!(line.starts_with("theater.movies["), "{line}");
    tail.kill()?;
    tail.wait()?;
    first.signal(Signal::INT)?;
    first.ended().await?;

    let output = home.command(&args).args(ANY_PORTS).output()?;
    assert_eq!(output.status.code(), Some(1));
    for part in ["hold events already", "--postgres URL or --data DIR", "--kafka-topic-prefix"] {
        assert!(errors(&output).contains(part), "no {part:?} in: {}", errors(&output));
    }
    Ok(())
}

async fn a_dead_database_server_ends_it_with_1() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut theater = Launcher::start(home.command(&[]))?;
    let server =
        home.traces().into_iter().find(|trace| trace.contains("/postgres -D ")).context("PostgreSQL")?;
    let pid: i32 = server
        .split_whitespace()
        .next()
        .and_then(|path| path.rsplit('/').next())
        .context("a pid")?
        .parse()?;
    kill_process(Pid::from_raw(pid).context("a pid")?, Signal::KILL)?;
    let status = theater.ended().await?;
    let error = read_stderr(&mut theater.child)?;
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("theater: PostgreSQL has ended (signal: 9"), "{error}");
    home.wait_until_empty().await
}
