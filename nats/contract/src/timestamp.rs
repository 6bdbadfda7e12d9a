//! Points in time. The contract writes them in one form: UTC, milliseconds, RFC 3339
//! (`2026-11-22T18:35:17.123Z`). It reads the forms in which platforms write them too, see
//! [`Timestamp::from_str`]. Knows no calendar.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

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

/// The text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a time, such as 2026-11-22T18:35:17.123Z or the seconds or milliseconds since 1970"
)]
pub struct BadTimestamp;

/// The first millisecond of the year 1 and the last of 9999: RFC 3339 can print no others.
const RANGE: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

/// The most bytes of a text that is read as a time. A longer one is none.
const MAX_TEXT_BYTES: usize = 64;
/// The smallest number that is read as a time, in seconds: March 1973. A smaller one is a year
/// (`2026`), a date without dashes (`20261122`) or no time at all.
const SMALLEST_NUMBER: i128 = 100_000_000;
/// The first number that is no count of seconds, but of milliseconds. As seconds it would be the
/// year 5138.
const MILLISECONDS_FROM: i128 = 100_000_000_000;

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
            .description(Some(
                "RFC 3339; answers are in UTC with milliseconds. Requests may also give it as \
                 platforms do: with any offset or none, which is UTC, or as seconds or \
                 milliseconds since 1970, in a number or a text.",
            ))
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

/// Reads RFC 3339, with a `T` or a blank; with an offset as `Z`, `+01:00`, `+0100` or `+01`, or
/// without one, which is UTC; with a fraction of any length, and also without seconds or without a
/// time of day. Reads the dates of mails and of HTTP too, and numbers: seconds, milliseconds or
/// microseconds since 1970, told apart by their size.
impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Timestamp, BadTimestamp> {
        let text = text.trim();
        if text.len() > MAX_TEXT_BYTES || !text.is_ascii() {
            return Err(BadTimestamp);
        }
        if let Some(at) = of_number(text) {
            return at;
        }
        let at = match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => OffsetDateTime::parse(&as_rfc3339(text).ok_or(BadTimestamp)?, &Rfc3339),
            false => OffsetDateTime::parse(text, &Rfc2822),
        };
        let at = Timestamp::from(at.map_err(|_| BadTimestamp)?);
        Ok(at)
    }
}

/// Reads a count since 1970; `None` if the text is no number.
fn of_number(text: &str) -> Option<Result<Timestamp, BadTimestamp>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    // A number of more digits is none of the units.
    let count: i128 = whole.parse().unwrap_or(i128::MAX);
    let of_fraction = format!("{fraction:0<3.3}").parse().unwrap_or(0);
    let millis = if count < SMALLEST_NUMBER {
        return Some(Err(BadTimestamp));
    } else if count < MILLISECONDS_FROM {
        count * 1_000 + of_fraction
    } else {
        // Each unit is a thousandth of the one before, so that no number is a time in two.
        let last = i128::from(RANGE.1);
        match [1, 1_000].iter().find(|unit| count / **unit <= last) {
            Some(unit) => count / unit,
            None => return Some(Err(BadTimestamp)),
        }
    };
    let millis = i64::try_from(millis).map_err(|_| BadTimestamp);
    Some(millis.map(Timestamp::from_millis))
}

