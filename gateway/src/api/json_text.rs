//! Mends the text of a JSON body before it is parsed, where a parser would refuse the whole body, or
//! change a value, for the sake of one of them. What is no JSON stays none: syntax is not looked at.

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// What stands for half of a surrogate pair.
const REPLACEMENT: &str = "\u{fffd}";
/// What some editors and languages put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The digits of a number that 64 bits may not hold, and that can be an id all the same. A longer one
/// is left to the parser.
const LONG_NUMBERS: RangeInclusive<usize> = 19..=64;

/// The body, in which
/// - half of a surrogate pair, as a text that was cut in the middle of an emoji ends with, is U+FFFD,
///   also where it stands as three bytes (CESU-8), and a whole pair of such bytes is its character;
/// - a whole number outside of 64 bits is a text of its digits. Otherwise it would be rounded, and
///   the id that it is would be another one;
/// - there is no byte order mark.
///
/// It grows by two bytes for each such number, of at least 19 digits, at most.
pub fn mended(body: &[u8]) -> Cow<'_, [u8]> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut mended = Vec::new();
    // What comes before is in `mended`.
    let mut copied = 0;
    let mut replace = |from: usize, to: usize, with: &[&[u8]]| {
        mended.extend_from_slice(&body[copied..from]);
        with.iter().for_each(|part| mended.extend_from_slice(part));
        copied = to;
    };
    let mut is_text = false;
    let mut at = 0;
    while let Some(byte) = body.get(at).copied() {
        let mut next = at + 1;
        match byte {
            b'"' => is_text = !is_text,
            b'\\' | 0xed if is_text => match code_unit(body, at) {
                Some(unit) => {
                    let second = code_unit(body, unit.end);
                    let pair = second.as_ref().and_then(|second| unit.with(second));
                    match (pair, second) {
                        (Some(_), Some(second)) if unit.is_escape && second.is_escape => {
                            next = second.end;
                        }
                        (Some(pair), Some(second)) => {
                            next = second.end;
                            replace(at, next, &[pair.to_string().as_bytes()]);
                        }
                        _ => {
                            next = unit.end;
                            if unit.is_surrogate() {
                                replace(at, next, &[REPLACEMENT.as_bytes()]);
                            }
                        }
                    }
                }
                // An escape such as `\"`, or one that the parser refuses.
                None if byte == b'\\' => next = at + 2,
                None => {}
            },
            b'-' | b'0'..=b'9' if !is_text => {
                next = end_of_number(body, at);
                if is_rounded(&body[at..next]) && is_value(body, next) {
                    replace(at, next, &[b"\"", &body[at..next], b"\""]);
                }
            }
            _ => {}
        }
        at = next;
    }
    match copied {
        0 => Cow::Borrowed(body),
        _ => {
            mended.extend_from_slice(&body[copied..]);
            Cow::Owned(mended)
        }
    }
}

/// A unit of UTF-16 in a text.
struct CodeUnit {
    value: u16,
    is_escape: bool,
    /// Where it ends in the body.
    end: usize,
}

impl CodeUnit {
    fn is_surrogate(&self) -> bool {
        matches!(self.value, 0xd800..=0xdfff)
    }

    /// The character that both are together.
    fn with(&self, second: &CodeUnit) -> Option<char> {
        match (self.is_surrogate(), second.is_surrogate()) {
            (true, true) => char::decode_utf16([self.value, second.value]).next()?.ok(),
            _ => None,
        }
    }
}

/// Reads an escape `\uXXXX`, or the three bytes of a surrogate.
fn code_unit(body: &[u8], at: usize) -> Option<CodeUnit> {
    let (value, is_escape, bytes) = match *body.get(at..)? {
        [b'\\', b'u', ref digits @ ..] => {
            let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
            (value, true, 6)
        }
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] => {
            let value = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
            (value, false, 3)
        }
        _ => return None,
    };
    let end = at + bytes;
    Some(CodeUnit {
        value,
        is_escape,
        end,
    })
}

