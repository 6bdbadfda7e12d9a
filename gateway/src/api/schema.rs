//! Pieces of schemas for the OpenAPI document that utoipa has no short form for.

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};

/// Schemas that the document must have, by name.
pub type Components = Vec<(String, RefOr<Schema>)>;

/// A reference to a schema among the document's components.
pub fn reference<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

/// Adds a schema to the document's components, with those that it refers to.
pub fn component<T: ToSchema>(into: &mut Components) {
    into.push((T::name().into_owned(), T::schema()));
    T::schemas(into);
}

/// A text.
pub fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A list of anything, of at least so many entries.
pub fn list(min_items: Option<u64>) -> ObjectBuilder {
    let min_items = min_items.map(|min| ("minItems", json!(min)));
    ObjectBuilder::new()
        .schema_type(Type::Array)
        .extensions(min_items.map(|min| Extensions::from_iter([min])))
}

/// An object that has this field.
pub fn having(field: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .required(field)
}

/// An object that has this field, of this schema.
pub fn having_a(field: &str, schema: ObjectBuilder) -> ObjectBuilder {
    having(field).property(field, schema)
}

/// `schema`, of which at least one of `these` holds too.
pub fn with_any_of(schema: Schema, these: impl IntoIterator<Item = ObjectBuilder>) -> Schema {
    let any = these
        .into_iter()
        .fold(AnyOfBuilder::new(), AnyOfBuilder::item);
    AllOfBuilder::new().item(schema).item(any).into()
}

/// `object`, which has none of these fields.
pub fn without(object: Schema, fields: &[&str]) -> Schema {
    let any: Vec<Value> = fields
        .iter()
        .map(|field| json!({"required": [field]}))
        .collect();
    match object {
        Schema::Object(mut object) => {
            object.extensions = Some(Extensions::from_iter([("not", json!({"anyOf": any}))]));
            object.into()
        }
        other => other,
    }
}

/// Either of these, where what fits one may fit the other too.
pub fn either<A: ToSchema, B: ToSchema>() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(reference::<A>())
        .item(reference::<B>())
        .into()
}

/// Any JSON value. That its names have no NUL at any depth, because the database cannot have one in
/// a name, is not said: only a schema that contains itself could say it, and client generators
/// refuse those.
pub enum AnyValue {}

/// The names of a document's own fields.
pub fn names() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .pattern(Some(r"^[^\u0000]*$"))
}

impl utoipa::PartialSchema for AnyValue {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("Any JSON value whose names have no NUL."))
            .into()
    }
}

impl ToSchema for AnyValue {}
