//! Decides what the end of a token's exchange means, in one table for the Graph API and for OAuth,
//! and how long a repetition waits. Knows neither HTTP client nor NATS.

use std::time::Duration;

use runtime::net::backoff::Backoff;
use runtime::net::http_client::Ending;
use secrecy::SecretString;
use serde::Deserialize;

/// The pauses between two exchanges of a token.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30 * 60),
    shortest: Duration::from_millis(100),
    // Otherwise a wrong header could use up a token's days.
    longest_retry_after: Duration::from_secs(6 * 3_600),
};
/// Characters of a token, the same limit as the gateway's. A longer token is not taken.
const TOKEN_CHARS: usize = 4_096;
/// Seconds of a token's lifetime. A token with a longer lifetime counts as one that never expires.
const LONGEST_LIFETIME: u64 = 10 * 365 * 86_400;

/// Graph codes of temporary errors: an unknown error, an unavailable service, and limits on the
/// calls of an app, a user or a page.
const TEMPORARY: &[i64] = &[1, 2, 4, 17, 32, 341, 613];
/// Graph codes of an invalid token: its session has ended, or the token has expired or was revoked.
const INVALID_TOKEN: &[i64] = &[102, 190];
/// Temporary OAuth errors (RFC 6749, section 5.2, and Google's own). `invalid_client` is a mistake
/// in the scheduler's settings, not the company's. Because an operator can correct it, no staff
/// have to connect again.
const TEMPORARY_OAUTH: &[&str] = &[
    "invalid_client",
    "rate_limit_exceeded",
    "temporarily_unavailable",
];
/// The OAuth error of an invalid refresh token: the token has expired or was revoked.
const INVALID_GRANT: &str = "invalid_grant";
/// Characters of an OAuth error. A longer one, which is none of the known errors, is not passed on.
const OAUTH_ERROR_CHARS: usize = 40;

/// The consequence of an exchange.
#[derive(Debug)]
pub enum Verdict {
    /// The answer has a new token.
    Renewed(RenewedToken),
    /// A later exchange may succeed.
    Retry {
        /// Short text for staff, without tokens.
        error: String,
        /// The least time that the platform asks to wait.
        retry_after: Option<Duration>,
    },
    /// No later exchange can succeed. Staff have to connect again.
    Reject {
        /// Short text for staff, without tokens.
        error: String,
    },
}

/// A new token.
#[derive(Debug)]
pub struct RenewedToken {
    pub token: SecretString,
    /// The new refresh token, if the platform gives one.
    pub refresh_token: Option<SecretString>,
    /// How long the token is valid; `None` if the platform does not say.
    pub lifetime: Option<Duration>,
}

/// The body of a successful answer.
#[derive(Deserialize)]
struct Exchanged {
    access_token: SecretString,
    #[serde(default)]
    refresh_token: Option<SecretString>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// The error in the body of an answer.
enum Code {
    /// Of the Graph API: `{"error": {"code": 190}}`.
    Graph(i64),
    /// Of OAuth: `{"error": "invalid_grant"}`.
    OAuth(String),
}

impl Code {
    fn read(body: &[u8]) -> Option<Code> {
        let error = serde_json::from_slice::<serde_json::Value>(body)
            .ok()?
            .get("error")?
            .clone();
        let is_name = |text: &&str| {
            text.len() <= OAUTH_ERROR_CHARS
                && text.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
        };
        match error.as_str() {
            Some(text) => Some(text)
                .filter(is_name)
                .map(|text| Code::OAuth(text.to_owned())),
            None => error.get("code")?.as_i64().map(Code::Graph),
        }
    }

    fn is_of_invalid_token(&self) -> bool {
        match self {
            Code::Graph(code) => INVALID_TOKEN.contains(code),
            Code::OAuth(error) => error == INVALID_GRANT,
        }
    }

