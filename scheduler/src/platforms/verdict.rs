//! What the end of a token's exchange means: the one table of it, for the Graph API and for OAuth,
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
/// Longest token, as the gateway takes it.
const TOKEN_CHARS: usize = 4_096;
/// A token that lives longer than this counts as one without an end.
const LONGEST_LIFE: u64 = 10 * 365 * 86_400;

/// Graph codes of what may pass: an unknown error, the service being down, and limits on calls of
/// an app, a user, a page.
const PASSING: &[i64] = &[1, 2, 4, 17, 32, 341, 613];
/// Graph codes of a token that is good for nothing any more: a session that ended, a token that
/// expired or was revoked.
const INVALID_TOKEN: &[i64] = &[102, 190];
/// OAuth errors (RFC 6749, section 5.2, and Google's) of what may pass. `invalid_client` is a
/// mistake of ours, not of the company: whoever runs the schedulers mends it, and nobody has to
/// connect again.
const PASSING_OAUTH: &[&str] = &[
    "invalid_client",
    "rate_limit_exceeded",
    "temporarily_unavailable",
];
/// The OAuth error of a refresh token that is good for nothing any more: it expired or was revoked.
const INVALID_GRANT: &str = "invalid_grant";
/// Longest OAuth error that is passed on. All known ones are shorter.
const OAUTH_ERROR_CHARS: usize = 40;

/// What follows from an exchange.
#[derive(Debug)]
pub enum Verdict {
    /// There is a new token.
    Renewed(Fresh),
    /// It may work later.
    Retry {
        /// Short text for staff, without tokens.
        error: String,
        /// What the platform asks to wait at least.
        after: Option<Duration>,
    },
    /// It will never work: staff have to connect again.
    Reject {
        /// Short text for staff, without tokens.
        error: String,
    },
}

/// A new token.
#[derive(Debug)]
pub struct Fresh {
    /// The token.
    pub token: SecretString,
    /// What takes the place of the refresh token, if the platform gave another.
    pub refresh_token: Option<SecretString>,
    /// How long the platform will take it; `None` if it does not say.
    pub lives: Option<Duration>,
}

/// A good answer.
#[derive(Deserialize)]
struct Exchanged {
    access_token: SecretString,
    #[serde(default)]
    refresh_token: Option<SecretString>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What an answer gives as its error.
enum Code {
    /// Of the Graph API: `{"error": {"code": 190}}`.
    Graph(i64),
    /// Of OAuth: `{"error": "invalid_grant"}`.
    OAuth(String),
}

impl Code {
    fn of(body: &[u8]) -> Option<Code> {
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

    fn may_pass(&self) -> bool {
        match self {
            Code::Graph(code) => PASSING.contains(code),
            Code::OAuth(error) => PASSING_OAUTH.contains(&error.as_str()),
        }
    }
}

/// The table.
pub fn judge(ending: &Ending) -> Verdict {
    let retry = |error: &str, after| Verdict::Retry {
        error: error.to_owned(),
        after,
    };
    let answer = match ending {
        Ending::NoConnection => return retry("no connection to the platform", None),
        Ending::TimedOut => return retry("no answer from the platform in time", None),
        Ending::Broken => return retry("the connection to the platform broke", None),
        Ending::Answered(answer) => answer,
    };
    let (status, after) = (answer.status, answer.retry_after);
    // The status alone does not tell: Graph's limits come as 400 too.
    let Some(body) = answer.body.whole() else {
        return retry(
            &format!("HTTP {status}, an answer that cannot be read"),
            after,
        );
    };
    let code = Code::of(body);
    let told = match &code {
        None => format!("HTTP {status}"),
        Some(Code::Graph(code)) => format!("HTTP {status}, Graph code {code}"),
        Some(Code::OAuth(error)) => format!("HTTP {status}, {error}"),
    };
    match (status, code) {
        (_, Some(code)) if code.is_of_invalid_token() => Verdict::Reject {
            error: format!("{told}: the token is invalid"),
        },
        (_, Some(code)) if code.may_pass() => Verdict::Retry { error: told, after },
        (200..=299, _) => fresh(body).map_or_else(
            || retry("an answer without a token", after),
            Verdict::Renewed,
        ),
        (401 | 403, _) => Verdict::Reject {
            error: format!("{told}: access refused"),
        },
        (408 | 425 | 429 | 500..=599, _) => Verdict::Retry { error: told, after },
        (400..=499, _) => Verdict::Reject { error: told },
        // A redirect, most likely: the address is wrong, which can be mended before the token
        // expires.
        _ => Verdict::Retry { error: told, after },
    }
}

fn fresh(body: &[u8]) -> Option<Fresh> {
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
    let lives = expires_in
        .filter(|seconds| (1..=LONGEST_LIFE).contains(seconds))
        .map(Duration::from_secs);
    let good = is_token(&access_token) && refresh_token.as_ref().is_none_or(is_token);
    good.then_some(Fresh {
        token: access_token,
        refresh_token,
        lives,
    })
}

/// The pause after the try number `attempt` (from 1) has failed; see [`Backoff::pause`].
pub fn pause(attempt: u64, retry_after: Option<Duration>, jitter: f64) -> Duration {
    BACKOFF.pause(attempt, retry_after, jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn every_row() {
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
    fn a_token_comes_with_its_life_if_the_platform_says_it() {
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
            let Verdict::Renewed(fresh) = judge(&answered(
                200,
                &format!(r#"{{"access_token":"EAAB-new"{more}}}"#),
            )) else {
                panic!("{more}")
            };
            assert_eq!(
                (fresh.token.expose_secret(), fresh.lives),
                ("EAAB-new", lives.map(Duration::from_secs)),
                "{more}"
            );
            assert!(!format!("{fresh:?}").contains("EAAB"));
        }
    }

    #[test]
    fn another_refresh_token_comes_with_it_if_the_platform_gives_one() {
        for (more, refresh_token) in [
            ("", None),
            (r#","refresh_token":null"#, None),
            (r#","refresh_token":"1//next""#, Some("1//next")),
        ] {
            let Verdict::Renewed(fresh) = judge(&answered(
                200,
                &format!(r#"{{"access_token":"ya29.new"{more}}}"#),
            )) else {
                panic!("{more}")
            };
            assert_eq!(
                fresh.refresh_token.as_ref().map(|t| t.expose_secret()),
                refresh_token,
                "{more}"
            );
        }
    }

    #[test]
    fn what_the_platform_asks_for_is_passed_on() {
        let after = Some(Duration::from_secs(7));
        for (status, body) in [(429, ""), (503, ""), (400, r#"{"error":{"code":4}}"#)] {
            let ending = Ending::Answered(Answer {
                status,
                retry_after: after,
                body: Body::Whole(body.into()),
            });
            assert!(
                matches!(judge(&ending), Verdict::Retry { after: asked, .. } if asked == after),
                "{status}"
            );
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
