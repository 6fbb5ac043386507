//! The runtime file: found while its launcher lives, stale after.

use libtest_mimic::Trial;
use theater_infra::running::{Running, announce, find};
use theater_infra::supervise::Scratch;

use crate::test;

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("running::found_while_it_lives_and_stale_after", found_while_it_lives_and_stale_after)]
}

async fn found_while_it_lives_and_stale_after() -> anyhow::Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir(), "theater-test")?;
    let folder = scratch.path();
    let running = |pid| Running {
        pid,
        gateway: "http://127.0.0.1:8088".into(),
        kafka: "127.0.0.1:9092".into(),
        topic_prefix: "theater.".into(),
    };
    assert_eq!(find(folder)?, []);
    let first = announce(folder, &running(1))?;
    assert_eq!(find(folder)?, [running(1)]);
    // What a launcher that was killed with its reaper has left: nobody holds its lock.
    let stale = folder.join("2.json");
    std::fs::copy(folder.join("1.json"), &stale)?;
    assert_eq!(find(folder)?, [running(1)]);
    assert!(!stale.exists());
    drop(first);
    assert_eq!(find(folder)?, []);
    assert_eq!(std::fs::read_dir(folder)?.count(), 0);
    Ok(())
}
