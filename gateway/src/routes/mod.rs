//! The routes, a file for each subject.

mod auth;
mod command;
mod contacts;
mod conversations;
mod dead_letters;
mod google;
mod integrations;
mod messages;
mod sla;
mod state;

pub use dead_letters::access::DeadLetterAccess;
pub use messages::delivery_wait::DeliveryWaits;
pub use state::App;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Authenticator, identify};
use crate::middleware::{
    RateLimiters, by_address, by_caller, large_body_permits, limit_large_bodies,
};
use crate::openapi;

/// Largest body of a request without a token.
const AUTH_BODY_BYTES: usize = 16 * 1024;
/// Largest body about a contact, an integration or targets: a profile of 16 KiB, a token of 4 KiB,
/// and some thousand characters.
const DIRECTORY_BODY_BYTES: usize = 128 * 1024;

/// All of them, and what they say of themselves.
pub fn router(app: App, limiters: RateLimiters) -> (Router, OpenApi) {
    routes(&app.authenticator, limiters)
        .with_state(app)
        .split_for_parts()
}

/// All of them, under `/api/v1`, with the layers that depend on who calls.
pub fn routes(tokens: &Authenticator, limiters: RateLimiters) -> OpenApiRouter<App> {
    let messages = OpenApiRouter::new()
        .routes(routes!(
            messages::create::create_or_list,
            messages::list,
            messages::update,
            messages::delete
        ))
        .routes(routes!(messages::get))
        .routes(routes!(messages::delivery))
        .routes(routes!(messages::mark_read))
        .routes(routes!(messages::batch::create))
        .routes(routes!(conversations::instagram))
        // Behind the limit: a stranger, whose body is not read, keeps no room.
        .layer(from_fn_with_state(large_body_permits(), limit_large_bodies))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    // The twin of `POST /messages/instagram` counts like it.
    let conversations = OpenApiRouter::new()
        .routes(routes!(conversations::list))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    let contacts = OpenApiRouter::new()
        .routes(routes!(contacts::create, contacts::list))
        .routes(routes!(contacts::get, contacts::update));
    let integrations = OpenApiRouter::with_openapi(google::Google::openapi())
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
    let (contacts, integrations) = (directory(contacts), directory(integrations));
    let (sla, dead_letters) = (directory(sla), directory(dead_letters));
    // Nobody has been asked who they are here; and whoever has used up their requests can log out
    // still.
    let open = OpenApiRouter::new()
        .routes(routes!(auth::register))
        .routes(routes!(auth::login))
        .routes(routes!(auth::sessions::refresh))
        .routes(routes!(auth::sessions::logout))
        .layer(from_fn_with_state(limiters.clone(), by_address));
    let known = OpenApiRouter::new()
        .routes(routes!(auth::invite))
        .routes(routes!(auth::me))
        .layer(from_fn_with_state(limiters.clone(), by_caller));
    let auth = open
        .merge(known)
        .layer(DefaultBodyLimit::max(AUTH_BODY_BYTES));
    let api = OpenApiRouter::new()
        .nest("/messages", messages)
        .nest("/conversations", conversations)
        .nest("/contacts", contacts)
        .nest("/integrations", integrations)
        .nest("/sla", sla)
        .nest("/dead-letters", dead_letters)
        .nest("/auth", auth)
        .layer(from_fn_with_state(tokens.clone(), identify));
    OpenApiRouter::with_openapi(openapi::base()).nest("/api/v1", api)
}
