//! When requests are due: a constant schedule that no answer can shift.
//!
//! The `n`-th request is due at `n * samples per request / rate` after the start, whatever
//! happened before. A slow answer makes the next requests late, and they are late *on the record*,
//! because latency counts from when a request was due. A generator that waits politely and counts
//! from when it sent would hide the very stalls it is there to find (coordinated omission).

use std::time::Duration;

/// Time since some start, and waiting. The twin in tests moves by itself.
pub(crate) trait Clock {
    /// Time since the start of the clock.
    fn now(&self) -> Duration;
    /// Waits; may return late, never early.
    fn sleep_until(&self, due: Duration);
}

/// The monotonic clock of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock(std::time::Instant);

impl SystemClock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep_until(&self, due: Duration) {
        while let Some(rest) = due.checked_sub(self.now()).filter(|rest| !rest.is_zero()) {
            std::thread::sleep(rest);
        }
    }
}

/// The constant schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throttle {
    samples_per_request: u64,
    samples_per_second: u64,
}

impl Throttle {
    /// A schedule for requests of a size. The rate must be above 0.
    pub(crate) fn new(samples_per_request: u64, samples_per_second: u64) -> Self {
        debug_assert!(samples_per_second > 0, "a rate");
        Self { samples_per_request, samples_per_second }
    }

    /// When a request is due. Computed from its number, so that no rounding adds up.
    pub(crate) fn due(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * u128::from(self.samples_per_request) * 1_000_000_000
            / u128::from(self.samples_per_second.max(1));
        Duration::from_nanos(nanos as u64)
    }

    /// Waits until a request is due, and returns when that was.
    pub(crate) fn wait(&self, number: u64, clock: &impl Clock) -> Duration {
        let due = self.due(number);
        clock.sleep_until(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Sleeps by jumping, late by `oversleep`.
    struct FakeClock {
        now: Cell<Duration>,
        oversleep: Duration,
    }

    impl FakeClock {
        fn new(oversleep: Duration) -> Self {
            Self { now: Cell::new(Duration::ZERO), oversleep }
        }
        fn work(&self, time: Duration) {
            self.now.set(self.now.get() + time);
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            self.now.get()
        }
        fn sleep_until(&self, due: Duration) {
            if due > self.now.get() {
                self.now.set(due + self.oversleep);
            }
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn never_early_and_on_time_for_centuries() {
        let clock = FakeClock::new(MS / 10);
        let throttle = Throttle::new(2000, 100_000);
        for number in 0..10_000 {
            let due = throttle.wait(number, &clock);
            assert_eq!(due, 20 * MS * number as u32);
            assert!(clock.now() >= due && clock.now() <= due + MS / 10);
        }
        assert_eq!(throttle.due(1 << 38).as_secs(), (1u64 << 38) / 50);
    }

    #[test]
    fn odd_rates_do_not_drift() {
        let throttle = Throttle::new(7, 3);
        assert_eq!(throttle.due(3_000_000_000), Duration::from_secs(7_000_000_000));
    }

    /// The bug this file is against: after a stall of a second the 50 requests that were due in
    /// it count as late, by falling amounts, and the schedule is what it was.
    #[test]
    fn a_stall_is_on_the_record() {
        let clock = FakeClock::new(Duration::ZERO);
        let throttle = Throttle::new(2000, 100_000);
        throttle.wait(0, &clock);
        clock.work(1000 * MS);
        let mut late = Vec::new();
        for number in 1..100 {
            let due = throttle.wait(number, &clock);
            late.push(clock.now().saturating_sub(due).as_millis());
        }
        assert_eq!(late[0], 980);
        assert_eq!(late[24], 500);
        assert_eq!(late[49..], [0; 50]);
    }
}
