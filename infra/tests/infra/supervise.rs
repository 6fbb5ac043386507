//! Children and temporary folders never outlive their process, however it ends.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::{Pid, kill_process};
use theater_infra::supervise::{Program, Signal, TempDir};

use super::helper_process::HelperProcess;
use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("supervise::kill_9_of_the_parent_leaves_nothing", kill_9_of_the_parent_leaves_nothing),
        test("supervise::kill_9_of_the_reaper_too_leaves_no_child", kill_9_of_the_reaper_too_leaves_no_child),
        test("supervise::an_ordinary_end_leaves_nothing", an_ordinary_end_leaves_nothing),
        test("supervise::children_outlive_the_thread_that_asked", children_outlive_the_thread_that_asked),
        test("supervise::a_missing_program_is_named", a_missing_program_is_named),
        test("supervise::a_child_that_ignores_sigterm_is_killed", a_child_that_ignores_sigterm_is_killed),
    ]
}

pub(crate) fn alive(pid: &str) -> bool {
    // A zombie is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Waits until `condition` holds, by a deadline.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        anyhow::ensure!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn nothing_is_left(helper: &HelperProcess) -> anyhow::Result<()> {
    eventually("the child is dead", || !alive(helper.value("child"))).await?;
    eventually("the grandchild is dead", || !alive(helper.value("grandchild"))).await?;
    eventually("the folder is gone", || !Path::new(helper.value("folder")).exists()).await
}

async fn kill_9_of_the_parent_leaves_nothing() -> anyhow::Result<()> {
    let mut helper = HelperProcess::start("parent", |_| {})?;
    assert!(alive(helper.value("child")) && alive(helper.value("grandchild")));
    assert!(Path::new(helper.value("folder")).join("file").exists());
    helper.kill_9()?;
    nothing_is_left(&helper).await
}

async fn kill_9_of_the_reaper_too_leaves_no_child() -> anyhow::Result<()> {
    let mut helper = HelperProcess::start("parent", |_| {})?;
    let children = format!("/proc/{0}/task", helper.child.id());
    let mut reaper = None;
    for thread in std::fs::read_dir(children)? {
        for child in std::fs::read_to_string(thread?.path().join("children"))?.split_whitespace() {
            if std::fs::read_to_string(format!("/proc/{child}/cmdline"))?.contains("--theater-reaper") {
                reaper = Pid::from_raw(child.parse()?);
            }
        }
    }
    kill_process(reaper.expect("there is a reaper"), Signal::KILL)?;
    helper.kill_9()?;
    eventually("the child is dead", || !alive(helper.value("child"))).await?;
    // Clean up in the reaper's place.
    kill_process(Pid::from_raw(helper.value("grandchild").parse()?).expect("a pid"), Signal::KILL)?;
    Ok(std::fs::remove_dir_all(helper.value("folder"))?)
}

async fn an_ordinary_end_leaves_nothing() -> anyhow::Result<()> {
    let mut helper = HelperProcess::start("parent", |_| {})?;
    drop(helper.child.stdin.take());
    assert!(helper.child.wait()?.success());
    // At once: it waited for its reaper.
    assert!(!Path::new(helper.value("folder")).exists());
    nothing_is_left(&helper).await
}

async fn children_outlive_the_thread_that_asked() -> anyhow::Result<()> {
    let folder = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let log = folder.path().join("log");
    let asking = std::thread::spawn(move || {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec sleep 1000"]);
        let child = Program::new(shell, log).spawn()?;
        // Until it has set its death signal and become `sleep`.
        let name = format!("/proc/{}/comm", child.pid());
        while std::fs::read_to_string(&name)?.trim() != "sleep" {
            std::thread::yield_now();
        }
        Ok::<_, std::io::Error>(child)
    });
    let child = asking.join().expect("no panic")?;
    // It has survived the end of the thread that asked for it; `stop` ends it.
    assert_eq!(child.exit_status(), None);
    let status = child.stop(Signal::TERM, Duration::from_secs(5)).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    Ok(())
}

async fn a_missing_program_is_named() -> anyhow::Result<()> {
    let folder = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let child = Program::new(Command::new("/no/such/program"), folder.path().join("log")).spawn()?;
    assert_eq!(child.exited().await.code(), Some(127));
    assert!(child.log_tail().contains("can't run /no/such/program"), "{}", child.log_tail());
    Ok(())
}

async fn a_child_that_ignores_sigterm_is_killed() -> anyhow::Result<()> {
    let folder = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let log = folder.path().join("log");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
    let child = Program::new(shell, &log).spawn()?;
    eventually("it is ready", || child.log_tail().contains("ready")).await?;
    let status = child.stop(Signal::TERM, Duration::from_millis(200)).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    Ok(())
}
