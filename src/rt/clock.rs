//! The clocks: the wall's, which people set and which may step, and the monotonic one.
//!
//! Who needs the wall clock is handed a [`Clock`], so that a test can hold its hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A wall clock: the machine's, or one that a test turns.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows what was last set; its twin, in tests.
    pub fn twin(now_ms: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(now_ms))))
    }

    /// Turns a twin's hands. The machine's clock is not ours to set.
    pub fn set(&self, now_ms: i64) {
        if let Some(hands) = &self.0 {
            hands.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the epoch.
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            Some(hands) => hands.load(Ordering::Relaxed),
            None => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_millis() as i64,
                Err(before) => -(before.duration().as_millis() as i64),
            },
        }
    }
}

/// A moment of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment(Instant);

impl Moment {
    /// Now.
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// Time since.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
