//! Calls to the outside: one client, bounded in time and in what it reads, and how a call ended.
//! What follows is the callers'.

use std::error::Error;
use std::time::Duration;

use contract::Timestamp;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Request, Response, redirect, retry};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// The part of a call for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Of an answer's body so much is read; what is longer is no answer of ours.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Connections are few and far between: none is kept for long.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was an answer.
    Answered(Answer),
    /// No connection came about.
    NoConnection,
    /// No answer within the time limit.
    TimedOut,
    /// The connection broke before the answer was there.
    Broken,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What its `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// Its body; `None` if it was too long or broke off.
    pub body: Option<Vec<u8>>,
}

/// A client that goes where it is told, and nowhere else.
///
/// # Errors
/// It cannot be made, for example because the system has no certificates.
pub fn client(needs_tls: bool) -> Result<Client, String> {
    let mut client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(MAX_IDLE)
        // Secrets go to the address that was configured.
        .redirect(redirect::Policy::none())
        .no_proxy()
        // Who calls decides what is repeated, and counts it.
        .retry(retry::never());
    if !needs_tls {
        // No certificate is needed then, so their absence must not stop the start.
        client = client.tls_certs_only([]);
    }
    // reqwest's own text is just "builder error".
    client.build().map_err(|e| {
        e.source()
            .map_or_else(|| e.to_string(), ToString::to_string)
    })
}

/// Makes the call; ends within the request's time limit. An error's text is never passed on: it
/// would quote the address, which can hold secrets.
pub async fn call(client: &Client, request: Request) -> Ending {
    match client.execute(request).await {
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
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok());
    let retry_after = asked.and_then(|text| retry_after(text, Timestamp::now()));
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(part)) if body.len() + part.len() <= MAX_ANSWER_BYTES => {
                body.extend_from_slice(&part)
            }
            Ok(None) => {
                return Answer {
                    status,
                    retry_after,
                    body: Some(body),
                };
            }
            Ok(Some(_)) | Err(_) => {
                return Answer {
                    status,
                    retry_after,
                    body: None,
                };
            }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// How a call to somebody ends who gives this answer and hangs up.
    async fn called(answer: String) -> Ending {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
            // The reader may have seen enough before the end.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let request = Request::new(reqwest::Method::GET, address.parse().unwrap());
        call(&client(false).unwrap(), request).await
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_or_is_too_long_is_none() {
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
            assert_eq!(
                ending,
                Ending::Answered(Answer {
                    status: 400,
                    retry_after: None,
                    body: read
                }),
                "{head} bytes"
            );
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
}
