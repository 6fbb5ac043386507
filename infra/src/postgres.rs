//! A private PostgreSQL: the machine's own binaries, or 17 fetched once into the cache.
//!
//! It listens on 127.0.0.1 only and has no unix socket. Its one user, `postgres`, has a random password: on a
//! machine with other users, a trusting superuser on a port would let them run programs as us. The password
//! goes over the loopback as it is, which only root could read: hashing it anew for each of some hundred
//! connections would cost an unoptimised build more than the tests' own work.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use uuid::Uuid;

use crate::progress::step;
use crate::supervise::{Child, Program, Scratch, Signal, User};
use crate::{cache, port};

mod binaries;

const START_SECS: u64 = 60;
const STOP_SECS: u64 = 10;
/// Two replicas of every service with their pools, and the tests' own connections.
const MAX_CONNECTIONS: u32 = 300;
const SUPERUSER: &str = "postgres";
const WAY_OUT: &str = "Another server can be used instead: --postgres URL (for tests: DATABASE_URL)";

/// A running server. Dropping it kills it and removes its data, unless they are to be kept.
#[derive(Debug)]
pub struct Postgres {
    child: Option<Child>,
    binaries: PathBuf,
    home: Home,
    port: u16,
    password: String,
}

/// Where its files are.
#[derive(Debug)]
enum Home {
    Temporary(Scratch),
    Kept(PathBuf),
}

impl Home {
    fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let user = User::unprivileged();
        match keep {
            Some(path) => kept_folder(path, user).map(Self::Kept),
            None => temporary_folder(user).map(Self::Temporary),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(scratch) => scratch.path(),
            Self::Kept(path) => path,
        }
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.path().join("postgres.log")
    }
}

impl Postgres {
    /// Starts one on a free port: in `keep` if given, else in a temporary folder.
    ///
    /// # Errors
    /// One message with the log's last lines and the way out.
    pub async fn start(keep: Option<&Path>) -> anyhow::Result<Self> {
        let home = Home::new(keep)?;
        let binaries = binaries::find(User::unprivileged(), &home.data()).await?;
        Self::start_in(home, binaries).await
    }

