//! The source of every choice in a schedule: a seed, or a recorded list. A schedule is the list of its choices, so that a
//! shorter list is a simpler schedule.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[derive(Clone, Debug)]
enum Source {
    Seed(SplitMix64),
    /// The next index in the recorded list. Every choice after its end is 0.
    Recorded(usize),
}

/// The choices of a schedule, in order.
#[derive(Clone, Debug)]
pub struct Choices {
    source: Source,
    made: Vec<u32>,
}

impl Choices {
    pub fn from_seed(seed: u64) -> Self {
        Self { source: Source::Seed(SplitMix64(seed)), made: Vec::new() }
    }

    pub fn replay(made: Vec<u32>) -> Self {
        Self { source: Source::Recorded(0), made }
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1);
        match &mut self.source {
            Source::Seed(random) => {
                let choice = u32::try_from(random.next() % bound as u64).unwrap_or_default();
                self.made.push(choice);
                choice as usize
            }
            Source::Recorded(index) => {
                let choice = self.made.get(*index).copied().unwrap_or_default();
                *index += 1;
                choice as usize % bound
            }
        }
    }

    /// Whether something happens whose probability is 1 in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        // The choice 0, which shrunk schedules prefer, means no.
        self.below(times) == times - 1
    }

    /// Whether a recorded list is used up.
    pub fn is_exhausted(&self) -> bool {
        matches!(self.source, Source::Recorded(index) if index >= self.made.len())
    }

    pub fn made(&self) -> &[u32] {
        &self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_schedule_is_replayed() {
        let mut first = Choices::from_seed(7);
        let chosen: Vec<_> = (1..100).map(|bound| first.below(bound)).collect();
        let mut replayed = Choices::replay(first.made().to_vec());
        assert_eq!((1..100).map(|bound| replayed.below(bound)).collect::<Vec<_>>(), chosen);
        assert!(replayed.is_exhausted());
        assert_eq!(replayed.below(9), 0);
    }
}
