//! A circuit breaker for the bot. After a streak of failures no call is made. Then one call tries,
//! and if this trial succeeds, the backlog flows again at a growing rate. No I/O, no clock.

use std::time::Duration;

use contract::Id;
use tokio::time::Instant;

/// Failed calls in a row that open the breaker while the probe has no recent result.
const STREAK: u32 = 10;
/// Conversations that must be among the failed calls, because one conversation that always fails
/// does not mean that the bot is down. While the probe fails, this does not matter.
const CONVERSATIONS: usize = 3;
/// Failed calls in a row that open the breaker while the probe fails.
const STREAK_WHILE_DOWN: u32 = 3;
/// Failed calls in a row that open the breaker while the probe succeeds. The streak is longer,
/// because the failures may be of one company's messages that the bot cannot take.
const STREAK_WHILE_UP: u32 = 50;
/// The pause from opening to the first trial. Each trial that fails doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The doubling of the pause ends here. While the probe fails, the pause has this length, and is not
/// longer, because the probe itself may be broken.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause while the probe succeeds. This pause is shorter, because the failures may be of
/// one company's messages that the bot cannot take.
const LONGEST_PAUSE_WHILE_UP: Duration = Duration::from_secs(2);
/// Probe results older than this are ignored.
const PROBE_COUNTS: Duration = Duration::from_secs(15);
/// Calls a second right after closing. The rate doubles every second up to the limit.
const RATE_AFTER_CLOSING: f64 = 10.0;
/// After a quiet time the calls of this long may begin at once.
const BURST: Duration = Duration::from_millis(100);

/// Whether a call may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    Now {
        /// Whether this call is the trial of an open breaker.
        is_trial: bool,
    },
    /// No call before this time, unless something changes.
    NotBefore(Instant),
    /// No call until something changes.
    Never,
}

/// What a call says about the bot as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The bot answered.
    Success,
    /// There was no answer, or a 5xx.
    Failure,
    /// A failure of a message that has already failed several times. While the health probe does not
    /// fail, such a message does not count towards opening the breaker. Otherwise one undeliverable
    /// message would block everyone else.
    RepeatedFailure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls are made.
    Closed,
    /// No call is made before the trial.
    Open {
        /// When the breaker opened, or the last trial failed.
        since: Instant,
    },
    /// The pause is over, and one call is the trial.
    HalfOpen {
        /// Whether the trial is under way.
        is_trying: bool,
    },
}

#[derive(Debug)]
pub struct Breaker {
    state: State,
    streak: u32,
    conversations: Vec<Id>,
    pause: Duration,
    /// Whether the probe succeeded last, and when.
    probe: Option<(bool, Instant)>,
    /// How often the breaker has opened.
    opened: u64,
    /// When the breaker closed last. From then on the rate grows.
    closed_at: Option<Instant>,
    /// Calls a second at most.
    max_rate: f64,
    /// When the next call may begin.
    next_call: Instant,
}

