//! Makes every error a problem document, also one that a library answers by itself.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api::problem::{self, Problem};

/// Replaces an error that is no problem document. The text of a library says nothing to a client.
/// Its headers, such as `Allow`, do, and stay.
pub fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !is_error || kind.is_some_and(|kind| kind == problem::CONTENT_TYPE) {
        return response;
    }
    let mut problem = Problem::of_status(status).into_response();
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            problem.headers_mut().append(name, value.clone());
        }
    }
    problem
}
