//! The request header `Prefer` (RFC 7240), of which the preference `wait` is known. Unknown and
//! wrong preferences are ignored, as the RFC says. Waits for nothing.

use std::time::Duration;

use axum::http::HeaderMap;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

/// The name of the header.
const NAME: &str = "Prefer";
/// The shortest and the longest wait that is granted, in seconds. A wish beyond is taken for the
/// nearer one.
const WAIT_SECONDS: (u64, u64) = (1, 30);

/// The header in the OpenAPI document.
pub fn parameter() -> Parameter {
    let kind = SchemaType::from_iter([Type::String, Type::Null]);
    ParameterBuilder::new()
        .name(NAME)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(format!(
            "`wait=N`: answer once the bot has taken the message, or after N seconds, at most {}.",
            WAIT_SECONDS.1
        )))
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .build()
}

/// How long the client would wait for the delivery, where it says so.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers
        .get_all(NAME)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut preferences = fields
        .flat_map(|field| outside_quotes(field, ','))
        .filter_map(preference);
    // Of several preferences of one name the first counts, even if it is wrong.
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

/// Splits a text at each separator outside `"…"`. Inside, a backslash takes the meaning of the next
/// character.
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
    use proptest::prelude::*;

    use super::*;

    fn seconds(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, value.parse().unwrap());
        }
        wait(&headers).map(|d| d.as_secs())
    }

    #[test]
    fn wait_is_found_among_other_preferences_and_kept_within_its_bounds() {
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
    fn a_wrong_wait_is_ignored() {
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

    proptest! {
        #[test]
        fn any_header_gives_a_wait_within_the_bounds_or_none(
            value in r#"[ -~]{0,64}"#,
            more in r#"[wait=0-9;,"\\ ]{0,64}"#,
        ) {
            if let Some(seconds) = seconds(&[&value, &more]) {
                prop_assert!((WAIT_SECONDS.0..=WAIT_SECONDS.1).contains(&seconds));
            }
        }

        #[test]
        fn a_wait_is_found_behind_any_other_preference(
            other in r#"[a-v]{1,8}(="[ a-z,;=]{0,16}")?"#,
            wait in 1_u64..=30,
        ) {
            let header = format!("{other}, wait={wait}");
            prop_assert_eq!(seconds(&[&header]), Some(wait));
        }
    }
}