impl Breaker {
    /// A closed breaker that admits `max_rate` calls a second at most.
    pub fn new(max_rate: f64, now: Instant) -> Breaker {
        Breaker {
            state: State::Closed,
            streak: 0,
            conversations: Vec::new(),
            pause: FIRST_PAUSE,
            probe: None,
            opened: 0,
            closed_at: None,
            max_rate,
            next_call: now,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// How often the breaker has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether a call may begin now. A call that is admitted must be reported to [`Breaker::record`],
    /// and a trial that makes no call to [`Breaker::give_up_trial`].
    pub fn admit(&mut self, now: Instant) -> Admit {
        if let State::Open { since } = self.state {
            let pause = match self.probed(now) {
                Some(false) => LONGEST_PAUSE,
                Some(true) => self.pause.min(LONGEST_PAUSE_WHILE_UP),
                None => self.pause,
            };
            let trial_at = since + pause;
            if now < trial_at {
                return Admit::NotBefore(trial_at);
            }
            self.state = State::HalfOpen { is_trying: false };
        }
        match self.state {
            State::HalfOpen { is_trying: true } | State::Open { .. } => Admit::Never,
            State::HalfOpen { is_trying: false } => {
                self.state = State::HalfOpen { is_trying: true };
                Admit::Now { is_trial: true }
            }
            State::Closed if now < self.next_call => Admit::NotBefore(self.next_call),
            State::Closed => {
                self.next_call = self.next_call.max(now.checked_sub(BURST).unwrap_or(now))
                    + Duration::from_secs_f64(1.0 / self.rate(now));
                Admit::Now { is_trial: false }
            }
        }
    }

    /// Whether the bot is up, by the probe's last result, unless that is too old.
    fn probed(&self, now: Instant) -> Option<bool> {
        self.probe
            .filter(|(_, at)| now.duration_since(*at) < PROBE_COUNTS)
            .map(|(up, _)| up)
    }

    fn rate(&self, now: Instant) -> f64 {
        self.closed_at.map_or(self.max_rate, |at| {
            (RATE_AFTER_CLOSING * now.duration_since(at).as_secs_f64().min(30.0).exp2())
                .min(self.max_rate)
        })
    }

    /// Records the end of a call for a conversation.
    pub fn record(&mut self, signal: Signal, conversation: Id, is_trial: bool, now: Instant) {
        let signal = match signal {
            Signal::RepeatedFailure if self.probed(now) == Some(false) => Signal::Failure,
            signal => signal,
        };
        match (signal, self.state) {
            (Signal::RepeatedFailure, _) if is_trial => self.give_up_trial(),
            (Signal::Success, State::HalfOpen { .. }) if is_trial => self.close(now),
            (Signal::Success, State::Closed) => self.end_streak(),
            (Signal::Failure, State::HalfOpen { .. }) if is_trial => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.open(now);
            }
            (Signal::Failure, State::Closed) => {
                self.streak = self.streak.saturating_add(1);
                if self.conversations.len() < CONVERSATIONS
                    && !self.conversations.contains(&conversation)
                {
                    self.conversations.push(conversation);
                }
                let is_down = match self.probed(now) {
                    Some(false) => self.streak >= STREAK_WHILE_DOWN,
                    up => {
                        let streak = if up.is_some() {
                            STREAK_WHILE_UP
                        } else {
                            STREAK
                        };
                        self.streak >= streak && self.conversations.len() >= CONVERSATIONS
                    }
                };
                if is_down {
                    self.opened += 1;
                    self.open(now);
                }
            }
            // A call that began before the breaker opened says nothing new.
            _ => {}
        }
    }

    /// Ends the trial without a call. The next call is the trial then.
    pub fn give_up_trial(&mut self) {
        if let State::HalfOpen { is_trying } = &mut self.state {
            *is_trying = false;
        }
    }

    /// Takes a result of the probe. A bot that has come back is tried at once.
    pub fn probe(&mut self, up: bool, now: Instant) {
        if up && matches!(self.probe, Some((false, _))) {
            self.pause = FIRST_PAUSE;
        }
        self.probe = Some((up, now));
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open { since: now };
        self.end_streak();
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed;
        (self.pause, self.closed_at, self.next_call) = (FIRST_PAUSE, Some(now), now);
        self.end_streak();
    }

    fn end_streak(&mut self) {
        self.streak = 0;
        self.conversations.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 12])
    }

    struct Case {
        breaker: Breaker,
        now: Instant,
    }

    impl Case {
        fn new() -> Case {
            let now = Instant::now();
            Case {
                breaker: Breaker::new(1_000.0, now),
                now,
            }
        }

        fn fail(&mut self, calls: u32, conversations: u8) {
            for n in 0..calls {
                self.breaker.record(
                    Signal::Failure,
                    id(n as u8 % conversations),
                    false,
                    self.now,
                );
            }
        }

        /// Counts calls that are admitted within `seconds`, asking every 10 ms.
        fn admitted(&mut self, seconds: u64, signal: Signal) -> u32 {
            let mut admitted = 0;
            for _ in 0..seconds * 100 {
                self.now += Duration::from_millis(10);
                while let Admit::Now { is_trial } = self.breaker.admit(self.now) {
                    admitted += 1;
                    self.breaker.record(signal, id(1), is_trial, self.now);
                }
            }
            admitted
        }

        fn is_open(&self) -> bool {
            matches!(self.breaker.state(), State::Open { .. })
        }
    }

    #[test]
    fn a_streak_over_several_conversations_opens_the_breaker() {
        let mut case = Case::new();
        case.fail(STREAK - 1, 3);
        assert!(!case.is_open());
        case.breaker.record(Signal::Success, id(9), false, case.now);
        case.fail(STREAK - 1, 3);
        assert!(!case.is_open(), "one good call ends the streak");
        case.fail(1, 3);
        assert!(case.is_open() && case.breaker.opened() == 1);
    }

    #[test]
    fn one_conversation_that_always_fails_does_not_open_the_breaker() {
        let mut case = Case::new();
        case.fail(1_000, 2);
        assert!(!case.is_open());
    }

    #[test]
    fn repeated_failures_open_the_breaker_only_while_the_probe_fails() {
        let mut case = Case::new();
        let fail_again = |case: &mut Case| {
            (0..100).for_each(|n| {
                case.breaker
                    .record(Signal::RepeatedFailure, id(n), false, case.now)
            })
        };
        fail_again(&mut case);
        case.breaker.probe(true, case.now);
        fail_again(&mut case);
        assert!(!case.is_open());
        case.breaker.probe(false, case.now);
        fail_again(&mut case);
        assert!(case.is_open());
    }

    #[test]
    fn a_trial_that_is_a_repeated_failure_decides_nothing_and_the_next_call_tries() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        case.now += 2 * SECOND;
        assert_eq!(case.breaker.admit(case.now), Admit::Now { is_trial: true });
        case.breaker
            .record(Signal::RepeatedFailure, id(1), true, case.now);
        assert_eq!(case.breaker.admit(case.now), Admit::Now { is_trial: true });
        case.breaker.record(Signal::Success, id(2), true, case.now);
        assert_eq!(case.breaker.state(), State::Closed);
    }

    #[test]
    fn while_the_probe_succeeds_a_longer_streak_is_needed() {
        let mut case = Case::new();
        case.breaker.probe(true, case.now);
        case.fail(STREAK_WHILE_UP - 1, 10);
        assert!(!case.is_open());
        case.fail(1, 10);
        assert!(case.is_open());
    }

    #[test]
    fn while_the_probe_fails_a_shorter_streak_is_enough() {
        let mut case = Case::new();
        case.breaker.probe(false, case.now);
        case.fail(STREAK_WHILE_DOWN, 1);
        assert!(case.is_open());
    }

    #[test]
    fn a_dead_bot_is_called_a_bounded_number_of_times() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        // After 1, 2, 4, 8 and 16 s, then every 30 s.
        assert_eq!(case.admitted(3_600, Signal::Failure), 5 + 118);
        assert_eq!(case.breaker.opened(), 1, "a failed trial is no new opening");
    }

    #[test]
    fn while_the_probe_fails_trials_are_rare_but_are_made() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        let mut trials = 0;
        for _ in 0..10 {
            case.breaker.probe(false, case.now);
            trials += case.admitted(10, Signal::Failure);
        }
        assert_eq!(trials, 3);
    }

    #[test]
    fn while_the_probe_succeeds_trials_stay_frequent() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        let mut trials = 0;
        for _ in 0..10 {
            case.breaker.probe(true, case.now);
            trials += case.admitted(10, Signal::Failure);
        }
        assert!((45..=51).contains(&trials), "{trials}");
    }

    #[test]
    fn a_bot_that_comes_back_is_tried_within_a_second() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        case.admitted(60, Signal::Failure);
        case.breaker.probe(false, case.now);
        case.breaker.probe(true, case.now);
        assert!(case.admitted(1, Signal::Success) > 0);
        assert_eq!(case.breaker.state(), State::Closed);
    }

    #[test]
    fn one_call_is_the_trial_and_a_call_that_began_before_decides_nothing() {
        let mut case = Case::new();
        case.fail(STREAK, 3);
        case.now += 2 * SECOND;
        assert_eq!(case.breaker.admit(case.now), Admit::Now { is_trial: true });
        assert_eq!(case.breaker.admit(case.now), Admit::Never);
        case.breaker.record(Signal::Success, id(1), false, case.now);
        assert_eq!(case.breaker.admit(case.now), Admit::Never);
        case.breaker.give_up_trial();
        assert_eq!(case.breaker.admit(case.now), Admit::Now { is_trial: true });
    }

    #[test]
    fn after_closing_the_rate_grows_to_the_limit() {
        let mut case = Case::new();
        assert!((900..=1_300).contains(&case.admitted(1, Signal::Success)));
        case.fail(STREAK, 3);
        case.now += SECOND;
        let rates: Vec<u32> = (0..12).map(|_| case.admitted(1, Signal::Success)).collect();
        assert!(
            rates[0] < 30 && rates.windows(2).all(|w| w[0] <= w[1] + 2),
            "{rates:?}"
        );
        assert!((950..=1_050).contains(&rates[11]), "{rates:?}");
    }
}
