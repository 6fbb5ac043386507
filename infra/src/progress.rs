//! Progress on standard error: a line per step, and its time if it takes long.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often a running step prints its time: on a terminal in place, in a log as another line.
const TICK_TERMINAL: Duration = Duration::from_secs(1);
const TICK_LOG: Duration = Duration::from_secs(15);

/// Runs `work`, and prints its `title` and how long it takes.
pub async fn step<T, E>(title: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let terminal = stderr().is_terminal();
    let started = Instant::now();
    print(&format!("  {title} …{}", if terminal { "" } else { "\n" }));
    let mut tick = tokio::time::interval(if terminal { TICK_TERMINAL } else { TICK_LOG });
    tick.tick().await;
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = tick.tick() => {
                let secs = started.elapsed().as_secs();
                print(&if terminal { format!("\r  {title} … {secs} s") } else { format!("  {title} … {secs} s so far\n") });
            }
        }
    };
    let end = if result.is_ok() { "ok" } else { "failed" };
    let secs = started.elapsed().as_secs_f32();
    match (terminal, &result) {
        (true, _) => print(&format!("\r\x1b[K  {title} … {end}, {secs:.1} s\n")),
        (false, Ok(_)) => print(&format!("  {title}: {end}, {secs:.1} s\n")),
        (false, Err(_)) => {} // the error itself follows
    }
    result
}

fn print(text: &str) {
    // A closed standard error is ignored.
    let _ = stderr().write_all(text.as_bytes());
}
