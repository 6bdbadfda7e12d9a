//! The layers between the network and the routes, and their order. The layers that depend on the
//! caller are put around the routes by the routes themselves, which know whom they concern.

mod address;
mod cors;
mod encoding;
mod failsafe;
mod headers;
mod load;
mod problems;
mod rate_limit;
mod request_metrics;
mod spelling;
mod trace;
mod uri;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use runtime::net::origins::Origins;
use tokio::sync::Semaphore;

pub use address::{Peer, TrustedProxies, network};
pub use load::{large_body_permits, limit_large_bodies};
pub use rate_limit::{RateLimiters, RateLimits, by_address, by_caller};

use crate::api::problem::Problem;
use load::BODY_BYTES;

/// How the API is protected.
pub struct Protection {
    /// Pages of other origins that may call the API.
    pub origins: Origins,
    /// Proxies that say where a request comes from.
    pub trusted: TrustedProxies,
    /// Requests that are worked on at a time. Further ones get 503.
    pub max_in_flight: usize,
}

impl Protection {
    /// The API with its layers. A request meets the last layer here first.
    pub fn around(self, api: Router) -> Router {
        let api = api.method_not_allowed_fallback(|| async { Problem::Method });
        spelling::with_other_spellings(api)
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .layer(from_fn(encoding::inflate))
            .layer(from_fn_with_state(self.trusted, address::resolve))
            .layer(from_fn(failsafe::always_answer))
            .layer(from_fn_with_state(
                Arc::new(Semaphore::new(self.max_in_flight)),
                load::limit_in_flight,
            ))
            .layer(from_fn(uri::check))
            .layer(cors::layer(&self.origins))
            .layer(from_fn(trace::trace))
    }
}

