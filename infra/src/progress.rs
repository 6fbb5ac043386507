//! What is being awaited, on standard error: a line per step, with its time once that is long.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often a running step shows its time; on a terminal in place, in a log as a line of its own.
const TICK_TERMINAL: Duration = Duration::from_secs(1);
const TICK_LOG: Duration = Duration::from_secs(15);

/// Runs `work` under the heading `what`, and shows how long it has been going on.
pub async fn step<T, E>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let terminal = stderr().is_terminal();
    let started = Instant::now();
    show(&format!("  {what} …{}", if terminal { "" } else { "\n" }));
    let mut tick = tokio::time::interval(if terminal { TICK_TERMINAL } else { TICK_LOG });
    tick.tick().await;
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = tick.tick() => {
                let secs = started.elapsed().as_secs();
                show(&if terminal { format!("\r  {what} … {secs} s") } else { format!("  {what} … {secs} s so far\n") });
            }
        }
    };
    let end = if result.is_ok() { "ok" } else { "failed" };
    let secs = started.elapsed().as_secs_f32();
    match (terminal, &result) {
        (true, _) => show(&format!("\r\x1b[K  {what} … {end}, {secs:.1} s\n")),
        (false, Ok(_)) => show(&format!("  {what}: {end}, {secs:.1} s\n")),
        (false, Err(_)) => {} // the error itself follows
    }
    result
}

fn show(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = stderr().write_all(text.as_bytes());
}
