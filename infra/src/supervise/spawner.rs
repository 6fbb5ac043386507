//! The thread that spawns all children.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Request = (Command, Sender<io::Result<Child>>);

/// Spawns on a thread that lives as long as the process: the end of the spawning thread triggers death signals.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in requests {
                    // The receiver is dropped only if the requesting thread has panicked.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (reply, answer) = channel();
    let ended = || io::Error::other("the spawning thread is gone");
    spawner.send((command, reply)).map_err(|_| ended())?;
    answer.recv().map_err(|_| ended())?
}