/// Everything that the port serves, the operator's routes too, with the headers that every answer
/// has.
pub fn with_security_headers(api: Router, ops: Router, production: bool) -> Router {
    let ops = ops.method_not_allowed_fallback(|| async { Problem::Method });
    api.merge(ops)
        .layer(from_fn_with_state(production, headers::set))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::Json;
    use axum::body::Body;
    use axum::extract::{Path, Query, Request};
    use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
    use axum::response::Response;
    use axum::routing::{get, post};
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use runtime::service::settings::Settings;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::failsafe::REQUEST_WITHIN;
    use super::load::{LARGE_BODIES_BYTES, SMALL_BODY_BYTES};
    use super::*;

    /// Routes as anybody might write them, with axum's own extractors and their own rejections.
    fn api(max_in_flight: usize) -> Router {
        async fn numbered(Path(n): Path<u8>, Query(query): Query<Vec<(String, u8)>>) -> String {
            format!("{n} {query:?}")
        }
        async fn panic() -> &'static str {
            panic!("a bug")
        }
        let origins = Origins::Listed(vec![HeaderValue::from_static("https://app.example.com")]);
        let trusted = TrustedProxies::read(&mut Settings::of([]));
        let slow = get(|| async { tokio::time::sleep(REQUEST_WITHIN * 2).await });
        let page = get(|| async {
            (
                [(header::CONTENT_SECURITY_POLICY, "default-src 'self'")],
                "page",
            )
        });
        let slow = slow.layer(from_fn_with_state(large_body_permits(), limit_large_bodies));
        let routes = Router::new()
            .route("/n/{n}", get(numbered))
            .route("/slow", slow)
            .route("/panic", get(panic))
            .route("/docs", page)
            .route("/echo", post(|body: String| async move { Json(body) }));
        let ops = Router::new().route("/health", get(|| async { "well" }));
        with_security_headers(
            Protection {
                origins,
                trusted,
                max_in_flight,
            }
            .around(routes),
            ops,
            true,
        )
    }

    async fn ask(
        api: &Router,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, Value) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "gateway");
        let request = headers
            .iter()
            .fold(request, |r, (name, value)| r.header(*name, *value));
        let answer = api
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status,
            parts.headers,
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }

    #[tokio::test]
    async fn every_error_is_a_problem_document_that_names_the_request() {
        let api = api(1);
        for (method, uri, status, code) in [
            (Method::GET, "/n/x", 400, "BAD_REQUEST"),
            (Method::GET, "/n/1?a=b", 400, "BAD_REQUEST"),
            (Method::GET, "/n/1?a=1&a=1", 400, "VALIDATION_ERROR"),
            (Method::GET, "/n/%ff", 400, "BAD_REQUEST"),
            (Method::GET, "/nowhere", 404, "NOT_FOUND"),
            (Method::GET, "/panic", 500, "INTERNAL"),
            (Method::POST, "/n/1", 405, "METHOD_NOT_ALLOWED"),
            (
                Method::from_bytes(b"BREW").unwrap(),
                "/n/1",
                405,
                "METHOD_NOT_ALLOWED",
            ),
        ] {
            let (found, headers, body) = ask(&api, method, uri, &[("x-request-id", "r-1")]).await;
            assert_eq!(
                (found.as_u16(), body["code"].as_str()),
                (status, Some(code)),
                "{uri} {body}"
            );
            assert_eq!(
                (&body["request_id"], &headers["x-request-id"]),
                (&"r-1".into(), &HeaderValue::from_static("r-1"))
            );
            assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(
                headers.get(header::ALLOW).map(HeaderValue::as_bytes),
                (status == 405).then_some(&b"GET,HEAD"[..])
            );
        }
        assert_eq!(
            ask(&api, Method::GET, "/n/1?unknown=1", &[]).await.0,
            StatusCode::OK
        );
        let (status, headers, body) = ask(&api, Method::POST, "/health", &[]).await;
        assert_eq!(
            (status, &headers[header::ALLOW], &body["code"]),
            (
                StatusCode::METHOD_NOT_ALLOWED,
                &HeaderValue::from_static("GET,HEAD"),
                &"METHOD_NOT_ALLOWED".into()
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_answered_and_one_too_many_is_not_begun() {
        let api = api(1);
        let (slow, refused) = tokio::join!(
            ask(&api, Method::GET, "/slow", &[]),
            ask(&api, Method::GET, "/n/1", &[])
        );
        assert_eq!(
            (slow.0, &slow.2["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"UNAVAILABLE".into())
        );
        assert_eq!(
            (refused.0, &refused.2["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"OVERLOADED".into())
        );
        assert_eq!(ask(&api, Method::GET, "/n/1", &[]).await.0, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_limited_together_and_small_ones_are_not() {
        const LARGEST: usize = LARGE_BODIES_BYTES / BODY_BYTES;
        let api = api(LARGEST + 10);
        let ask = |bytes: Option<usize>| {
            let body = bytes.map_or_else(
                || {
                    Body::from_stream(futures_util::stream::once(async {
                        Ok::<_, std::io::Error>("x")
                    }))
                },
                |bytes| Body::from(vec![0; bytes]),
            );
            let request = Request::get("/slow")
                .header(header::HOST, "gateway")
                .body(body)
                .unwrap();
            api.clone().oneshot(request)
        };
        let code = async |answer: Response| {
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20)
                .await
                .unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()["code"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        // One body of unknown length, and others of the largest; then there is no permit for
        // another large one, while small ones need none.
        let mut asked = vec![ask(None)];
        asked.extend((1..LARGEST).map(|_| ask(Some(BODY_BYTES))));
        asked.extend([
            ask(Some(BODY_BYTES)),
            ask(None),
            ask(Some(SMALL_BODY_BYTES)),
            ask(Some(1)),
        ]);
        let mut codes = Vec::new();
        for answer in futures_util::future::join_all(asked).await {
            codes.push(code(answer.unwrap()).await);
        }
        let late = codes.split_off(LARGEST);
        assert!(codes.iter().all(|code| code == "UNAVAILABLE"), "{codes:?}");
        assert_eq!(
            late,
            ["OVERLOADED", "OVERLOADED", "UNAVAILABLE", "UNAVAILABLE"]
        );
    }

    async fn post_encoded(encoding: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let request = Request::post("/echo")
            .header(header::HOST, "gateway")
            .header(header::CONTENT_ENCODING, encoding)
            .body(Body::from(body))
            .unwrap();
        let (parts, body) = api(1).oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status,
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }

    #[tokio::test]
    async fn a_compressed_body_is_inflated_up_to_the_limit_of_a_body() {
        fn gzip(body: &[u8]) -> Vec<u8> {
            let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
            writer.write_all(body).unwrap();
            writer.finish().unwrap()
        }
        fn deflate(body: &[u8]) -> Vec<u8> {
            let mut writer = ZlibEncoder::new(Vec::new(), Compression::fast());
            writer.write_all(body).unwrap();
            writer.finish().unwrap()
        }
        for (encoding, body) in [
            ("gzip", gzip(b"hello")),
            ("x-gzip", gzip(b"hello")),
            (" GZIP", gzip(b"hello")),
            ("deflate", deflate(b"hello")),
            ("identity", b"hello".to_vec()),
        ] {
            let answer = post_encoded(encoding, body).await;
            assert_eq!(answer, (StatusCode::OK, Value::from("hello")), "{encoding}");
        }
        let bomb = gzip(&vec![b'x'; BODY_BYTES + 1]);
        assert!(bomb.len() < BODY_BYTES / 100);
        assert_eq!(
            post_encoded("gzip", bomb).await.0,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        let mut cut = gzip(b"hello");
        cut.truncate(cut.len() - 9);
        for (encoding, body) in [
            ("gzip", cut),
            ("gzip", b"{}".to_vec()),
            ("deflate", b"{}".to_vec()),
        ] {
            assert_eq!(
                post_encoded(encoding, body).await.0,
                StatusCode::BAD_REQUEST
            );
        }
        for encoding in ["br", "zstd", "gzip, gzip", "utf-8"] {
            let (status, body) = post_encoded(encoding, gzip(b"hello")).await;
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
            assert!(
                body["detail"]
                    .as_str()
                    .unwrap()
                    .contains("Content-Encoding"),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn other_spellings_of_a_path_are_the_path() {
        let api = api(1);
        for (uri, status) in [
            ("/n/1/", 200),
            ("/N/1", 200),
            ("/n/1/?a=1", 200),
            ("/n/1//", 404),
            ("/n/x/", 400),
            ("/nowhere/", 404),
            ("/n/", 404),
            ("/n//1", 404),
        ] {
            let (found, headers, body) = ask(&api, Method::GET, uri, &[]).await;
            assert_eq!(found.as_u16(), status, "{uri} {body}");
            assert!(headers.contains_key("x-request-id"));
        }
        let (status, headers, body) = ask(&api, Method::POST, "/n/1/", &[]).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{body}");
        assert_eq!(headers[header::ALLOW], "GET,HEAD");
    }

    #[tokio::test]
    async fn every_answer_has_security_headers_and_a_page_keeps_its_own_policy() {
        let api = api(1);
        let (_, headers, _) = ask(&api, Method::GET, "/n/1", &[]).await;
        assert_eq!(
            headers[header::CONTENT_SECURITY_POLICY],
            "default-src 'none'; frame-ancestors 'none'"
        );
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(
            headers.contains_key(header::STRICT_TRANSPORT_SECURITY)
                && !headers.contains_key(header::SERVER)
        );
        let (_, headers, _) = ask(&api, Method::GET, "/docs", &[]).await;
        assert_eq!(
            headers
                .get_all(header::CONTENT_SECURITY_POLICY)
                .iter()
                .collect::<Vec<_>>(),
            ["default-src 'self'"]
        );
    }

    #[tokio::test]
    async fn only_pages_of_listed_origins_may_call() {
        let api = api(1);
        let preflight = |origin| {
            [
                ("origin", origin),
                ("access-control-request-method", "PATCH"),
            ]
        };
        let (status, headers, _) = ask(
            &api,
            Method::OPTIONS,
            "/n/1",
            &preflight("https://app.example.com"),
        )
        .await;
        assert_eq!(
            (status, headers["access-control-allow-origin"].as_bytes()),
            (StatusCode::OK, &b"https://app.example.com"[..])
        );
        assert_eq!(headers["access-control-allow-credentials"], "true");
        // Pages with tracing send headers that nobody here has heard of.
        let asked = "authorization,baggage,content-type,sentry-trace,x-datadog-trace-id";
        let [origin, method] = preflight("https://app.example.com");
        let traced = [origin, method, ("access-control-request-headers", asked)];
        let (_, headers, _) = ask(&api, Method::OPTIONS, "/n/1", &traced).await;
        assert_eq!(headers["access-control-allow-headers"], asked);
        let (_, headers, _) = ask(
            &api,
            Method::OPTIONS,
            "/n/1",
            &preflight("https://app.example.com.evil.example"),
        )
        .await;
        assert!(!headers.contains_key("access-control-allow-origin"));
        // A page can read a refusal too.
        let (status, headers, _) = ask(
            &api,
            Method::GET,
            "/nowhere",
            &[("origin", "https://app.example.com")],
        )
        .await;
        assert_eq!(
            (status, headers["access-control-allow-origin"].as_bytes()),
            (StatusCode::NOT_FOUND, &b"https://app.example.com"[..])
        );
        let exposed = headers["access-control-expose-headers"].to_str().unwrap();
        for name in [
            "ratelimit-reset",
            "preference-applied",
            "idempotency-replayed",
        ] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }
}
