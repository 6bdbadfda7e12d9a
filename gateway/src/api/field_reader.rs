//! From JSON objects and query strings to the domain. Every field that is wrong is named; nothing
//! is guessed.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use contract::Id;
use contract::domain::{Platform, Provider, UnknownName};
use serde_json::{Map, Value};

use super::problem::{FieldError, Problem};

/// Longest list of problems in one answer.
const MAX_ERRORS: usize = 50;

/// Reads the fields of one object and gathers what is wrong.
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    prefix: String,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Of a body.
    pub fn of(object: &'a Map<String, Value>) -> Fields<'a> {
        Fields {
            object,
            prefix: String::new(),
            errors: Vec::new(),
        }
    }

    /// Whether the field is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.object.get(field).is_some_and(|v| !v.is_null())
    }

    /// Whether the field is there as null.
    pub fn is_null(&self, field: &str) -> bool {
        self.object.get(field).is_some_and(Value::is_null)
    }

    /// Notes a problem.
    pub fn wrong(&mut self, field: &str, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError {
                field: format!("{}{field}", self.prefix),
                message: message.into(),
            });
        }
    }

    /// A text that `parse` accepts; `None` if absent, or noted as wrong.
    pub fn optional<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match self.object.get(field)? {
            Value::Null => None,
            Value::String(text) => match parse(text) {
                Ok(value) => Some(value),
                Err(e) => {
                    self.wrong(field, e.to_string());
                    None
                }
            },
            _ => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    /// As [`Fields::optional`], and an empty text counts as absent, as forms and query strings send
    /// it.
    pub fn non_empty<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let unless_empty = |text: &str| match text.trim() {
            "" => Ok(None),
            text => parse(text).map(Some),
        };
        self.optional(field, unless_empty).flatten()
    }

    /// As [`Fields::optional`], and absence is wrong too.
    pub fn required<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.has(field) {
            self.wrong(field, "is required");
            return None;
        }
        self.optional(field, parse)
    }

    /// Tells null from absence: `Some(None)`.
    pub fn nullable<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        self.object
            .contains_key(field)
            .then(|| self.optional(field, parse))
    }

    /// As [`Fields::nullable`], and an empty text is null.
    pub fn given<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        self.object
            .contains_key(field)
            .then(|| self.non_empty(field, parse))
    }

    /// A whole number within a range.
    pub fn number(
        &mut self,
        field: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let given = match self.object.get(field) {
            None | Some(Value::Null) => return default,
            // JSON knows one kind of number: 10.0 is a whole one.
            Some(Value::Number(n)) => n.as_u64().or_else(|| {
                n.as_f64()
                    .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                    .map(|n| n as u64)
            }),
            // A query string has only texts.
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match given {
            Some(n) if range.contains(&n) => n,
            _ => {
                self.wrong(
                    field,
                    format!(
                        "must be a whole number from {} to {}",
                        range.start(),
                        range.end()
                    ),
                );
                default
            }
        }
    }

    /// True or false; null is false.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        match self.object.get(field)? {
            Value::Null => Some(false),
            Value::Bool(b) => Some(*b),
            _ => {
                self.wrong(field, "must be true or false");
                None
            }
        }
    }

    /// Names each of these that is there: whoever sends one expects it to be changed.
    pub fn refuse(&mut self, immutable: &[&str]) {
        for field in immutable
            .iter()
            .filter(|field| self.object.contains_key(**field))
        {
            self.wrong(field, "cannot be changed");
        }
    }

    /// An object inside.
    pub fn object(&mut self, field: &str) -> Option<&'a Map<String, Value>> {
        match self.object.get(field)? {
            Value::Null => None,
            Value::Object(object) => Some(object),
            _ => {
                self.wrong(field, "must be an object");
                None
            }
        }
    }

    /// Reads each object of a list with `read`.
    pub fn list<T>(
        &mut self,
        field: &str,
        max: usize,
        read: impl Fn(&mut Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let list = match self.object.get(field)? {
            Value::Null => return None,
            Value::Array(list) => list,
            _ => {
                self.wrong(field, "must be a list");
                return None;
            }
        };
        if list.len() > max {
            self.wrong(
                field,
                format!("must have at most {max} entries, has {}", list.len()),
            );
            return None;
        }
        let mut values = Vec::with_capacity(list.len());
        for (i, entry) in list.iter().enumerate() {
            let Value::Object(object) = entry else {
                self.wrong(&format!("{field}[{i}]"), "must be an object");
                continue;
            };
            let mut inner = Fields {
                object,
                prefix: format!("{}{field}[{i}].", self.prefix),
                errors: Vec::new(),
            };
            values.extend(read(&mut inner));
            self.errors.append(&mut inner.errors);
        }
        Some(values)
    }

    /// Reads an object inside with `read`.
    pub fn inside<T>(&mut self, field: &str, read: impl FnOnce(&mut Fields<'a>) -> T) -> Option<T> {
        let object = self.object(field)?;
        let mut inner = Fields {
            object,
            prefix: format!("{}{field}.", self.prefix),
            errors: Vec::new(),
        };
        let value = read(&mut inner);
        self.errors.append(&mut inner.errors);
        Some(value)
    }

    /// The problems, if any. An id that is no id is a cast error, as it was in the old backend,
    /// where it is the only problem.
    pub fn finish(self) -> Result<(), Problem> {
        match self.errors.as_slice() {
            [] => Ok(()),
            [only] if only.message == contract::id::BadId.to_string() => {
                Err(match only.field.as_str() {
                    "company_id" => Problem::BadId("company_id"),
                    "contact_id" => Problem::BadId("contact_id"),
                    _ => Problem::BadId("_id"),
                })
            }
            _ => Err(Problem::Validation(self.errors)),
        }
    }
}

/// A query string as an object of texts, for [`Fields`].
pub struct QueryFields(pub Map<String, Value>);

impl<S: Send + Sync> FromRequestParts<S> for QueryFields {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<QueryFields, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) =
            pairs.map_err(|_| Problem::field("query", "must be name=value pairs in UTF-8"))?;
        Ok(QueryFields(
            pairs
                .into_iter()
                .map(|(name, value)| (name, Value::String(value)))
                .collect(),
        ))
    }
}

/// A platform, whatever case it is written in.
pub fn platform_name(text: &str) -> Result<Platform, UnknownName> {
    text.trim().to_lowercase().parse()
}

/// Whom a company is connected with, likewise.
pub fn provider_name(text: &str) -> Result<Provider, UnknownName> {
    text.trim().to_lowercase().parse()
}

/// An id in a path.
pub fn path_id(text: &str) -> Result<Id, Problem> {
    text.parse().map_err(|_| Problem::BadId("id"))
}
