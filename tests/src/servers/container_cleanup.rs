//! Removes containers when this process ends, even if it is killed.
//!
//! testcontainers removes a container when its handle is dropped. That doesn't happen when a run is interrupted or
//! killed, or a start is cancelled half-way. Its `watchdog` doesn't handle `kill -9`, and first waits ten seconds for a
//! Kafka that does not listen. So each container has a shell beside it: the kernel sends it a signal when this process
//! dies, and it removes the containers with its label.

use std::process::Command;

use anyhow::Context;
use theater_infra::supervise::{Child, Program, Signal};
use uuid::Uuid;

const LABEL: &str = "theater.tests.server";

/// Waits for SIGTERM: this process sends it on drop, and the kernel when this process dies. In the second case the daemon
/// may be creating the container at that moment, so the script looks for it several times, for less than the time that
/// the reaper waits.
const SCRIPT: &str = r#"
sweep() {
    kill "$!"
    for pause in 0 0.2 0.4 0.8; do
        sleep $pause
        ids=$(docker ps -aq --filter "label=$label")
        [ -z "$ids" ] || exec docker rm -fv $ids
        ! grep -q "^PPid:.$PPID$" /proc/$$/status || exit
    done
}
label=$1
trap 'sweep; exit' TERM
sleep infinity &
wait
"#;

/// Removes the container with its label when dropped and when this process dies. Must be created before the container,
/// and dropped after it.
pub struct ContainerCleanup {
    id: String,
    _shell: Child,
}

impl ContainerCleanup {
    /// # Errors
    /// If the shell can't be started.
    pub fn new() -> anyhow::Result<Self> {
        let id = Uuid::new_v4().simple().to_string();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "container-cleanup", &format!("{LABEL}={id}")]);
        let shell = Program::new(command, "/dev/null").death_signal(Signal::TERM).spawn();
        Ok(Self { id, _shell: shell.context("starting the container cleanup")? })
    }

    /// The arguments of `with_label`.
    pub fn label(&self) -> (&'static str, &str) {
        (LABEL, &self.id)
    }
}
