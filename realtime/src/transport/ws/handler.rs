//! The handshake of `/ws`: who may open a socket, checked before the upgrade.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::response::Response;
use axum::routing::any;
use contract::{Id, Timestamp};
use serde::Deserialize;

use super::connection::WsConnection;
use super::socket;
use super::upgrade::{self, Upgrade};
use crate::auth::handshake::{Handshake, bearer};
use crate::listener::Lease;
use crate::node::Hub;
use crate::subscriber::Transport;
use crate::transport::refusal::Refusal;

struct Handler {
    handshake: Arc<Handshake>,
    hub: Hub,
}

/// The route `/ws`.
pub fn routes(handshake: Arc<Handshake>, hub: Hub) -> Router {
    Router::new()
        .route("/ws", any(open))
        .with_state(Arc::new(Handler { handshake, hub }))
}

#[derive(Deserialize)]
struct Parameters {
    token: Option<String>,
    last_seq: Option<u64>,
}

async fn open(
    State(handler): State<Arc<Handler>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    handler.handshake.check_origin(request.headers())?;
    let Ok(Query(Parameters { token, last_seq })) = parameters else {
        return Err(Refusal::BadQuery);
    };
    let session = handler.handshake.verify(
        bearer(request.headers()).or(token.as_deref()),
        Timestamp::now(),
    )?;
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(Refusal::NotWebSocket)?;
    let subscriber = handler
        .hub
        .enter(
            Transport::WebSocket,
            session,
            Id::generate(Timestamp::now()),
            last_seq,
        )
        .await?;
    lease.extend();
    let (limits, tasks) = (*handler.hub.limits(), handler.hub.tasks().clone());
    handler.hub.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A task of its own: this one would keep what the handshake needed.
            tasks.spawn(socket::run(connection, subscriber));
        }
    });
    Ok(response)
}
