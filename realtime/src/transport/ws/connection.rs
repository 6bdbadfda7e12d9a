//! An upgraded WebSocket connection. The library reads it, answers pings and closes it; frames for
//! the client are written past the library, unchanged, so that one encoding serves every socket.
//! Knows no event. The TCP stream is taken out of hyper, so that an idle connection costs little
//! more than the stream.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::{debug, error};

use crate::config::Limits;
use crate::listener::Stream;
use crate::room::close_reason::CloseReason;

/// First size of a connection's read buffer, in bytes. The buffer grows with a frame. The library's
/// default of 128 KiB would be most of an idle socket.
const READ_BUFFER_BYTES: usize = 128;
/// Limit of the library's own write buffer, in bytes. The buffer holds only pongs and the close
/// frame. Beyond the limit, the connection fails.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes that are read at once when they are thrown away.
const DISCARD_BYTES: usize = 4 * 1024;
/// Longest time for one write. Beyond it, the client is too slow and its socket is closed.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Frames that go out in one write; further frames go out in the next one. The operating system
/// takes at most 1,024.
pub const WRITE_FRAMES: usize = 64;

/// A WebSocket connection. It counts among the node's connections until it is dropped.
pub struct WsConnection {
    /// Reads, answers pings, and closes. Frames are written past it, see
    /// [`WsConnection::write`].
    stream: WebSocketStream<TcpStream>,
    /// Whether `stream` may hold a pong that is not written yet.
    pong_due: bool,
    /// Whether the client has sent its close frame. Nothing but the answer may be written after it.
    has_left: bool,
    _permit: OwnedSemaphorePermit,
}

impl WsConnection {
    /// Waits for the upgrade of a connection. Returns `None` if the connection is gone or the
    /// upgrade takes longer than a handshake may.
    pub async fn of(upgrading: OnUpgrade, limits: &Limits) -> Option<WsConnection> {
        let upgraded = match timeout(limits.handshake, upgrading).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(e)) => {
                debug!(error = %e, "not upgraded");
                return None;
            }
            Err(_) => {
                debug!("not upgraded in time");
                return None;
            }
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() else {
            error!("an upgraded connection is none of the port's");
            return None;
        };
        let (tcp, permit) = parts.io.into_inner().into_parts();
        // The bytes are copied. Otherwise they would keep the whole buffer of hyper for as long as
        // the socket is open.
        Some(WsConnection::over(tcp, parts.read_buf.to_vec(), permit, limits).await)
    }

    /// A WebSocket over a TCP stream from which the bytes `begun` have been read already.
    async fn over(
        tcp: TcpStream,
        begun: Vec<u8>,
        permit: OwnedSemaphorePermit,
        limits: &Limits,
    ) -> WsConnection {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(limits.frame_bytes))
            .max_frame_size(Some(limits.frame_bytes));
        let stream =
            WebSocketStream::from_partially_read(tcp, begun, Role::Server, Some(config)).await;
        WsConnection {
            stream,
            pong_due: false,
            has_left: false,
            _permit: permit,
        }
    }

    /// The next message of the client. Cancelling this future loses no message.
    ///
    /// # Errors
    /// No further message can come.
    pub async fn next(&mut self) -> Result<Message, CloseReason> {
        let read = self.stream.next().await.ok_or(CloseReason::Lost)?;
        let message = read.map_err(|e| close_reason(&e))?;
        self.has_left |= matches!(message, Message::Close(_));
        self.pong_due |= matches!(message, Message::Ping(_));
        Ok(message)
    }

    /// Writes whole frames without copying them. A pong that `stream` has begun to write is written
    /// out first. Nothing else may be written before a frame is whole.
    ///
    /// # Errors
    /// The connection is lost or too slow, or the future `ended` has completed meanwhile. `out`
    /// keeps the frames that are not written. The first of them may be written in part.
    pub async fn write(
        &mut self,
        out: &mut VecDeque<Bytes>,
        ended: impl Future<Output = CloseReason>,
    ) -> Result<(), CloseReason> {
        if out.is_empty() || self.try_write(out).map_err(|_| CloseReason::Lost)? {
            return Ok(());
        }
        let rest = async {
            tokio::select! {
                biased;
                written = self.write_all(out) => written,
                reason = ended => Err(reason),
                () = sleep(SEND_DEADLINE) => Err(CloseReason::TooSlow),
            }
        };
        // Boxed, because a socket that is idle should not pay for the size of this future.
        Box::pin(rest).await
    }

    /// Writes as much as the operating system takes at once. Says whether that was everything.
    fn try_write(&mut self, out: &mut VecDeque<Bytes>) -> io::Result<bool> {
        if self.pong_due {
            match self.stream.flush().now_or_never() {
                Some(flushed) => flushed.map_err(io::Error::other)?,
                None => return Ok(false),
            }
            self.pong_due = false;
        }
        while !out.is_empty() {
            match self.stream.get_ref().try_write_vectored(&slices(out)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => advance(out, count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Writes all frames, or none if the client has sent its close frame. The caller limits the
    /// time.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn write_all(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), CloseReason> {
        self.stream.flush().await.map_err(|e| close_reason(&e))?;
        self.pong_due = false;
        if self.has_left {
            out.clear();
        }
        while !out.is_empty() {
            match self.stream.get_mut().write_vectored(&slices(out)).await {
                Ok(0) | Err(_) => return Err(CloseReason::Lost),
                Ok(count) => advance(out, count),
            }
        }
        Ok(())
    }

    /// Sends the close frame with the code of the reason, if it has one, and ends the connection. A
    /// close frame of the client is answered instead. The caller limits the time.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn close(&mut self, reason: CloseReason) -> Result<(), CloseReason> {
        if self.has_left {
            self.stream.flush().await.map_err(|e| close_reason(&e))?;
        } else {
            let frame = reason.code().map(|code| CloseFrame {
                code: code.into(),
                reason: Utf8Bytes::from_static(reason.as_str()),
            });
            self.stream
                .send(Message::Close(frame))
                .await
                .map_err(|e| close_reason(&e))?;
        }
        self.end().await
    }

    /// Ends the connection without a close frame: shuts the sending side down at once, and reads
    /// and throws away all bytes until the client has closed its own side. Otherwise the operating
    /// system would reset a connection with unread bytes, and what was written last would be lost.
    /// The caller limits the time.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn end(&mut self) -> Result<(), CloseReason> {
        // Boxed, because a socket that is idle should not pay for the size of this future.
        Box::pin(self.discard())
            .await
            .map_err(|_| CloseReason::Lost)
    }

    async fn discard(&mut self) -> io::Result<()> {
        let tcp = self.stream.get_mut();
        tcp.shutdown().await?;
        while tcp.read(&mut [0; DISCARD_BYTES]).await? > 0 {}
        Ok(())
    }
}

