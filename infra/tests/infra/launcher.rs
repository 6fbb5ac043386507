//! The launcher's own binary: it starts, serves, is watched, ends in every way, and leaves nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use theater_infra::kafka_native::{NativeKafka, Port};
use theater_infra::postgres::Postgres;
use theater_infra::supervise::{Scratch, User};
use theater_infra::{http, port};

use super::supervise::eventually;
use crate::test;

const THEATER: &str = env!("CARGO_BIN_EXE_theater");
const MARK: &str = "THEATER_TEST_MARK";
const ANY_PORTS: [&str; 10] = [
    "--gateway-port",
    "0",
    "--reservation-port",
    "0",
    "--movie-port",
    "0",
    "--notification-port",
    "0",
    "--reservation-list-port",
    "0",
];

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("launcher::ctrl_c_ends_it_with_0_and_leaves_nothing", ctrl_c_ends_it_with_0_and_leaves_nothing),
        test("launcher::sigterm_while_it_starts_leaves_nothing", sigterm_while_it_starts_leaves_nothing),
        test("launcher::kill_9_leaves_nothing", kill_9_leaves_nothing),
        test("launcher::an_ordinary_user_can_run_it", an_ordinary_user_can_run_it),
        test("launcher::tail_and_demo_find_the_running_theater", tail_and_demo_find_the_running_theater),
        test("launcher::the_demo_holds_on_apache_kafka", the_demo_holds_on_apache_kafka),
        test("launcher::the_demo_names_the_step_that_fails", the_demo_names_the_step_that_fails),
        test("launcher::a_port_in_use_is_one_clear_message", a_port_in_use_is_one_clear_message),
        test("launcher::data_is_refused_with_the_embedded_broker", data_is_refused_with_the_embedded_broker),
        test("launcher::data_is_kept_between_runs", data_is_kept_between_runs),
        test("launcher::a_server_of_ones_own_is_left_as_it_was", a_server_of_ones_own_is_left_as_it_was),
        test(
            "launcher::events_without_their_databases_are_refused",
            events_without_their_databases_are_refused,
        ),
        test("launcher::a_dead_database_server_ends_it_with_1", a_dead_database_server_ends_it_with_1),
    ]
}

/// A folder for all that one launcher leaves anywhere.
struct Home(Scratch);

impl Home {
    fn new() -> anyhow::Result<Self> {
        let home = Self(Scratch::new(Path::new("/tmp"), "theater-test")?);
        for folder in ["tmp", "run"] {
            std::fs::create_dir(home.path().join(folder))?;
        }
        Ok(home)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(THEATER);
        command
            .args(args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env(MARK, self.path()).env_remove("RUST_LOG");
        command.env("TMPDIR", self.path().join("tmp")).env("XDG_RUNTIME_DIR", self.path().join("run"));
        command
    }

    fn output(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// Processes and files that are there because of a launcher of this home.
    fn traces(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.path().display());
        let mut traces: Vec<String> = list(Path::new("/proc"))
            .into_iter()
            .filter(|process| {
                // PostgreSQL writes over its environment, but its processes stay in their data folder.
                let folder = std::fs::read_link(format!("{process}/cwd")).unwrap_or_default();
                let environment = std::fs::read(format!("{process}/environ")).unwrap_or_default();
                folder.starts_with(self.path()) || String::from_utf8_lossy(&environment).contains(&mark)
            })
            .map(|process| {
                let line = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
                format!("{process} {}", String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect();
        traces.extend(list(&self.path().join("tmp")));
        traces.extend(list(&self.path().join("run/theater")));
        traces
    }

    async fn left_empty(&self) -> anyhow::Result<()> {
        let ended = eventually("nothing is left", || self.traces().is_empty()).await;
        ended.with_context(|| format!("left: {:#?}", self.traces()))
    }
}

fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// A launcher that is open. Dropping it kills it.
struct Launched {
    child: Child,
    /// Kept open, so that it can go on talking.
    _output: BufReader<ChildStdout>,
    /// What it has said of itself.
    said: String,
}

impl Launched {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.args(ANY_PORTS).spawn()?;
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        while output.read_line(&mut said)? > 0 {
            if said.ends_with("100}'\n") {
                return Ok(Self { child, _output: output, said });
            }
        }
        child.wait()?;
        anyhow::bail!("{said}{}", rest(&mut child)?)
    }

    fn address(&self, of: &str) -> &str {
        let line = self.said.lines().find(|line| line.trim_start().starts_with(of));
        line.and_then(|line| line.trim_start()[of.len()..].split_whitespace().next()).expect("it says where")
    }

    fn gateway(&self) -> &str {
        self.address("gateway")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for its end, at most 5 s.
    async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it did not end within 5 s: {}", self.said);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn rest(child: &mut Child) -> anyhow::Result<String> {
    let mut text = String::new();
    child.stderr.take().context("no errors")?.read_to_string(&mut text)?;
    Ok(text)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn publish(gateway: &str) -> anyhow::Result<String> {
    let movie = json!({"movieName": "LALALand", "qty": 100});
    let answer = http::client().build()?.post(format!("{gateway}/movies")).json(&movie).send().await?;
    ensure!(answer.status() == 201, "{}", answer.status());
    let movie: Value = answer.json().await?;
    Ok(movie["id"].as_str().context("an id")?.to_owned())
}

async fn ctrl_c_ends_it_with_0_and_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut theater = Launched::start(home.command(&[]))?;
    publish(theater.gateway()).await?;
    let port: u16 = theater.gateway().rsplit_once(':').context("a port")?.1.parse()?;
    assert!(!port::is_free(port));
    assert!(home.traces().len() > 2, "the traces are found while it runs: {:?}", home.traces());

    theater.signal(Signal::INT)?;
    let status = theater.ended().await?;
    assert_eq!(status.code(), Some(0), "{}", rest(&mut theater.child)?);
    assert_eq!(home.traces(), Vec::<String>::new());
    assert!(port::is_free(port));
    Ok(())
}

async fn sigterm_while_it_starts_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut child = home.command(&["--gateway-port", "0"]).args(ANY_PORTS[2..].iter()).spawn()?;
    eventually("PostgreSQL's folder is there", || !list(&home.path().join("tmp")).is_empty()).await?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0), "{}", rest(&mut child)?);
    home.left_empty().await
}

async fn kill_9_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut theater = Launched::start(home.command(&[]))?;
    publish(theater.gateway()).await?;
    theater.signal(Signal::KILL)?;
    theater.ended().await?;
    home.left_empty().await
}

