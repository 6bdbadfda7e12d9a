//! The handshake of `/ws`: page, token and limits are checked before the upgrade. Serves no open
//! socket; see `socket`.

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
use crate::auth::handshake::{self, Handshake};
use crate::listener::Lease;
use crate::node::Node;
use crate::subscriber::cursor::Cursor;
use crate::subscriber::socket_guards::Transport;
use crate::transport::refusal::Refusal;

/// Where this transport takes the token from.
const TOKEN_PLACES: &str = "as the subprotocols `bearer` and the token, in the header \
                            `Authorization: Bearer`, or as `?token=`";

struct Handler {
    handshake: Arc<Handshake>,
    node: Node,
}

/// The route `/ws`.
pub fn routes(handshake: Arc<Handshake>, node: Node) -> Router {
    Router::new()
        .route("/ws", any(open))
        .route("/ws/", any(open))
        .with_state(Arc::new(Handler { handshake, node }))
}

/// The query string of a handshake.
#[derive(Debug, Deserialize)]
struct Parameters {
    token: Option<String>,
    last_seq: Option<String>,
}

async fn open(
    State(handler): State<Arc<Handler>>,
    Extension(lease): Extension<Lease>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    if !handler.handshake.allows_page(request.headers()) {
        return Err(Refusal::Origin);
    }
    let Ok(Query(Parameters { token, last_seq })) = parameters else {
        return Err(Refusal::BadQuery);
    };
    let now = Timestamp::now();
    let token = handshake::token(request.headers(), token.as_deref());
    let session = handler.handshake.verify(token, TOKEN_PLACES, now)?;
    let cursor = last_seq.as_deref().map(Cursor::from_text);
    let Upgrade {
        response,
        upgrading,
    } = upgrade::accept(request).ok_or(Refusal::NotWebSocket)?;
    let (node, socket) = (&handler.node, Id::generate(now));
    let subscriber = admission::enter(node, Transport::WebSocket, session, socket, cursor).await?;
    lease.extend();
    let (limits, tasks) = (*node.limits(), node.tasks().clone());
    node.tasks().spawn(async move {
        if let Some(connection) = WsConnection::of(upgrading, &limits).await {
            // A task of its own, because this one keeps the memory that the upgrade needed.
            tasks.spawn(socket::run(connection, subscriber));
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Uri;
    use proptest::prelude::*;

    fn parse(query: &str) -> Option<(Option<String>, Option<Cursor>)> {
        let uri: Uri = format!("/ws?{query}").parse().ok()?;
        let Query(parameters) = Query::<Parameters>::try_from_uri(&uri).ok()?;
        let cursor = parameters.last_seq.as_deref().map(Cursor::from_text);
        Some((parameters.token, cursor))
    }

    #[test]
    fn the_query_names_token_and_cursor() {
        assert_eq!(parse(""), Some((None, None)));
        assert_eq!(
            parse("token=a%2Eb&last_seq=7&more=1"),
            Some((Some("a.b".to_owned()), Some(Cursor::After(7))))
        );
        for query in ["last_seq=", "last_seq=-1", "last_seq=undefined"] {
            assert_eq!(
                parse(query),
                Some((None, Some(Cursor::Unusable))),
                "{query}"
            );
        }
        assert_eq!(parse("token=a&token=b"), None);
    }

    proptest! {
        #[test]
        fn reading_any_query_does_not_panic(query in "(token|last_seq|[a-z%&=+])[!-~é]{0,60}") {
            parse(&query);
        }

        #[test]
        fn every_cursor_is_read_as_written(seq in 0..=u64::MAX) {
            let cursor = Some(Cursor::After(seq));
            prop_assert_eq!(parse(&format!("last_seq={seq}")), Some((None, cursor)));
        }
    }
}
