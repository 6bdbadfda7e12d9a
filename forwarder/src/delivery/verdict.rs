//! What the end of a call to the bot means for the message: the one table of it. Knows neither HTTP
//! client nor NATS.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use contract::Timestamp;

use crate::bot::breaker::Sign;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The bot answered.
    Answered {
        /// HTTP status.
        status: u16,
        /// What its `Retry-After` asks for.
        retry_after: Option<Duration>,
        /// The Graph API's error in its body, where the bot passes it on.
        graph: Option<GraphError>,
    },
    /// No connection came about: the bot has seen nothing.
    NoConnection,
    /// No answer within the time limit. The bot may have taken it; the idempotency key makes the
    /// repetition harmless.
    TimedOut,
    /// The connection broke before the answer was there.
    Broken,
}

/// What the Graph API says is wrong. Its codes:
/// developers.facebook.com/docs/graph-api/guides/error-handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphError {
    /// `code`
    pub code: i64,
    /// `error_subcode`
    pub subcode: Option<i64>,
}

impl GraphError {
    /// The token has expired or was revoked, whatever the subcode says of why.
    fn is_of_the_token(self) -> bool {
        [SESSION, INVALID_TOKEN].contains(&self.code)
    }

    /// The company lacks a permission. With a subcode it is about one message: 10 with 2018278 is a
    /// customer outside the messaging window, 200 with 1545041 one who cannot be reached.
    fn is_of_a_permission(self) -> bool {
        matches!(self.code, PERMISSION | 200..=299) && self.subcode.is_none()
    }
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bot has the message.
    Delivered,
    /// It may work later.
    Retry {
        /// Short text for staff, without bodies and tokens.
        error: String,
        /// What the bot asks to wait at least.
        after: Option<Duration>,
    },
    /// It works once staff have replaced the token.
    Hold {
        /// Short text for staff.
        error: String,
    },
    /// It will never work.
    Reject {
        /// Short text for staff.
        error: String,
    },
}

impl Verdict {
    /// The label `result` of the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::Retry { .. } => "retry",
            Verdict::Hold { .. } => "hold",
            Verdict::Reject { .. } => "reject",
        }
    }
}

/// The Graph API's codes for a token that has expired, was revoked or is invalid, …
const SESSION: i64 = 102;
const INVALID_TOKEN: i64 = 190;
/// … and for a permission that was not granted or was removed; 200 to 299 are others of the kind.
const PERMISSION: i64 = 10;

/// The table. `repeated`: the message may have been sent before, under the same idempotency key.
pub fn judge(ending: &Ending, repeated: bool) -> Verdict {
    let retry = |error: &str| Verdict::Retry {
        error: error.to_owned(),
        after: None,
    };
    match *ending {
        Ending::NoConnection => retry("no connection to the bot"),
        Ending::TimedOut => retry("no answer from the bot in time"),
        Ending::Broken => retry("the connection to the bot broke"),
        Ending::Answered {
            status,
            retry_after,
            graph,
        } => match (status, graph) {
            (200..=299, _) => Verdict::Delivered,
            (_, Some(graph)) if graph.is_of_the_token() => Verdict::Hold {
                error: format!(
                    "HTTP {status}, Graph code {}: the token is invalid",
                    graph.code
                ),
            },
            (401, _) | (403, None) => Verdict::Hold {
                error: format!("HTTP {status}: access refused"),
            },
            (403, Some(graph)) if graph.is_of_a_permission() => Verdict::Hold {
                error: format!(
                    "HTTP {status}, Graph code {}: a permission is missing",
                    graph.code
                ),
            },
            // About this customer: the company's other messages are not refused for it.
            (403, Some(graph)) => Verdict::Reject {
                error: format!("HTTP {status}, Graph code {}", graph.code),
            },
            // A bot that knows the key says that it has the message.
            (409, _) if repeated => Verdict::Delivered,
            (408 | 425 | 429 | 500..=599, _) => Verdict::Retry {
                error: format!("HTTP {status}"),
                after: retry_after,
            },
            (400..=499, _) => Verdict::Reject {
                error: format!("HTTP {status}"),
            },
            // A redirect, most likely: the address is wrong, which staff can mend within the
            // message's day.
            _ => Verdict::Retry {
                error: format!("HTTP {status}"),
                after: None,
            },
        },
    }
}

/// A message that has failed more often than this may be what the bot cannot take.
const TELLING_CALLS: u32 = 3;

/// What the call says about the bot as a whole; `calls` of the message, this one included.
pub fn sign(ending: &Ending, calls: u32) -> Sign {
    match ending {
        Ending::NoConnection
        | Ending::TimedOut
        | Ending::Broken
        | Ending::Answered {
            status: 500..=599,
            graph: None,
            ..
        } => {
            if calls > TELLING_CALLS {
                Sign::IllAgain
            } else {
                Sign::Ill
            }
        }
        Ending::Answered { .. } => Sign::Well,
    }
}

/// A Graph API error, `{"error": {"code": 190, "error_subcode": 463}}`, or `{"code": 190}` as some
/// bots shorten it.
pub fn graph_error(body: &[u8]) -> Option<GraphError> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = body
        .get("error")
        .filter(|error| error.get("code").is_some())
        .unwrap_or(&body);
    Some(GraphError {
        code: error.get("code")?.as_i64()?,
        subcode: error
            .get("error_subcode")
            .and_then(serde_json::Value::as_i64),
    })
}

