//! Times as settings write them: `500ms`, `30s`, `15m`, `24h`, `7d`.

use std::time::Duration;

/// Milliseconds of each unit, the longest first.
const UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a time. A bare number means seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "ms" => Some(Duration::from_millis(n)),
        "" | "s" => Some(Duration::from_secs(n)),
        "m" => n.checked_mul(60).map(Duration::from_secs),
        "h" => n.checked_mul(3_600).map(Duration::from_secs),
        "d" => n.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

/// Writes a time in the longest unit that needs no fraction. A single day is `24h`.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, size) = UNITS
        .into_iter()
        .find(|(unit, size)| millis.is_multiple_of(*size) && (*unit != "d" || millis != *size))
        .unwrap_or(("ms", 1));
    match millis {
        0 => "0s".into(),
        _ => format!("{}{unit}", millis / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("15m", 900),
            ("7d", 604_800),
            ("30", 30),
            ("24h", 86_400),
            ("2 s", 2),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "m", "5y", "-1s", "99999999999999999999d", "é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_written_duration_reads_as_the_same() {
        for text in ["0s", "500ms", "1500ms", "90s", "15m", "24h", "36h", "7d"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(show_duration(duration), text);
        }
    }
}
