//! A TCP connection on which neither half of a conversation may take for ever. Once a request has
//! begun, its head must be complete in time. Once an answer no longer fits into the system's buffer,
//! the client must take all of the answer in time. Does not bound bodies, which are bounded where
//! they are read, nor idle time and sizes, which hyper bounds.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::CancellationToken;

/// Time from the first byte of a request, or from the beginning of the connection, to the end of the
/// head. A later head ends the connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Time from when an answer began to wait for the client until all of it is in the system's buffer.
/// A client that takes longer loses the connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Tells whether a request of the connection is being worked on. Counts the beginnings and the ends
/// of requests, so the count also tells one request from the next.
#[derive(Clone, Default)]
pub struct RequestTracker(Arc<AtomicU32>);

/// A request that is being worked on until the guard is dropped.
pub struct RequestGuard(RequestTracker);

impl RequestTracker {
    /// Begins a request: its head is complete.
    pub fn begin(&self) -> RequestGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    fn count(&self) -> Count {
        Count(self.0.load(Ordering::Relaxed))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The beginnings and ends of requests at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Count(u32);

impl Count {
    /// Each request is counted twice, so an odd count means that one has not ended.
    fn is_busy(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// The connection.
pub struct TimedStream<S> {
    inner: S,
    requests: RequestTracker,
    stop: CancellationToken,
    /// The deadline of the head that began at this count.
    head: Option<(Count, Pin<Box<Sleep>>)>,
    /// The deadline of the answer that waits for the client.
    answer: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    /// The time of the first head begins now. After `stop` the connection waits for no head.
    /// Otherwise hyper would wait for the first one.
    pub fn new(inner: S, requests: RequestTracker, stop: CancellationToken) -> TimedStream<S> {
        let head = Some((requests.count(), Box::pin(tokio::time::sleep(HEAD_WITHIN))));
        TimedStream {
            inner,
            requests,
            stop,
            head,
            answer: None,
        }
    }

    /// The client has not taken the last bytes yet. Ends the connection once that has lasted too
    /// long.
    fn poll_answer<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let deadline = self
            .answer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(ANSWER_WITHIN)));
        ready!(deadline.as_mut().poll(cx));
        cut("answer")
    }
}

fn cut<T>(reason: &'static str) -> Poll<io::Result<T>> {
    counter!("http_connections_cut_total", "reason" => reason).increment(1);
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let now = this.requests.count();
        this.head.take_if(|(began, _)| *began != now);
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if !now.is_busy() && this.head.is_none() && buffer.filled().len() > before {
                    this.head = Some((now, Box::pin(tokio::time::sleep(HEAD_WITHIN))));
                }
                Poll::Ready(result)
            }
            // While an answer is under way, its own deadline counts.
            Poll::Pending if this.answer.is_some() => Poll::Pending,
            Poll::Pending => match &mut this.head {
                Some(_) if this.stop.is_cancelled() => Poll::Ready(Ok(())),
                Some((_, deadline)) => {
                    ready!(deadline.as_mut().poll(cx));
                    cut("head")
                }
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Pending => self.poll_answer(cx),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write_vectored(cx, bytes) {
            Poll::Pending => self.poll_answer(cx),
            written => written,
        }
    }

    /// hyper flushes when it has written all that there is.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Pending => self.poll_answer(cx),
            flushed => {
                self.answer = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const LITTLE: Duration = Duration::from_millis(1);

    async fn read_error(stream: &mut (impl AsyncRead + Unpin)) -> io::ErrorKind {
        loop {
            match stream.read(&mut [0; 64]).await {
                Ok(n) => assert!(n > 0),
                Err(e) => return e.kind(),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_in_drops_is_cut_off_and_so_is_silence_at_the_beginning() {
        let (mut client, server) = duplex(64);
        let mut stream =
            TimedStream::new(server, RequestTracker::default(), CancellationToken::new());
        let start = Instant::now();
        let drops = async {
            loop {
                tokio::time::sleep(HEAD_WITHIN / 8).await;
                client.write_all(b"G").await.unwrap();
            }
        };
        tokio::select! {
            kind = read_error(&mut stream) => assert_eq!(kind, io::ErrorKind::TimedOut),
            () = drops => {}
        }
        assert!(start.elapsed() < HEAD_WITHIN + LITTLE);

        let (_silent, server) = duplex(64);
        assert_eq!(
            read_error(&mut TimedStream::new(
                server,
                RequestTracker::default(),
                CancellationToken::new()
            ))
            .await,
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test(start_paused = true)]
    async fn work_and_idle_time_do_not_count_and_each_head_has_its_own_time() {
        let (mut client, server) = duplex(64);
        let requests = RequestTracker::default();
        let mut stream = TimedStream::new(server, requests.clone(), CancellationToken::new());
        for _ in 0..2 {
            client.write_all(b"head").await.unwrap();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            let request = requests.begin();
            assert!(
                tokio::time::timeout(HEAD_WITHIN * 3, stream.read_u8())
                    .await
                    .is_err(),
                "the body is slow"
            );
            drop(request);
            assert!(
                tokio::time::timeout(HEAD_WITHIN * 3, stream.read_u8())
                    .await
                    .is_err(),
                "idle"
            );
        }
        client.write_all(b"h").await.unwrap();
        let start = Instant::now();
        assert_eq!(read_error(&mut stream).await, io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= HEAD_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_in_drops_is_cut_off_and_one_that_is_taken_is_not() {
        let (mut client, server) = duplex(64);
        let mut stream =
            TimedStream::new(server, RequestTracker::default(), CancellationToken::new());
        let drops = async {
            loop {
                tokio::time::sleep(ANSWER_WITHIN / 8).await;
                client.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let start = Instant::now();
        tokio::select! {
            result = stream.write_all(&[0; 1_024]) => assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut),
            () = drops => {}
        }
        assert!(start.elapsed() < ANSWER_WITHIN + LITTLE);

        let (mut client, server) = duplex(64);
        let mut stream =
            TimedStream::new(server, RequestTracker::default(), CancellationToken::new());
        for _ in 0..3 {
            let taken = async {
                tokio::time::sleep(ANSWER_WITHIN / 2).await;
                client.read_exact(&mut [0; 128]).await.unwrap();
            };
            let written = async {
                stream.write_all(&[0; 128]).await.unwrap();
                stream.flush().await.unwrap();
            };
            tokio::join!(taken, written);
        }
    }
}
