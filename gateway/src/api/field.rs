//! What one field of a body, of a query string or of a path may hold: how it is read, and how the
//! OpenAPI document describes it. The declarations in `declare` are made of these types; which
//! fields a request has is said there.

use std::marker::PhantomData;

use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{
    AllOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, RefBuilder, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr, Required, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::field_error::FieldErrorKind;
use super::field_reader::FieldReader;
use super::numbers::{digits, flag};
pub use super::numbers::{whole_number, whole_number_schema};
use super::problem::Problem;
use super::schema::{Components, component};

/// One value: a text, a number or a flag.
pub trait Scalar: Sized {
    /// Reads the text of a JSON string, of a query string or of a path.
    fn from_text(text: &str) -> Result<Self, FieldErrorKind>;

    /// Reads a JSON value that is not null.
    fn from_json(value: &Value) -> Result<Self, FieldErrorKind> {
        match value {
            Value::String(text) => Self::from_text(text),
            // Platforms' ids and phones come as numbers too.
            Value::Number(number) => match digits(number) {
                Some(text) => Self::from_text(&text),
                None => Err(FieldErrorKind::NotA("a string")),
            },
            _ => Err(FieldErrorKind::NotA("a string")),
        }
    }

    /// The schema, or a reference to it.
    fn schema() -> RefOr<Schema>;

    /// Adds the schemas that [`Scalar::schema`] refers to.
    fn components(_: &mut Components) {}

    /// An example for the document of a query string.
    const EXAMPLE: Option<&'static str> = None;
}

/// Reads the text of a JSON string and no other value, for what is a secret or made of secrets.
pub fn text_alone<T: Scalar>(value: &Value) -> Result<T, FieldErrorKind> {
    match value {
        Value::String(text) => T::from_text(text),
        _ => Err(FieldErrorKind::NotA("a string")),
    }
}

/// A text that may be empty, where that means the same as no text at all.
pub trait MaybeEmpty: Scalar {
    /// The schema of the text or of nothing.
    fn schema_or_empty() -> RefOr<Schema>;

    /// Adds the schemas that [`MaybeEmpty::schema_or_empty`] refers to.
    fn components_or_empty(_: &mut Components) {}
}

/// An object that is declared with `body!`.
pub trait Body: Sized {
    /// Reads the object, and notes everything that is wrong. `None` only if something is.
    fn read(reader: &mut FieldReader<'_>) -> Option<Self>;

    /// Reads the object.
    ///
    /// # Errors
    /// Everything that is wrong, see [`FieldReader::finish`].
    fn from_object(object: &Map<String, Value>) -> Result<Self, Problem> {
        let mut reader = FieldReader::new(object);
        let body = Self::read(&mut reader);
        reader.finish(body)
    }
}

/// A query string that is declared with `query!`.
pub trait Query: IntoParams + Sized {
    /// Reads the parameters, which are all texts, and notes everything that is wrong.
    fn read(reader: &mut FieldReader<'_>) -> Option<Self>;
}

/// The parameter of a path that is declared with `path!`.
pub trait PathParameter {
    type Value: Scalar;
    const NAME: &'static str;
}

/// The type of a declared field: the kind of value, and what its absence means.
pub trait Field {
    /// What reading the field gives.
    type Value;

    /// Reads the field. `None` only if an error was noted.
    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Self::Value>;

    /// Adds the schemas that the description refers to.
    fn components(_: &mut Components) {}
}

/// A field that is one property of a body, or one parameter of a query string.
pub trait Described: Field {
    fn describe() -> Description;
}

/// A field of a body.
pub trait BodyField: Field {
    fn add_to(body: &mut BodySchema, name: &'static str, text: &str);
}

/// A field of a query string.
pub trait QueryField: Field {
    fn add_to(query: &mut Vec<Parameter>, name: &'static str, text: &str);
}

impl<T: Described> BodyField for T {
    fn add_to(body: &mut BodySchema, name: &'static str, text: &str) {
        body.add(name, text, T::describe());
    }
}

impl<T: Described> QueryField for T {
    fn add_to(query: &mut Vec<Parameter>, name: &'static str, text: &str) {
        query.push(T::describe().parameter(ParameterIn::Query, name, text));
    }
}

/// How the document describes a field.
pub struct Description {
    pub schema: RefOr<Schema>,
    pub is_required: bool,
    /// The field of a body may be null. A parameter of a query string cannot be.
    pub is_nullable: bool,
    pub example: Option<&'static str>,
}

impl Description {
    /// A field that must be there and not null.
    pub fn required(schema: RefOr<Schema>) -> Description {
        Description {
            schema,
            is_required: true,
            is_nullable: false,
            example: None,
        }
    }

    /// A field that may be absent or null.
    pub fn optional(schema: RefOr<Schema>) -> Description {
        Description {
            is_required: false,
            is_nullable: true,
            ..Description::required(schema)
        }
    }

    pub fn parameter(self, place: ParameterIn, name: &str, text: &str) -> Parameter {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(required(self.is_required))
            .description(Some(text))
            .schema(Some(self.schema))
            .example(self.example.map(Value::from))
            .build()
    }

    /// The schema of a property that is explained by `text`.
    fn property(self, text: &str) -> RefOr<Schema> {
        let text = (!text.is_empty()).then(|| text.to_owned());
        match self.schema {
            RefOr::Ref(schema) => {
                let mut schema = RefBuilder::new().ref_location(schema.ref_location);
                if let Some(text) = text {
                    schema = schema.description(Some(text));
                }
                match self.is_nullable {
                    false => RefOr::Ref(schema.build()),
                    true => OneOfBuilder::new()
                        .item(schema)
                        .item(ObjectBuilder::new().schema_type(Type::Null))
                        .into(),
                }
            }
            RefOr::T(Schema::Object(mut schema)) => {
                schema.description = text.or(schema.description);
                schema.schema_type = nullable(schema.schema_type, self.is_nullable);
                schema.into()
            }
            RefOr::T(Schema::Array(mut schema)) => {
                schema.description = text.or(schema.description);
                schema.schema_type = nullable(schema.schema_type, self.is_nullable);
                RefOr::T(schema.into())
            }
            other => other,
        }
    }
}

fn nullable(kind: SchemaType, is_nullable: bool) -> SchemaType {
    match kind {
        SchemaType::Type(kind) if is_nullable => SchemaType::Array(vec![kind, Type::Null]),
        kind => kind,
    }
}

fn required(is_required: bool) -> Required {
    match is_required {
        true => Required::True,
        false => Required::False,
    }
}

/// The schema of a body while its fields are added.
#[derive(Default)]
pub struct BodySchema {
    flattened: Vec<Ref>,
    object: ObjectBuilder,
}

impl BodySchema {
    fn add(&mut self, name: &str, text: &str, description: Description) {
        let mut object = std::mem::take(&mut self.object);
        if description.is_required {
            object = object.required(name);
        }
        self.object = object.property(name, description.property(text));
    }

    /// The schema, with the body's own explanation and example.
    #[expect(
        deprecated,
        reason = "readers of the document know `example` better than `examples`"
    )]
    pub fn finish(self, text: &str, example: Option<Value>) -> Schema {
        if self.flattened.is_empty() {
            return self.object.description(Some(text)).example(example).into();
        }
        let all = self
            .flattened
            .into_iter()
            .fold(AllOfBuilder::new(), AllOfBuilder::item);
        all.item(self.object)
            .description(Some(text))
            .example(example)
            .into()
    }
}

/// Must be there.
impl<T: Scalar> Field for T {
    type Value = T;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<T> {
        match reader.value(name) {
            None | Some(Value::Null) => {
                reader.wrong(name, FieldErrorKind::Missing);
                None
            }
            Some(value) => reader.checked(name, T::from_json(value)),
        }
    }

    fn components(into: &mut Components) {
        T::components(into);
    }
}

impl<T: Scalar> Described for T {
    fn describe() -> Description {
        Description {
            example: T::EXAMPLE,
            ..Description::required(T::schema())
        }
    }
}

/// May be absent, null or, where that is no value of the type, empty, which is the same.
impl<T: Scalar> Field for Option<T> {
    type Value = Option<T>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<T>> {
        match reader.value(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) if text.trim().is_empty() => Some(T::from_text(text).ok()),
            Some(value) => reader.checked(name, T::from_json(value)).map(Some),
        }
    }

    fn components(into: &mut Components) {
        T::components(into);
    }
}

impl<T: Scalar> Described for Option<T> {
    fn describe() -> Description {
        Description {
            is_required: false,
            is_nullable: true,
            ..<T as Described>::describe()
        }
    }
}

/// May be absent, null or empty, which is the same. Forms and query strings send empty texts.
pub struct NonEmpty<T>(PhantomData<T>);

impl<T: MaybeEmpty> Field for NonEmpty<T> {
    type Value = Option<T>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<T>> {
        match reader.value(name) {
            Some(Value::String(text)) if text.trim().is_empty() => Some(None),
            Some(Value::String(text)) => reader.checked(name, T::from_text(text.trim())).map(Some),
            _ => Option::<T>::read(reader, name),
        }
    }

    fn components(into: &mut Components) {
        T::components_or_empty(into);
    }
}

impl<T: MaybeEmpty> Described for NonEmpty<T> {
    fn describe() -> Description {
        Description {
            schema: T::schema_or_empty(),
            ..Option::<T>::describe()
        }
    }
}

/// Of an edit: absent means that the value stays, null removes it.
pub struct Nullable<T>(PhantomData<T>);

impl<T: Scalar> Field for Nullable<T> {
    type Value = Option<Option<T>>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Self::Value> {
        let is_given = reader.value(name).is_some();
        Option::<T>::read(reader, name).map(|value| is_given.then_some(value))
    }

    fn components(into: &mut Components) {
        T::components(into);
    }
}

impl<T: Scalar> Described for Nullable<T> {
    fn describe() -> Description {
        Option::<T>::describe()
    }
}

/// As [`Nullable`], and an empty text removes the value too.
pub struct NullableText<T>(PhantomData<T>);

impl<T: MaybeEmpty> Field for NullableText<T> {
    type Value = Option<Option<T>>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Self::Value> {
        let is_given = reader.value(name).is_some();
        NonEmpty::<T>::read(reader, name).map(|value| is_given.then_some(value))
    }

    fn components(into: &mut Components) {
        T::components_or_empty(into);
    }
}

impl<T: MaybeEmpty> Described for NullableText<T> {
    fn describe() -> Description {
        NonEmpty::<T>::describe()
    }
}

/// Of an edit: absent means that the value stays, and the value cannot be removed.
pub struct NotNull<T>(PhantomData<T>);

impl<T: Scalar> Field for NotNull<T> {
    type Value = Option<T>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<T>> {
        match reader.value(name) {
            None => Some(None),
            Some(Value::Null) => {
                reader.wrong(name, "cannot be removed");
                None
            }
            Some(value) => reader.checked(name, T::from_json(value)).map(Some),
        }
    }

    fn components(into: &mut Components) {
        T::components(into);
    }
}

impl<T: Scalar> Described for NotNull<T> {
    fn describe() -> Description {
        Description {
            is_nullable: false,
            ..Option::<T>::describe()
        }
    }
}

/// True or false, also as a text or as 1 or 0; null or an empty text is false, and absence is
/// `None`.
pub struct Flag;

impl Field for Flag {
    type Value = Option<bool>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Option<bool>> {
        match reader.value(name) {
            None => Some(None),
            Some(value) => reader.checked(name, flag(value)).map(Some),
        }
    }
}

impl Described for Flag {
    fn describe() -> Description {
        Description::optional(ObjectBuilder::new().schema_type(Type::Boolean).into())
    }
}

/// `true` or `false` in a query string; absence is false.
pub struct QueryFlag;

impl Field for QueryFlag {
    type Value = bool;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<bool> {
        match reader.value(name) {
            None => Some(false),
            Some(value) => reader.checked(name, flag(value)),
        }
    }
}

impl Described for QueryFlag {
    fn describe() -> Description {
        let schema = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .default(Some(json!(false)));
        Description::optional(schema.into())
    }
}

/// A whole number from `MIN` to `MAX`. Absent, null or empty means `DEFAULT`.
pub struct Number<const MIN: u64, const MAX: u64, const DEFAULT: u64>;

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Field for Number<MIN, MAX, DEFAULT> {
    type Value = u64;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<u64> {
        match reader.value(name) {
            None | Some(Value::Null) => Some(DEFAULT),
            Some(Value::String(text)) if text.trim().is_empty() => Some(DEFAULT),
            Some(value) => reader.checked(name, whole_number(value, MIN, MAX)),
        }
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Described for Number<MIN, MAX, DEFAULT> {
    fn describe() -> Description {
        let schema = whole_number_schema(MIN, MAX).default(Some(json!(DEFAULT)));
        Description::optional(schema.into())
    }
}

/// A list of at most `MAX` objects; may be absent or null, which is the same.
pub struct List<T, const MAX: usize>(PhantomData<T>);

impl<T: Body + ToSchema, const MAX: usize> Field for List<T, MAX> {
    type Value = Option<Vec<T>>;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Self::Value> {
        let list = match reader.value(name) {
            None | Some(Value::Null) => return Some(None),
            Some(Value::Array(list)) => list,
            Some(_) => {
                reader.wrong(name, FieldErrorKind::NotA("a list"));
                return None;
            }
        };
        if list.len() > MAX {
            let has = list.len();
            reader.wrong(name, format!("must have at most {MAX} entries, has {has}"));
            return None;
        }
        let mut entries = Vec::with_capacity(list.len());
        for (i, entry) in list.iter().enumerate() {
            match entry {
                Value::Object(object) => {
                    let path = format_args!("{name}[{i}]");
                    entries.extend(reader.nested(path, object, T::read));
                }
                _ => reader.wrong(&format!("{name}[{i}]"), FieldErrorKind::NotA("an object")),
            }
        }
        (entries.len() == list.len()).then_some(Some(entries))
    }

    fn components(into: &mut Components) {
        component::<T>(into);
    }
}

impl<T: Body + ToSchema, const MAX: usize> Described for List<T, MAX> {
    fn describe() -> Description {
        let list = ArrayBuilder::new()
            .items(Ref::from_schema_name(T::name()))
            .max_items(Some(MAX));
        Description::optional(list.into())
    }
}

/// The fields of a body as if they were declared here. The document refers to the body.
pub struct Flatten<T>(PhantomData<T>);

impl<T: Body + ToSchema> Field for Flatten<T> {
    type Value = T;

    fn read(reader: &mut FieldReader<'_>, _: &'static str) -> Option<T> {
        T::read(reader)
    }

    fn components(into: &mut Components) {
        component::<T>(into);
    }
}

impl<T: Body + ToSchema> BodyField for Flatten<T> {
    fn add_to(body: &mut BodySchema, _: &'static str, _: &str) {
        body.flattened.push(Ref::from_schema_name(T::name()));
    }
}

/// The parameters of a query string as if they were declared here.
pub struct FlattenQuery<T>(PhantomData<T>);

impl<T: Query> Field for FlattenQuery<T> {
    type Value = T;

    fn read(reader: &mut FieldReader<'_>, _: &'static str) -> Option<T> {
        T::read(reader)
    }
}

impl<T: Query> QueryField for FlattenQuery<T> {
    fn add_to(query: &mut Vec<Parameter>, _: &'static str, _: &str) {
        query.extend(T::into_params(|| Some(ParameterIn::Query)));
    }
}

/// A scalar whose schema stands where the field is, and not in the document's components.
#[derive(Clone, Copy)]
pub struct Inline<T>(pub T);

impl<T: Scalar + PartialSchema> Scalar for Inline<T> {
    fn from_text(text: &str) -> Result<Inline<T>, FieldErrorKind> {
        T::from_text(text).map(Inline)
    }

    fn schema() -> RefOr<Schema> {
        <T as PartialSchema>::schema()
    }
}
