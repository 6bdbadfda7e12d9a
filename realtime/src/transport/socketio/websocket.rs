//! A session whose packets are frames of a WebSocket: one task, from the upgrade to the end.

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::client::Client;
use super::{CLOSE_DEADLINE, STOP_CLOSE_DEADLINE};
use crate::room::close_reason::CloseReason;
use crate::transport::ws::connection::WsConnection;

/// Serves a client until it ends. What is to go out already is written first: an answer that no
/// poll has taken before the change must not wait for the next thing to happen.
#[allow(clippy::manual_async_fn)] // an `async fn` would hold its arguments twice, for as long as it runs
pub fn run(mut connection: WsConnection, mut client: Client) -> impl Future<Output = ()> + Send {
    async move {
        let reason = match write(&mut connection, &mut client).await {
            Ok(()) => serve(&mut connection, &mut client).await,
            Err(reason) => reason,
        };
        let limit = if reason == CloseReason::GoingAway {
            STOP_CLOSE_DEADLINE
        } else {
            CLOSE_DEADLINE
        };
        // In a box, as all that an idle socket has no need of.
        if Box::pin(timeout(limit, close(&mut connection, &mut client, reason)))
            .await
            .is_err()
        {
            debug!("the closing was not answered");
        }
        client.left(reason);
    }
}

async fn serve(connection: &mut WsConnection, client: &mut Client) -> CloseReason {
    loop {
        if let Err(reason) = turn(connection, client).await {
            return reason;
        }
    }
}

async fn turn(connection: &mut WsConnection, client: &mut Client) -> Result<(), CloseReason> {
    tokio::select! {
        incoming = connection.next(), if !client.is_busy() => match incoming? {
            Message::Text(text) => client.on_packet(&text)?,
            Message::Binary(_) => client.on_binary()?,
            Message::Close(_) => return Err(CloseReason::Left),
            // The protocol has its own pings; these are answered all the same.
            _ => client.hear(),
        },
        wake = client.wake(true) => client.on_wake(wake)?,
    }
    write(connection, client).await
}

/// Writes what is to go out.
async fn write(connection: &mut WsConnection, client: &mut Client) -> Result<(), CloseReason> {
    let mut out = std::mem::take(&mut client.out);
    let written = connection.write(&mut out, client.ended()).await;
    client.out = out;
    written
}

/// Says why, and waits until the client has heard it.
async fn close(
    connection: &mut WsConnection,
    client: &mut Client,
    reason: CloseReason,
) -> Result<(), CloseReason> {
    client.end(reason).await;
    connection.write_all(&mut client.out).await?;
    connection.close(reason).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;
    use crate::room::encode;
    use crate::transport::socketio::handler::tests::session;
    use crate::transport::ws::connection::tests::connected;
    use futures_util::StreamExt;
    use std::time::Duration;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn what_waits_at_the_change_to_a_websocket_goes_out_at_once() {
        let node = unconnected().await;
        let (connection, tcp) = connected(node.limits()).await;
        let mut browser = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        let (mut client, _entry) = session(node);
        client.out.push_back(encode::text_frame("431[]"));
        let served = tokio::spawn(run(connection, client));
        let first = timeout(Duration::from_secs(5), browser.next()).await;
        assert_eq!(
            first.expect("something comes").unwrap().unwrap(),
            Message::text("431[]")
        );
        served.abort();
    }
}