/// A `Retry-After`: seconds, or an HTTP date. Anything else counts as absent.
pub fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(header.trim(), &Rfc2822).ok()?;
    Some(Timestamp::from_millis(at.unix_timestamp().saturating_mul(1_000)).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row() {
        let answered = |status, seconds: Option<u64>| Ending::Answered {
            status,
            retry_after: seconds.map(Duration::from_secs),
            graph: None,
        };
        let graph = |status, code, subcode| Ending::Answered {
            status,
            retry_after: None,
            graph: Some(GraphError { code, subcode }),
        };
        let coded = |status, code| graph(status, code, None);
        let rows = [
            (answered(200, None), "delivered", ""),
            (answered(202, None), "delivered", ""),
            (answered(204, Some(9)), "delivered", ""),
            (Ending::NoConnection, "retry", "no connection to the bot"),
            (Ending::TimedOut, "retry", "no answer from the bot in time"),
            (Ending::Broken, "retry", "the connection to the bot broke"),
            (answered(408, None), "retry", "HTTP 408"),
            (answered(425, None), "retry", "HTTP 425"),
            (answered(429, None), "retry", "HTTP 429"),
            (answered(500, None), "retry", "HTTP 500"),
            (answered(503, None), "retry", "HTTP 503"),
            (answered(599, None), "retry", "HTTP 599"),
            (answered(302, None), "retry", "HTTP 302"),
            (answered(400, None), "reject", "HTTP 400"),
            (answered(401, None), "hold", "HTTP 401: access refused"),
            (answered(403, None), "hold", "HTTP 403: access refused"),
            (
                coded(400, 190),
                "hold",
                "HTTP 400, Graph code 190: the token is invalid",
            ),
            (
                coded(500, 190),
                "hold",
                "HTTP 500, Graph code 190: the token is invalid",
            ),
            (coded(200, 190), "delivered", ""),
            (
                graph(400, 190, Some(463)),
                "hold",
                "HTTP 400, Graph code 190: the token is invalid",
            ),
            (
                coded(401, 102),
                "hold",
                "HTTP 401, Graph code 102: the token is invalid",
            ),
            (coded(401, 10), "hold", "HTTP 401: access refused"),
            (
                coded(403, 10),
                "hold",
                "HTTP 403, Graph code 10: a permission is missing",
            ),
            (
                coded(403, 230),
                "hold",
                "HTTP 403, Graph code 230: a permission is missing",
            ),
            (
                graph(403, 10, Some(2_018_278)),
                "reject",
                "HTTP 403, Graph code 10",
            ),
            (
                graph(403, 200, Some(1_545_041)),
                "reject",
                "HTTP 403, Graph code 200",
            ),
            (coded(403, 551), "reject", "HTTP 403, Graph code 551"),
            (coded(400, 10), "reject", "HTTP 400"),
            (coded(400, 100), "reject", "HTTP 400"),
            (answered(404, Some(9)), "reject", "HTTP 404"),
            (answered(409, None), "reject", "HTTP 409"),
            (answered(422, None), "reject", "HTTP 422"),
            (answered(499, None), "reject", "HTTP 499"),
        ];
        for (ending, label, text) in rows {
            let verdict = judge(&ending, false);
            assert_eq!(verdict.label(), label, "{ending:?}");
            match verdict {
                Verdict::Retry { error, .. }
                | Verdict::Hold { error }
                | Verdict::Reject { error } => assert_eq!(error, text, "{ending:?}"),
                Verdict::Delivered => {}
            }
        }
    }

    #[test]
    fn the_graph_error_is_found_where_bots_put_it() {
        for (body, code, subcode) in [
            (
                r#"{"error":{"message":"…","type":"OAuthException","code":190}}"#,
                190,
                None,
            ),
            (
                r#"{"error":{"code":10,"error_subcode":2018278}}"#,
                10,
                Some(2_018_278),
            ),
            (r#"{"code":190,"error":"expired"}"#, 190, None),
            (r#"{"code":190,"error_subcode":"463"}"#, 190, None),
        ] {
            assert_eq!(
                graph_error(body.as_bytes()),
                Some(GraphError { code, subcode }),
                "{body}"
            );
        }
        for body in [
            "",
            "190",
            "[]",
            r#"{"error":"190"}"#,
            r#"{"error":{"code":"190"}}"#,
        ] {
            assert_eq!(graph_error(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn only_a_bot_that_does_not_answer_is_ill() {
        let token = Some(GraphError {
            code: 190,
            subcode: None,
        });
        let answered = |status, graph| Ending::Answered {
            status,
            retry_after: None,
            graph,
        };
        for ending in [
            Ending::NoConnection,
            Ending::TimedOut,
            Ending::Broken,
            answered(500, None),
            answered(503, None),
        ] {
            assert_eq!(
                (sign(&ending, 3), sign(&ending, 4)),
                (Sign::Ill, Sign::IllAgain),
                "{ending:?}"
            );
        }
        for ending in [
            answered(200, None),
            answered(400, None),
            answered(401, None),
            answered(429, None),
            answered(500, token),
        ] {
            assert_eq!(sign(&ending, 4), Sign::Well, "{ending:?}");
        }
    }

    #[test]
    fn a_conflict_on_a_repeated_call_means_that_the_bot_has_it() {
        assert_eq!(
            judge(
                &Ending::Answered {
                    status: 409,
                    retry_after: None,
                    graph: None
                },
                true
            ),
            Verdict::Delivered
        );
    }

    #[test]
    fn what_the_bot_asks_for_is_passed_on() {
        for status in [429, 503] {
            let after = Some(Duration::from_secs(7));
            let verdict = judge(
                &Ending::Answered {
                    status,
                    retry_after: after,
                    graph: None,
                },
                true,
            );
            assert_eq!(
                verdict,
                Verdict::Retry {
                    error: format!("HTTP {status}"),
                    after
                }
            );
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        for text in ["", "soon", "-1", "99999999999999999999999"] {
            assert_eq!(retry_after(text, now), None, "{text}");
        }
    }
}
