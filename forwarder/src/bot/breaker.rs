//! A circuit breaker for the bot: after a streak of failures no call is made; then one call tries,
//! and if it goes well the backlog flows again at a rate that grows. Pure: it is told the time and
//! makes no call.

use std::time::Duration;

use contract::Id;
use tokio::time::Instant;

/// So many failed calls in a row open it, …
const STREAK: u32 = 10;
/// … if so many conversations are among them: one that always fails is no dead bot.
const CONVERSATIONS: usize = 3;
/// A shorter streak is enough where the probe says so too, …
const STREAK_WHILE_DOWN: u32 = 3;
/// … and a longer one is needed where it says that the bot is up: it may be a company's messages
/// that the bot cannot take.
const STREAK_WHILE_UP: u32 = 50;
/// From opening to the trial; doubles with each trial that fails …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this. Also the longest that a failing probe puts a trial off: it may be the probe that
/// is broken.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same where the probe says that the bot is up: it may be one company's messages that it
/// cannot take.
const LONGEST_PAUSE_WHILE_UP: Duration = Duration::from_secs(2);
/// What the probe saw counts for so long.
const PROBE_COUNTS: Duration = Duration::from_secs(15);
/// Calls a second right after closing; doubles every second up to the limit.
const RATE_AFTER_CLOSING: f64 = 10.0;
/// Calls that may begin at once after a quiet time, as a part of a second's.
const BURST: Duration = Duration::from_millis(100);

/// Whether a call may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Yes; as the trial, if so.
    Now {
        /// What follows depends on it.
        trial: bool,
    },
    /// Ask again then, or when something changes.
    NotBefore(Instant),
    /// Ask again when something changes.
    Never,
}

/// What a call says about the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answers.
    Well,
    /// No answer, or a 5xx.
    Ill,
    /// The same for a message that has failed several times before: most likely it is what the bot
    /// cannot take. Counts only while the probe fails too, so that a few such conversations keep
    /// nobody else's waiting.
    IllAgain,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls are made.
    Closed,
    /// None are, not before the trial.
    Open {
        /// Since it opened, or the last trial failed.
        since: Instant,
    },
    /// The trial.
    HalfOpen {
        /// Whether it is under way.
        trying: bool,
    },
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    streak: u32,
    conversations: Vec<Id>,
    pause: Duration,
    /// What the probe saw last, and when.
    probe: Option<(bool, Instant)>,
    /// How often it has opened.
    opened: u64,
    /// When it closed last, for the growing rate.
    closed_at: Option<Instant>,
    /// Calls a second at most.
    most: f64,
    next_call: Instant,
}

