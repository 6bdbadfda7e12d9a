//! The routes: which handler answers which path, and the layers that depend on the caller. Handlers
//! are in a module for each subject.

mod auth;
mod command;
mod contacts;
mod conversations;
mod dead_letters;
mod integrations;
mod messages;
mod queries;
mod sla;
mod state;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use dead_letters::access::DeadLetterAccess;
pub use messages::delivery_wait::DeliveryWaits;
pub use state::App;

use crate::auth::{Authenticator, identify};
use crate::middleware::{
    RateLimiters, by_address, by_caller, large_body_permits, limit_large_bodies,
};
use crate::openapi;

/// The largest body of a request under `/auth`. A larger one is refused with 413.
const AUTH_BODY_BYTES: usize = 16 * 1024;
/// The largest body about a contact, an integration, targets or dead letters: a profile of 16 KiB,
/// a token of 4 KiB, and some thousand characters. A larger one is refused with 413.
const DIRECTORY_BODY_BYTES: usize = 128 * 1024;

/// All routes, and the part of the OpenAPI document that they declare.
pub fn router(app: App, limiters: RateLimiters) -> (Router, OpenApi) {
    routes(&app.authenticator, limiters)
        .with_state(app)
        .split_for_parts()
}

/// All routes, under `/api/v1`, with the layers that depend on the caller.
pub fn routes(authenticator: &Authenticator, limiters: RateLimiters) -> OpenApiRouter<App> {
    let messages = OpenApiRouter::new()
        .routes(routes!(
            messages::compat::create_or_list,
            messages::list::list,
            messages::edit::update,
            messages::edit::delete
        ))
        .routes(routes!(messages::show::get))
        .routes(routes!(messages::show::delivery))
        .routes(routes!(messages::edit::mark_read))
        .routes(routes!(messages::batch::create))
        .routes(routes!(conversations::instagram))
        // Inside the rate limit, because a request that is refused there must take no permit: its
        // body is not read.
        .layer(from_fn_with_state(large_body_permits(), limit_large_bodies))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    // Counts like `POST /messages/instagram`, which asks for the same.
    let conversations = OpenApiRouter::new()
        .routes(routes!(conversations::list))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    let contacts = OpenApiRouter::new()
        .routes(routes!(
            contacts::create,
            contacts::list,
            contacts::find_or_create
        ))
        .routes(routes!(contacts::get, contacts::update));
    let integrations = OpenApiRouter::with_openapi(integrations::google())
        .routes(routes!(integrations::list))
        .routes(routes!(
            integrations::put,
            integrations::get,
            integrations::delete
        ));
    let sla = OpenApiRouter::new()
        .routes(routes!(sla::report))
        .routes(routes!(sla::targets, sla::set_targets));
    let dead_letters = OpenApiRouter::new()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::replay_many))
        .routes(routes!(dead_letters::discard));
    let directory = |routes: OpenApiRouter<App>| {
        routes
            .layer(DefaultBodyLimit::max(DIRECTORY_BODY_BYTES))
            .layer(from_fn_with_state(limiters.clone(), by_caller))
    };
    // Counted by address: before a login nobody is known, and a user whose requests are used up can
    // still log out.
    let open = OpenApiRouter::new()
        .routes(routes!(auth::register::register))
        .routes(routes!(auth::login::login))
        .routes(routes!(auth::sessions::refresh))
        .routes(routes!(auth::sessions::logout))
        .layer(from_fn_with_state(limiters.clone(), by_address));
    let known = OpenApiRouter::new()
        .routes(routes!(auth::staff::invite))
        .routes(routes!(auth::staff::me))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    let auth = open
        .merge(known)
        .layer(DefaultBodyLimit::max(AUTH_BODY_BYTES));
    let api = OpenApiRouter::new()
        .nest("/messages", messages)
        .nest("/conversations", conversations)
        .nest("/contacts", directory(contacts))
        .nest("/integrations", directory(integrations))
        .nest("/sla", directory(sla))
        .nest("/dead-letters", directory(dead_letters))
        .nest("/auth", auth)
        .layer(from_fn_with_state(authenticator.clone(), identify));
    OpenApiRouter::with_openapi(openapi::base()).nest("/api/v1", api)
}
