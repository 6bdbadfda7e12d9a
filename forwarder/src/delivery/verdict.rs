//! What the end of a call to the bot means for the message, and for the breaker. Knows neither HTTP
//! client nor NATS.

use std::time::Duration;

use crate::bot::answer::Ending;
use crate::bot::breaker::Signal;

/// What follows from the end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bot has the message.
    Delivered,
    /// The same call may succeed later.
    Retry {
        /// Short text for staff, without bodies and tokens.
        error: String,
        /// The least pause that the bot asks for.
        after: Option<Duration>,
    },
    /// The call may succeed once staff have replaced the token.
    Hold {
        /// Short text for staff.
        error: String,
    },
    /// The call will never succeed.
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

/// Judges the end of a call. `is_repeated` says that the message may have been sent before, under
/// the same idempotency key.
pub fn judge(ending: &Ending, is_repeated: bool) -> Verdict {
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
            // An error about this one customer. The company's other messages are not held for it.
            (403, Some(graph)) => Verdict::Reject {
                error: format!("HTTP {status}, Graph code {}", graph.code),
            },
            // The bot knows the idempotency key, so it has the message.
            (409, _) if is_repeated => Verdict::Delivered,
            (408 | 425 | 429 | 500..=599, _) => Verdict::Retry {
                error: format!("HTTP {status}"),
                after: retry_after,
            },
            (400..=499, _) => Verdict::Reject {
                error: format!("HTTP {status}"),
            },
            // Most likely a redirect, because the bot's address is wrong. Staff can correct the
            // address before the message's deadline.
            _ => Verdict::Retry {
                error: format!("HTTP {status}"),
                after: None,
            },
        },
    }
}

/// Calls for one message after which a failure is a [`Signal::RepeatedFailure`], because the cause may
/// be the message.
const TELLING_CALLS: u32 = 3;

/// What a call says about the bot as a whole. `calls` counts the calls for the message, this one
/// included.
pub fn signal(ending: &Ending, calls: u32) -> Signal {
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
                Signal::RepeatedFailure
            } else {
                Signal::Failure
            }
        }
        Ending::Answered { .. } => Signal::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bot::answer::GraphError;
    use proptest::prelude::*;

    #[test]
    fn every_row_of_the_table_is_judged_as_documented() {
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
    fn only_no_answer_and_a_5xx_without_a_graph_error_are_failures() {
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
                (signal(&ending, 3), signal(&ending, 4)),
                (Signal::Failure, Signal::RepeatedFailure),
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
            assert_eq!(signal(&ending, 4), Signal::Success, "{ending:?}");
        }
    }

    #[test]
    fn a_conflict_on_a_repeated_call_means_delivered() {
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
    fn the_pause_that_the_bot_asks_for_is_passed_on() {
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

    proptest! {
        #[test]
        fn any_answer_is_judged_and_only_2xx_and_a_repeated_409_deliver(
            status in any::<u16>(),
            graph in prop::option::of((any::<i64>(), prop::option::of(any::<i64>()))),
            is_repeated in any::<bool>(),
        ) {
            let graph = graph.map(|(code, subcode)| GraphError { code, subcode });
            let ending = Ending::Answered { status, retry_after: None, graph };
            let is_delivered = judge(&ending, is_repeated) == Verdict::Delivered;
            let is_of_the_token = graph.is_some_and(GraphError::is_of_the_token);
            let is_conflict = status == 409 && is_repeated && !is_of_the_token;
            prop_assert_eq!(is_delivered, (200..=299).contains(&status) || is_conflict);
        }
    }
}
