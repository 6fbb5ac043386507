//! A private PostgreSQL: the machine's own binaries, or version 17 downloaded once into the cache.
//!
//! It listens on 127.0.0.1 only and has no Unix socket. Its one user, `postgres`, has a random password: on a machine with
//! other users, a superuser without password would let them run programs as this user. The password is sent in clear text
//! over the loopback interface, which only root can read: hashing it for each of some hundred connections would cost an
//! unoptimised build more time than the tests themselves.
//!
//! - [`binaries`]: finds or downloads the binaries
//! - [`setup`]: its folder, its password and its first data

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::data_dir::DataDir;
use crate::port;
use crate::progress::step;
use crate::supervise::{Child, Program, Signal, User};

mod binaries;
mod setup;

use binaries::ALTERNATIVE;
use setup::{SUPERUSER, create_folder, data_path, init_data, log_path};

const START_SECS: u64 = 60;
const STOP_SECS: u64 = 10;
/// Two replicas of every service with their pools, and the tests' own connections.
const MAX_CONNECTIONS: u32 = 300;

/// A running server. Dropping it kills it, and removes a temporary folder.
#[derive(Debug)]
pub struct Postgres {
    child: Option<Child>,
    binaries: PathBuf,
    folder: DataDir,
    port: u16,
    password: String,
}

impl Postgres {
    /// Starts one on a free port, with its files below `parent` if given, else in a temporary folder.
    ///
    /// # Errors
    /// If there are no binaries, or if the server does not start: the message has the log's last lines and an
    /// alternative.
    pub async fn start(parent: Option<&Path>) -> anyhow::Result<Self> {
        let folder = create_folder(parent)?;
        let binaries = binaries::find(User::unprivileged(), &data_path(&folder)).await?;
        Self::start_in(folder, binaries).await
    }

    /// As [`start`](Self::start), with the downloaded binaries even if the machine has its own.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_downloaded(parent: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_in(create_folder(parent)?, binaries::download().await?).await
    }

    async fn start_in(folder: DataDir, binaries: PathBuf) -> anyhow::Result<Self> {
        let user = User::unprivileged();
        step("starting PostgreSQL", async {
            let password = init_data(&folder, &binaries, user).await?;
            let mut postgres = Self { child: None, binaries, folder, port: port::free()?, password };
            postgres.launch().await?;
            Ok(postgres)
        })
        .await
    }

    /// The URL of a database, for the services: `postgres://…/<database>`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The URL for [`create_database`] and [`drop_database`].
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process, unless it was stopped or killed: to signal and watch it.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Creates a database unless it exists. Returns its URL.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        create_database(&self.admin_url(), name).await
    }

    /// Starts it again with the same data and port: it runs, was stopped or killed, or has crashed.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if let Some(child) = self.child.take() {
            child.stop(Signal::INT, Duration::from_secs(STOP_SECS)).await;
        }
        let port = self.port;
        self.launch().await?;
        if self.port != port {
            bail!("PostgreSQL could not have its port {port} back: another program took it");
        }
        Ok(())
    }

    /// Stops it. A temporary folder stays until this is dropped.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            // Temporary data need no checkpoint: SIGQUIT is PostgreSQL's immediate shutdown.
            let signal =
                if matches!(self.folder, DataDir::Persistent(_)) { Signal::INT } else { Signal::QUIT };
            child.stop(signal, Duration::from_secs(STOP_SECS)).await;
        }
    }

    /// `kill -9` for all its processes.
    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        const ATTEMPTS: u32 = 3;
        let mut attempts = 0;
        loop {
            let child = self.server().spawn().context("can't start PostgreSQL")?;
            let Err(reason) = self.wait_until_ready(&child).await else {
                self.child = Some(child);
                return Ok(());
            };
            let log_tail = child.log_tail();
            attempts += 1;
            if !log_tail.contains("Address already in use") || attempts == ATTEMPTS {
                return Err(anyhow!("PostgreSQL {reason}. The end of its log:\n{log_tail}\n{ALTERNATIVE}"));
            }
            self.port = port::free()?;
        }
    }

    fn server(&self) -> Program {
        let data = data_path(&self.folder);
        let mut command = Command::new(self.binaries.join("postgres"));
        command.current_dir(&data).arg("-D").arg(&data);
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            format!("max_connections={MAX_CONNECTIONS}"),
            // In the server's folder rather than in /dev/shm, where files would stay after kill -9.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "fsync=on".to_owned(),
        ];
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // On SIGQUIT, its immediate shutdown, it also releases its System V segment.
        Program::new(command, log_path(&self.folder)).user(User::unprivileged()).death_signal(Signal::QUIT)
    }

    async fn wait_until_ready(&self, child: &Child) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(START_SECS);
        loop {
            let error = match PgConnection::connect(&self.admin_url()).await {
                Ok(connection) => return connection.close().await.map_err(|error| error.to_string()),
                Err(error) => error,
            };
            if let Some(status) = child.exit_status() {
                return Err(format!("did not start ({status})"));
            }
            if Instant::now() > deadline {
                return Err(format!("did not answer within {START_SECS} s ({error})"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Creates a database on the server of `admin_url` unless it exists. Returns its URL.
///
/// # Errors
/// If the server can't be reached or refuses.
pub async fn create_database(admin_url: &str, name: &str) -> anyhow::Result<String> {
    const DUPLICATE_DATABASE: &str = "42P04";
    let created = execute(admin_url, format!("create database {}", quoted(name))).await;
    if let Err(error) = created {
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        if code.as_deref() != Some(DUPLICATE_DATABASE) {
            return Err(error).with_context(|| format!("can't create the database {name}"));
        }
    }
    with_database(admin_url, name)
}

/// Drops a database, even if there are connections to it.
///
/// # Errors
/// If the server can't be reached or refuses.
pub async fn drop_database(admin_url: &str, name: &str) -> anyhow::Result<()> {
    let dropped = execute(admin_url, format!("drop database if exists {} with (force)", quoted(name))).await;
    dropped.with_context(|| format!("can't drop the database {name}"))
}

async fn execute(url: &str, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse(url).context("not a PostgreSQL URL")?;
    url.set_path(name);
    let _: PgConnectOptions = url.as_str().parse().context("not a PostgreSQL URL")?;
    Ok(url.into())
}
