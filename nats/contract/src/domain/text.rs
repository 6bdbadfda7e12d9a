//! Texts with limits. Each type cleans, trims and checks its text when a value is made, so that every
//! value is valid. What a text is used for is not said here.

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

/// Trims the text and checks its length. Control characters are refused: an address with one is
/// another address without it.
fn checked(text: &str, max: usize) -> Result<String, InvalidText> {
    match checked_length(text, max)? {
        text if text.chars().any(char::is_control) => Err(InvalidText::Control),
        text => Ok(text),
    }
}

/// As [`checked`], but takes control characters away, because a text that somebody wrote must not be
/// lost for one. Those that part words become a blank, or a line break where `multiline` is true.
fn cleaned(text: &str, max: usize, multiline: bool) -> Result<String, InvalidText> {
    let clean = |c: char| match c {
        '\t' | '\n' | '\r' if multiline => Some(c),
        c if c.is_control() && c.is_whitespace() => Some(if multiline { '\n' } else { ' ' }),
        c if c.is_control() => None,
        c => Some(c),
    };
    match text.chars().any(char::is_control) {
        true => checked_length(&text.chars().filter_map(clean).collect::<String>(), max),
        false => checked_length(text, max),
    }
}

fn checked_length(text: &str, max: usize) -> Result<String, InvalidText> {
    let text = text.trim();
    let has = text.chars().count();
    match has > max {
        true => Err(InvalidText::TooLong { max, has }),
        false => Ok(text.to_owned()),
    }
}

/// As [`cleaned`] on one line, and not empty.
fn label(text: &str, max: usize) -> Result<String, InvalidText> {
    match cleaned(text, max, false)? {
        text if text.is_empty() => Err(InvalidText::Empty),
        text => Ok(text),
    }
}

/// The most bytes of a [`Url`]. Because an event has a limit too, characters are not counted.
const MAX_URL_BYTES: usize = 8_192;

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

    /// No control characters, and at neither end a space, of which Unicode has many.
    pub const ONE_LINE: &str = concat!(
        r"^[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
        r"([^\u0000-\u001f\u007f-\u009f]*[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?$"
    );

    pub fn any() -> ObjectBuilder {
        ObjectBuilder::new().schema_type(Type::String)
    }

    pub fn text(pattern: &str) -> ObjectBuilder {
        any().pattern(Some(pattern))
    }
}

text!(
    /// A message's text: at most 5,000 characters, may be empty, line breaks allowed.
    Content,
    schema::any().max_length(Some(5_000)),
    |t| cleaned(t, 5_000, true)
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
    |t| label(t, 1_000)
);

text!(
    /// The id that a platform gave a message: 1 to 1,024 characters, unique within company and
    /// platform.
    ExternalId,
    schema::text(schema::ONE_LINE).min_length(Some(1)).max_length(Some(1_024)),
    |t| label(t, 1_024)
);

text!(
    /// An absolute `http` or `https` URL of at most 8,192 bytes. It is passed on, never fetched. The
    /// scheme is written in lower case, and a blank as `%20`.
    Url,
    schema::text(r"^[Hh][Tt][Tt][Pp][Ss]?://[0-9A-Za-z\[][!-~]*$").max_length(Some(8_192)),
    |t| {
        let t = checked(t, MAX_URL_BYTES)?.replace(' ', "%20");
        if t.len() > MAX_URL_BYTES {
            return Err(InvalidText::TooLong { max: MAX_URL_BYTES, has: t.len() });
        }
        let (scheme, rest) = t.split_once("://").unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        let is_http = matches!(scheme.as_str(), "http" | "https");
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let begins = host.starts_with(|c: char| c.is_alphanumeric() || c == '[');
        let begins = begins && !host.contains("%20");
        match is_http && begins && !rest.contains(char::is_whitespace) {
            true => Ok(format!("{scheme}://{rest}")),
            false => Err(InvalidText::Form("an absolute http or https URL")),
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
        let t = checked(&t.to_lowercase(), 254)?;
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
    }

    #[test]
    fn control_characters_are_taken_away_and_part_words_where_they_did() {
        for (text, content, label) in [
            ("a\0b", "ab", "ab"),
            (
                "mail xx.yyy\0live.example",
                "mail xx.yyylive.example",
                "mail xx.yyylive.example",
            ),
            ("\u{1b}[1mbold\u{7f}", "[1mbold", "[1mbold"),
            ("a\tb\r\nc", "a\tb\r\nc", "a b  c"),
            ("a\u{b}b\u{c}c\u{85}d", "a\nb\nc\nd", "a b c d"),
            ("\0 a \u{9f}", "a", "a"),
            (
                "a\u{2028}\u{200d}\u{fffd}b",
                "a\u{2028}\u{200d}\u{fffd}b",
                "a\u{2028}\u{200d}\u{fffd}b",
            ),
        ] {
            assert_eq!(Content::new(text).unwrap().as_str(), content, "{text:?}");
            assert_eq!(ShortText::new(text).unwrap().as_str(), label, "{text:?}");
            assert_eq!(ExternalId::new(text).unwrap().as_str(), label, "{text:?}");
        }
        assert_eq!(Content::new("\0\u{7}").unwrap(), Content::empty());
        assert_eq!(ShortText::new("\0 \u{7}"), Err(InvalidText::Empty));
        // Characters that are taken away do not count.
        assert!(Content::new(&"a\0".repeat(5_000)).is_ok());
        for address in ["https://a.example/\0", "https://a.example/a\nb"] {
            assert_eq!(Url::new(address), Err(InvalidText::Control));
        }
        assert_eq!(Email::new("a\0@b.c"), Err(InvalidText::Control));
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
            "http://a b/c",
            "//cdn.example/a",
            "httpss://a",
            "ftp://a.example",
            "http://a\u{a0}b",
            "data:image/png;base64,AAAA",
        ] {
            assert!(Url::new(bad).is_err(), "{bad}");
        }
        for (given, written) in [
            ("HTTPS://X.example/A.jpg", "https://X.example/A.jpg"),
            ("Http://a.example", "http://a.example"),
            (
                "https://a.example/my file.jpg",
                "https://a.example/my%20file.jpg",
            ),
            ("https://a.example/ä", "https://a.example/ä"),
        ] {
            assert_eq!(Url::new(given).unwrap().as_str(), written);
        }
        let long = |bytes: usize| format!("https://a.example/{}", "x".repeat(bytes - 18));
        assert!(Url::new(&long(MAX_URL_BYTES)).is_ok());
        assert!(Url::new(&long(MAX_URL_BYTES + 1)).is_err());
        assert!(Url::new(&format!("https://a/{}", "ä".repeat(MAX_URL_BYTES / 2))).is_err());
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
