//! Declarations of what requests hold. Each names the fields once, with the types of `field`, and
//! makes of them the struct, the reader that notes every wrong field, and the part of the OpenAPI
//! document.

/// Declares the JSON object that is the body of a request, or that stands inside one.
///
/// Doc comments become descriptions in the document. After the struct there may stand, in this
/// order:
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
            $($(#[doc = $text:literal])* $field:ident $(as $wire:literal)?: $kind:ty,)+
        }
        $(check |$checked:ident| $check:block)?
    ) => {
        $(#[doc = $doc])*
        $vis struct $name {
            $($(#[doc = $text])* pub $field: <$kind as $crate::api::field::Field>::Value,)+
        }

        impl $crate::api::field::Query for $name {
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

        impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                let mut query = Vec::new();
                $(<$kind as $crate::api::field::QueryField>::add_to(
                    &mut query,
                    $crate::api::declare::body!(@name $field $($wire)?),
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

#[cfg(test)]
mod tests {
    use contract::domain::ShortText;
    use contract::{Id, Timestamp};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use utoipa::{PartialSchema, ToSchema};

    use crate::api::field::{
        Body, Flag, Flatten, List, NonEmpty, NotNull, Nullable, NullableText, Number,
    };
    use crate::api::problem::Problem;
    use crate::api::schema::{having, with_any_of};

    body! {
        /// A field of every kind,
        /// on two lines.
        struct Every {
            /// Must be there.
            id: Id,
            optional: Option<ShortText>,
            non_empty as "nonEmpty": NonEmpty<ShortText>,
            nullable: Nullable<Timestamp>,
            text: NullableText<ShortText>,
            kept: NotNull<ShortText>,
            flag: Flag,
            number: Number<1, 10, 5>,
            list: List<Entry, 2>,
            rest: Flatten<Entry>,
        }
        example { "id": "665f1e0c9b1d4a7f3c2e8a01", "name": "Ada" }
        check |reader| {
            if let (Some(true), Some(10)) = (flag.flatten(), number) {
                reader.wrong("number", "must be less than 10 with the flag");
            }
        }
        schema |schema| with_any_of(schema, [having("flag"), having("number")])
    }

    body! {
        /// An entry.
        struct Entry {
            name: ShortText,
        }
    }

    fn object(more: Value) -> Map<String, Value> {
        let mut object = json!({"id": "a".repeat(24), "name": "Ada"});
        for (name, value) in more.as_object().unwrap() {
            object[name] = value.clone();
        }
        object.as_object().unwrap().clone()
    }

    fn read(more: Value) -> Every {
        Every::from_object(&object(more)).unwrap()
    }

    /// The wrong fields, each with its message.
    fn wrong(more: Value) -> Vec<String> {
        match Every::from_object(&object(more)) {
            Err(Problem::Validation(errors)) => errors
                .iter()
                .map(|error| format!("{} {}", error.field, error.kind))
                .collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn absent_null_and_empty_mean_what_the_kind_of_field_says() {
        let absent = read(json!({}));
        assert!(absent.optional.is_none() && absent.non_empty.is_none());
        assert!(absent.nullable.is_none() && absent.text.is_none() && absent.kept.is_none());
        assert!(absent.flag.is_none() && absent.list.is_none());
        assert_eq!((absent.number, absent.rest.name.as_str()), (5, "Ada"));
        assert_eq!(absent.id, Id::from_bytes([0xaa; 12]));
        let null = read(json!({
            "optional": null, "nonEmpty": null, "nullable": null, "text": null, "flag": null,
            "number": null, "list": null,
        }));
        assert!(null.optional.is_none() && null.non_empty.is_none() && null.list.is_none());
        assert_eq!((null.nullable, null.text), (Some(None), Some(None)));
        assert_eq!((null.flag, null.number), (Some(false), 5));
        let empty = read(json!({"nonEmpty": " ", "text": ""}));
        assert_eq!((empty.non_empty, empty.text), (None, Some(None)));
        assert_eq!(
            wrong(json!({"id": null, "kept": null})),
            ["id is required", "kept cannot be removed"]
        );
        let blank = read(json!({
            "optional": " ", "nullable": "", "flag": "", "number": "", "list": null,
        }));
        assert!(blank.optional.is_none());
        assert_eq!(
            (blank.nullable, blank.flag, blank.number),
            (Some(None), Some(false), 5)
        );
        assert_eq!(
            wrong(json!({"kept": " ", "name": ""})),
            ["kept must not be empty", "name must not be empty"]
        );
    }

    #[test]
    fn every_wrong_field_is_named_by_its_path_with_what_it_must_be() {
        assert_eq!(
            wrong(json!({
                "optional": true, "flag": "maybe", "number": 11, "name": [],
                "list": [{"name": "a"}, {"name": {"$gt": ""}}],
            })),
            [
                "optional must be a string",
                "flag must be true or false",
                "number must be a whole number from 1 to 10",
                "list[1].name must be a string",
                "name must be a string",
            ]
        );
        assert_eq!(
            wrong(json!({"list": [1, {}, {}]})),
            ["list must have at most 2 entries, has 3"]
        );
        assert_eq!(wrong(json!({"list": [1]})), ["list[0] must be an object"]);
    }

    #[test]
    fn a_number_can_be_a_text_or_a_whole_decimal() {
        for number in [json!(7), json!(7.0), json!("7")] {
            assert_eq!(read(json!({ "number": number })).number, 7);
        }
        for bad in [json!(7.5), json!(-1), json!("x"), json!([7]), json!(0)] {
            assert_eq!(wrong(json!({ "number": bad })).len(), 1);
        }
    }

    #[test]
    fn a_text_can_be_a_number_whose_digits_are_exact() {
        for (number, text) in [
            (json!(17841400008460056_i64), "17841400008460056"),
            (json!(9007199254740993_i64), "9007199254740993"),
            (json!(-1001234567890_i64), "-1001234567890"),
            (json!(i64::MAX), "9223372036854775807"),
            (json!(4917012345678.0), "4917012345678"),
            (json!(0), "0"),
            (json!(-0.0), "0"),
            (json!(3.5), "3.5"),
        ] {
            let read = read(json!({ "optional": number })).optional;
            assert_eq!(read.unwrap().as_str(), text);
        }
        for bad in [
            json!(1e30),
            json!(1e-30),
            json!(9007199254740993.0),
            json!(true),
        ] {
            let named = wrong(json!({ "optional": bad }));
            assert_eq!(named, ["optional must be a string"], "{bad}");
        }
        let id = wrong(json!({"id": 5, "flag": 2}));
        assert_eq!(id[0], "id an id is 24 hex digits");
    }

    #[test]
    fn a_flag_and_a_time_can_be_spelt_in_several_ways() {
        for (flag, is_set) in [
            (json!(true), true),
            (json!("true"), true),
            (json!("True "), true),
            (json!(1), true),
            (json!("1"), true),
            (json!("yes"), true),
            (json!(false), false),
            (json!("FALSE"), false),
            (json!(0), false),
            (json!("no"), false),
        ] {
            assert_eq!(read(json!({ "flag": flag })).flag, Some(is_set), "{flag}");
        }
        for bad in [
            json!(2),
            json!("on or off"),
            json!([true]),
            json!({}),
            json!(0.5),
        ] {
            assert_eq!(
                wrong(json!({ "flag": bad })),
                ["flag must be true or false"]
            );
        }
        let at: Timestamp = "2021-09-08T06:34:04.000Z".parse().unwrap();
        for time in [
            json!(1631082844),
            json!(1631082844000_i64),
            json!(1631082844.0),
            json!("1631082844"),
            json!("2021-09-08T06:34:04+0000"),
            json!("2021-09-08 06:34:04"),
        ] {
            assert_eq!(
                read(json!({ "nullable": time })).nullable,
                Some(Some(at)),
                "{time}"
            );
        }
        for bad in [
            json!(2021),
            json!("tomorrow"),
            json!(-1),
            json!([]),
            json!(true),
        ] {
            assert_eq!(wrong(json!({ "nullable": bad })).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_rule_sees_the_fields_that_it_concerns() {
        assert_eq!(
            wrong(json!({"flag": true, "number": 10})),
            ["number must be less than 10 with the flag"]
        );
    }

    #[test]
    fn an_id_that_is_no_id_has_its_own_answer_unless_more_is_wrong() {
        let bad_id = object(json!({"id": "x"}));
        assert_eq!(
            Every::from_object(&bad_id).err(),
            Some(Problem::BadId("_id"))
        );
        assert_eq!(
            wrong(json!({"id": "x", "flag": 2})),
            ["id an id is 24 hex digits", "flag must be true or false"]
        );
    }

    #[test]
    fn the_schema_says_what_the_reader_does() {
        let schema = serde_json::to_value(Every::schema()).unwrap();
        let [declared, either] = [&schema["allOf"][0], &schema["allOf"][1]];
        assert_eq!(
            *either,
            json!({"anyOf": [{"required": ["flag"]}, {"required": ["number"]}]})
        );
        assert_eq!(
            declared["description"],
            "A field of every kind, on two lines."
        );
        assert_eq!(declared["example"]["name"], "Ada");
        assert_eq!(
            declared["allOf"][0],
            json!({"$ref": "#/components/schemas/Entry"})
        );
        let fields = &declared["allOf"][1];
        assert_eq!(fields["required"], json!(["id"]));
        let properties = &fields["properties"];
        assert_eq!(
            properties["id"],
            json!({"$ref": "#/components/schemas/Id", "description": "Must be there."})
        );
        let text = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let or_null = |schema: Value| json!({"oneOf": [schema, {"type": "null"}]});
        assert_eq!(properties["optional"], or_null(text("ShortText")));
        assert_eq!(properties["nonEmpty"], or_null(text("MaybeText")));
        assert_eq!(properties["kept"], text("ShortText"));
        assert_eq!(properties["flag"], json!({"type": ["boolean", "null"]}));
        assert_eq!(
            properties["number"],
            json!({
                "type": ["integer", "null"], "format": "int32", "minimum": 1, "maximum": 10,
                "default": 5,
            })
        );
        assert_eq!(
            properties["list"],
            json!({"type": ["array", "null"], "items": text("Entry"), "maxItems": 2})
        );
        let mut components = Vec::new();
        Every::schemas(&mut components);
        let names: Vec<&str> = components.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["Id", "ShortText", "MaybeText", "Timestamp", "Entry"] {
            assert!(names.contains(&name), "{name}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2_i64..12).prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
            "[0-9a-f]{23,25}".prop_map(Value::from),
        ];
        scalar.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                inner.prop_map(|value| json!({ "name": value })),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_read_or_refused_with_a_reason(
            object in proptest::collection::btree_map(
                "id|optional|nonEmpty|nullable|text|kept|flag|number|list|name",
                any_value(),
                0..10,
            ),
        ) {
            let object: Map<String, Value> = object.into_iter().collect();
            match Every::from_object(&object) {
                Ok(_) | Err(Problem::BadId("_id")) => {}
                Err(Problem::Validation(errors)) => prop_assert!(!errors.is_empty()),
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
