//! Pages of lists: reading which one is wanted, and saying so in the answer.

use axum::http::StatusCode;
use axum::response::Response;
use contract::query::{DEFAULT_PAGE, MAX_PAGE, Page};

use super::field_reader::Fields;
use super::response::raw_json;

/// Furthest that `skip` reaches; a cursor goes further.
const MAX_SKIP: u64 = 100_000;

/// `limit`, and `cursor` or, without one, `skip`.
pub fn page(f: &mut Fields<'_>) -> Page {
    let limit = f.number("limit", u64::from(DEFAULT_PAGE), 1..=u64::from(MAX_PAGE)) as u32;
    let skip = f.number("skip", 0, 0..=MAX_SKIP);
    let after = f.non_empty("cursor", str::parse);
    // The cursor is the exacter one.
    Page {
        limit,
        skip: if after.is_some() { 0 } else { skip },
        after,
    }
}

/// The persister's answer, and the page that was asked for, in one object.
pub fn with_page(answer: &[u8], Page { limit, skip, .. }: Page) -> Response {
    let inner = answer.strip_suffix(b"}").unwrap_or(answer);
    raw_json(
        StatusCode::OK,
        "",
        inner,
        &format!(r#","limit":{limit},"skip":{skip}}}"#),
    )
}
