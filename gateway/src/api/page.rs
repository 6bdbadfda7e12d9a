//! Pages of lists: reading which one is wanted, and saying so in the answer.

use contract::query::{Cursor, DEFAULT_PAGE, MAX_PAGE, Page};

use super::declare::query;
use super::field::{NonEmpty, Number};

/// The largest `skip`. A cursor reaches further.
const MAX_SKIP: u64 = 100_000;

/// `limit` of a page.
pub type Limit = Number<1, { MAX_PAGE as u64 }, { DEFAULT_PAGE as u64 }>;
/// `skip` of a page.
pub type Skip = Number<0, MAX_SKIP, 0>;
/// `cursor` of a page.
pub type After = NonEmpty<Cursor>;

query! {
    /// Which part of a list.
    pub struct PageQuery {
        /// Entries in the answer.
        limit: Limit,
        /// Entries to pass over; not looked at beside a `cursor`.
        skip: Skip,
        /// `next_cursor` of the page before; empty for the first page.
        cursor: After,
    }
}

impl From<PageQuery> for Page {
    fn from(query: PageQuery) -> Page {
        page(query.limit, query.skip, query.cursor)
    }
}

/// The page that a request wants. Because a cursor is the more exact one, `skip` does not count
/// beside it.
pub fn page(limit: u64, skip: u64, after: Option<Cursor>) -> Page {
    Page {
        limit: limit as u32,
        skip: if after.is_some() { 0 } else { skip },
        after,
    }
}

/// Declares the answer with a page of the persister's: its fields, and those of the page that was
/// asked for.
macro_rules! page_answer {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident: $of:ty
    ) => {
        $(#[doc = $doc])*
        $vis struct $name {
            pub answer: $crate::api::response::Raw<$of>,
            pub page: contract::query::Page,
        }

        impl axum::response::IntoResponse for $name {
            fn into_response(self) -> axum::response::Response {
                let contract::query::Page { limit, skip, .. } = self.page;
                let answer = self.answer.json();
                $crate::api::response::joined(&[
                    answer.strip_suffix(b"}").unwrap_or(answer),
                    format!(r#","limit":{limit},"skip":{skip}}}"#).as_bytes(),
                ])
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder};
                let asked = ObjectBuilder::new()
                    .property("limit", u32::schema())
                    .required("limit")
                    .property("skip", u32::schema())
                    .required("skip");
                AllOfBuilder::new()
                    .item($crate::api::schema::reference::<$of>())
                    .item(asked)
                    .description(Some($crate::api::declare::unwrapped(&[$($doc),*])))
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
pub(crate) use page_answer;

#[cfg(test)]
mod tests {
    use contract::Id;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::api::field::Query as _;
    use crate::api::field_reader::FieldReader;
    use crate::api::problem::Problem;

    fn read(parameters: &[(&str, &str)]) -> Result<Page, Problem> {
        let parameters: Map<String, Value> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect();
        let mut reader = FieldReader::new(&parameters);
        let query = PageQuery::read(&mut reader);
        reader.finish(query).map(Page::from)
    }

    #[test]
    fn a_page_has_its_defaults_and_its_bounds() {
        let page = read(&[("cursor", "")]).unwrap();
        assert_eq!((page.limit, page.skip, page.after), (DEFAULT_PAGE, 0, None));
        for bad in [
            ("limit", "0"),
            ("limit", "201"),
            ("skip", "100001"),
            ("skip", "-1"),
            ("cursor", "x"),
        ] {
            assert!(
                matches!(read(&[bad]), Err(Problem::Validation(_))),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_is_written_and_counts_more_than_skip(
            key in any::<i64>(),
            id in any::<[u8; 12]>(),
        ) {
            let cursor = Cursor { key, id: Id::from_bytes(id) };
            let page = read(&[("cursor", &cursor.to_string()), ("skip", "7")]).unwrap();
            prop_assert_eq!((page.after, page.skip), (Some(cursor), 0));
        }

        #[test]
        fn any_cursor_is_read_or_refused(text in "[0-9a-fA-Fé+-]{0,44}") {
            let read = read(&[("cursor", &text)]);
            prop_assert!(matches!(read, Ok(_) | Err(Problem::Validation(_))));
        }
    }
}