fn slices(out: &VecDeque<Bytes>) -> Vec<IoSlice<'_>> {
    out.iter()
        .take(WRITE_FRAMES)
        .map(|frame| IoSlice::new(frame))
        .collect()
}

/// Removes `count` bytes that have been written.
fn advance(out: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = out.front_mut() {
        if first.len() > count {
            first.advance(count);
            return;
        }
        count -= first.len();
        out.pop_front();
    }
    // Gives the memory back, because most sockets are idle.
    out.shrink_to(0);
}

/// The reason for which a failed read or write closes the socket.
fn close_reason(error: &Error) -> CloseReason {
    match error {
        Error::Capacity(_) => CloseReason::TooLarge,
        Error::Utf8(_) => CloseReason::NotUtf8,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::Lost,
        Error::Protocol(_) => CloseReason::Protocol,
        _ => CloseReason::Lost,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use runtime::service::settings::Settings;
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    /// A WebSocket connection, and the TCP stream of its client.
    pub async fn connected(limits: &Limits) -> (WsConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        (
            WsConnection::over(
                listener.accept().await.unwrap().0,
                Vec::new(),
                permit,
                limits,
            )
            .await,
            client,
        )
    }

    #[tokio::test]
    async fn a_client_is_told_the_reason_in_the_middle_of_a_frame_that_is_too_large() {
        let limits = Config::read(&mut Settings::of([])).limits;
        let (mut connection, mut client) = connected(&limits).await;
        let served = tokio::spawn(async move {
            assert_eq!(connection.next().await, Err(CloseReason::TooLarge));
            connection.close(CloseReason::TooLarge).await
        });
        const LENGTH: u64 = 16 * 1024 * 1024;
        // The header of a masked text frame. The mask is zeros, so the payload is as it is.
        let mut frame = [&[0x81, 0xff][..], &LENGTH.to_be_bytes(), &[0; 4]].concat();
        frame.resize(frame.len() + LENGTH as usize, b'x');
        client
            .write_all(&frame)
            .await
            .expect("the server reads the frame and throws it away");
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.expect("no reset");
        assert_eq!(
            told,
            [&[0x88, 17][..], &1009_u16.to_be_bytes(), b"frame too large"].concat()
        );
        drop(client);
        assert_eq!(served.await.unwrap(), Ok(()));
    }
}
