//! Makes a failing schedule shorter: leaves choices out, in ever smaller pieces, and makes the others smaller, as
//! long as it still fails. It need not be the same fault: the simplest one is worth the most.

use crate::simulation::choices::Choices;
use crate::simulation::play;

/// Schedules that are tried at most.
const TRIES: usize = 4_000;

/// The shortest list found that fails.
pub fn shrink(found: &[u32]) -> Vec<u32> {
    let mut best = found.to_vec();
    let mut tries = 0;
    let mut fails = |choices: &[u32]| {
        tries += 1;
        (tries <= TRIES).then(|| play(Choices::again(choices.to_vec()), false).ended.is_err())
    };
    loop {
        let before = best.clone();
        if without_pieces(&mut best, &mut fails).is_none() || smaller(&mut best, &mut fails).is_none() {
            return best;
        }
        if best == before {
            return best;
        }
    }
}

/// `None`: enough was tried.
fn without_pieces(best: &mut Vec<u32>, fails: &mut impl FnMut(&[u32]) -> Option<bool>) -> Option<()> {
    let mut size = best.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < best.len() {
            let mut shorter = best.clone();
            shorter.drain(at..(at + size).min(best.len()));
            if fails(&shorter)? {
                *best = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    Some(())
}

fn smaller(best: &mut [u32], fails: &mut impl FnMut(&[u32]) -> Option<bool>) -> Option<()> {
    for at in 0..best.len() {
        for value in [0, best[at] / 2] {
            let before = best[at];
            if value < before {
                best[at] = value;
                if !fails(best)? {
                    best[at] = before;
                }
            }
        }
    }
    Some(())
}
