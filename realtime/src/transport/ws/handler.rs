//! The handshake of `/ws`: who may open a socket, checked before the upgrade.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::response::Response;
use axum::routing::any;
use contract::{Id, Timestamp};
use serde::Deserialize;

use super::connection::Pipe;
use super::socket;
use super::upgrade::{self, Upgrade};
use crate::auth::handshake::{Handshake, bearer};
use crate::listener::Lease;
use crate::node::Hub;
use crate::subscriber::Door as Way;
use crate::transport::refusal::Refusal;

struct Door {
    handshake: Arc<Handshake>,
    hub: Hub,
}

/// The route `/ws`.
pub fn routes(handshake: Arc<Handshake>, hub: Hub) -> Router {
    Router::new()
        .route("/ws", any(open))
        .with_state(Arc::new(Door { handshake, hub }))
}

#[derive(Deserialize)]
struct Parameters {
    token: Option<String>,
    last_seq: Option<u64>,
}

async fn open(
    State(door): State<Arc<Door>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    door.handshake.check_origin(request.headers())?;
    let Ok(Query(Parameters { token, last_seq })) = parameters else {
        return Err(Refusal::BadQuery);
    };
    let session = door.handshake.verify(
        bearer(request.headers()).or(token.as_deref()),
        Timestamp::now(),
    )?;
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(Refusal::NotWebSocket)?;
    let seat = door
        .hub
        .enter(
            Way::WebSocket,
            session,
            Id::generate(Timestamp::now()),
            last_seq,
        )
        .await?;
    lease.extend();
    let (limits, tasks) = (*door.hub.limits(), door.hub.tasks().clone());
    door.hub.tasks().spawn(async move {
        if let Some(pipe) = Pipe::of(upgrading, &limits).await {
            // A task of its own: this one would keep what the handshake needed.
            tasks.spawn(socket::run(pipe, seat));
        }
    });
    Ok(response)
}
