//! Refuses paths and query strings that can be read in more than one way, for every route alike.
//! Behind it, handlers and axum's extractors see decodable text only, no name twice, and one host.
//! Does not know the names of a route: unknown ones are refused where they are read.

use std::borrow::Cow;
use std::collections::HashSet;

use axum::extract::Request;
use axum::http::{Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

use crate::api::problem::Problem;

/// The most bytes of path and query string together. A longer one is refused with 414.
const URI_BYTES: usize = 4_096;

/// The layer.
pub async fn check(request: Request, next: Next) -> Response {
    match acceptable(request.uri()).and_then(|()| one_host(&request)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn acceptable(uri: &Uri) -> Result<(), Problem> {
    if uri
        .path_and_query()
        .is_some_and(|p| p.as_str().len() > URI_BYTES)
    {
        return Err(Problem::UriTooLong);
    }
    decoded(uri.path()).ok_or(Problem::BadRequest("the path is not percent-encoded UTF-8"))?;
    let mut names = HashSet::new();
    for pair in uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some((name, _)) = decoded(&name.replace('+', " "))
            .map(Cow::into_owned)
            .zip(decoded(value))
        else {
            return Err(Problem::BadRequest(
                "the query string is not percent-encoded UTF-8",
            ));
        };
        if let Some(name) = names.replace(name) {
            return Err(Problem::field(name, "is given more than once"));
        }
    }
    Ok(())
}

/// Refuses a request with two hosts (RFC 9112, 3.2). Otherwise the gateway and a proxy before it
/// might each believe another one.
fn one_host(request: &Request) -> Result<(), Problem> {
    match (
        request.headers().get_all(header::HOST).iter().count(),
        request.version(),
    ) {
        (1, _) | (0, Version::HTTP_10) => Ok(()),
        _ => Err(Problem::BadRequest("there must be one Host header")),
    }
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let escapes = |after: &str| {
        after
            .as_bytes()
            .get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let well_formed = text.split('%').skip(1).all(escapes);
    percent_decode_str(text)
        .decode_utf8()
        .ok()
        .filter(|_| well_formed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str) -> Result<(), Problem> {
        acceptable(&uri.parse().unwrap())
    }

    #[test]
    fn ordinary_paths_and_query_strings_pass() {
        for uri in [
            "/",
            "/a/b?c=1&d=%C3%A9&e=a+b&f",
            "/%C3%A9?",
            "/a?&&x=%2525",
            "*",
            "/a?b=c=d",
            "/a?%20a=1&+b=2",
        ] {
            assert_eq!(check(uri), Ok(()), "{uri}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let with = |hosts: usize, version: Version| {
            let request = (0..hosts).fold(Request::builder().version(version), |r, _| {
                r.header(header::HOST, "gateway")
            });
            one_host(&request.body(axum::body::Body::empty()).unwrap()).is_ok()
        };
        assert!(
            with(1, Version::HTTP_11) && with(1, Version::HTTP_10) && with(0, Version::HTTP_10)
        );
        assert!(
            !with(0, Version::HTTP_11) && !with(2, Version::HTTP_11) && !with(2, Version::HTTP_10)
        );
    }

    #[test]
    fn a_path_or_query_string_that_reads_two_ways_is_refused() {
        for uri in [
            "/%ff",
            "/%",
            "/a%2",
            "/%zz",
            "/%C3(",
            "/%+1",
            "/a?b=%ff",
            "/a?%c0%af=1",
            "/a?b=%g1",
        ] {
            assert!(matches!(check(uri), Err(Problem::BadRequest(_))), "{uri}");
        }
        for uri in ["/a?b=1&b=1", "/a?b=1&%62=2", "/a?b&c&b", "/a?a+b=1&a%20b=2"] {
            assert!(matches!(check(uri), Err(Problem::Validation(_))), "{uri}");
        }
        assert_eq!(
            check(&format!("/{}", "a".repeat(URI_BYTES))),
            Err(Problem::UriTooLong)
        );
        assert_eq!(check(&format!("/{}", "a".repeat(URI_BYTES - 1))), Ok(()));
    }

    proptest! {
        #[test]
        fn a_path_that_passes_decodes_and_no_name_comes_twice(text in "/[!-~]{0,64}") {
            let Ok(uri) = text.parse::<Uri>() else { return Ok(()) };
            if acceptable(&uri).is_ok() {
                prop_assert!(percent_decode_str(uri.path()).decode_utf8().is_ok());
                let query = uri.query().unwrap_or_default().replace('+', " ");
                let names = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
                    let name = pair.split('=').next().unwrap_or_default();
                    percent_decode_str(name).decode_utf8().unwrap().into_owned()
                });
                let names: Vec<String> = names.collect();
                let different: HashSet<&String> = names.iter().collect();
                prop_assert_eq!(names.len(), different.len());
            }
        }
    }
}
