//! Other spellings of a path that Express took: with a slash at the end, and in capitals. The path as
//! it is declared is looked for first. Redirects nobody, because clients do not repeat a body.

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use crate::api::problem::Problem;

/// The routes, and for a path that is none of them the route that it is another spelling of.
pub fn with_other_spellings(routes: Router) -> Router {
    let declared = routes.clone().fallback(async || Problem::NotFound("path"));
    routes.fallback(async move |mut request: Request| -> Response {
        let Some(uri) = declared_spelling(request.uri()) else {
            return Problem::NotFound("path").into_response();
        };
        *request.uri_mut() = uri;
        match declared.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    })
}

/// The path as a route declares it; `None` if it is already. Ids are the same in small letters.
fn declared_spelling(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let declared = path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase();
    // Express took one slash.
    if declared.is_empty() || declared.ends_with('/') || declared == path {
        return None;
    }
    let path_and_query: PathAndQuery = match uri.query() {
        Some(query) => format!("{declared}?{query}").parse(),
        None => declared.parse(),
    }
    .ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn another_spelling_is_the_path_of_a_route() {
        let of = |uri: &str| declared_spelling(&uri.parse().unwrap()).map(|uri| uri.to_string());
        for (uri, declared) in [
            ("/api/v1/messages/", "/api/v1/messages"),
            ("/API/v1/Messages", "/api/v1/messages"),
            ("/api/v1/messages/?A=B%2F/", "/api/v1/messages?A=B%2F/"),
            ("/api/v1/messages/?", "/api/v1/messages?"),
            ("http://Gateway/a/", "http://gateway/a"),
        ] {
            assert_eq!(
                of(uri).as_deref().map(str::to_lowercase),
                Some(declared.to_lowercase())
            );
        }
        for same in [
            "/",
            "//",
            "/api/v1/messages//",
            "/A//",
            "/api/v1/messages",
            "/a/b?x=/",
            "*",
        ] {
            assert_eq!(of(same), None, "{same}");
        }
    }

    proptest! {
        #[test]
        fn a_declared_spelling_has_no_other(text in "/[!-~]{0,64}") {
            let Ok(uri) = text.parse::<Uri>() else { return Ok(()) };
            if let Some(declared) = declared_spelling(&uri) {
                prop_assert_eq!(declared_spelling(&declared), None);
                prop_assert_eq!(declared.query(), uri.query());
            }
        }
    }
}