impl Breaker {
    /// Closed; `most` calls a second at most, in any state.
    pub fn new(most: f64, now: Instant) -> Breaker {
        Breaker {
            state: State::Closed,
            streak: 0,
            conversations: Vec::new(),
            pause: FIRST_PAUSE,
            probe: None,
            opened: 0,
            closed_at: None,
            most,
            next_call: now,
        }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether a call may begin now.
    pub fn admit(&mut self, now: Instant) -> Admit {
        if let State::Open { since } = self.state {
            let pause = match self.seen(now) {
                Some(false) => LONGEST_PAUSE,
                Some(true) => self.pause.min(LONGEST_PAUSE_WHILE_UP),
                None => self.pause,
            };
            let trial = since + pause;
            if now < trial {
                return Admit::NotBefore(trial);
            }
            self.state = State::HalfOpen { trying: false };
        }
        match self.state {
            State::HalfOpen { trying: true } | State::Open { .. } => Admit::Never,
            State::HalfOpen { trying: false } => {
                self.state = State::HalfOpen { trying: true };
                Admit::Now { trial: true }
            }
            State::Closed if now < self.next_call => Admit::NotBefore(self.next_call),
            State::Closed => {
                self.next_call = self.next_call.max(now.checked_sub(BURST).unwrap_or(now))
                    + Duration::from_secs_f64(1.0 / self.rate(now));
                Admit::Now { trial: false }
            }
        }
    }

    /// Whether the bot is up, as the probe saw it lately.
    fn seen(&self, now: Instant) -> Option<bool> {
        self.probe
            .filter(|(_, at)| now.duration_since(*at) < PROBE_COUNTS)
            .map(|(up, _)| up)
    }

    fn rate(&self, now: Instant) -> f64 {
        self.closed_at.map_or(self.most, |at| {
            (RATE_AFTER_CLOSING * now.duration_since(at).as_secs_f64().min(30.0).exp2())
                .min(self.most)
        })
    }

    /// A call for a conversation has ended.
    pub fn record(&mut self, sign: Sign, conversation: Id, trial: bool, now: Instant) {
        let sign = match sign {
            Sign::IllAgain if self.seen(now) == Some(false) => Sign::Ill,
            sign => sign,
        };
        match (sign, self.state) {
            (Sign::IllAgain, _) if trial => self.give_up_trial(),
            (Sign::Well, State::HalfOpen { .. }) if trial => self.close(now),
            (Sign::Well, State::Closed) => self.calm(),
            (Sign::Ill, State::HalfOpen { .. }) if trial => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.open(now);
            }
            (Sign::Ill, State::Closed) => {
                self.streak = self.streak.saturating_add(1);
                if self.conversations.len() < CONVERSATIONS
                    && !self.conversations.contains(&conversation)
                {
                    self.conversations.push(conversation);
                }
                let dead = match self.seen(now) {
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
                if dead {
                    self.opened += 1;
                    self.open(now);
                }
            }
            // A call that began before it opened says nothing new.
            _ => {}
        }
    }

    /// The trial ended without a call.
    pub fn give_up_trial(&mut self) {
        if let State::HalfOpen { trying } = &mut self.state {
            *trying = false;
        }
    }

    /// What the probe saw. A bot that has come back is tried at once.
    pub fn probe(&mut self, up: bool, now: Instant) {
        if up && matches!(self.probe, Some((false, _))) {
            self.pause = FIRST_PAUSE;
        }
        self.probe = Some((up, now));
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open { since: now };
        self.calm();
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed;
        (self.pause, self.closed_at, self.next_call) = (FIRST_PAUSE, Some(now), now);
        self.calm();
    }

    fn calm(&mut self) {
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

        fn ill(&mut self, calls: u32, conversations: u8) {
            for n in 0..calls {
                self.breaker
                    .record(Sign::Ill, id(n as u8 % conversations), false, self.now);
            }
        }

        /// Calls admitted within `seconds`, asked every 10 ms.
        fn admitted(&mut self, seconds: u64, sign: Sign) -> u32 {
            let mut admitted = 0;
            for _ in 0..seconds * 100 {
                self.now += Duration::from_millis(10);
                while let Admit::Now { trial } = self.breaker.admit(self.now) {
                    admitted += 1;
                    self.breaker.record(sign, id(1), trial, self.now);
                }
            }
            admitted
        }

        fn is_open(&self) -> bool {
            matches!(self.breaker.state(), State::Open { .. })
        }
    }

    #[test]
    fn a_streak_over_several_conversations_opens_it() {
        let mut case = Case::new();
        case.ill(STREAK - 1, 3);
        assert!(!case.is_open());
        case.breaker.record(Sign::Well, id(9), false, case.now);
        case.ill(STREAK - 1, 3);
        assert!(!case.is_open(), "one good call ends the streak");
        case.ill(1, 3);
        assert!(case.is_open() && case.breaker.opened() == 1);
    }

    #[test]
    fn one_conversation_that_always_fails_does_not() {
        let mut case = Case::new();
        case.ill(1_000, 2);
        assert!(!case.is_open());
    }

    #[test]
    fn what_has_failed_before_opens_it_only_if_the_probe_fails_too() {
        let mut case = Case::new();
        let again = |case: &mut Case| {
            (0..100).for_each(|n| case.breaker.record(Sign::IllAgain, id(n), false, case.now))
        };
        again(&mut case);
        case.breaker.probe(true, case.now);
        again(&mut case);
        assert!(!case.is_open());
        case.breaker.probe(false, case.now);
        again(&mut case);
        assert!(case.is_open());
    }

    #[test]
    fn a_trial_by_what_has_failed_before_says_nothing_and_the_next_one_tries() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        case.now += 2 * SECOND;
        assert_eq!(case.breaker.admit(case.now), Admit::Now { trial: true });
        case.breaker.record(Sign::IllAgain, id(1), true, case.now);
        assert_eq!(case.breaker.admit(case.now), Admit::Now { trial: true });
        case.breaker.record(Sign::Well, id(2), true, case.now);
        assert_eq!(case.breaker.state(), State::Closed);
    }

