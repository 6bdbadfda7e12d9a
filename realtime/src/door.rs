//! The door `/ws`: who may open a socket, checked before the upgrade. What an open socket does is in `socket`.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::any;
use nats::runtime::CancellationToken;
use nats::runtime::publish::Publisher;
use nats::{Id, Timestamp};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::access::{BadToken, Verifier};
use crate::config::Config;
use crate::hub::Hub;
use crate::listener::Lease;
use crate::problem::Refusal;
use crate::socket::{self, MAX_FRAME_BYTES, Place, Shared};

/// First size of a socket's read buffer, in bytes; it grows with a frame. The library's 128 KiB would be most of an idle socket.
const READ_BUFFER_BYTES: usize = 1_024;
/// Most bytes of frames that are written but not yet taken by the system: one frame, of which the largest event makes under 1 MiB.
const MAX_WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

struct Door {
    verifier: Verifier,
    origins: Vec<String>,
    room: Arc<Semaphore>,
    hub: Hub,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// The route `/ws`. Open sockets count as tasks of `tasks`.
pub fn routes(config: &Config, hub: Hub, publisher: Publisher, tasks: TaskTracker, stop: CancellationToken) -> Router {
    let door = Door {
        verifier: Verifier::new(&config.access_secret),
        origins: config.origins.clone(),
        room: Arc::new(Semaphore::new(config.max_sockets)),
        shared: Arc::new(Shared { hub: hub.clone(), publisher, stop }),
        hub,
        tasks,
    };
    Router::new().route("/ws", any(open)).with_state(Arc::new(door))
}

#[derive(Deserialize)]
struct Parameters {
    token: Option<String>,
}

async fn open(
    State(door): State<Arc<Door>>,
    ConnectInfo(lease): ConnectInfo<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    check_origin(&door.origins, &headers)?;
    let in_query = parameters.as_ref().ok().and_then(|p| p.token.as_deref());
    let token = bearer(&headers).or(in_query).ok_or(BadToken::Missing)?;
    let session = door.verifier.verify(token, Timestamp::now())?;
    let upgrade = upgrade.map_err(|_| Refusal::NotWebSocket)?;
    let permit = door.room.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
    let seat = door.hub.enter(session.company, Id::generate(Timestamp::now())).await?;
    let place = Place { session, seat, _permit: permit, _tracked: door.tasks.token() };
    let shared = door.shared.clone();
    lease.extend();
    Ok(upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| socket::run(socket, place, shared)))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Browsers say which page asks; other clients say nothing, and prove themselves by the token alone.
fn check_origin(allowed: &[String], headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let any = allowed.is_empty() || allowed.iter().any(|a| a == "*");
    let named = || allowed.iter().any(|a| a.trim_end_matches('/').as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
    if any || named() { Ok(()) } else { Err(Refusal::Origin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, header::HeaderValue::from_static(value))])
    }

    #[test]
    fn pages_that_are_not_named_are_refused() {
        let allowed = ["https://app.example.com/".to_owned()];
        let from = |origin| headers(header::ORIGIN, origin);
        assert_eq!(check_origin(&allowed, &from("https://app.example.com")), Ok(()));
        for origin in ["https://app.example.com.evil.example", "http://app.example.com", "null"] {
            assert_eq!(check_origin(&allowed, &from(origin)), Err(Refusal::Origin), "{origin}");
        }
        assert_eq!(check_origin(&allowed, &HeaderMap::new()), Ok(()));
        assert_eq!(check_origin(&[], &from("https://any.example")), Ok(()));
        assert_eq!(check_origin(&["*".to_owned()], &from("https://any.example")), Ok(()));
    }

    #[test]
    fn the_header_may_carry_the_token() {
        assert_eq!(bearer(&headers(header::AUTHORIZATION, "bearer  abc")), Some("abc"));
        assert_eq!(bearer(&headers(header::AUTHORIZATION, "Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
