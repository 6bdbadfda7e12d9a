//! Decides what the end of a token's exchange means, for the Graph API and for OAuth, and how long a
//! repetition waits. Knows neither HTTP client nor NATS. What a code of the Graph API is about stands
//! in `runtime::net::platform_error`.

use std::time::Duration;

use runtime::net::backoff::Backoff;
use runtime::net::http_client::Ending;
use runtime::net::platform_error::{About, GraphError, Reply, tidy};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

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

/// Temporary OAuth errors (RFC 6749, section 5.2, and Google's own). `invalid_client` and the two
/// after it are mistakes in the scheduler's settings, not the company's. Because an operator can
/// correct them, no staff have to connect again.
const TEMPORARY_OAUTH: &[&str] = &[
    "invalid_client",
    "deleted_client",
    "disabled_client",
    "internal_failure",
    "rate_limit_exceeded",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
];
/// The OAuth error of an invalid refresh token.
const INVALID_GRANT: &str = "invalid_grant";
/// Characters of an OAuth error's name. A longer one is not a name.
const OAUTH_ERROR_CHARS: usize = 40;
/// Statuses about the address, a proxy or the connection. They say nothing about a token, unless
/// they come with an error of the Graph API.
const ROAD_STATUSES: &[u16] = &[404, 405, 407, 421, 426];

/// What Google means by [`INVALID_GRANT`], by words of its description or its subtype: the meaning
/// for staff, and whether it may pass. The first row that matches counts.
const GRANTS: &[(&[&str], &str, bool)] = &[
    (
        &["invalid_rapt", "rapt_required", "reauth related"],
        "the organisation asks for a new sign-in",
        false,
    ),
    (
        &["invalid jwt", "clock", "in the future", "short-lived token"],
        "the clock of this server may be wrong",
        true,
    ),
    (
        &["another client", "client mismatch", "mismatched client"],
        "the token was given to another app",
        true,
    ),
    (
        &["been deleted", "was deleted", "user does not exist"],
        "the account was deleted",
        false,
    ),
    (
        &["disabled", "suspended", "account restricted"],
        "the account is disabled",
        false,
    ),
    (
        &["revoked", "expired"],
        "the token has expired or was revoked",
        false,
    ),
];

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
    /// Seconds: a number, or the text of one. Some servers leave them out.
    #[serde(default)]
    expires_in: Value,
}

/// An error of OAuth: `{"error": "invalid_grant", "error_description": "…"}`.
struct OAuthError {
    name: String,
    /// Description and subtype, in lower case.
    details: String,
    /// The description, fit for staff.
    words: Option<String>,
}

impl OAuthError {
    fn read(body: &[u8], secrets: &[&str]) -> Option<OAuthError> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let name = text("error").filter(|name| {
            name.len() <= OAUTH_ERROR_CHARS
                && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
        })?;
        let description = text("error_description").unwrap_or_default();
        let subtype = text("error_subtype").unwrap_or_default();
        Some(OAuthError {
            name: name.to_owned(),
            details: format!("{description} {subtype}").to_lowercase(),
            words: tidy(description, secrets),
        })
    }

    fn judge(&self, status: u16, retry_after: Option<Duration>) -> Verdict {
        let text = |meaning: Option<&str>| {
            let mut text = format!("HTTP {status}, {}", self.name);
            for part in [meaning, self.words.as_deref()].into_iter().flatten() {
                text += ": ";
                text += part;
            }
            text
        };
        if self.name == INVALID_GRANT {
            let has = |words: &[&str]| words.iter().any(|word| self.details.contains(word));
            let known = GRANTS.iter().find(|(words, ..)| has(words));
            return match known {
                Some((_, meaning, true)) => Verdict::Retry {
                    error: text(Some(meaning)),
                    retry_after,
                },
                known => Verdict::Reject {
                    error: text(Some(known.map_or("the token is invalid", |row| row.1))),
                },
            };
        }
        if TEMPORARY_OAUTH.contains(&self.name.as_str()) || ROAD_STATUSES.contains(&status) {
            return Verdict::Retry {
                error: text(None),
                retry_after,
            };
        }
        by_status(status, retry_after, text)
    }
}

/// Judges the end of an exchange. `secrets` are hidden in the texts for staff.
///
/// Only an error of the Graph API or of OAuth is a verdict about the token. Any other answer comes
/// from a proxy, a firewall or a wrong address, which an operator can correct before the token
/// expires.
pub fn judge(ending: &Ending, secrets: &[&str]) -> Verdict {
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
    let reply = Reply::read(body, secrets);
    if (200..=299).contains(&status) && !reply.is_failure {
        return renewed_token(body).map_or_else(
            || retry("an answer without a token", retry_after),
            Verdict::Renewed,
        );
    }
    let text = |meaning: Option<&str>| reply.describe(status, meaning);
    match reply.graph().map(GraphError::about) {
        Some(About::Token) => Verdict::Reject {
            error: text(Some("the token is invalid")),
        },
        Some(About::Passing) => retry(&text(None), retry_after),
        Some(_) => by_status(status, retry_after, text),
        None => match OAuthError::read(body, secrets) {
            Some(error) => error.judge(status, retry_after),
            None => retry(&text(Some("not an answer of the platform")), retry_after),
        },
    }
}

/// Judges an error of the platform by the status that it came with. `text` makes the text for staff
/// of what the error means.
fn by_status(
    status: u16,
    retry_after: Option<Duration>,
    text: impl Fn(Option<&str>) -> String,
) -> Verdict {
    match status {
        401 | 403 => Verdict::Reject {
            error: text(Some("access refused")),
        },
        200..=299 | 400..=407 | 409..=424 | 426..=428 | 430..=499 => {
            Verdict::Reject { error: text(None) }
        }
        _ => Verdict::Retry {
            error: text(None),
            retry_after,
        },
    }
}

fn renewed_token(body: &[u8]) -> Option<RenewedToken> {
    let Exchanged {
        access_token,
        refresh_token,
        expires_in,
    } = serde_json::from_slice(body).ok()?;
    let is_token = |token: &SecretString| {
        let text = token.expose_secret();
        (1..=TOKEN_CHARS).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
    };
    // An empty refresh token is none.
    let refresh_token = refresh_token.filter(|token| !token.expose_secret().is_empty());
    let lifetime = seconds(&expires_in)
        .filter(|seconds| (1..=LONGEST_LIFETIME).contains(seconds))
        .map(Duration::from_secs);
    let is_valid = is_token(&access_token) && refresh_token.as_ref().is_none_or(is_token);
    is_valid.then_some(RenewedToken {
        token: access_token,
        refresh_token,
        lifetime,
    })
}

/// Reads a number of seconds in any of its spellings. A fraction of a second is cut off.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole_seconds(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse()
                .ok()
                .or_else(|| whole_seconds(text.parse().ok()?))
        }
        _ => None,
    }
}

fn whole_seconds(seconds: f64) -> Option<u64> {
    (0.0..=LONGEST_LIFETIME as f64)
        .contains(&seconds)
        .then_some(seconds as u64)
}

/// The pause after exchange number `attempt` (from 1) has failed; see [`Backoff::pause`].
pub fn pause(attempt: u64, retry_after: Option<Duration>, jitter: f64) -> Duration {
    BACKOFF.pause(attempt, retry_after, jitter)
}

#[cfg(test)]
mod tests;
