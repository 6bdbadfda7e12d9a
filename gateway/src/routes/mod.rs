//! The routes, a file for each subject.

mod auth;
mod batch;
mod command;
mod contact_fields;
mod contacts;
mod conversations;
mod create_message;
mod integrations;
mod messages;
mod page;
mod sessions;
mod store;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use nats::Id;
use nats::runtime::seal::Keyring;
use nats::trace::TraceContext;
use serde_json::{Map, Value};

use crate::auth::{Caller, Logins, Tokens, identify};
use crate::delivery::Waits;
use crate::http::Trace;
use crate::log::Log;
use crate::problem::Problem;
use crate::protect::{RateLimiters, by_address, by_caller};
use crate::validate::Fields;

/// Largest body of a request without a token.
const AUTH_BODY_BYTES: usize = 16 * 1024;

/// What the routes need; each handler takes only its part.
#[derive(Clone)]
pub struct App {
    /// Events and queries.
    pub log: Log,
    /// What a caller shows.
    pub tokens: Tokens,
    /// What `/auth` needs to let somebody in.
    pub logins: Logins,
    /// Seals the platforms' access tokens.
    pub keyring: Keyring,
    /// Waits for deliveries.
    pub waits: Waits,
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
part!(Logins, logins);
part!(Keyring, keyring);
part!(Waits, waits);

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
        Ok(Call { log: app.log.clone(), caller, trace })
    }
}

/// All of them, under `/api/v1`, with the layers that depend on who calls.
pub fn router(app: App, limiters: RateLimiters) -> Router {
    let messages = Router::new()
        .route("/", post(create_message::create_or_list).get(messages::list).patch(messages::update).delete(messages::delete))
        .route("/{id}", get(messages::get))
        .route("/{id}/delivery", get(messages::delivery))
        .route("/batch", post(batch::create))
        .route("/instagram", post(conversations::instagram))
        .route("/mark-read", put(messages::mark_read));
    let conversations = Router::new().route("/", get(conversations::list));
    let contacts =
        Router::new().route("/", post(contacts::create).get(contacts::list)).route("/{id}", get(contacts::get).patch(contacts::update));
    let integrations = Router::new()
        .route("/", get(integrations::list))
        .route("/{platform}", put(integrations::put).get(integrations::get).delete(integrations::delete));
    // Nobody has been asked who they are here.
    let open = Router::new()
        .route("/register", post(auth::register))
        .route("/login", post(auth::login))
        .route("/refresh", post(sessions::refresh));
    let open = open.layer(DefaultBodyLimit::max(AUTH_BODY_BYTES)).layer(from_fn_with_state(limiters.clone(), by_address));
    let known = Router::new()
        .route("/logout", post(sessions::logout))
        .route("/invitations", post(auth::invite))
        .route("/me", get(auth::me))
        .layer(DefaultBodyLimit::max(AUTH_BODY_BYTES));
    let messages = messages.layer(from_fn_with_state(limiters.clone(), by_caller));
    // The twin of `POST /messages/instagram` counts like it.
    let conversations = conversations.layer(from_fn_with_state(limiters, by_caller));
    let api = Router::new()
        .nest("/messages", messages)
        .nest("/conversations", conversations)
        .nest("/contacts", contacts)
        .nest("/integrations", integrations)
        .nest("/auth", open.merge(known));
    Router::new().nest("/api/v1", api).layer(from_fn_with_state(app.tokens.clone(), identify)).with_state(app)
}

/// The company of a request whose query string may name one; an internal service must.
fn company_in(query: &Map<String, Value>, caller: &Caller) -> Result<Id, Problem> {
    let mut f = Fields::of(query);
    let named = f.optional("company_id", str::parse::<Id>);
    f.finish()?;
    caller.company(named)
}
