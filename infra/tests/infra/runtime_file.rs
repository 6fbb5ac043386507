//! The runtime file: found while its launcher runs, stale afterwards.

use libtest_mimic::Trial;
use theater_infra::runtime_file::{RunningTheater, announce, find};
use theater_infra::supervise::TempDir;

use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![test(
        "runtime_file::found_while_it_runs_and_stale_afterwards",
        found_while_it_runs_and_stale_afterwards,
    )]
}

async fn found_while_it_runs_and_stale_afterwards() -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let folder = temp_dir.path();
    let running = |pid| RunningTheater {
        pid,
        gateway: "http://127.0.0.1:8088".into(),
        kafka: "127.0.0.1:9092".into(),
        topic_prefix: "theater.".into(),
    };
    assert_eq!(find(folder)?, []);
    let first = announce(folder, &running(1))?;
    assert_eq!(find(folder)?, [running(1)]);
    // The file of a launcher that was killed with its reaper: it is not locked.
    let stale = folder.join("2.json");
    std::fs::copy(folder.join("1.json"), &stale)?;
    assert_eq!(find(folder)?, [running(1)]);
    assert!(!stale.exists());
    drop(first);
    assert_eq!(find(folder)?, []);
    assert_eq!(std::fs::read_dir(folder)?.count(), 0);
    Ok(())
}
