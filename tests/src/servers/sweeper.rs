//! Containers end with us, however we end.
//!
//! testcontainers removes a container when its handle is dropped. That is too little for a run that is
//! interrupted or killed, and for a start that is given up half-way; its `watchdog` knows nothing of `kill -9`,
//! and first waits ten seconds for a Kafka that does not listen. So a shell stands beside each container: the
//! kernel tells it that we are gone, and it removes what bears the label.

use std::process::Command;

use anyhow::Context;
use theater_infra::supervise::{Child, Program, Signal};
use uuid::Uuid;

const LABEL: &str = "theater.tests.server";

/// Ends by SIGTERM only: ours when dropped, the kernel's when we die. In the latter case the daemon may be making
/// the container at this moment, so it looks again, for less than the reaper's patience.
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

/// Removes the container that bears its label, when dropped and when we die. To be made before the container,
/// and dropped after it.
pub struct Sweeper {
    id: String,
    _shell: Child,
}

impl Sweeper {
    /// # Errors
    /// A process that can't be started.
    pub fn new() -> anyhow::Result<Self> {
        let id = Uuid::new_v4().simple().to_string();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sweeper", &format!("{LABEL}={id}")]);
        let shell = Program::new(command, "/dev/null").death_signal(Signal::TERM).spawn();
        Ok(Self { id, _shell: shell.context("starting a sweeper")? })
    }

    /// For `with_label`.
    pub fn label(&self) -> (&'static str, &str) {
        (LABEL, &self.id)
    }
}