async fn an_ordinary_user_can_run_it() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut command = home.command(&[]);
    if let Some(user) = User::unprivileged() {
        // The binary may lie where only root may look.
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
    let mut theater = Launched::start(command)?;
    publish(theater.gateway()).await?;
    theater.signal(Signal::TERM)?;
    assert_eq!(theater.ended().await?.code(), Some(0));
    assert_eq!(home.traces(), Vec::<String>::new());
    Ok(())
}

async fn tail_and_demo_find_the_running_theater() -> anyhow::Result<()> {
    let home = Home::new()?;
    let alone = home.output(&["tail"])?;
    assert_eq!(alone.status.code(), Some(1));
    assert!(errors(&alone).contains("no theater is running here"), "{}", errors(&alone));

    let mut theater = Launched::start(home.command(&[]))?;
    let mut tail = home.command(&["tail", "--from-beginning"]).spawn()?;
    let movie = publish(theater.gateway()).await?;
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

    let played = home.output(&["demo", "--gateway", theater.gateway()])?;
    assert!(played.status.success(), "{}", errors(&played));
    let told = home.output(&["demo", "--gateway", theater.gateway(), "--kafka", theater.address("Kafka")])?;
    assert!(told.status.success(), "{}", errors(&told));

    kill_process(Pid::from_child(&tail), Signal::INT)?;
    assert_eq!(tail.wait()?.code(), Some(0));
    theater.signal(Signal::TERM)?;
    theater.ended().await?;
    Ok(())
}

async fn the_demo_holds_on_apache_kafka() -> anyhow::Result<()> {
    let home = Home::new()?;
    let played = home.output(&["--kafka", "native", "demo"])?;
    let shown = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success(), "{}\n{shown}", errors(&played));
    // Every call with its answer, and every event of the golden table.
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

/// Passes everything on to the gateway, but turns the order of 57 tickets into one of 50, which there are.
fn meddler(gateway: &str) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let upstream = gateway.trim_start_matches("http://").to_owned();
    let pass = |mut from: TcpStream, mut to: TcpStream| {
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
            std::thread::spawn(move || pass(client, server));
            std::thread::spawn(move || pass(server_in, client_out));
        }
    });
    Ok(url)
}

async fn the_demo_names_the_step_that_fails() -> anyhow::Result<()> {
    let home = Home::new()?;
    let theater = Launched::start(home.command(&[]))?;
    let meddler = meddler(theater.gateway())?;
    let played = home.output(&["demo", "--gateway", &meddler, "--kafka", theater.address("Kafka")])?;
    assert_eq!(played.status.code(), Some(1));
    let error = errors(&played);
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
    let start = || Launched::start(home.command(&["--kafka", "native", "--data", &data]));
    let mut first = start()?;
    let movie = publish(first.gateway()).await?;
    first.signal(Signal::INT)?;
    assert_eq!(first.ended().await?.code(), Some(0));
    assert_eq!(home.traces(), Vec::<String>::new());

    let mut second = start()?;
    let client = http::client().build()?;
    let kept = client.get(format!("{}/movies/{movie}", second.gateway())).send().await?;
    assert_eq!(kept.status(), 200);
    // And it goes on from there: broker and databases agree.
    let gateway = second.gateway().to_owned();
    let played = home.output(&["demo", "--gateway", &gateway])?;
    assert!(played.status.success(), "{}", errors(&played));
    second.signal(Signal::INT)?;
    assert_eq!(second.ended().await?.code(), Some(0));
    Ok(())
}

async fn a_server_of_ones_own_is_left_as_it_was() -> anyhow::Result<()> {
    let home = Home::new()?;
    let postgres = Postgres::start(None).await?;
    let url = postgres.admin_url();
    let databases = async || -> anyhow::Result<Vec<String>> {
        let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await?;
        let names = "select datname from pg_database order by datname";
        Ok(sqlx::query_scalar(names).fetch_all(&mut connection).await?)
    };
    let before = databases().await?;
    let mut theater = Launched::start(home.command(&["--postgres", &url]))?;
    assert_eq!(databases().await?.len(), before.len() + 4);
    publish(theater.gateway()).await?;
    theater.signal(Signal::INT)?;
    assert_eq!(theater.ended().await?.code(), Some(0), "{}", rest(&mut theater.child)?);
    assert_eq!(databases().await?, before);
    Ok(())
}

async fn events_without_their_databases_are_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    let kafka = NativeKafka::start(None, Port::Any).await?;
    let args = ["--kafka", &kafka.bootstrap_servers()];
    let mut first = Launched::start(home.command(&args))?;
    publish(first.gateway()).await?;
    let tailed = home.command(&["tail", "--from-beginning", "theater.movies"]).spawn();
    let mut tail = tailed?;
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
    let mut theater = Launched::start(home.command(&[]))?;
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
    let error = rest(&mut theater.child)?;
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("theater: PostgreSQL has ended (signal: 9"), "{error}");
    home.left_empty().await
}
