//! Answers of handlers. Errors are in `problem`.

use std::marker::PhantomData;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

/// An answer that serialises.
pub fn json(status: StatusCode, body: impl Serialize) -> Response {
    (status, Json(body)).into_response()
}

/// The JSON of a `T` as the persister wrote it. Because it is passed on unread, its form is the
/// persister's word.
pub struct Raw<T> {
    json: Bytes,
    of: PhantomData<fn() -> T>,
}

impl<T> Raw<T> {
    pub fn new(json: Bytes) -> Raw<T> {
        Raw {
            json,
            of: PhantomData,
        }
    }

    /// The JSON itself.
    pub fn json(&self) -> &[u8] {
        &self.json
    }
}

/// 200 with the JSON alone.
impl<T> IntoResponse for Raw<T> {
    fn into_response(self) -> Response {
        joined(&[&self.json])
    }
}

/// 200 with the JSON texts one after the other, none of which is parsed again.
pub fn joined(parts: &[&[u8]]) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], parts.concat()).into_response()
}

/// Declares the answer that holds one value of the persister's under one name: a struct that is
/// made of the value's JSON, and its schema.
macro_rules! named_answer {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident { $key:literal: $of:ty }
    ) => {
        $(#[doc = $doc])*
        $vis struct $name(pub $crate::api::response::Raw<$of>);

        impl axum::response::IntoResponse for $name {
            fn into_response(self) -> axum::response::Response {
                const BEFORE: &str = concat!("{\"", $key, "\":");
                $crate::api::response::joined(&[BEFORE.as_bytes(), self.0.json(), b"}"])
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .description(Some($crate::api::declare::unwrapped(&[$($doc),*])))
                    .property($key, $crate::api::schema::reference::<$of>())
                    .required($key)
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schemas(into: &mut $crate::api::schema::Components) {
                $crate::api::schema::component::<$of>(into);
            }
        }
    };
}
pub(crate) use named_answer;