    #[test]
    fn while_the_probe_is_well_a_longer_streak_is_needed() {
        let mut case = Case::new();
        case.breaker.probe(true, case.now);
        case.ill(STREAK_WHILE_UP - 1, 10);
        assert!(!case.is_open());
        case.ill(1, 10);
        assert!(case.is_open());
    }

    #[test]
    fn the_probe_shortens_the_streak() {
        let mut case = Case::new();
        case.breaker.probe(false, case.now);
        case.ill(STREAK_WHILE_DOWN, 1);
        assert!(case.is_open());
    }

    #[test]
    fn a_dead_bot_is_called_a_bounded_number_of_times() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        // 1 + 2 + 4 + 8 + 16 s, then every 30 s.
        assert_eq!(case.admitted(3_600, Sign::Ill), 5 + 118);
        assert_eq!(case.breaker.opened(), 1, "a failed trial is no new opening");
    }

    #[test]
    fn while_the_probe_fails_the_trial_is_put_off_but_not_for_good() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        let mut trials = 0;
        for _ in 0..10 {
            case.breaker.probe(false, case.now);
            trials += case.admitted(10, Sign::Ill);
        }
        assert_eq!(trials, 3);
    }

    #[test]
    fn while_the_probe_is_well_trials_stay_frequent() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        let mut trials = 0;
        for _ in 0..10 {
            case.breaker.probe(true, case.now);
            trials += case.admitted(10, Sign::Ill);
        }
        assert!((45..=51).contains(&trials), "{trials}");
    }

    #[test]
    fn a_bot_that_comes_back_is_tried_within_a_second() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        case.admitted(60, Sign::Ill);
        case.breaker.probe(false, case.now);
        case.breaker.probe(true, case.now);
        assert!(case.admitted(1, Sign::Well) > 0);
        assert_eq!(case.breaker.state(), State::Closed);
    }

    #[test]
    fn one_call_is_the_trial_and_what_began_before_says_nothing() {
        let mut case = Case::new();
        case.ill(STREAK, 3);
        case.now += 2 * SECOND;
        assert_eq!(case.breaker.admit(case.now), Admit::Now { trial: true });
        assert_eq!(case.breaker.admit(case.now), Admit::Never);
        case.breaker.record(Sign::Well, id(1), false, case.now);
        assert_eq!(case.breaker.admit(case.now), Admit::Never);
        case.breaker.give_up_trial();
        assert_eq!(case.breaker.admit(case.now), Admit::Now { trial: true });
    }

    #[test]
    fn after_closing_the_rate_grows_to_the_limit() {
        let mut case = Case::new();
        assert!((900..=1_300).contains(&case.admitted(1, Sign::Well)));
        case.ill(STREAK, 3);
        case.now += SECOND;
        let rates: Vec<u32> = (0..12).map(|_| case.admitted(1, Sign::Well)).collect();
        assert!(
            rates[0] < 30 && rates.windows(2).all(|w| w[0] <= w[1] + 2),
            "{rates:?}"
        );
        assert!((950..=1_050).contains(&rates[11]), "{rates:?}");
    }
}
