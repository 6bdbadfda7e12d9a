//! `/integrations/google`, for the document only: the handlers of `integrations` answer it. A
//! schema cannot say that a body depends on what stands in the path, so in the document Google has
//! a path of its own.
#![expect(dead_code, reason = "they describe, nobody calls them")]

use utoipa::OpenApi;

use super::integrations::{One, Removed, Saved};
use crate::schema::{BadBody, Denied, GoogleBody, Later, Missing, OfCompany, Refused};

/// The path's part of the document.
#[derive(OpenApi)]
#[openapi(paths(put, get, delete))]
pub struct Google;

#[utoipa::path(
    put,
    path = "/google",
    tag = "integrations",
    summary = "Enter or replace a company's access to Google",
    description = "For managers. Access tokens are fetched with the refresh token, the first one within minutes, and renewed before they \
                   expire. Both are stored encrypted, and no answer holds them.",
    request_body = GoogleBody,
    responses((status = 200, body = Saved), Refused, Denied, BadBody, Later),
)]
fn put() {}

#[utoipa::path(
    get,
    path = "/google",
    tag = "integrations",
    summary = "Look at the integration with Google",
    params(OfCompany),
    responses((status = 200, body = One), Refused, Denied, Missing),
)]
fn get() {}

#[utoipa::path(
    delete,
    path = "/google",
    tag = "integrations",
    summary = "Remove the integration with Google",
    description = "For managers.",
    responses((status = 200, body = Removed), Refused, Denied, Later, Missing),
)]
fn delete() {}