    fn is_temporary(&self) -> bool {
        match self {
            Code::Graph(code) => TEMPORARY.contains(code),
            Code::OAuth(error) => TEMPORARY_OAUTH.contains(&error.as_str()),
        }
    }
}

/// Judges the end of an exchange.
pub fn judge(ending: &Ending) -> Verdict {
    let retry = |error: &str, retry_after| Verdict::Retry {
        error: error.to_owned(),
        retry_after,
    };
    let answer = match ending {
        Ending::NoConnection => return retry("no connection to the platform", None),
        Ending::TimedOut => return retry("no answer from the platform in time", None),
        Ending::Broken => return retry("the connection to the platform broke", None),
        Ending::Answered(answer) => answer,
    };
    let (status, retry_after) = (answer.status, answer.retry_after);
    // Without the body the status does not say enough: the Graph API answers 400 to too many calls.
    let Some(body) = answer.body.whole() else {
        return retry(
            &format!("HTTP {status}, an answer that cannot be read"),
            retry_after,
        );
    };
    let code = Code::read(body);
    let error = match &code {
        None => format!("HTTP {status}"),
        Some(Code::Graph(code)) => format!("HTTP {status}, Graph code {code}"),
        Some(Code::OAuth(error)) => format!("HTTP {status}, {error}"),
    };
    match (status, code) {
        (_, Some(code)) if code.is_of_invalid_token() => Verdict::Reject {
            error: format!("{error}: the token is invalid"),
        },
        (_, Some(code)) if code.is_temporary() => Verdict::Retry { error, retry_after },
        (200..=299, _) => renewed_token(body).map_or_else(
            || retry("an answer without a token", retry_after),
            Verdict::Renewed,
        ),
        (401 | 403, _) => Verdict::Reject {
            error: format!("{error}: access refused"),
        },
        (408 | 425 | 429 | 500..=599, _) => Verdict::Retry { error, retry_after },
        (400..=499, _) => Verdict::Reject { error },
        // Probably a redirect, because the address in the settings is wrong. An operator can
        // correct the address before the token expires.
        _ => Verdict::Retry { error, retry_after },
    }
}

fn renewed_token(body: &[u8]) -> Option<RenewedToken> {
    use secrecy::ExposeSecret;
    let Exchanged {
        access_token,
        refresh_token,
        expires_in,
    } = serde_json::from_slice(body).ok()?;
    let is_token = |token: &SecretString| {
        let text = token.expose_secret();
        (1..=TOKEN_CHARS).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
    };
    let lifetime = expires_in
        .filter(|seconds| (1..=LONGEST_LIFETIME).contains(seconds))
        .map(Duration::from_secs);
    let is_valid = is_token(&access_token) && refresh_token.as_ref().is_none_or(is_token);
    is_valid.then_some(RenewedToken {
        token: access_token,
        refresh_token,
        lifetime,
    })
}

/// The pause after exchange number `attempt` (from 1) has failed; see [`Backoff::pause`].
pub fn pause(attempt: u64, retry_after: Option<Duration>, jitter: f64) -> Duration {
    BACKOFF.pause(attempt, retry_after, jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use runtime::net::http_client::{Answer, Body};
    use secrecy::ExposeSecret;

    fn answered(status: u16, body: &str) -> Ending {
        Ending::Answered(Answer {
            status,
            retry_after: None,
            body: Body::Whole(body.into()),
        })
    }

    fn unread(status: u16) -> Ending {
        Ending::Answered(Answer {
            status,
            retry_after: None,
            body: Body::Part(Vec::new()),
        })
    }

    fn coded(status: u16, code: i64) -> Ending {
        answered(
            status,
            &format!(
                r#"{{"error":{{"message":"EAAB-secret","type":"OAuthException","code":{code}}}}}"#
            ),
        )
    }

    fn oauth(status: u16, error: &str) -> Ending {
        answered(
            status,
            &format!(r#"{{"error":"{error}","error_description":"EAAB-secret"}}"#),
        )
    }

    #[test]
    fn an_ending_is_judged_by_status_and_error_code() {
        let rows = [
            (
                Ending::NoConnection,
                "retry",
                "no connection to the platform",
            ),
            (
                Ending::TimedOut,
                "retry",
                "no answer from the platform in time",
            ),
            (
                Ending::Broken,
                "retry",
                "the connection to the platform broke",
            ),
            (
                coded(400, 190),
                "reject",
                "HTTP 400, Graph code 190: the token is invalid",
            ),
            (
                coded(401, 190),
                "reject",
                "HTTP 401, Graph code 190: the token is invalid",
            ),
            (
                coded(500, 190),
                "reject",
                "HTTP 500, Graph code 190: the token is invalid",
            ),
            (
                coded(200, 190),
                "reject",
                "HTTP 200, Graph code 190: the token is invalid",
            ),
            (
                coded(400, 102),
                "reject",
                "HTTP 400, Graph code 102: the token is invalid",
            ),
            (coded(400, 1), "retry", "HTTP 400, Graph code 1"),
            (coded(400, 2), "retry", "HTTP 400, Graph code 2"),
            (coded(400, 4), "retry", "HTTP 400, Graph code 4"),
            (coded(400, 17), "retry", "HTTP 400, Graph code 17"),
            (coded(403, 32), "retry", "HTTP 403, Graph code 32"),
            (coded(400, 341), "retry", "HTTP 400, Graph code 341"),
            (coded(400, 613), "retry", "HTTP 400, Graph code 613"),
            (coded(400, 100), "reject", "HTTP 400, Graph code 100"),
            (
                coded(403, 10),
                "reject",
                "HTTP 403, Graph code 10: access refused",
            ),
            (answered(200, "{}"), "retry", "an answer without a token"),
            (answered(200, ""), "retry", "an answer without a token"),
            (
                answered(200, r#"{"access_token":"two words"}"#),
                "retry",
                "an answer without a token",
            ),
            (
                answered(200, r#"{"access_token":""}"#),
                "retry",
                "an answer without a token",
            ),
            (
                oauth(400, "invalid_grant"),
                "reject",
                "HTTP 400, invalid_grant: the token is invalid",
            ),
            (
                oauth(401, "invalid_grant"),
                "reject",
                "HTTP 401, invalid_grant: the token is invalid",
            ),
            (
                oauth(401, "invalid_client"),
                "retry",
                "HTTP 401, invalid_client",
            ),
            (
                oauth(400, "invalid_client"),
                "retry",
                "HTTP 400, invalid_client",
            ),
            (
                oauth(403, "rate_limit_exceeded"),
                "retry",
                "HTTP 403, rate_limit_exceeded",
            ),
            (
                oauth(503, "temporarily_unavailable"),
                "retry",
                "HTTP 503, temporarily_unavailable",
            ),
            (
                oauth(400, "temporarily_unavailable"),
                "retry",
                "HTTP 400, temporarily_unavailable",
            ),
            (
                oauth(400, "unauthorized_client"),
                "reject",
                "HTTP 400, unauthorized_client",
            ),
            (oauth(429, "slow_down"), "retry", "HTTP 429, slow_down"),
            (
                oauth(500, "internal_failure"),
                "retry",
                "HTTP 500, internal_failure",
            ),
            (oauth(400, "EAAB-secret"), "reject", "HTTP 400"),
            (oauth(400, &"x".repeat(41)), "reject", "HTTP 400"),
            (
                answered(
                    200,
                    r#"{"access_token":"EAAB","refresh_token":"two words"}"#,
                ),
                "retry",
                "an answer without a token",
            ),
            (answered(401, ""), "reject", "HTTP 401: access refused"),
            (answered(403, "{}"), "reject", "HTTP 403: access refused"),
            (answered(408, ""), "retry", "HTTP 408"),
            (answered(425, ""), "retry", "HTTP 425"),
            (answered(429, ""), "retry", "HTTP 429"),
            (answered(500, ""), "retry", "HTTP 500"),
            (answered(599, "<html>"), "retry", "HTTP 599"),
            (answered(400, ""), "reject", "HTTP 400"),
            (answered(404, ""), "reject", "HTTP 404"),
            (answered(302, ""), "retry", "HTTP 302"),
            (
                unread(400),
                "retry",
                "HTTP 400, an answer that cannot be read",
            ),
            (
                unread(403),
                "retry",
                "HTTP 403, an answer that cannot be read",
            ),
            (
                unread(200),
                "retry",
                "HTTP 200, an answer that cannot be read",
            ),
        ];
        for (ending, expected, text) in rows {
            let (label, error) = match judge(&ending) {
                Verdict::Renewed(_) => ("renewed", String::new()),
                Verdict::Retry { error, .. } => ("retry", error),
                Verdict::Reject { error } => ("reject", error),
            };
            assert_eq!((label, error.as_str()), (expected, text), "{ending:?}");
        }
    }

    #[test]
    fn the_lifetime_is_read_from_the_answer_if_it_is_plausible() {
        for (more, lives) in [
            ("", None),
            (
                r#","token_type":"bearer","expires_in":5183944"#,
                Some(5_183_944),
            ),
            (r#","expires_in":null"#, None),
            (r#","expires_in":0"#, None),
            (r#","expires_in":18446744073709551615"#, None),
        ] {
            let Verdict::Renewed(renewed) = judge(&answered(
                200,
                &format!(r#"{{"access_token":"EAAB-new"{more}}}"#),
            )) else {
                panic!("{more}")
            };
            assert_eq!(
                (renewed.token.expose_secret(), renewed.lifetime),
                ("EAAB-new", lives.map(Duration::from_secs)),
                "{more}"
            );
            assert!(!format!("{renewed:?}").contains("EAAB"));
        }
    }

    #[test]
    fn a_new_refresh_token_is_read_from_the_answer() {
        for (more, refresh_token) in [
            ("", None),
            (r#","refresh_token":null"#, None),
            (r#","refresh_token":"1//next""#, Some("1//next")),
        ] {
            let Verdict::Renewed(renewed) = judge(&answered(
                200,
                &format!(r#"{{"access_token":"ya29.new"{more}}}"#),
            )) else {
                panic!("{more}")
            };
            assert_eq!(
                renewed.refresh_token.as_ref().map(|t| t.expose_secret()),
                refresh_token,
                "{more}"
            );
        }
    }

    #[test]
    fn a_retry_after_is_passed_on() {
        let retry_after = Some(Duration::from_secs(7));
        for (status, body) in [(429, ""), (503, ""), (400, r#"{"error":{"code":4}}"#)] {
            let ending = Ending::Answered(Answer {
                status,
                retry_after,
                body: Body::Whole(body.into()),
            });
            let Verdict::Retry {
                retry_after: asked, ..
            } = judge(&ending)
            else {
                panic!("{status}")
            };
            assert_eq!(asked, retry_after, "{status}");
        }
    }

    /// A JSON value, with the field names of real answers now and then.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Into::into),
            prop_oneof![Just(4_i64), Just(102), Just(190)].prop_map(Into::into),
            "invalid_grant|temporarily_unavailable|[ -~]{0,50}|\\PC{0,20}"
                .prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = "error|code|access_token|refresh_token|expires_in|[a-z]{1,4}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(name, inner, 0..6)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    fn is_token(token: &SecretString) -> bool {
        let text = token.expose_secret();
        !text.is_empty() && text.len() <= TOKEN_CHARS && text.bytes().all(|c| c.is_ascii_graphic())
    }

    /// The properties of every verdict, whatever the platform has answered.
    fn check(status: u16, verdict: &Verdict) -> Result<(), TestCaseError> {
        match verdict {
            Verdict::Renewed(renewed) => {
                prop_assert!((200..=299).contains(&status));
                prop_assert!(is_token(&renewed.token));
                prop_assert!(renewed.refresh_token.as_ref().is_none_or(is_token));
                let longest = Duration::from_secs(LONGEST_LIFETIME);
                prop_assert!(renewed.lifetime.is_none_or(|lifetime| lifetime <= longest));
            }
            Verdict::Retry { error, .. } | Verdict::Reject { error } => {
                prop_assert!(!error.is_empty() && error.len() <= 100, "{error}");
                prop_assert!(error.bytes().all(|c| c == b' ' || c.is_ascii_graphic()));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            status in 100u16..=599,
            body in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let text = String::from_utf8_lossy(&body).into_owned();
            let verdict = judge(&answered(status, &text));
            prop_assert!(!matches!(verdict, Verdict::Renewed(_)));
            check(status, &verdict)?;
        }

        #[test]
        fn any_json_is_judged(status in 100u16..=599, body in json()) {
            check(status, &judge(&answered(status, &body.to_string())))?;
        }

        #[test]
        fn an_error_text_never_contains_a_token(
            status in 100u16..=599,
            token in "EAAB[A-Za-z0-9]{8,60}",
            code in any::<i64>(),
        ) {
            for body in [
                format!(r#"{{"error":"{token}"}}"#),
                format!(r#"{{"error":{{"code":{code},"message":"{token}"}}}}"#),
                format!(r#"{{"error":{{"code":"{token}"}},"access_token":"{token}"}}"#),
            ] {
                let error = match judge(&answered(status, &body)) {
                    Verdict::Renewed(_) => continue,
                    Verdict::Retry { error, .. } | Verdict::Reject { error } => error,
                };
                prop_assert!(!error.contains(&token), "{error}");
            }
        }

        #[test]
        fn a_valid_answer_is_read_completely(
            token in "[!-~]{1,60}",
            refresh_token in prop::option::of("[!-~]{1,60}"),
            seconds in prop::option::of(1..=LONGEST_LIFETIME),
        ) {
            let body = serde_json::json!({
                "access_token": token,
                "refresh_token": refresh_token,
                "expires_in": seconds,
            });
            let Verdict::Renewed(renewed) = judge(&answered(200, &body.to_string())) else {
                return Err(TestCaseError::fail("not renewed"));
            };
            prop_assert_eq!(renewed.token.expose_secret(), token);
            let read = renewed.refresh_token.as_ref().map(|token| token.expose_secret());
            prop_assert_eq!(read, refresh_token.as_deref());
            prop_assert_eq!(renewed.lifetime, seconds.map(Duration::from_secs));
        }
    }

    #[test]
    fn the_pause_doubles_up_to_half_an_hour_and_is_at_least_what_was_asked_for() {
        for (attempt, seconds) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (11, 1_024),
            (12, 1_800),
            (u64::MAX, 1_800),
        ] {
            assert_eq!(
                pause(attempt, None, 1.0),
                Duration::from_secs(seconds),
                "attempt {attempt}"
            );
        }
        assert_eq!(pause(3, None, 0.5), Duration::from_secs(2));
        assert_eq!(pause(1, None, 0.0), BACKOFF.shortest);
        assert_eq!(
            pause(1, Some(Duration::from_secs(30)), 1.0),
            Duration::from_secs(30)
        );
        assert_eq!(
            pause(1, Some(Duration::from_secs(86_400 * 365)), 1.0),
            BACKOFF.longest_retry_after
        );
    }
}
