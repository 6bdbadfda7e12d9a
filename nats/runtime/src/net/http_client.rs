//! Calls to other people's HTTP servers: bounded in time and in what is read of an answer, to the
//! address that was configured and nowhere else. What follows from an answer is up to the caller.

use std::error::Error;
use std::time::Duration;

use contract::Timestamp;
pub use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
pub use reqwest::{Client, Method, Request, RequestBuilder, Url};
use reqwest::{ClientBuilder, Response, redirect, retry};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// The part of a call for connecting. A call that takes longer ends with
/// [`Ending::NoConnection`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection is kept for the next call. Shorter than the idle limits that servers
/// usually have, so that no connection is closed under a call.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Bytes of an answer's body that are read. Beyond them the connection is closed.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was an answer.
    Answered(Answer),
    /// No connection came about: the server has seen nothing.
    NoConnection,
    /// No answer within the time limit. The server may have taken the request.
    TimedOut,
    /// The connection broke before the answer was there.
    Broken,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The time that the header `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Body,
}

/// The body of an answer, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of the body.
    Whole(Vec<u8>),
    /// The beginning of a body that was too long or broke off.
    Part(Vec<u8>),
}

impl Body {
    /// The bytes that were read.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Whole(bytes) | Body::Part(bytes) => bytes,
        }
    }

    /// The body, if all of it was read.
    pub fn whole(&self) -> Option<&[u8]> {
        match self {
            Body::Whole(bytes) => Some(bytes),
            Body::Part(_) => None,
        }
    }
}

/// Makes a client for one server, of which `address` is any address. `more` sets what is special
/// about the caller.
///
/// # Errors
/// The client cannot be made, for example because the system has no certificates.
pub fn client(
    address: &str,
    more: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<Client, String> {
    // An error means that the process has chosen its provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(MAX_IDLE)
        // Secrets go to the address that was configured, and nowhere else.
        .redirect(redirect::Policy::none())
        .no_proxy()
        // The caller decides which calls are repeated, and counts them.
        .retry(retry::never());
    if !address.starts_with("https:") {
        // No certificate is needed then, so their absence must not stop the start.
        client = client.tls_certs_only([]);
    }
    // reqwest's own text is just "builder error".
    more(client).build().map_err(|e| {
        e.source()
            .map_or_else(|| e.to_string(), ToString::to_string)
    })
}

/// Makes the call; ends within the time limit of the request. An error's text is never passed on:
/// it would quote the address, which can hold secrets.
pub async fn call(client: &Client, request: Request) -> Ending {
    ended(client.execute(request).await).await
}

/// As [`call`], for a request that its client has begun.
pub async fn send(request: RequestBuilder) -> Ending {
    ended(request.send().await).await
}

async fn ended(answered: reqwest::Result<Response>) -> Ending {
    match answered {
        Ok(response) => Ending::Answered(answer(response).await),
        Err(e) if e.is_connect() => Ending::NoConnection,
        Err(e) if e.is_timeout() => Ending::TimedOut,
        Err(_) => Ending::Broken,
    }
}

async fn answer(mut response: Response) -> Answer {
    let status = response.status().as_u16();
    let asked = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|text| retry_after(text, Timestamp::now()));
    Answer {
        status,
        retry_after,
        body: body(&mut response).await,
    }
}

async fn body(response: &mut Response) -> Body {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(part)) if body.len() + part.len() <= MAX_ANSWER_BYTES => {
                body.extend_from_slice(&part)
            }
            Ok(None) => return Body::Whole(body),
            Ok(Some(_)) | Err(_) => return Body::Part(body),
        }
    }
}

/// A `Retry-After`: seconds, or an HTTP date. Anything else counts as absent.
fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(header.trim(), &Rfc2822).ok()?;
    Some(Timestamp::from(at).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// How a call ends to a server that gives this answer and hangs up.
    async fn called(answer: String) -> Ending {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
            // The reader may have seen enough before the end.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let request = Request::new(Method::GET, address.parse().unwrap());
        call(&client(&address, |client| client).unwrap(), request).await
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_or_is_too_long_is_not_whole() {
        let long = MAX_ANSWER_BYTES + 1;
        for (head, body, read) in [
            (0, String::new(), Some(Vec::new())),
            (2, "{}".to_owned(), Some(b"{}".to_vec())),
            (9, r#"{"error":"#[..8].to_owned(), None),
            (long, "x".repeat(long), None),
        ] {
            let ending = called(format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-length: {head}\r\n\r\n{body}"
            ))
            .await;
            let Ending::Answered(answer) = ending else {
                panic!("{ending:?}")
            };
            assert_eq!((answer.status, answer.retry_after), (400, None));
            assert_eq!(answer.body.whole(), read.as_deref(), "{head} bytes");
            assert!(body.as_bytes().starts_with(answer.body.bytes()));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        for text in ["", "soon", "-1", "99999999999999999999999"] {
            assert_eq!(retry_after(text, now), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(header in ".*") {
            let _ = retry_after(&header, Timestamp::from_millis(0));
        }

        #[test]
        fn any_seconds_are_obeyed(seconds in any::<u64>()) {
            let read = retry_after(&seconds.to_string(), Timestamp::from_millis(0));
            prop_assert_eq!(read, Some(Duration::from_secs(seconds)));
        }
    }
}