    /// Starts one of the binaries from the cache, whatever the machine has.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_fetched(keep: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_in(Home::new(keep)?, binaries::fetch().await?).await
    }

    async fn start_in(home: Home, binaries: PathBuf) -> anyhow::Result<Self> {
        let user = User::unprivileged();
        step("starting PostgreSQL", async {
            let password = password(&home, &binaries, user).await?;
            let mut postgres = Self { child: None, binaries, home, port: port::free()?, password };
            postgres.launch().await?;
            Ok(postgres)
        })
        .await
    }

    /// As the services are to be given it: `postgres://…/<database>`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Of the server, for [`create_database`] and [`drop_database`].
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process, if it was started last and not stopped: to kill, freeze and watch it.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Creates a database unless it is there; returns its URL.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        create_database(&self.admin_url(), name).await
    }

    /// Starts it again on the same data and port, after [`stop`](Self::stop), [`kill`](Self::kill) or a crash.
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

    /// Ends it. Its data stay until it is dropped, or for good if they are to be kept.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            // What is thrown away needs no checkpoint: an immediate shutdown will do.
            let signal = if matches!(self.home, Home::Kept(_)) { Signal::INT } else { Signal::QUIT };
            child.stop(signal, Duration::from_secs(STOP_SECS)).await;
        }
    }

    /// `kill -9`, for all its processes.
    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        const TRIES: u32 = 3;
        let mut taken = 0;
        loop {
            let child = self.server().spawn().context("can't start PostgreSQL")?;
            let Err(reason) = self.until_ready(&child).await else {
                self.child = Some(child);
                return Ok(());
            };
            let words = child.last_words();
            taken += 1;
            if !words.contains("Address already in use") || taken == TRIES {
                return Err(anyhow!("PostgreSQL {reason}. The end of its log:\n{words}\n{WAY_OUT}"));
            }
            self.port = port::free()?;
        }
    }

    fn server(&self) -> Program {
        let mut command = Command::new(self.binaries.join("postgres"));
        command.current_dir(self.home.data()).arg("-D").arg(self.home.data());
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            format!("max_connections={MAX_CONNECTIONS}"),
            // In its folder rather than in /dev/shm, so that nothing stays after kill -9.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "fsync=on".to_owned(),
        ];
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // SIGQUIT, its immediate shutdown, lets it give back its System V segment as well.
        Program::new(command, self.home.log()).user(User::unprivileged()).death_signal(Signal::QUIT)
    }

    async fn until_ready(&self, child: &Child) -> Result<(), String> {
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

fn temporary_folder(user: Option<User>) -> anyhow::Result<Scratch> {
    let parent = cache::temporary(user);
    let scratch = Scratch::new(&parent, "theater-postgres").with_context(|| {
        format!("can't make a temporary folder in {} (TMPDIR chooses another)", parent.display())
    })?;
    data_folder(scratch.path(), user)?;
    Ok(scratch)
}

fn kept_folder(path: &Path, user: Option<User>) -> anyhow::Result<PathBuf> {
    let home = path.join("postgres");
    fs::create_dir_all(&home).with_context(|| format!("can't create {}", home.display()))?;
    let home = home.canonicalize()?;
    data_folder(&home, user)?;
    if !cache::open_to(user, &home) {
        bail!(
            "PostgreSQL can't use {}: it does not run as root, and its user {} may not enter that folder. \
             Choose another --data folder, or open the folders above it (chmod o+x)",
            home.display(),
            User::NOBODY.uid,
        );
    }
    Ok(home)
}

fn data_folder(home: &Path, user: Option<User>) -> anyhow::Result<()> {
    let data = home.join("data");
    if data.is_dir() {
        return Ok(());
    }
    fs::create_dir(&data)?;
    fs::set_permissions(&data, Permissions::from_mode(0o700))?;
    if let Some(user) = user {
        chown(&data, Some(user.uid), Some(user.gid))
            .with_context(|| format!("can't give {} to user {}", data.display(), user.uid))?;
    }
    Ok(())
}

/// The superuser's password; initialises the data if there are none yet.
async fn password(home: &Home, binaries: &Path, user: Option<User>) -> anyhow::Result<String> {
    let file = home.path().join("password");
    if home.data().join("PG_VERSION").exists() {
        return fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()));
    }
    // What a start that was cut short has left would stop initdb.
    fs::remove_dir_all(home.data())?;
    data_folder(home.path(), user)?;
    let password = Uuid::new_v4().simple().to_string();
    let _ = fs::remove_file(&file);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?
        .write_all(password.as_bytes())?;
    if let Some(user) = user {
        chown(&file, Some(user.uid), Some(user.gid))?;
    }

    let mut initdb = Command::new(binaries.join("initdb"));
    initdb.current_dir(home.data()).arg("-D").arg(home.data()).arg("--pwfile").arg(&file);
    initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--username", SUPERUSER]);
    initdb.args(["--auth-local=reject", "--auth-host=password"]);
    let child = Program::new(initdb, home.log()).user(user).spawn().context("can't start initdb")?;
    let status = child.exited().await;
    if !status.success() {
        bail!("initdb failed ({status}):\n{}\n{WAY_OUT}", child.last_words());
    }
    Ok(password)
}

/// Creates a database on the server of `admin_url` unless it is there; returns its URL.
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

/// Drops a database, whoever is connected to it.
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

/// The same server's URL with another database.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse(url).context("not a PostgreSQL URL")?;
    url.set_path(name);
    let _: PgConnectOptions = url.as_str().parse().context("not a PostgreSQL URL")?;
    Ok(url.into())
}
