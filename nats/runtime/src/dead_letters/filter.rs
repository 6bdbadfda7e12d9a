//! Which dead letters a caller wants to see, as values that are read from text. Asks nothing.

use std::str::FromStr;

use super::model::DeadLetter;
use contract::dead_letter::{Reason, State};
use contract::{Id, Timestamp};

/// Which state letters must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(rename_all = "lowercase")
)]
pub enum StateFilter {
    /// Nothing has become of them yet, or a replay has begun and was not completed.
    #[default]
    Open,
    /// Replayed.
    Replayed,
    /// Discarded.
    Discarded,
    /// Any.
    All,
}

impl StateFilter {
    pub(super) fn takes(self, state: State) -> bool {
        match self {
            StateFilter::Open => matches!(state, State::Open | State::Replaying),
            StateFilter::Replayed => state == State::Replayed,
            StateFilter::Discarded => state == State::Discarded,
            StateFilter::All => true,
        }
    }
}

impl FromStr for StateFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<StateFilter, &'static str> {
        match text {
            "open" => Ok(StateFilter::Open),
            "replayed" => Ok(StateFilter::Replayed),
            "discarded" => Ok(StateFilter::Discarded),
            "all" => Ok(StateFilter::All),
            _ => Err("must be one of open, replayed, discarded, all"),
        }
    }
}

/// The name of a service, as a token of the subject: 1 to 32 characters of `a-z` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(String);

impl ServiceName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ServiceName, &'static str> {
        match (1..=32).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_lowercase() || c == b'-')
        {
            true => Ok(ServiceName(text.to_owned())),
            false => Err("must be the name of a service, such as forwarder"),
        }
    }
}

/// Which dead letters a list has. `None` in a field takes all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// What must have become of the dead letter.
    pub state: StateFilter,
    /// Why the service gave the message up.
    pub reason: Option<Reason>,
    /// The service that gave the message up.
    pub service: Option<ServiceName>,
    /// The tenant, for callers who may see several.
    pub company: Option<Id>,
    /// The conversation.
    pub contact: Option<Id>,
    /// Stored at this time or after it.
    pub from: Option<Timestamp>,
    /// Stored before this time.
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Whether the filter takes a dead letter, whatever its state.
    pub(super) fn takes(&self, dead_letter: &DeadLetter) -> bool {
        self.reason
            .is_none_or(|reason| dead_letter.reason == reason.as_str())
            && self
                .company
                .is_none_or(|company| dead_letter.company_id == Some(company))
            && self
                .contact
                .is_none_or(|contact| dead_letter.contact_id == Some(contact))
            && self.from.is_none_or(|from| dead_letter.stored_at >= from)
            && self.to.is_none_or(|to| dead_letter.stored_at < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_was_not_completed_counts_as_open() {
        assert!(
            StateFilter::Open.takes(State::Replaying)
                && !StateFilter::Replayed.takes(State::Replaying)
        );
        for (filter, state) in [
            ("open", State::Open),
            ("replayed", State::Replayed),
            ("discarded", State::Discarded),
        ] {
            let filter: StateFilter = filter.parse().unwrap();
            for other in [State::Open, State::Replayed, State::Discarded] {
                assert_eq!(filter.takes(other), other == state);
            }
            assert!(StateFilter::All.takes(state));
        }
    }

    #[test]
    fn the_name_of_a_service_is_one_token() {
        assert!("forwarder".parse::<ServiceName>().is_ok());
        for bad in ["", "*", "a.b", ">", "A", "a b", &"a".repeat(33)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}
