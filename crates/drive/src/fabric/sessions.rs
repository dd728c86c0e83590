//! Sessions that peers have opened here, and which calls of theirs were seen. Bounded in every
//! direction: a peer that is forgotten shakes hands again.

use std::collections::HashMap;

use holdfast_types::limits;

use super::auth::{AuthError, Key, check_clock};

/// Sessions kept; beyond it the one unused for longest goes. A cluster of hundreds of nodes with
/// several processes each fits.
const SESSIONS_MAX: usize = 4096;

/// Handshakes remembered within the window of time. Beyond it handshakes are refused until the oldest
/// leave the window: a flood of replays must not push out what protects against them.
const HANDSHAKES_MAX: usize = 65_536;

/// Calls of one session that may overtake each other; an older number is refused. More than a
/// session can have under way.
const WINDOW_CALLS: u64 = 65_536;

/// What is remembered of one session.
struct Session {
    key: Key,
    /// The highest number seen.
    highest: u64,
    /// Bit `n % WINDOW_CALLS` for the numbers in (highest - window, highest]. Grows on use: most
    /// sessions are idle.
    seen: Vec<u64>,
    last_used: u64,
}

/// All sessions of this process.
#[derive(Default)]
pub struct Sessions {
    open: HashMap<u128, Session>,
    /// Nonces of handshakes, with the sender's time.
    handshakes: HashMap<[u8; 16], u64>,
    uses: u64,
}

impl Sessions {
    /// Admits a handshake once.
    ///
    /// # Errors
    /// [`AuthError::Skewed`], [`AuthError::Replayed`].
    pub fn admit_handshake(
        &mut self,
        now_micros: u64,
        sent_micros: u64,
        nonce: [u8; 16],
    ) -> Result<(), AuthError> {
        check_clock(now_micros, sent_micros)?;
        if self.handshakes.len() >= HANDSHAKES_MAX {
            let oldest = now_micros.saturating_sub(limits::CLOCK_SKEW_MICROS_MAX);
            self.handshakes.retain(|_, sent| *sent >= oldest);
        }
        let room = self.handshakes.len() < HANDSHAKES_MAX;
        if !room || self.handshakes.insert(nonce, sent_micros).is_some() {
            return Err(AuthError::Replayed);
        }
        Ok(())
    }

    /// Opens a session.
    pub fn open(&mut self, session: u128, key: Key) {
        if self.open.len() >= SESSIONS_MAX {
            let stalest = self.open.iter().min_by_key(|(_, s)| s.last_used).map(|(id, _)| *id);
            if let Some(stalest) = stalest {
                self.open.remove(&stalest);
            }
        }
        self.uses += 1;
        let session_state = Session { key, highest: 0, seen: Vec::new(), last_used: self.uses };
        self.open.insert(session, session_state);
    }

    /// The key of a session.
    ///
    /// # Errors
    /// [`AuthError::UnknownSession`].
    pub fn key(&self, session: u128) -> Result<Key, AuthError> {
        self.open.get(&session).map(|s| s.key.clone()).ok_or(AuthError::UnknownSession)
    }

    /// Admits call `number` of a session once (INV-FAB-3). To be asked after the signature was
    /// verified.
    ///
    /// # Errors
    /// [`AuthError::Replayed`], [`AuthError::UnknownSession`].
    pub fn admit_call(&mut self, session: u128, number: u64) -> Result<(), AuthError> {
        self.uses += 1;
        let state = self.open.get_mut(&session).ok_or(AuthError::UnknownSession)?;
        state.last_used = self.uses;
        if state.admit(number) { Ok(()) } else { Err(AuthError::Replayed) }
    }
}

impl Session {
    fn admit(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(WINDOW_CALLS) <= self.highest {
            return false;
        }
        if self.seen.is_empty() {
            self.seen = vec![0; (WINDOW_CALLS / 64) as usize];
        }
        if number > self.highest {
            self.forget_up_to(number);
        }
        let (word, bit) = slot(number);
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    /// Moves the window up to `number`, clearing the bits it takes over.
    fn forget_up_to(&mut self, number: u64) {
        if number - self.highest >= WINDOW_CALLS {
            self.seen.fill(0);
        } else {
            for passed in self.highest + 1..=number {
                let (word, bit) = slot(passed);
                self.seen[word] &= !bit;
            }
        }
        self.highest = number;
    }
}

const fn slot(number: u64) -> (usize, u64) {
    let at = number % WINDOW_CALLS;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.open(7, Key::of_secret(b"secret"));
        sessions
    }

    /// Goal: each number is admitted once, in any order within the window. Method: numbers forwards,
    /// backwards and far ahead, each twice.
    #[test]
    fn each_call_is_admitted_once_and_old_ones_never() {
        let mut sessions = sessions();
        let replayed = Err(AuthError::Replayed);
        for number in [3, 1, 2, 1000, 999, WINDOW_CALLS, WINDOW_CALLS + 500, 10 * WINDOW_CALLS] {
            assert_eq!(sessions.admit_call(7, number), Ok(()), "{number}");
            assert_eq!(sessions.admit_call(7, number), replayed, "{number} again");
        }
        let highest = 10 * WINDOW_CALLS;
        assert_eq!(sessions.admit_call(7, highest - WINDOW_CALLS), replayed);
        assert_eq!(sessions.admit_call(7, highest - WINDOW_CALLS + 1), Ok(()));
        assert_eq!(sessions.admit_call(7, 0), replayed);
        assert_eq!(sessions.admit_call(8, 1), Err(AuthError::UnknownSession));
    }

    #[test]
    fn a_handshake_is_admitted_once_and_only_in_time() {
        let mut sessions = sessions();
        let now = 10 * limits::CLOCK_SKEW_MICROS_MAX;
        assert_eq!(sessions.admit_handshake(now, now, [1; 16]), Ok(()));
        assert_eq!(sessions.admit_handshake(now, now, [1; 16]), Err(AuthError::Replayed));
        let late = sessions.admit_handshake(now, now / 2, [2; 16]);
        assert!(matches!(late, Err(AuthError::Skewed { .. })));
    }

    /// Goal: a flood neither grows memory nor opens the door to replays. Method: fill the memory of
    /// handshakes; the next is refused until time has passed.
    #[test]
    fn a_flood_of_handshakes_is_bounded_and_passes() {
        let mut sessions = Sessions::default();
        for n in 0..HANDSHAKES_MAX as u128 {
            assert_eq!(sessions.admit_handshake(0, 0, n.to_be_bytes()), Ok(()));
        }
        let nonce = u128::MAX.to_be_bytes();
        assert_eq!(sessions.admit_handshake(0, 0, nonce), Err(AuthError::Replayed));
        let later = limits::CLOCK_SKEW_MICROS_MAX + 1;
        assert_eq!(sessions.admit_handshake(later, later, nonce), Ok(()));
        assert_eq!(sessions.handshakes.len(), 1);
    }

    #[test]
    fn the_session_unused_for_longest_makes_room() {
        let mut sessions = sessions();
        for id in 100..100 + SESSIONS_MAX as u128 - 1 {
            sessions.open(id, Key::of_secret(b"secret"));
        }
        assert_eq!(sessions.admit_call(7, 1), Ok(()));
        sessions.open(1, Key::of_secret(b"secret"));
        assert_eq!(sessions.open.len(), SESSIONS_MAX);
        assert!(sessions.key(7).is_ok() && sessions.key(100).is_err());
    }
}
