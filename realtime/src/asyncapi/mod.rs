//! `/asyncapi.json`: both transports and the log as an AsyncAPI 3 document. The document is a file
//! that nothing generates; the tests compare it with the code.

use axum::Router;
use axum::http::header;
use axum::routing::get;

const DOCUMENT: &str = include_str!("../../asyncapi.json");

/// The route `/asyncapi.json`.
pub fn routes() -> Router {
    Router::new().route(
        "/asyncapi.json",
        get(|| async { ([(header::CONTENT_TYPE, "application/json")], DOCUMENT) }),
    )
}

#[cfg(test)]
mod tests;
