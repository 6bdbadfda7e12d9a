//! The layers between the network and the routes, and their order. The layers that depend on the
//! caller are put around the routes by the routes themselves, which know whom they concern.

mod address;
mod cors;
mod failsafe;
mod headers;
mod load;
mod problems;
mod rate_limit;
mod request_metrics;
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
        api.fallback(|| async { Problem::NotFound("path") })
            .method_not_allowed_fallback(|| async { Problem::Method })
            .layer(DefaultBodyLimit::max(BODY_BYTES))
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
    use axum::body::Body;
    use axum::extract::{Path, Query, Request};
    use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
    use axum::response::Response;
    use axum::routing::get;
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
            .route("/docs", page);
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
        assert!(
            headers["access-control-expose-headers"]
                .to_str()
                .unwrap()
                .contains("ratelimit-reset")
        );
    }
}
