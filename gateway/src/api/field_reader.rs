//! Reads the fields of one JSON object and gathers everything that is wrong, so that an answer
//! names all wrong fields at once. What a value of a field may be is said in `field`.

use std::cell::RefCell;
use std::fmt;

use serde_json::{Map, Value};

use super::field_error::{FieldError, FieldErrorKind};
use super::problem::Problem;

/// The field errors that one answer names. Further ones are left out.
const MAX_ERRORS: usize = 50;

/// One object with the errors that were found in it so far.
pub struct FieldReader<'a> {
    object: &'a Map<String, Value>,
    errors: Vec<FieldError>,
    /// The fields of the object whose value was looked at.
    asked: RefCell<Vec<&'a str>>,
}

impl<'a> FieldReader<'a> {
    pub fn new(object: &'a Map<String, Value>) -> FieldReader<'a> {
        FieldReader {
            object,
            errors: Vec::new(),
            asked: RefCell::default(),
        }
    }

    /// The value of a field, null included.
    pub fn value(&self, field: &str) -> Option<&'a Value> {
        let (name, value) = self.object.get_key_value(field)?;
        self.asked.borrow_mut().push(name);
        Some(value)
    }

    /// The fields whose value nobody has asked for so far: those that are not declared.
    pub fn unasked(&self) -> Vec<(&'a String, &'a Value)> {
        let asked = self.asked.borrow();
        let is_unasked = |(name, _): &(&String, &Value)| !asked.contains(&name.as_str());
        self.object.iter().filter(is_unasked).collect()
    }

    /// The whole object.
    pub fn object(&self) -> &'a Map<String, Value> {
        self.object
    }

    /// Whether the field is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some_and(|value| !value.is_null())
    }

    /// Notes that a field is wrong.
    pub fn wrong(&mut self, field: &str, kind: impl Into<FieldErrorKind>) {
        self.push(FieldError {
            field: field.to_owned(),
            kind: kind.into(),
        });
    }

    /// Returns the value, or notes why there is none.
    pub fn checked<T>(&mut self, field: &str, read: Result<T, FieldErrorKind>) -> Option<T> {
        read.map_err(|kind| self.wrong(field, kind)).ok()
    }

    /// Notes each of these fields that is there, even as null. Otherwise a caller who sends one
    /// would believe that the field was changed.
    pub fn refuse(&mut self, immutable: &[&str]) {
        for field in immutable {
            if self.object.contains_key(*field) {
                self.wrong(field, FieldErrorKind::Immutable);
            }
        }
    }

    /// Reads an object that stands at `path` in this one. Its errors are named by their whole path.
    pub fn nested<T>(
        &mut self,
        path: fmt::Arguments<'_>,
        object: &'a Map<String, Value>,
        read: impl FnOnce(&mut FieldReader<'a>) -> T,
    ) -> T {
        let mut inner = FieldReader::new(object);
        let value = read(&mut inner);
        for error in inner.errors {
            self.push(FieldError {
                field: format!("{path}.{}", error.field),
                kind: error.kind,
            });
        }
        value
    }

    fn push(&mut self, error: FieldError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    /// Returns what was read of the object.
    ///
    /// # Errors
    /// [`Problem::Validation`] with every error. An id that is no id is a [`Problem::BadId`] where
    /// it is the only error, because the Express backend answered so.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problem> {
        match self.errors.as_slice() {
            // Every reader of a field notes an error if the field gives no value.
            [] => value.ok_or(Problem::Internal),
            [only] if only.kind == FieldErrorKind::BadId => {
                Err(Problem::BadId(match only.field.as_str() {
                    "company_id" => "company_id",
                    "contact_id" => "contact_id",
                    _ => "_id",
                }))
            }
            _ => Err(Problem::Validation(self.errors)),
        }
    }
}
