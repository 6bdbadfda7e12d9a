//! The request header `Prefer` (RFC 7240), of which `wait` is known. What is unknown or wrong is
//! ignored, as the RFC says.

use std::time::Duration;

use axum::http::HeaderMap;

/// Shortest and longest wait that is granted; a wish beyond is taken for the nearest.
const WAIT_SECONDS: (u64, u64) = (1, 30);

/// How long the client would wait for the work to be done, where it says so.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut preferences = fields
        .flat_map(|field| outside_quotes(field, ','))
        .filter_map(preference);
    // Of several of one name the first counts, even if it is wrong.
    let (_, seconds) = preferences.find(|(name, _)| name.eq_ignore_ascii_case("wait"))?;
    let is_number = !seconds.is_empty() && seconds.bytes().all(|c| c.is_ascii_digit());
    let seconds = is_number.then(|| seconds.parse().unwrap_or(u64::MAX))?;
    Some(Duration::from_secs(
        seconds.clamp(WAIT_SECONDS.0, WAIT_SECONDS.1),
    ))
}

/// Name and value of a preference, without its parameters.
fn preference(text: &str) -> Option<(&str, &str)> {
    let preference = outside_quotes(text, ';').next()?;
    let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
    let value = value.trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    Some((name.trim(), quoted.unwrap_or(value)))
}

/// Splits where a separator stands outside `"…"`, in which a backslash takes the next character's
/// meaning.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        splits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", value.parse().unwrap());
        }
        wait(&headers).map(|d| d.as_secs())
    }

    #[test]
    fn wait_is_found_among_others_and_kept_within_its_bounds() {
        for (values, expected) in [
            (&["wait=10"][..], 10),
            (&["respond-async, Wait = \"5\"; x=1"], 5),
            (&["return=minimal", "wait=3"], 3),
            (&["note=\"a, wait=7 \\\" , b\", wait=2"], 2),
            (&["wait=0"], 1),
            (&["wait=31"], 30),
            (&["wait=99999999999999999999999"], 30),
            (&["wait=4, wait=9"], 4),
        ] {
            assert_eq!(seconds(values), Some(expected), "{values:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_ignored() {
        for values in [
            &[][..],
            &[""],
            &["wait"],
            &["wait="],
            &["wait=-1"],
            &["wait=1.5"],
            &["wait=+5"],
            &["wait=ten, wait=10"],
            &["awaits=3"],
            &["x=\"wait=3"],
        ] {
            assert_eq!(seconds(values), None, "{values:?}");
        }
    }
}
