//! `/asyncapi.json`: the contract of both doors and of the log, as an AsyncAPI 3 document. It is a
//! pinned file; its tests hold it against what the code says and reads.

use axum::Router;
use axum::http::header;
use axum::routing::get;

const DOCUMENT: &str = include_str!("../../asyncapi.json");

/// The route.
pub fn routes() -> Router {
    Router::new().route(
        "/asyncapi.json",
        get(|| async { ([(header::CONTENT_TYPE, "application/json")], DOCUMENT) }),
    )
}

#[cfg(test)]
mod tests;
