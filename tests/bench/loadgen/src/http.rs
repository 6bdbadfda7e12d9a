//! Keep-alive client for HTTP/1.1. An outcome says whether a request that failed can have reached
//! the server. It does not speak TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Common, Error, Result, token};

/// Path of the message routes, under the base URL.
pub const MESSAGES: &str = "/api/v1/messages";
/// A request without an answer is given up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A request is tried on so many connections, as long as none has taken it.
const CONNECTIONS_TRIED: usize = 3;

pub type Connection = SendRequest<Full<Bytes>>;

/// What came of a request.
pub enum Outcome {
    /// Status and body.
    Answer(u16, Bytes),
    /// There was no connection: the server cannot have seen the request.
    Refused,
    /// The connection broke after the request was sent.
    NoAnswer,
    /// No answer came within the limit.
    Timeout,
}

/// The server under test.
pub struct Target {
    address: SocketAddr,
    host: HeaderValue,
    authorization: HeaderValue,
    /// Connections of [`Target::call_pooled`] that no request uses.
    idle: Mutex<Vec<Connection>>,
}

/// A request that can be sent many times.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    pub path: Uri,
    pub body: Bytes,
}

impl Call {
    pub fn get(path: Uri) -> Call {
        Call {
            method: Method::GET,
            path,
            body: Bytes::new(),
        }
    }

    pub fn post(path: Uri, body: impl Into<Bytes>) -> Call {
        Call {
            method: Method::POST,
            path,
            body: body.into(),
        }
    }

    /// Creates a message.
    pub fn create(message: Bytes) -> Call {
        Call::post(Uri::from_static(MESSAGES), message)
    }
}

impl Target {
    pub async fn new(common: &Common) -> Result<Arc<Target>> {
        let (host, port) = host_and_port(&common.base_url)?;
        let token = token::mint(common)?;
        Ok(Arc::new(Target {
            address: resolve(&host, port).await?,
            host: HeaderValue::from_str(&format!("{host}:{port}"))?,
            authorization: HeaderValue::from_str(&format!("Bearer {token}"))?,
            idle: Mutex::default(),
        }))
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = timeout(REQUEST_TIMEOUT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The sender tells of a broken connection.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, method: &Method, path: &Uri, body: &Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
    }

    /// Sends a request on the slot's connection, and opens one where there is none.
    pub async fn call(&self, slot: &mut Option<Connection>, call: &Call) -> Outcome {
        for _ in 0..CONNECTIONS_TRIED {
            let mut sender = match slot.take() {
                Some(sender) => sender,
                None => match self.connect().await {
                    Ok(sender) => sender,
                    Err(_) => return Outcome::Refused,
                },
            };
            if sender.ready().await.is_err() {
                continue; // The server closed the idle connection; nothing was sent.
            }
            let exchange = async {
                let request = self.request(&call.method, &call.path, &call.body);
                let response = sender.send_request(request).await?;
                let status = response.status().as_u16();
                let body = response.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>((status, body))
            };
            match timeout(REQUEST_TIMEOUT, exchange).await {
                Err(_) => return Outcome::Timeout,
                Ok(Ok((status, body))) => {
                    *slot = Some(sender);
                    return Outcome::Answer(status, body);
                }
                Ok(Err(error)) if error.is_canceled() => {} // Nothing was sent.
                Ok(Err(_)) => return Outcome::NoAnswer,
            }
        }
        Outcome::Refused
    }

    /// Sends a request on an idle connection, and opens one where none is idle.
    pub async fn call_pooled(&self, call: &Call) -> Outcome {
        let mut slot = self.idle().pop();
        let outcome = self.call(&mut slot, call).await;
        self.idle().extend(slot);
        outcome
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Host and port of `http://host:port`.
pub fn host_and_port(url: &str) -> Result<(String, u16)> {
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let is_plain = matches!(uri.scheme_str(), Some("http" | "ws"));
    let has_path = !matches!(uri.path(), "" | "/");
    match uri.host() {
        Some(host) if is_plain && !has_path => Ok((host.to_owned(), uri.port_u16().unwrap_or(80))),
        _ => Err(format!("{url}: http://host:port is expected").into()),
    }
}

/// An address of the host, rather of IPv4.
pub async fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    ipv4.or(addresses.first())
        .copied()
        .ok_or_else(|| Error::from(format!("{host} has no address")))
}
