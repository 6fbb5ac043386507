//! The private PostgreSQL: starts as root and as anybody, keeps what is committed, leaves nothing.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use sqlx::{Connection, PgConnection};
use theater_infra::port;
use theater_infra::postgres::{self, Postgres};
use theater_infra::supervise::{Scratch, User};

use super::role::Role;
use super::supervise::{alive, eventually};
use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("postgres::keeps_what_is_committed_when_killed", keeps_what_is_committed_when_killed),
        test("postgres::stop_leaves_nothing", stop_leaves_nothing),
        test("postgres::kill_9_of_the_parent_leaves_nothing", kill_9_of_the_parent_leaves_nothing),
        test("postgres::starts_for_an_ordinary_user", starts_for_an_ordinary_user),
        test("postgres::a_kept_folder_is_found_again", a_kept_folder_is_found_again),
        test("postgres::a_failed_start_is_one_clear_message", a_failed_start_is_one_clear_message),
        test("postgres::fetched_binaries_work", fetched_binaries_work),
    ]
}

async fn keeps_what_is_committed_when_killed() -> anyhow::Result<()> {
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
    sqlx::query("create table seen as select 1 as one").execute(&mut connection).await?;

    postgres.kill().await;
    assert!(PgConnection::connect(&url).await.is_err());
    postgres.restart().await?;
    let mut connection = PgConnection::connect(&url).await?;
    let one: i32 = sqlx::query_scalar("select one from seen").fetch_one(&mut connection).await?;
    assert_eq!(one, 1);

    postgres::drop_database(&postgres.admin_url(), "movie").await?;
    assert!(PgConnection::connect(&url).await.is_err());
    Ok(())
}

fn home(log: &str) -> PathBuf {
    Path::new(log).parent().expect("a folder").to_owned()
}

async fn stop_leaves_nothing() -> anyhow::Result<()> {
    let mut postgres = Postgres::start(None).await?;
    let child = postgres.child().expect("it runs");
    let (pid, folder) = (child.pid().to_string(), home(&child.log().display().to_string()));
    assert!(folder.join("data/PG_VERSION").exists());
    postgres.stop().await;
    assert!(!alive(&pid) && port::is_free(postgres.port()));
    drop(postgres);
    assert!(!folder.exists());
    Ok(())
}

async fn kill_9_of_the_parent_leaves_nothing() -> anyhow::Result<()> {
    let mut role = Role::start("postgres", |_| {})?;
    let url = role.told("url").to_owned();
    let mut busy = PgConnection::connect(&url).await?;
    let segment = system_v_segment(&home(role.told("log")));
    assert!(segments()?.contains(&segment), "its System V segment {segment} is known");
    role.kill_9()?;
    eventually("the server is dead", || !alive(role.told("pid"))).await?;
    eventually("its folder is gone", || !home(role.told("log")).exists()).await?;
    assert!(sqlx::query("select 1").execute(&mut busy).await.is_err());
    assert!(!segments()?.contains(&segment), "its System V segment {segment} is given back");
    Ok(())
}

/// The id of the server's shared memory segment: the last word in its lock file's 7th line.
fn system_v_segment(home: &Path) -> String {
    let data =
        std::fs::read_to_string(home.join("data/postmaster.pid")).expect("readable: we are root or its user");
    data.lines().nth(6).and_then(|line| line.split_whitespace().last()).expect("a segment").to_owned()
}

fn segments() -> anyhow::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    Ok(table.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
}

async fn starts_for_an_ordinary_user() -> anyhow::Result<()> {
    // As root this drops to nobody; any other user has been ordinary all along.
    let role = Role::start("postgres", |command| {
        if let Some(user) = User::unprivileged() {
            command.uid(user.uid).gid(user.gid).env("HOME", "/nonexistent").current_dir("/");
        }
    })?;
    let mut connection = PgConnection::connect(role.told("url")).await?;
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await?;
    assert_eq!(one, 1);
    Ok(())
}

async fn a_kept_folder_is_found_again() -> anyhow::Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir(), "theater-test")?;
    for round in 0..2 {
        let mut postgres = Postgres::start(Some(scratch.path())).await?;
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
    let scratch = Scratch::new(&std::env::temp_dir(), "theater-test")?;
    let mut postgres = Postgres::start(Some(scratch.path())).await?;
    postgres.stop().await;
    std::fs::write(scratch.path().join("postgres/data/postgresql.conf"), "no_such_setting = on\n")?;
    let error = Postgres::start(Some(scratch.path())).await.expect_err("it can't start").to_string();
    for part in ["PostgreSQL did not start", "no_such_setting", "--postgres URL"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    Ok(())
}

async fn fetched_binaries_work() -> anyhow::Result<()> {
    let postgres = Postgres::start_fetched(None).await?;
    let mut connection = PgConnection::connect(&postgres.admin_url()).await?;
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
    assert!(version.starts_with("17"), "{version}");
    Ok(())
}
