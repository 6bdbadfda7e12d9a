//! Query strings that several operations share.

use contract::domain::Platform;
use contract::{Id, Timestamp};
use utoipa::IntoParams;

/// Whose data it is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfCompany {
    /// An internal service must name it, where it may ask at all; a member of staff need not.
    #[param(required = false)]
    company_id: Id,
}

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageOf {
    /// Entries in the answer.
    #[param(minimum = 1, maximum = 200, default = 50, required = false)]
    limit: u32,
    /// Entries to pass over; not looked at beside a `cursor`.
    #[param(minimum = 0, maximum = 100_000, default = 0, required = false)]
    skip: u32,
}

/// Which channel.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OnPlatform {
    /// Upper and lower case are the same.
    #[param(required = false)]
    platform: Platform,
}

/// Which time: of the two, one can be left out, or both.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InRange {
    /// Its first moment; else a day before `to`.
    #[param(required = false)]
    from: Timestamp,
    /// The first moment after it; else a day after `from`, or now. At most 31 days after `from`.
    #[param(required = false)]
    to: Timestamp,
}

/// Where to go on in a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct After {
    /// `next_cursor` of the page before; empty for the first page.
    #[param(required = false, pattern = "^([0-9a-f]{40})?$")]
    cursor: String,
}
