//! Shrinks a failing schedule: removes choices, in ever smaller pieces, and decreases the others, as long as the schedule
//! still fails. The failure need not be the same: the simplest one is the most useful.

use crate::simulation::choices::Choices;
use crate::simulation::run_schedule;

/// The maximum of schedules to run.
const ATTEMPTS_MAX: usize = 4_000;

/// The shortest failing list that it finds.
pub fn shrink(found: &[u32]) -> Vec<u32> {
    let mut best = found.to_vec();
    let mut attempts = 0;
    let mut fails = |choices: &[u32]| {
        attempts += 1;
        (attempts <= ATTEMPTS_MAX)
            .then(|| run_schedule(Choices::replay(choices.to_vec()), false).result.is_err())
    };
    loop {
        let before = best.clone();
        if remove_pieces(&mut best, &mut fails).is_none() || decrease(&mut best, &mut fails).is_none() {
            return best;
        }
        if best == before {
            return best;
        }
    }
}

/// `None` if the attempts are used up.
fn remove_pieces(best: &mut Vec<u32>, fails: &mut impl FnMut(&[u32]) -> Option<bool>) -> Option<()> {
    let mut size = best.len() / 2;
    while size > 0 {
        let mut start = 0;
        while start < best.len() {
            let mut shorter = best.clone();
            shorter.drain(start..(start + size).min(best.len()));
            if fails(&shorter)? {
                *best = shorter;
            } else {
                start += size;
            }
        }
        size /= 2;
    }
    Some(())
}

/// `None` if the attempts are used up.
fn decrease(best: &mut [u32], fails: &mut impl FnMut(&[u32]) -> Option<bool>) -> Option<()> {
    for index in 0..best.len() {
        for value in [0, best[index] / 2] {
            let before = best[index];
            if value < before {
                best[index] = value;
                if !fails(best)? {
                    best[index] = before;
                }
            }
        }
    }
    Some(())
}
