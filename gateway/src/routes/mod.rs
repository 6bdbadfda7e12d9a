//! The routes, a file for each subject.

mod auth;
mod batch;
mod command;
mod contact_fields;
mod contacts;
mod conversations;
mod create_message;
mod dead_letters;
mod google;
mod integrations;
mod messages;
mod page;
mod sessions;
mod sla;
mod store;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use contract::Id;
use contract::trace::TraceContext;
use runtime::seal::Keyring;
use serde_json::{Map, Value};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Logins, Tokens, identify};
use crate::delivery::Waits;
use crate::http::Trace;
use crate::letters::Letters;
use crate::log::Log;
use crate::openapi;
use crate::problem::Problem;
use crate::protect::{RateLimiters, bound_bodies, by_address, by_caller, room_for_bodies};
use crate::validate::Fields;

/// Largest body of a request without a token.
const AUTH_BODY_BYTES: usize = 16 * 1024;
/// Largest body about a contact, an integration or targets: a profile of 16 KiB, a token of 4 KiB,
/// and some thousand characters.
const DIRECTORY_BODY_BYTES: usize = 128 * 1024;

/// What the routes need; each handler takes only its part. It is cloned for each request and layer,
/// so every part is cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Events and queries.
    pub log: Log,
    /// What a caller shows.
    pub tokens: Tokens,
    /// What `/auth` needs to let somebody in.
    pub logins: Arc<Logins>,
    /// Seals the platforms' access tokens.
    pub keyring: Keyring,
    /// Waits for deliveries.
    pub waits: Arc<Waits>,
    /// What could not be processed.
    pub letters: Arc<Letters>,
}

macro_rules! part {
    ($type:ty, $field:ident) => {
        impl FromRef<App> for $type {
            fn from_ref(app: &App) -> $type {
                app.$field.clone()
            }
        }
    };
}
part!(Log, log);
part!(Tokens, tokens);
part!(Arc<Logins>, logins);
part!(Keyring, keyring);
part!(Arc<Waits>, waits);
part!(Arc<Letters>, letters);

/// What a request of a known caller comes with.
pub struct Call {
    /// Events and queries.
    pub log: Log,
    /// Who calls.
    pub caller: Caller,
    /// The trace that its events and queries belong to.
    pub trace: TraceContext,
}

impl FromRequestParts<App> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Call, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let Trace(trace) = Trace::from_request_parts(parts, app).await?;
        Ok(Call {
            log: app.log.clone(),
            caller,
            trace,
        })
    }
}

/// All of them, and what they say of themselves.
pub fn router(app: App, limiters: RateLimiters) -> (Router, OpenApi) {
    routes(&app.tokens, limiters)
        .with_state(app)
        .split_for_parts()
}

/// All of them, under `/api/v1`, with the layers that depend on who calls.
pub fn routes(tokens: &Tokens, limiters: RateLimiters) -> OpenApiRouter<App> {
    let messages = OpenApiRouter::new()
        .routes(routes!(
            create_message::create_or_list,
            messages::list,
            messages::update,
            messages::delete
        ))
        .routes(routes!(messages::get))
        .routes(routes!(messages::delivery))
        .routes(routes!(messages::mark_read))
        .routes(routes!(batch::create))
        .routes(routes!(conversations::instagram))
        // Behind the limit: a stranger, whose body is not read, keeps no room.
        .layer(from_fn_with_state(room_for_bodies(), bound_bodies))
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
        .routes(routes!(sessions::refresh))
        .routes(routes!(sessions::logout))
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

/// The company of a request whose query string may name one; an internal service must.
fn company_in(query: &Map<String, Value>, caller: &Caller) -> Result<Id, Problem> {
    let mut f = Fields::of(query);
    let named = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    caller.company(named)
}
