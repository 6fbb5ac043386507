//! The private PostgreSQL: starts for root and for other users, keeps committed data, leaves nothing behind.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use sqlx::{Connection, PgConnection};
use theater_infra::port;
use theater_infra::postgres::{self, Postgres};
use theater_infra::supervise::{TempDir, User};

use super::helper_process::HelperProcess;
use super::supervise::{alive, eventually};
use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("postgres::committed_data_survive_a_kill", committed_data_survive_a_kill),
        test("postgres::stop_leaves_nothing", stop_leaves_nothing),
        test("postgres::kill_9_of_the_parent_leaves_nothing", kill_9_of_the_parent_leaves_nothing),
        test("postgres::starts_for_an_ordinary_user", starts_for_an_ordinary_user),
        test("postgres::a_persistent_folder_is_used_again", a_persistent_folder_is_used_again),
        test("postgres::a_failed_start_is_one_clear_message", a_failed_start_is_one_clear_message),
        test("postgres::downloaded_binaries_work", downloaded_binaries_work),
    ]
}

async fn committed_data_survive_a_kill() -> anyhow::Result<()> {
    let mut postgres = Postgres::start(None).await?;
    let url = postgres.create_database("movie").await?;
    assert_eq!(postgres.create_database("movie").await?, url, "creating it again changes nothing");

    let mut connection = PgConnection::connect(&url).await?;
    let setting = async |connection: &mut PgConnection, name: &str| {
        sqlx::query_scalar::<_, String>("select current_setting($1)")
            .bind(name.to_owned())
            .fetch_one(connection)
            .await
    };
    assert_eq!(setting(&mut connection, "fsync").await?, "on");
    assert_eq!(setting(&mut connection, "server_encoding").await?, "UTF8");
    sqlx::query("create table kept as select 1 as one").execute(&mut connection).await?;

    postgres.kill().await;
    assert!(PgConnection::connect(&url).await.is_err());
    postgres.restart().await?;
    let mut connection = PgConnection::connect(&url).await?;
    let one: i32 = sqlx::query_scalar("select one from kept").fetch_one(&mut connection).await?;
    assert_eq!(one, 1);

    postgres::drop_database(&postgres.admin_url(), "movie").await?;
    assert!(PgConnection::connect(&url).await.is_err());
    Ok(())
}

fn folder_of(log: &str) -> PathBuf {
    Path::new(log).parent().expect("a folder").to_owned()
}

async fn stop_leaves_nothing() -> anyhow::Result<()> {
    let mut postgres = Postgres::start(None).await?;
    let child = postgres.child().expect("it runs");
    let (pid, folder) = (child.pid().to_string(), folder_of(&child.log().display().to_string()));
    assert!(folder.join("data/PG_VERSION").exists());
    postgres.stop().await;
    assert!(!alive(&pid) && port::is_free(postgres.port()));
    drop(postgres);
    assert!(!folder.exists());
    Ok(())
}

async fn kill_9_of_the_parent_leaves_nothing() -> anyhow::Result<()> {
    let mut helper = HelperProcess::start("postgres", |_| {})?;
    let url = helper.value("url").to_owned();
    let mut busy = PgConnection::connect(&url).await?;
    let segment = system_v_segment(&folder_of(helper.value("log")));
    assert!(segments()?.contains(&segment), "its System V segment {segment} is known");
    helper.kill_9()?;
    eventually("the server is dead", || !alive(helper.value("pid"))).await?;
    eventually("its folder is gone", || !folder_of(helper.value("log")).exists()).await?;
    assert!(sqlx::query("select 1").execute(&mut busy).await.is_err());
    assert!(!segments()?.contains(&segment), "its System V segment {segment} is given back");
    Ok(())
}

/// The id of the server's shared memory segment: the last word in its lock file's 7th line.
fn system_v_segment(folder: &Path) -> String {
    let data = std::fs::read_to_string(folder.join("data/postmaster.pid"))
        .expect("readable: we are root or its user");
    data.lines().nth(6).and_then(|line| line.split_whitespace().last()).expect("a segment").to_owned()
}

fn segments() -> anyhow::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    Ok(table.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
}

async fn starts_for_an_ordinary_user() -> anyhow::Result<()> {
    // If this is root, the helper process runs as nobody.
    let helper = HelperProcess::start("postgres", |command| {
        if let Some(user) = User::unprivileged() {
            command.uid(user.uid).gid(user.gid).env("HOME", "/nonexistent").current_dir("/");
        }
    })?;
    let mut connection = PgConnection::connect(helper.value("url")).await?;
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await?;
    assert_eq!(one, 1);
    Ok(())
}

async fn a_persistent_folder_is_used_again() -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    for round in 0..2 {
        let mut postgres = Postgres::start(Some(temp_dir.path())).await?;
        let url = postgres.create_database("movie").await?;
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::query("create table if not exists round (n int)").execute(&mut connection).await?;
        let rounds: i64 = sqlx::query_scalar("select count(*) from round").fetch_one(&mut connection).await?;
        assert_eq!(rounds, round);
        sqlx::query("insert into round values (1)").execute(&mut connection).await?;
        postgres.stop().await;
    }
    Ok(())
}

async fn a_failed_start_is_one_clear_message() -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let mut postgres = Postgres::start(Some(temp_dir.path())).await?;
    postgres.stop().await;
    std::fs::write(temp_dir.path().join("postgres/data/postgresql.conf"), "no_such_setting = on\n")?;
    let error = Postgres::start(Some(temp_dir.path())).await.expect_err("it can't start").to_string();
    for part in ["PostgreSQL did not start", "no_such_setting", "--postgres URL"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    Ok(())
}

async fn downloaded_binaries_work() -> anyhow::Result<()> {
    let postgres = Postgres::start_downloaded(None).await?;
    let mut connection = PgConnection::connect(&postgres.admin_url()).await?;
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
    assert!(version.starts_with("17"), "{version}");
    Ok(())
}
