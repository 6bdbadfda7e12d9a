//! What requests about dead letters hold.

use contract::dead_letter::Reason;
use contract::domain::ShortText;
use contract::{Id, Timestamp};
use runtime::dead_letters::{Filter, MAX_DEAD_LETTERS, MAX_REPLAYS, ServiceName, StateFilter};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use crate::api::declare::{body, path_parameter, query};
use crate::api::field::{
    Flag, FlattenQuery, Inline, Number, QueryFlag, Scalar, whole_number, whole_number_schema,
};
use crate::api::field_error::FieldErrorKind;
use crate::api::scalars::{in_any_case, scalars};
use crate::api::schema::text;
use crate::routes::queries::OfCompany;

/// The entries of a page whose request names no number.
const DEFAULT_LIMIT: u64 = 50;
/// The largest sequence in requests. Larger whole numbers are not exact in every JSON reader.
const MAX_SEQ: u64 = 9_007_199_254_740_991;

/// The sequence of a dead letter where a page ended.
type Cursor = Number<0, MAX_SEQ, 0>;

query! {
    /// Which dead letters to list.
    pub struct ListQuery {
        /// What has become of them; `open` where it is not given.
        state: Option<Inline<StateFilter>>,
        /// Why they died.
        reason: Option<Inline<Reason>>,
        /// Which service gave them up.
        service: Option<ServiceName>,
        /// Of one conversation.
        contact_id: Option<Id>,
        /// Stored at this time or after it.
        from: Option<Timestamp>,
        /// Stored before this time.
        to: Option<Timestamp>,
        /// Entries in the answer.
        limit: Number<1, { MAX_DEAD_LETTERS as u64 }, DEFAULT_LIMIT>,
        /// `next_cursor` of the page before.
        cursor: Cursor,
        of: FlattenQuery<OfCompany>,
    }
}

impl ListQuery {
    pub fn filter(&self) -> Filter {
        Filter {
            state: self.state.map(|Inline(state)| state).unwrap_or_default(),
            reason: self.reason.map(|Inline(reason)| reason),
            service: self.service.clone(),
            contact: self.contact_id,
            from: self.from,
            to: self.to,
            ..Filter::default()
        }
    }
}

body! {
    /// Which of the open dead letters to replay; without a filter, all.
    pub struct ReplayBody {
        reason: Option<Reason>,
        service: Option<ServiceName>,
        contact_id: Option<Id>,
        /// Stored at this time or after it.
        from: Option<Timestamp>,
        /// Stored before this time.
        to: Option<Timestamp>,
        /// Letters that this request replays at the most.
        limit: Number<1, { MAX_REPLAYS as u64 }, { MAX_REPLAYS as u64 }>,
        /// `next_cursor` of the request before.
        cursor: Cursor,
        company_id: Option<Id>,
        /// Only say which.
        dry_run: Flag,
    }
    example { "reason": "refused", "service": "forwarder", "dry_run": true }
}

impl ReplayBody {
    pub fn filter(&self) -> Filter {
        Filter {
            reason: self.reason,
            service: self.service.clone(),
            contact: self.contact_id,
            from: self.from,
            to: self.to,
            ..Filter::default()
        }
    }
}

query! {
    /// Whether to replay in earnest.
    pub struct DryRun {
        /// Only say what would be replayed.
        dry_run: QueryFlag,
    }
}

body! {
    /// The same, as a body.
    pub struct DryRunBody {
        /// Only say whether it could be replayed.
        dry_run: Flag,
    }
    example { "dry_run": true }
}

body! {
    /// Why a dead letter is not to be replayed.
    pub struct DiscardBody {
        company_id: Option<Id>,
        reason: ShortText,
    }
    example { "reason": "answered by telephone" }
}

path_parameter! {
    /// Its sequence.
    pub struct SequenceInPath { seq: Sequence }
}

/// The sequence of a dead letter.
pub struct Sequence(pub u64);

impl Scalar for Sequence {
    fn from_text(text: &str) -> Result<Sequence, FieldErrorKind> {
        whole_number(&Value::from(text), 1, MAX_SEQ).map(Sequence)
    }

    fn schema() -> RefOr<Schema> {
        whole_number_schema(1, MAX_SEQ).into()
    }
}

impl Scalar for ServiceName {
    const EXAMPLE: Option<&'static str> = Some("forwarder");

    fn from_text(text: &str) -> Result<ServiceName, FieldErrorKind> {
        in_any_case(text).map_err(FieldErrorKind::invalid)
    }

    fn schema() -> RefOr<Schema> {
        text()
            .max_length(Some(32))
            .pattern(Some("^[a-z-]+$"))
            .into()
    }
}

scalars! {
    Reason = in_any_case::<Reason>,
    StateFilter = in_any_case::<StateFilter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_a_whole_number_that_every_json_reader_knows_exactly() {
        let of = |text: &str| Sequence::from_text(text).map(|Sequence(seq)| seq);
        assert_eq!(of("7"), Ok(7));
        for bad in [
            "",
            "0",
            "-1",
            "1.5",
            "x",
            "9007199254740992",
            "18446744073709551616",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
