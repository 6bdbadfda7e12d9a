//! What handlers take out of a request: its caller, its trace, its body, its query string.
//! Extracting finds out what can be read at all; a declared body or query string is read field by
//! field when the handler asks for it, because who may not call is told so before any field is
//! looked at.

use std::marker::PhantomData;
use std::time::Duration;

use axum::body::{Body as HttpBody, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Query as Pairs, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use contract::trace::TraceContext;
use serde_json::{Map, Value};

use super::field::{Body, PathParameter, Query, Scalar};
use super::field_error::FieldErrorKind;
use super::field_reader::FieldReader;
use super::json_object;
use super::problem::Problem;
use crate::auth::Caller;
use crate::log::Log;

/// The time within which a body must have arrived. Beyond it the request is refused with 408.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The request's trace, for the events and queries that the request causes.
#[derive(Clone, Copy)]
pub struct Trace(pub TraceContext);

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Trace, Problem> {
        let found = parts.extensions.get().copied();
        Ok(Trace(found.unwrap_or_else(TraceContext::generate)))
    }
}

/// What a request of a known caller comes with.
pub struct Call {
    /// Events and queries.
    pub log: Log,
    pub caller: Caller,
    /// The trace that its events and queries belong to.
    pub trace: TraceContext,
}

impl<S: Sync> FromRequestParts<S> for Call
where
    Log: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Call, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Trace(trace) = Trace::from_request_parts(parts, state).await?;
        Ok(Call {
            log: Log::from_ref(state),
            caller,
            trace,
        })
    }
}

/// A body that is one JSON object, in which `T` is to be read.
pub struct JsonBody<T> {
    object: Map<String, Value>,
    body: PhantomData<fn() -> T>,
}

impl<T: Body> JsonBody<T> {
    fn new(object: Map<String, Value>) -> JsonBody<T> {
        JsonBody {
            object,
            body: PhantomData,
        }
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// Everything that is wrong, see [`FieldReader::finish`].
    pub fn read(&self) -> Result<T, Problem> {
        T::from_object(&self.object)
    }

    /// A reader of the fields, for a body of which there are several kinds.
    pub fn reader(&self) -> FieldReader<'_> {
        FieldReader::new(&self.object)
    }

    /// The object as it was sent.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }
}

impl<T: Body, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<HttpBody>, state: &S) -> Result<JsonBody<T>, Problem> {
        if !is_json(&request) {
            return Err(Problem::MediaType);
        }
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejected)) if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(Problem::TooLarge);
            }
            Ok(Err(_)) => {
                return Err(Problem::BadRequest(
                    "the body did not arrive whole, or is not what its Content-Encoding says",
                ));
            }
            Err(_) => return Err(Problem::Timeout),
        };
        json_object::parse(&bytes)
            .map(JsonBody::new)
            .map_err(Problem::BadJson)
    }
}

/// Whether the body says that it is `application/json`, or of a type that is JSON too.
fn is_json(request: &Request<HttpBody>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next());
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// As [`JsonBody`], and no body at all is an empty object.
pub struct MaybeJsonBody<T>(pub JsonBody<T>);

impl<T: Body, S: Send + Sync> FromRequest<S> for MaybeJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(
        request: Request<HttpBody>,
        state: &S,
    ) -> Result<MaybeJsonBody<T>, Problem> {
        if request.body().is_end_stream() {
            return Ok(MaybeJsonBody(JsonBody::new(Map::new())));
        }
        let body = JsonBody::from_request(request, state).await?;
        Ok(MaybeJsonBody(body))
    }
}

/// A query string, in which `T` is to be read. A name that the request does not know is refused:
/// ignored, a filter would widen the answer that it was to narrow.
pub struct QueryString<T> {
    parameters: Map<String, Value>,
    query: PhantomData<fn() -> T>,
}

impl<T: Query> QueryString<T> {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Everything that is wrong, see [`FieldReader::finish`].
    pub fn read(&self) -> Result<T, Problem> {
        let mut reader = FieldReader::new(&self.parameters);
        let query = T::read(&mut reader);
        for (name, _) in reader.unasked() {
            reader.wrong(name, "is not a parameter of this request");
        }
        reader.finish(query)
    }
}

impl<T: Query, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<QueryString<T>, Problem> {
        let pairs = Pairs::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Pairs(pairs) =
            pairs.map_err(|_| Problem::field("query", "must be name=value pairs in UTF-8"))?;
        let parameters = pairs
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)));
        Ok(QueryString {
            parameters: parameters.collect(),
            query: PhantomData,
        })
    }
}

/// The one parameter of a path, in which the value of `P` is to be read.
pub struct InPath<P> {
    text: String,
    parameter: PhantomData<fn() -> P>,
}

impl<P: PathParameter> InPath<P> {
    /// Reads the parameter.
    ///
    /// # Errors
    /// Why the text is no such value.
    pub fn read(&self) -> Result<P::Value, Problem> {
        P::Value::from_text(&self.text).map_err(|kind| match kind {
            FieldErrorKind::BadId => Problem::BadId(P::NAME),
            kind => Problem::field(P::NAME, kind),
        })
    }
}

impl<P: PathParameter, S: Send + Sync> FromRequestParts<S> for InPath<P> {
    type Rejection = PathRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath<P>, PathRejection> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(InPath {
            text,
            parameter: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::page::PageQuery;

    #[tokio::test]
    async fn a_parameter_that_the_request_does_not_know_is_refused_by_its_name() {
        let wrong = async |uri: &str| {
            let request = Request::get(uri).body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            let query = QueryString::<PageQuery>::from_request_parts(&mut parts, &()).await;
            match query.unwrap().read() {
                Ok(_) => Vec::new(),
                Err(Problem::Validation(errors)) => errors.into_iter().map(|e| e.field).collect(),
                Err(other) => panic!("{other:?}"),
            }
        };
        for good in ["/", "/?limit=5", "/?limit=&skip=1&cursor=", "/?&"] {
            assert_eq!(wrong(good).await, [""; 0], "{good}");
        }
        for (bad, names) in [
            ("/?facebookId=1", &["facebookId"][..]),
            (
                "/?limit=5&external_message_id=x&phone=",
                &["external_message_id", "phone"],
            ),
            ("/?Limit=5", &["Limit"]),
            ("/?limit=x&page=2", &["limit", "page"]),
            ("/?query=1", &["query"]),
        ] {
            assert_eq!(wrong(bad).await, names, "{bad}");
        }
    }

    #[test]
    fn a_body_must_say_that_it_is_json() {
        let of = |content_type: &str| {
            let request = Request::builder().header(header::CONTENT_TYPE, content_type);
            is_json(&request.body(HttpBody::empty()).unwrap())
        };
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/merge-patch+json",
        ] {
            assert!(of(json), "{json}");
        }
        for other in ["", "text/plain", "text/json", "application/jsonx"] {
            assert!(!of(other), "{other}");
        }
    }
}
