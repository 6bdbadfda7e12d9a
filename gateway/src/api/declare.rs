//! Declarations of what requests hold. Each names the fields once, with the types of `field`, and
//! makes of them the struct, the reader that notes every wrong field, and the part of the OpenAPI
//! document.

/// Declares the JSON object that is the body of a request, or that stands inside one.
///
/// Doc comments become descriptions in the document. After the struct there may stand, in this order:
/// - `example { … }`: the example of the document;
/// - `check |reader| { … }`: rules that concern several fields. The block sees a variable for each
///   field: `None` if an error was noted for the field, else `Some` with what was read. Rules note
///   their errors with the reader;
/// - `schema |schema| …`: the schema with what the fields cannot say.
macro_rules! body {
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $wire:literal) => { $wire };
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $($(#[doc = $text:literal])* $field:ident $(as $wire:literal)?: $kind:ty,)+
        }
        $(example { $($example:tt)* })?
        $(check |$checked:ident| $check:block)?
        $(schema |$schema:ident| $adapted:expr)?
    ) => {
        $(#[doc = $doc])*
        $vis struct $name {
            $($(#[doc = $text])* pub $field: <$kind as $crate::api::field::Field>::Value,)+
        }

        impl $crate::api::field::Body for $name {
            fn read(reader: &mut $crate::api::field_reader::FieldReader<'_>) -> Option<$name> {
                $(let $field = <$kind as $crate::api::field::Field>::read(
                    reader,
                    $crate::api::declare::body!(@name $field $($wire)?),
                );)+
                $(
                    let $checked = &mut *reader;
                    $check
                )?
                Some($name { $($field: $field?,)+ })
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use $crate::api::declare::unwrapped;
                let mut body = $crate::api::field::BodySchema::default();
                $(<$kind as $crate::api::field::BodyField>::add_to(
                    &mut body,
                    $crate::api::declare::body!(@name $field $($wire)?),
                    &unwrapped(&[$($text),*]),
                );)+
                let example = None::<serde_json::Value>;
                $(let example = Some(serde_json::json!({ $($example)* })).or(example);)?
                let schema = body.finish(&unwrapped(&[$($doc),*]), example);
                $(let schema = { let $schema = schema; $adapted };)?
                utoipa::openapi::RefOr::T(schema)
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schemas(into: &mut $crate::api::schema::Components) {
                $(<$kind as $crate::api::field::Field>::components(into);)+
            }
        }
    };
}
pub(crate) use body;

/// Declares the query string of a request, or a part that several have. `check` is as in [`body!`].
macro_rules! query {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $($(#[doc = $text:literal])* $field:ident: $kind:ty,)+
        }
        $(check |$checked:ident| $check:block)?
    ) => {
        $(#[doc = $doc])*
        $vis struct $name {
            $($(#[doc = $text])* pub $field: <$kind as $crate::api::field::Field>::Value,)+
        }

        impl $crate::api::field::Query for $name {
            fn read(reader: &mut $crate::api::field_reader::FieldReader<'_>) -> Option<$name> {
                $(let $field =
                    <$kind as $crate::api::field::Field>::read(reader, stringify!($field));)+
                $(
                    let $checked = &mut *reader;
                    $check
                )?
                Some($name { $($field: $field?,)+ })
            }
        }

        impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                let mut query = Vec::new();
                $(<$kind as $crate::api::field::QueryField>::add_to(
                    &mut query,
                    stringify!($field),
                    &$crate::api::declare::unwrapped(&[$($text),*]),
                );)+
                query
            }
        }
    };
}
pub(crate) use query;

/// Declares the parameter of a path: `/// text`, `pub struct Name { name: Type }`.
macro_rules! path_parameter {
    (
        $(#[doc = $text:literal])*
        $vis:vis struct $name:ident { $field:ident: $kind:ty }
    ) => {
        $(#[doc = $text])*
        $vis enum $name {}

        impl $crate::api::field::PathParameter for $name {
            type Value = $kind;
            const NAME: &'static str = stringify!($field);
        }

        impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                let text = $crate::api::declare::unwrapped(&[$($text),*]);
                let place = utoipa::openapi::path::ParameterIn::Path;
                let kind = <$kind as $crate::api::field::Described>::describe();
                vec![kind.parameter(place, stringify!($field), &text)]
            }
        }
    };
}
pub(crate) use path_parameter;

/// The text of a doc comment: its lines without their leading space, and with the line breaks of
/// the source undone.
pub fn unwrapped(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
