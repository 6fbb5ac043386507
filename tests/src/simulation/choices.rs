//! Where every decision of a schedule comes from: a seed, or choices that were recorded before. A schedule is the
//! list of its choices, so that a shorter list with the same end is a simpler schedule.

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
    /// From a list; nought when it is used up.
    List(usize),
}

/// What is chosen, in order.
#[derive(Clone, Debug)]
pub struct Choices {
    source: Source,
    made: Vec<u32>,
}

impl Choices {
    pub fn of_seed(seed: u64) -> Self {
        Self { source: Source::Seed(SplitMix64(seed)), made: Vec::new() }
    }

    pub fn again(made: Vec<u32>) -> Self {
        Self { source: Source::List(0), made }
    }

    /// 0 to `bound - 1`; 0 if `bound` is.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1);
        match &mut self.source {
            Source::Seed(random) => {
                let choice = u32::try_from(random.next() % bound as u64).unwrap_or_default();
                self.made.push(choice);
                choice as usize
            }
            Source::List(at) => {
                let choice = self.made.get(*at).copied().unwrap_or_default();
                *at += 1;
                choice as usize % bound
            }
        }
    }

    /// Whether something happens that does so once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        // Nought, which simpler schedules choose, is no.
        self.below(times) == times - 1
    }

    /// Whether a list is used up.
    pub fn over(&self) -> bool {
        matches!(self.source, Source::List(at) if at >= self.made.len())
    }

    pub fn made(&self) -> &[u32] {
        &self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_schedule_is_chosen_again() {
        let mut first = Choices::of_seed(7);
        let chosen: Vec<_> = (1..100).map(|bound| first.below(bound)).collect();
        let mut again = Choices::again(first.made().to_vec());
        assert_eq!((1..100).map(|bound| again.below(bound)).collect::<Vec<_>>(), chosen);
        assert!(again.over());
        assert_eq!(again.below(9), 0);
    }
}
