//! Ids of documents and events: 12 bytes, printed as 24 hex digits, the form of a MongoDB ObjectId.
//! Knows nothing of MongoDB.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// Twelve bytes: seconds since 1970 (4), random of the process (5), counter (3). So the ids that
/// one process makes sort by time.
///
/// ```
/// use contract::{Id, Timestamp};
///
/// let id: Id = "665F1e0c9b1d4a7f3c2e8a01".parse()?;
/// assert_eq!(id.to_string(), "665f1e0c9b1d4a7f3c2e8a01");
/// assert!("665f1e0c".parse::<Id>().is_err());
///
/// let (first, second) = (Id::generate(Timestamp::now()), Id::generate(Timestamp::now()));
/// assert_ne!(first, second);
/// # Ok::<(), contract::id::BadId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 12]);

/// The text is not 24 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 24 hex digits")]
pub struct BadId;

static PROCESS: LazyLock<[u8; 5]> = LazyLock::new(rand::random);
static COUNTER: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(rand::random()));

impl Id {
    /// A new id, unique over machines by the process's random part. `now` gives the leading
    /// seconds.
    pub fn generate(now: Timestamp) -> Id {
        let seconds = (now.millis() / 1_000) as u32;
        let count = COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        bytes[4..9].copy_from_slice(&*PROCESS);
        bytes[9..].copy_from_slice(&count[1..]);
        Id(bytes)
    }

    /// The bytes, as a database driver wants them.
    pub const fn bytes(self) -> [u8; 12] {
        self.0
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 12]) -> Id {
        Id(bytes)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Id {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::*;
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("24 hex digits"))
            .pattern(Some("^[0-9a-fA-F]{24}$"))
            .examples(["665f1e0c9b1d4a7f3c2e8a01"])
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Id {}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 24];
        for (i, byte) in self.0.iter().enumerate() {
            text[2 * i] = DIGITS[usize::from(byte >> 4)];
            text[2 * i + 1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Id, BadId> {
        let text: &[u8; 24] = text.as_bytes().try_into().map_err(|_| BadId)?;
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8).ok_or(BadId);
        let mut bytes = [0; 12];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = digit(text[2 * i])? << 4 | digit(text[2 * i + 1])?;
        }
        Ok(Id(bytes))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_parses_as_it_prints(bytes in any::<[u8; 12]>()) {
            let id = Id::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,30}", hex in "[0-9a-fA-F+é]{20,26}") {
            let _ = (text.parse::<Id>(), hex.parse::<Id>());
        }
    }

    #[test]
    fn ids_of_one_process_differ_and_print_as_they_parse() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let (a, b) = (Id::generate(now), Id::generate(now));
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert_eq!(a.to_string()[..8], format!("{:08x}", 1_700_000_000));
        assert_eq!(
            "AAAAAAAAAAAAAAAAAAAAAAAA"
                .parse::<Id>()
                .map(|i| i.to_string()),
            Ok("a".repeat(24))
        );
    }

    #[test]
    fn texts_other_than_24_hex_digits_are_refused() {
        for text in [
            "",
            "123",
            "zzzzzzzzzzzzzzzzzzzzzzzz",
            "aaaaaaaaaaaaaaaaaaaaaaaaa",
            "éééééééééééé",
            "aaaaaaaaaaaaaaaaaaaaaaa.",
            "+1aaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(text.parse::<Id>(), Err(BadId), "{text}");
        }
    }
}
