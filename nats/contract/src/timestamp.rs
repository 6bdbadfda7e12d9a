//! Points in time as the contract writes them: UTC, milliseconds, RFC 3339
//! (`2026-11-22T18:35:17.123Z`). Knows no calendar.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970-01-01 UTC, within the years 1 to 9999.
///
/// ```
/// use contract::Timestamp;
///
/// let at: Timestamp = "2026-11-22T19:35:17.123456+01:00".parse()?;
/// assert_eq!(at.to_string(), "2026-11-22T18:35:17.123Z");
/// assert_eq!(Timestamp::from_millis(at.millis()), at);
/// # Ok::<(), contract::timestamp::BadTimestamp>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is RFC 3339, such as 2026-11-22T18:35:17.123Z")]
pub struct BadTimestamp;

/// The first millisecond of the year 1 and the last of 9999: RFC 3339 can print no others.
const RANGE: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

impl Timestamp {
    /// The time of the machine's clock. Call this at the edge only, and pass the value on.
    pub fn now() -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(since.as_millis() as i64)
    }

    /// The time so many milliseconds after 1970, clamped to the years that can be printed.
    pub const fn from_millis(millis: i64) -> Timestamp {
        match millis {
            m if m < RANGE.0 => Timestamp(RANGE.0),
            m if m > RANGE.1 => Timestamp(RANGE.1),
            m => Timestamp(m),
        }
    }

    /// Milliseconds since 1970, negative before.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The time that is later by `duration`, clamped to the year 9999.
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp::from_millis(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Timestamp {
        Timestamp::from_millis(at.unix_timestamp_nanos().div_euclid(1_000_000) as i64)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::*;
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("RFC 3339; answers are in UTC with milliseconds"))
            .examples(["2026-11-22T18:35:17.123Z"])
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Timestamp {}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        let (h, m, s, ms) = at.time().as_hms_milli();
        write!(
            f,
            "{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day()
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Timestamp, BadTimestamp> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| BadTimestamp)?;
        Ok(at.into())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
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
        fn prints_as_it_parses(millis in RANGE.0..=RANGE.1) {
            let at = Timestamp::from_millis(millis);
            prop_assert_eq!(at.to_string().parse(), Ok(at));
        }

        #[test]
        fn no_text_makes_the_parser_panic(
            text in ".{0,40}",
            like in "[0-9]{4,5}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2})?",
        ) {
            for text in [text, like] {
                if let Ok(at) = text.parse::<Timestamp>() {
                    prop_assert_eq!(at.to_string().parse(), Ok(at));
                }
            }
        }
    }

    #[test]
    fn offsets_are_taken_to_utc() {
        let at: Timestamp = "2026-11-22T19:35:17.123456+01:00".parse().unwrap();
        assert_eq!(at.to_string(), "2026-11-22T18:35:17.123Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
