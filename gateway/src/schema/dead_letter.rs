//! Dead letters.

use contract::dead_letter::Reason;
use contract::domain::ShortText;
use contract::{Id, Timestamp};
use runtime::dead_letters::StateFilter;
use utoipa::{IntoParams, ToSchema};

/// Whether to replay in earnest; it can stand in the query string or in the body.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DryRun {
    /// Only say what would be replayed.
    #[param(required = false, default = false)]
    dry_run: bool,
}

/// The same, as a body.
#[derive(ToSchema)]
#[schema(example = json!({"dry_run": true}))]
pub struct DryRunBody {
    /// Only say whether it could be replayed.
    dry_run: Option<bool>,
}

/// Which dead letters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfLetters {
    /// What has become of them; `open` where it is not given.
    #[param(required = false, inline)]
    state: StateFilter,
    /// Why they died.
    #[param(required = false, inline)]
    reason: Reason,
    /// Which service gave them up.
    #[param(
        required = false,
        max_length = 32,
        pattern = "^[a-z-]+$",
        example = "forwarder"
    )]
    service: String,
    /// Of one conversation.
    #[param(required = false)]
    contact_id: Id,
    /// Stored at this time or after it.
    #[param(required = false)]
    from: Timestamp,
    /// Stored before this time.
    #[param(required = false)]
    to: Timestamp,
    /// Entries in the answer.
    #[param(minimum = 1, maximum = 200, default = 50, required = false)]
    limit: u32,
    /// `next_cursor` of the page before.
    #[param(
        minimum = 0,
        maximum = 9_007_199_254_740_991_u64,
        default = 0,
        required = false
    )]
    cursor: u64,
}

/// Which of the open dead letters to replay; without a filter, all.
#[derive(ToSchema)]
#[schema(example = json!({"reason": "refused", "service": "forwarder", "dry_run": true}))]
pub struct ReplayBody {
    company_id: Option<Id>,
    reason: Option<Reason>,
    #[schema(max_length = 32, pattern = "^[a-z-]+$")]
    service: Option<String>,
    contact_id: Option<Id>,
    /// Stored at this time or after it.
    from: Option<Timestamp>,
    /// Stored before this time.
    to: Option<Timestamp>,
    /// Letters that this request replays at the most.
    #[schema(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the request before.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64, default = 0)]
    cursor: Option<u64>,
    /// Only say which.
    dry_run: Option<bool>,
}

/// Why a dead letter is not to be replayed.
#[derive(ToSchema)]
#[schema(example = json!({"reason": "answered by telephone"}))]
pub struct DiscardBody {
    company_id: Option<Id>,
    reason: ShortText,
}
