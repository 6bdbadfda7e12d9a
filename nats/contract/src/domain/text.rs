//! Texts with limits. Each type trims and checks its text when a value is made, so that every value
//! is valid. What a text is used for is not said here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is refused. The error's text continues a sentence that begins with the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// The text is empty after trimming.
    #[error("must not be empty")]
    Empty,
    /// The text has more Unicode characters than allowed.
    #[error("must have at most {max} characters, has {has}")]
    TooLong {
        /// The limit in characters.
        max: usize,
        /// The characters of the text.
        has: usize,
    },
    /// The text has a control character other than those that the type allows.
    #[error("must not contain control characters")]
    Control,
    /// The text is not of the form that is named here.
    #[error("must be {0}")]
    Form(&'static str),
}

/// Trims the text and checks its length. Control characters are refused, except tab and line breaks
/// where `multiline` is true.
fn checked(text: &str, max: usize, multiline: bool) -> Result<String, InvalidText> {
    let text = text.trim();
    let has = text.chars().count();
    if has > max {
        return Err(InvalidText::TooLong { max, has });
    }
    let bad = |c: char| c.is_control() && !(multiline && matches!(c, '\t' | '\n' | '\r'));
    if text.chars().any(bad) {
        Err(InvalidText::Control)
    } else {
        Ok(text.to_owned())
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $schema:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Trims and checks a text.
            ///
            /// # Errors
            /// See [`InvalidText`].
            pub fn new(text: &str) -> Result<$name, InvalidText> {
                let check: fn(&str) -> Result<String, InvalidText> = $check;
                check(text).map($name)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidText;
            fn try_from(text: String) -> Result<$name, InvalidText> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $schema.into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// The forms of texts, for schemas: what is accepted may be more, never less.
#[cfg(feature = "schema")]
mod schema {
    use utoipa::openapi::schema::{ObjectBuilder, Type};

    /// No control characters but tab and line breaks.
    pub const MULTILINE: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
    /// No control characters, and at neither end a space, of which Unicode has many.
    pub const ONE_LINE: &str = concat!(
        r"^[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
        r"([^\u0000-\u001f\u007f-\u009f]*[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?$"
    );

    pub fn text(pattern: &str) -> ObjectBuilder {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(pattern))
    }
}

text!(
    /// A message's text: at most 5,000 characters, may be empty, line breaks allowed.
    Content,
    schema::text(schema::MULTILINE).max_length(Some(5_000)),
    |t| checked(t, 5_000, true)
);
impl Content {
    /// The text of a message that has only attachments.
    pub fn empty() -> Content {
        Content(String::new())
    }
}

text!(
    /// A name, label or short remark: 1 to 1,000 characters on one line.
    ShortText,
    schema::text(schema::ONE_LINE).min_length(Some(1)).max_length(Some(1_000)),
    |t| match checked(t, 1_000, false)? {
        t if t.is_empty() => Err(InvalidText::Empty),
        t => Ok(t),
    }
);

text!(
    /// The id that a platform gave a message: 1 to 256 characters, unique within company and
    /// platform.
    ExternalId,
    schema::text(schema::ONE_LINE).min_length(Some(1)).max_length(Some(256)),
    |t| match checked(t, 256, false)? {
        t if t.is_empty() => Err(InvalidText::Empty),
        t => Ok(t),
    }
);

text!(
    /// An absolute `http` or `https` URL of at most 2,048 characters. It is passed on, never
    /// fetched.
    Url,
    schema::text(r"^https?://[0-9A-Za-z\[][!-~]*$").max_length(Some(2_048)),
    |t| {
        let t = checked(t, 2_048, false)?;
        let rest = t.strip_prefix("https://").or_else(|| t.strip_prefix("http://"));
        match rest {
            Some(rest)
                if rest.starts_with(|c: char| c.is_alphanumeric() || c == '[')
                    && !t.contains(char::is_whitespace) =>
            {
                Ok(t)
            }
            _ => Err(InvalidText::Form("an absolute http or https URL")),
        }
    }
);

text!(
    /// An email address in lower case: one `@`, something before it, a dotted or local host after
    /// it; at most 254 characters.
    Email,
    schema::text(r"^[0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]+@[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*$").max_length(Some(254)),
    |t| {
        // Lower case first: the lower case of one letter may be two characters.
        let t = checked(&t.to_lowercase(), 254, false)?;
        let good = t.split_once('@').is_some_and(|(local, host)| {
            !local.is_empty()
                && host.split('.').all(|part| !part.is_empty())
                && !host.contains('@')
                && !t.contains(char::is_whitespace)
        });
        if good { Ok(t) } else { Err(InvalidText::Form("an email address")) }
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_counts_characters_not_bytes_and_is_trimmed() {
        assert_eq!(Content::new("  hi\nthere ").unwrap().as_str(), "hi\nthere");
        assert!(Content::new(&"é".repeat(5_000)).is_ok());
        assert_eq!(
            Content::new(&"é".repeat(5_001)),
            Err(InvalidText::TooLong {
                max: 5_000,
                has: 5_001
            })
        );
        assert_eq!(Content::new("a\0b"), Err(InvalidText::Control));
    }

    #[test]
    fn urls_and_emails_have_their_form() {
        for good in [
            "https://a.example/x?y=1",
            "http://[::1]/",
            "http://127.0.0.1:1/a",
        ] {
            assert!(Url::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "javascript:alert(1)",
            "https://",
            "https:///x",
            "http://a b",
        ] {
            assert!(Url::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Email::new(" A@B.example ").unwrap().as_str(), "a@b.example");
        for bad in ["", "a", "@b", "a@", "a@b..c", "a@b@c", "a b@c"] {
            assert!(Email::new(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Email::new(&format!("{}@a.b", "İ".repeat(150))),
            Err(InvalidText::TooLong { max: 254, has: 304 })
        );
    }

    proptest! {
        /// Every service takes a text that another has accepted, and leaves it unchanged.
        #[test]
        fn an_accepted_text_is_accepted_again_unchanged(
            text in ".{0,300}",
            local in "[^@]{1,260}",
        ) {
            macro_rules! again {
                ($type:ident $text:ident) => {
                    if let Ok(first) = $type::new($text) {
                        prop_assert_eq!($type::new(first.as_str()), Ok(first));
                    }
                };
            }
            let email = format!("{local}@a.b");
            for text in [text.as_str(), email.as_str()] {
                again!(Content text);
                again!(ShortText text);
                again!(ExternalId text);
                again!(Url text);
                again!(Email text);
            }
        }
    }
}
