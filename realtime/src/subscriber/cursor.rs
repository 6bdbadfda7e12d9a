//! Where a client's events shall begin, as clients of any library can say it. Reads no log.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The greatest whole number up to which JSON libraries keep every number exact.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The `last_seq` of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The client has every event up to this sequence.
    After(u64),
    /// The client says something that is no sequence. The client gets `resync`: a refusal would
    /// lock out a page that has stored it.
    Unusable,
}

impl Cursor {
    /// Reads a text. Some clients can send nothing but texts.
    pub fn from_text(text: &str) -> Cursor {
        let text = text.trim();
        let exact = text.parse().ok();
        let seq = exact.or_else(|| match text.parse::<f64>() {
            // Some libraries write each number as a fraction.
            Ok(number) if number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&number) => {
                Some(number as u64)
            }
            _ => None,
        });
        seq.map_or(Cursor::Unusable, Cursor::After)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Number(number) => Cursor::from_text(&number.to_string()),
            Value::String(text) => Cursor::from_text(&text),
            _ => Cursor::Unusable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sequence_is_a_number_or_its_text_and_all_else_is_unusable() {
        for (json, cursor) in [
            ("7", Cursor::After(7)),
            ("0", Cursor::After(0)),
            ("7.0", Cursor::After(7)),
            ("1e2", Cursor::After(100)),
            (r#""7""#, Cursor::After(7)),
            (r#"" 7\n""#, Cursor::After(7)),
            (r#""7.0""#, Cursor::After(7)),
            ("18446744073709551615", Cursor::After(u64::MAX)),
            ("-1", Cursor::Unusable),
            ("7.5", Cursor::Unusable),
            ("1e300", Cursor::Unusable),
            (r#""""#, Cursor::Unusable),
            (r#""-1""#, Cursor::Unusable),
            (r#""undefined""#, Cursor::Unusable),
            (r#""null""#, Cursor::Unusable),
            (r#""NaN""#, Cursor::Unusable),
            (r#""inf""#, Cursor::Unusable),
            (r#""0x7""#, Cursor::Unusable),
            (r#""18446744073709551616""#, Cursor::Unusable),
            ("true", Cursor::Unusable),
            ("[7]", Cursor::Unusable),
            (r#"{"seq":7}"#, Cursor::Unusable),
        ] {
            assert_eq!(
                serde_json::from_str::<Cursor>(json).ok(),
                Some(cursor),
                "{json}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_sequence_is_read_as_written(seq in any::<u64>()) {
            prop_assert_eq!(Cursor::from_text(&seq.to_string()), Cursor::After(seq));
        }

        #[test]
        fn reading_any_text_does_not_panic(text in any::<String>()) {
            Cursor::from_text(&text);
        }
    }
}
