//! A session of Socket.IO whose packets are frames of a WebSocket: one task, from the upgrade to
//! the end. What a packet means is in `client`.

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::client::{Client, may_reconnect};
use crate::room::close_reason::CloseReason;
use crate::transport::timing::close_deadline;
use crate::transport::ws::connection::WsConnection;

/// Serves a client until its session ends. What is left of polling is written first. Otherwise an
/// answer that no poll has taken before the change would wait until something else happens.
#[allow(clippy::manual_async_fn)] // an `async fn` would hold its arguments twice
pub fn run(mut connection: WsConnection, mut client: Client) -> impl Future<Output = ()> + Send {
    async move {
        let reason = match write(&mut connection, &mut client).await {
            Ok(()) => serve(&mut connection, &mut client).await,
            Err(reason) => reason,
        };
        let limit = close_deadline(reason);
        // Boxed, because a socket that is idle should not pay for the size of this future.
        if Box::pin(timeout(limit, close(&mut connection, &mut client, reason)))
            .await
            .is_err()
        {
            debug!("the closing was not answered");
        }
        client.log_end(reason);
    }
}

async fn serve(connection: &mut WsConnection, client: &mut Client) -> CloseReason {
    loop {
        if let Err(reason) = step(connection, client).await {
            return reason;
        }
    }
}

async fn step(connection: &mut WsConnection, client: &mut Client) -> Result<(), CloseReason> {
    tokio::select! {
        incoming = connection.next(), if !client.is_busy() => match incoming? {
            Message::Text(text) => client.on_packet(&text)?,
            Message::Binary(_) => client.on_binary()?,
            Message::Close(_) => return Err(CloseReason::Left),
            // Engine.IO has pings of its own. Those of WebSocket are signs of life all the same.
            _ => client.hear(),
        },
        wake = client.wake(true) => client.on_wake(wake)?,
    }
    write(connection, client).await
}

/// Writes the frames that the client has collected.
async fn write(connection: &mut WsConnection, client: &mut Client) -> Result<(), CloseReason> {
    let mut out = std::mem::take(&mut client.out);
    let written = connection.write(&mut out, client.ended()).await;
    client.out = out;
    written
}

/// Tells the client why the session ends, and waits until the client has read that.
async fn close(
    connection: &mut WsConnection,
    client: &mut Client,
    reason: CloseReason,
) -> Result<(), CloseReason> {
    client.end(reason).await;
    connection.write_all(&mut client.out).await?;
    hang_up(connection, reason).await
}

/// Ends the connection. A client that should come back gets no close frame: its library may stop
/// reading after one without telling anybody (that of Java does, and notices the end of the
/// connection only after 85 s), while every library takes the end of TCP for a lost connection.
pub async fn hang_up(
    connection: &mut WsConnection,
    reason: CloseReason,
) -> Result<(), CloseReason> {
    match reason != CloseReason::Left && may_reconnect(reason) {
        true => connection.end().await,
        false => connection.close(reason).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;
    use crate::room::encode;
    use crate::transport::socketio::client::tests::client;
    use crate::transport::ws::connection::tests::connected;
    use futures_util::StreamExt;
    use std::time::Duration;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn packets_left_of_polling_are_written_first() {
        let node = unconnected().await;
        let (connection, tcp) = connected(node.limits()).await;
        let mut browser = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        let (mut client, _entry) = client(node);
        client.out.push_back(encode::text_frame("431[]"));
        let served = tokio::spawn(run(connection, client));
        let first = timeout(Duration::from_secs(5), browser.next()).await;
        assert_eq!(
            first.expect("a packet in time").unwrap().unwrap(),
            Message::text("431[]")
        );
        served.abort();
    }
}
