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
use crate::admission;
use crate::auth::handshake::{Handshake, bearer};
use crate::listener::Lease;
use crate::node::Node;
use crate::subscriber::socket_guards::Transport;
use crate::transport::refusal::Refusal;

struct Handler {
    handshake: Arc<Handshake>,
    node: Node,
}

/// The route `/ws`.
pub fn routes(handshake: Arc<Handshake>, node: Node) -> Router {
    Router::new()
        .route("/ws", any(open))
        .with_state(Arc::new(Handler { handshake, node }))
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
    let socket = Id::generate(Timestamp::now());
    let subscriber = admission::enter(
        &handler.node,
        Transport::WebSocket,
        session,
        socket,
        last_seq,
    )
    .await?;
    lease.extend();
    let (limits, tasks) = (*handler.node.limits(), handler.node.tasks().clone());
    handler.node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A task of its own: this one would keep what the handshake needed.
            tasks.spawn(socket::run(connection, subscriber));
        }
    });
    Ok(response)
}