fn end_of_number(body: &[u8], at: usize) -> usize {
    let is_of_number = |c: &&u8| matches!(c, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    at + body[at..].iter().take_while(is_of_number).count()
}

/// Whether a token is a whole number that 64 bits with a sign cannot hold.
fn is_rounded(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    let is_whole = digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
    is_whole
        && LONG_NUMBERS.contains(&digits.len())
        && std::str::from_utf8(token).is_ok_and(|token| token.parse::<i64>().is_err())
}

/// Whether what ends here is a value. Otherwise a number that stands for a name, which is no JSON,
/// would become a name.
fn is_value(body: &[u8], end: usize) -> bool {
    let next = body[end..].iter().find(|c| !c.is_ascii_whitespace());
    next.is_none_or(|next| matches!(next, b',' | b'}' | b']'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(body: &[u8]) -> String {
        String::from_utf8(mended(body).into_owned()).unwrap()
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_a_whole_one_stays() {
        for (body, expected) in [
            (r#"{"a":"see you \ud83d"}"#, "{\"a\":\"see you \u{fffd}\"}"),
            (r#"["\uDC00x"]"#, "[\"\u{fffd}x\"]"),
            (r#"["\ud83d\ude00"]"#, r#"["\ud83d\ude00"]"#),
            (r#"["\ud83d\ud83d\ude00"]"#, "[\"\u{fffd}\\ud83d\\ude00\"]"),
            (r#"["\ude00\ud83d"]"#, "[\"\u{fffd}\u{fffd}\"]"),
            (r#"["\ud83d\u0041"]"#, "[\"\u{fffd}\\u0041\"]"),
            (r#"["\ud83d\n"]"#, "[\"\u{fffd}\\n\"]"),
            (r#"{"\ud83d":1}"#, "{\"\u{fffd}\":1}"),
            // What is escaped is a backslash, and no surrogate.
            (r#"["\\ud83d"]"#, r#"["\\ud83d"]"#),
            (r#"["\\\ud83d"]"#, "[\"\\\\\u{fffd}\"]"),
            (r#"["\"\ud83d"]"#, "[\"\\\"\u{fffd}\"]"),
            // No escape at all: for the parser to refuse.
            (r#"["\ud83"]"#, r#"["\ud83"]"#),
            (r#"["\u+d83"]"#, r#"["\u+d83"]"#),
            (r#"\ud83d"#, r#"\ud83d"#),
            (r#"["\"#, r#"["\"#),
        ] {
            assert_eq!(text(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(text(b"[\"\xed\xa0\xbd\"]"), "[\"\u{fffd}\"]");
        assert_eq!(text(b"[\"\xed\xa0\xbd\xed\xb8\x80\"]"), "[\"\u{1f600}\"]");
        assert_eq!(text(b"[\"\\ud83d\xed\xb8\x80\"]"), "[\"\u{1f600}\"]");
        assert_eq!(
            text("[\"\u{d7ff}\u{d55c}\"]".as_bytes()),
            "[\"\u{d7ff}\u{d55c}\"]"
        );
        assert_eq!(text(b"\xef\xbb\xbf{}"), "{}");
    }

    #[test]
    fn a_whole_number_that_would_be_rounded_is_a_text_of_its_digits() {
        for (number, is_text) in [
            ("17841400008460056123", true),
            ("9223372036854775807", false),
            ("9223372036854775808", true),
            ("-9223372036854775808", false),
            ("-9223372036854775809", true),
            ("123456789012345678901234567890", true),
            ("9007199254740993", false),
            ("17841400008460056123.5", false),
            ("1e30", false),
            ("00000000000000000000001", false),
            ("1-2", false),
            ("5", false),
        ] {
            for (before, after) in [("{\"a\":", "}"), ("[1, ", " , 2]"), ("", ""), ("", " ")] {
                let quoted = if is_text {
                    format!("\"{number}\"")
                } else {
                    number.to_owned()
                };
                let body = format!("{before}{number}{after}");
                assert_eq!(text(body.as_bytes()), format!("{before}{quoted}{after}"));
            }
        }
        let [longest, longer] = [64, 65].map(|digits| format!("[{}]", "1".repeat(digits)));
        assert_ne!(text(longest.as_bytes()), longest);
        assert_eq!(text(longer.as_bytes()), longer);
        for same in [
            r#"{"a":"17841400008460056123"}"#,
            r#"{17841400008460056123:1}"#,
            r#"{"a":"\"17841400008460056123,"}"#,
        ] {
            assert_eq!(text(same.as_bytes()), same);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_mended_once_and_do_not_grow_much(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            like in r#"["\\ud8Def\[\]0-9, -]{0,200}"#,
        ) {
            for body in [bytes.as_slice(), like.as_bytes()] {
                let once = mended(body);
                prop_assert_eq!(mended(&once), once.clone());
                prop_assert!(once.len() <= body.len() + body.len() / 9);
            }
        }

        #[test]
        fn any_text_of_utf16_arrives_with_its_halves_replaced(
            units in proptest::collection::vec(
                prop_oneof![any::<u16>(), 0xd7fe_u16..0xe002, Just(0xd83d), Just(0xde00)],
                0..40,
            ),
            escaped in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let mut body = b"[\"".to_vec();
            for (unit, is_escaped) in units.iter().zip(escaped) {
                match char::from_u32(u32::from(*unit)).filter(|c| !c.is_control()) {
                    Some(c) if !is_escaped && !['"', '\\'].contains(&c) => {
                        body.extend(c.to_string().bytes());
                    }
                    None if !is_escaped && *unit >= 0xd800 => {
                        let [second, third] = [unit >> 6 & 0x3f, unit & 0x3f];
                        body.extend([0xed, 0x80 | second as u8, 0x80 | third as u8]);
                    }
                    _ => body.extend(format!("\\u{unit:04x}").bytes()),
                }
            }
            body.extend(b"\"]");
            let read: [String; 1] = serde_json::from_slice(&mended(&body)).unwrap();
            prop_assert_eq!(&read[0], &String::from_utf16_lossy(&units));
        }

        #[test]
        fn what_a_json_writer_writes_stays_as_it_is(text in ".{0,40}", number: i64) {
            let body = serde_json::json!({ text.clone(): [number, text] }).to_string();
            prop_assert!(matches!(mended(body.as_bytes()), Cow::Borrowed(same) if same == body.as_bytes()));
        }
    }
}
