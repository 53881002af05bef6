//! So many a second and no more: what a caller can cause again and again must not fill a disk.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// Lets so many through within a second.
#[derive(Debug)]
pub(crate) struct LogRateLimiter {
    a_second: u32,
    state: Mutex<(Option<Instant>, u32)>,
}

impl LogRateLimiter {
    /// That many.
    pub(crate) const fn new(a_second: u32) -> Self {
        Self {
            a_second,
            state: Mutex::new((None, 0)),
        }
    }

    /// Whether this one is among them.
    pub(crate) fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .0
            .is_none_or(|since| now.duration_since(since) >= SECOND)
        {
            *state = (Some(now), 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= self.a_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_each_second() {
        let (pace, now) = (LogRateLimiter::new(3), Instant::now());
        let passed = |now| (0..10).filter(|_| pace.allows_at(now)).count();
        assert_eq!(
            [passed(now), passed(now + SECOND / 2), passed(now + SECOND)],
            [3, 0, 3]
        );
    }
}