/// Writes a date, with or without a time of day, as RFC 3339. Whether the date exists is not looked
/// at. `None` if the text has not the form.
fn as_rfc3339(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    if rest.is_empty() {
        return Some(format!("{date}T00:00:00Z"));
    }
    let rest = rest.strip_prefix(['T', 't', ' ', '_'])?;
    // As Go writes times: `+0000 UTC`.
    let named = rest.len() - ["UTC", "GMT"].iter().any(|zone| rest.ends_with(zone)) as usize * 3;
    let rest = rest.get(..named)?.trim_end();
    let rest = rest.strip_suffix(['Z', 'z']).unwrap_or(rest).trim_end();
    let (time, offset) = rest.split_at(rest.find(['+', '-']).unwrap_or(rest.len()));
    let offset = match offset.as_bytes() {
        [] => "Z".to_owned(),
        [sign, h1, h2] => format!("{}{}{}:00", *sign as char, *h1 as char, *h2 as char),
        [_, _, _, _, _] => format!("{}:{}", offset.get(..3)?, offset.get(3..)?),
        _ => offset.to_owned(),
    };
    let time = time.trim_end().replace(',', ".");
    let (clock, fraction) = time.split_once('.').unwrap_or((&time, ""));
    let seconds = if clock.len() == 5 { ":00" } else { "" };
    // What is beyond nanoseconds is cut off.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let point = if time.contains('.') { "." } else { "" };
    Some(format!("{date}T{clock}{seconds}{point}{fraction}{offset}"))
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
            number in "[0-9]{0,24}(\\.[0-9]{0,12})?",
            like in "[0-9]{4,5}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?( ?(Z|UTC)|[+-][0-9]{2}:?[0-9]{0,2})?",
        ) {
            for text in [text, number, like] {
                if let Ok(at) = text.parse::<Timestamp>() {
                    prop_assert_eq!(at.to_string().parse(), Ok(at));
                }
            }
        }
    }

    #[test]
    fn times_are_read_as_platforms_write_them() {
        let second = "2021-09-08T06:34:04.000Z";
        let millisecond = "2021-09-08T06:34:04.123Z";
        for (text, at) in [
            ("2021-09-08T06:34:04Z", second),
            ("2021-09-08t06:34:04z", second),
            ("2021-09-08T06:34:04+0000", second),
            ("2021-09-08T06:34:04+00", second),
            ("2021-09-08T06:34:04-00:00", second),
            ("2021-09-08T09:34:04+03:00", second),
            ("2021-09-08T09:34:04+0300", second),
            ("2021-09-08T01:04:04.123-0530", millisecond),
            ("2021-09-08 06:34:04", second),
            ("2021-09-08T06:34:04", second),
            (" 2021-09-08 06:34:04 UTC ", second),
            ("2021-09-08 06:34:04 +0000", second),
            ("2021-09-08 06:34:04.123456 +0000 UTC", millisecond),
            ("2021-09-08T06:34:04.123", millisecond),
            ("2021-09-08T06:34:04,123Z", millisecond),
            ("2021-09-08T06:34:04.123456789012Z", millisecond),
            ("2021-09-08T06:34", "2021-09-08T06:34:00.000Z"),
            ("2021-09-08T06:34Z", "2021-09-08T06:34:00.000Z"),
            ("2021-09-08", "2021-09-08T00:00:00.000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
            ("Wed, 08 Sep 2021 06:34:04 +0000", second),
            ("Wed, 08 Sep 2021 06:34:04 GMT", second),
            ("1631082844", second),
            ("1631082844.123", millisecond),
            ("1631082844.1239999", millisecond),
            ("1631082844.1", "2021-09-08T06:34:04.100Z"),
            ("1631082844123", millisecond),
            ("1631082844123.5", millisecond),
            ("1631082844123456", millisecond),
            ("100000000", "1973-03-03T09:46:40.000Z"),
            ("99999999999", "5138-11-16T09:46:39.000Z"),
            ("100000000000", "1973-03-03T09:46:40.000Z"),
        ] {
            let read = text.parse::<Timestamp>().map(|at| at.to_string());
            assert_eq!(read, Ok(at.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            " ",
            "yesterday",
            "now",
            "0",
            "2021",
            "20210908",
            "-1631082844",
            "99999999",
            "1e9",
            "0x61",
            "2021-02-30",
            "2021-13-01T00:00:00Z",
            "2021-09-08T25:00:00Z",
            "2021-09-08T06:34:04+99:99",
            "2021-09-08T06:34:04+1",
            "2021-09-08X06:34:04Z",
            "2021-09-08T",
            "2021-09-08T06",
            "08/09/2021",
            "2021-09-08T06:34:04.Z",
            "2021-09-08T06:34:04ZZ",
            "99999999999999999999999",
            "1631082844.12.3",
            "1631082844123456789",
            "٢٠٢١-٠٩-٠٨",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(BadTimestamp), "{text}");
        }
        assert!("1".repeat(MAX_TEXT_BYTES + 1).parse::<Timestamp>().is_err());
    }
}
