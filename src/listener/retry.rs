//! When a refused sender shall come back: the `Retry-After` of 503.
//!
//! Prometheus obeys it, and stops resharding for twice that time, so it calms a whole fleet. A
//! first refusal asks for 3 to 7 seconds; each further try of the same request (header
//! `Retry-Attempt`) doubles that, up to a minute. The jitter keeps senders that were refused
//! together from coming back together.

use std::cell::Cell;

use crate::stdx::splitmix64;

const PAUSE_S: u32 = 5;
const PAUSE_S_MAX: u32 = 60;

/// Draws the pauses of one core. The sequence is decided by the seed.
#[derive(Debug)]
pub struct Pauses {
    state: Cell<u64>,
}

impl Pauses {
    /// Pauses from a seed, which should differ between cores and starts.
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }

    /// Seconds to wait for a sender that has tried `attempt` times before.
    pub fn pause_s(&self, attempt: u32) -> u32 {
        let middle = PAUSE_S.saturating_mul(1u32 << attempt.min(5)).min(PAUSE_S_MAX * 2 / 3);
        let spread = u64::from(middle / 2);
        let mut state = self.state.get();
        let offset = splitmix64(&mut state) % (2 * spread + 1);
        self.state.set(state);
        middle - spread as u32 + offset as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_attempts_and_stay_within_a_minute() {
        let pauses = Pauses::new(1);
        for (attempt, min, max) in
            [(0, 3, 7), (1, 5, 15), (2, 10, 30), (3, 20, 60), (9, 20, 60), (u32::MAX, 20, 60)]
        {
            let drawn: Vec<u32> = (0..1000).map(|_| pauses.pause_s(attempt)).collect();
            assert_eq!(drawn.iter().min(), Some(&min), "attempt {attempt}");
            assert_eq!(drawn.iter().max(), Some(&max), "attempt {attempt}");
        }
    }
}
