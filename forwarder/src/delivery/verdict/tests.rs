//! The table of docs/delivery.md, row by row.

use proptest::prelude::*;
use runtime::net::platform_error::Reply;
use serde_json::json;

use super::*;

fn answered(status: u16, body: &str) -> Ending {
    Ending::Answered(Answer {
        status,
        retry_after: None,
        reply: Reply::read(body.as_bytes(), &[]),
    })
}

fn graph(status: u16, code: i64, subcode: Option<i64>) -> Ending {
    let error = json!({"message": "its words", "code": code, "error_subcode": subcode});
    answered(status, &json!({"error": error}).to_string())
}

fn coded(status: u16, code: i64) -> Ending {
    graph(status, code, None)
}

/// A failure as the bot tells of it itself.
fn own(status: u16) -> Ending {
    answered(
        status,
        r#"{"success":false,"error":{"message":"its words","code":null}}"#,
    )
}

const PAGE: &str = "<html><body>nginx</body></html>";

fn text(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Delivered => "",
        Verdict::Retry { error, .. }
        | Verdict::Hold { error }
        | Verdict::Unclear { error }
        | Verdict::Reject { error } => error,
    }
}

/// Each row: ending, label, text.
fn check(rows: &[(Ending, &str, &str)]) {
    for (ending, label, expected) in rows {
        let verdict = judge(ending, false);
        assert_eq!(
            (verdict.label(), text(&verdict)),
            (*label, *expected),
            "{ending:?}"
        );
    }
}

#[test]
fn a_success_is_a_delivery_unless_its_body_says_otherwise() {
    let road = "HTTP 200: not an answer of the bot";
    check(&[
        (answered(200, ""), "delivered", ""),
        (answered(202, ""), "delivered", ""),
        (answered(204, ""), "delivered", ""),
        (answered(200, "EVENT_RECEIVED"), "delivered", ""),
        (
            answered(200, r#"{"success":true,"message_id":"m"}"#),
            "delivered",
            "",
        ),
        (
            answered(200, r#"{"message":"sent","error":null}"#),
            "delivered",
            "",
        ),
        (
            answered(207, r#"{"results":[{"status":200}]}"#),
            "delivered",
            "",
        ),
        (answered(200, PAGE), "retry", road),
        (answered(200, "\u{feff}<!DOCTYPE html>"), "retry", road),
        (
            answered(203, PAGE),
            "retry",
            "HTTP 203: not an answer of the bot",
        ),
        (own(200), "reject", "HTTP 200: its words"),
        (answered(200, r#"{"ok":false}"#), "reject", "HTTP 200"),
        (
            answered(200, r#"{"error":"no such user"}"#),
            "reject",
            "HTTP 200: no such user",
        ),
        (
            answered(200, r#"{"success":false,"statusCode":503}"#),
            "retry",
            "HTTP 200",
        ),
        (
            answered(200, r#"{"success":false,"status":404}"#),
            "reject",
            "HTTP 200",
        ),
        (
            answered(200, r#"{"status":401}"#),
            "unclear",
            "HTTP 200: access refused",
        ),
        (
            answered(207, r#"{"results":[{"status":500}]}"#),
            "reject",
            "HTTP 207",
        ),
        (answered(207, r#"[{"status":500}]"#), "retry", "HTTP 207"),
        (
            answered(200, r#"{"success":false,"error":{"code":190}}"#),
            "hold",
            "HTTP 200, Graph code 190: the token is invalid",
        ),
        (
            coded(200, 613),
            "retry",
            "HTTP 200, Graph code 613: its words",
        ),
        (
            graph(200, 10, Some(2_018_278)),
            "reject",
            "HTTP 200, Graph code 10, subcode 2018278: its words",
        ),
    ]);
}

#[test]
fn what_is_no_answer_of_the_bot_is_retried() {
    check(&[
        (Ending::NoConnection, "retry", "no connection to the bot"),
        (Ending::TimedOut, "retry", "no answer from the bot in time"),
        (Ending::Broken, "retry", "the connection to the bot broke"),
        (
            answered(302, ""),
            "retry",
            "HTTP 302: not an answer of the bot",
        ),
        (answered(408, ""), "retry", "HTTP 408"),
        (answered(425, PAGE), "retry", "HTTP 425"),
        (answered(429, ""), "retry", "HTTP 429"),
        (own(429), "retry", "HTTP 429: its words"),
        (answered(500, ""), "retry", "HTTP 500"),
        (own(503), "retry", "HTTP 503: its words"),
        (answered(502, PAGE), "retry", "HTTP 502"),
        (answered(599, ""), "retry", "HTTP 599"),
        (
            answered(409, PAGE),
            "retry",
            "HTTP 409: not an answer of the bot",
        ),
    ]);
    for status in [
        400, 401, 403, 404, 405, 407, 410, 413, 414, 421, 422, 431, 451, 494, 499,
    ] {
        for body in [
            "",
            "404 page not found",
            PAGE,
            "{}",
            "[]",
            r#"{"path":"/chat"}"#,
        ] {
            let verdict = judge(&answered(status, body), false);
            assert_eq!(
                (verdict.label(), text(&verdict)),
                (
                    "retry",
                    format!("HTTP {status}: not an answer of the bot").as_str()
                ),
                "{body}"
            );
        }
    }
    // The bot's own words do not make an address or a method right.
    for status in ROAD_STATUSES {
        assert_eq!(judge(&own(*status), false).label(), "retry", "{status}");
        assert_eq!(
            judge(&coded(*status, 100), false).label(),
            "reject",
            "{status}"
        );
    }
}

#[test]
fn a_refusal_is_final_only_in_the_words_of_the_bot_or_of_the_graph_api() {
    check(&[
        (own(400), "reject", "HTTP 400: its words"),
        (own(402), "reject", "HTTP 402: its words"),
        (own(409), "reject", "HTTP 409: its words"),
        (answered(409, ""), "reject", "HTTP 409"),
        (own(413), "reject", "HTTP 413: its words"),
        (own(422), "reject", "HTTP 422: its words"),
        (
            answered(400, r#"{"message":"too long"}"#),
            "reject",
            "HTTP 400: too long",
        ),
        (
            answered(422, r#"{"detail":"no url"}"#),
            "reject",
            "HTTP 422: no url",
        ),
        (own(499), "reject", "HTTP 499: its words"),
        (
            coded(400, 100),
            "reject",
            "HTTP 400, Graph code 100: its words",
        ),
        (
            coded(500, 100),
            "reject",
            "HTTP 500, Graph code 100: its words",
        ),
        (
            coded(400, 551),
            "reject",
            "HTTP 400, Graph code 551: its words",
        ),
        (
            coded(403, 551),
            "reject",
            "HTTP 403, Graph code 551: its words",
        ),
        (
            coded(401, 131_047),
            "reject",
            "HTTP 401, Graph code 131047: its words",
        ),
        (
            graph(403, 10, Some(2_018_278)),
            "reject",
            "HTTP 403, Graph code 10, subcode 2018278: its words",
        ),
        (
            graph(403, 200, Some(1_545_041)),
            "reject",
            "HTTP 403, Graph code 200, subcode 1545041: its words",
        ),
        (
            graph(400, 100, Some(2_018_001)),
            "reject",
            "HTTP 400, Graph code 100, subcode 2018001: its words",
        ),
        // A code that is not in the table leaves it to the status.
        (coded(400, 7), "reject", "HTTP 400, Graph code 7: its words"),
        (coded(503, 7), "retry", "HTTP 503, Graph code 7: its words"),
    ]);
}

#[test]
fn the_platforms_passing_errors_are_retried_under_any_status() {
    for code in [
        1, 2, 4, 17, 32, 341, 368, 613, 1_200, 80_000, 80_006, 80_014, 131_056,
    ] {
        for status in [200, 400, 401, 403, 404, 429, 500] {
            let verdict = judge(&coded(status, code), false);
            assert_eq!(verdict.label(), "retry", "{status} {code}");
            assert!(text(&verdict).contains(&format!("Graph code {code}: its words")));
        }
    }
    let transient = r#"{"error":{"code":100,"is_transient":true}}"#;
    assert_eq!(judge(&answered(400, transient), false).label(), "retry");
}

#[test]
fn only_a_token_code_holds_and_other_refusals_of_access_are_unclear() {
    let invalid = "HTTP 400, Graph code 190, subcode 463: the token is invalid: its words";
    check(&[
        (
            coded(500, 190),
            "hold",
            "HTTP 500, Graph code 190: the token is invalid: its words",
        ),
        (graph(400, 190, Some(463)), "hold", invalid),
        (
            coded(401, 102),
            "hold",
            "HTTP 401, Graph code 102: the token is invalid: its words",
        ),
        (
            coded(400, 467),
            "hold",
            "HTTP 400, Graph code 467: the token is invalid: its words",
        ),
        (own(401), "unclear", "HTTP 401: access refused: its words"),
        (own(403), "unclear", "HTTP 403: access refused: its words"),
        (
            coded(403, 7),
            "unclear",
            "HTTP 403, Graph code 7: access refused: its words",
        ),
    ]);
    for code in [3, 10, 200, 230, 299] {
        for status in [400, 401, 403, 500] {
            let verdict = judge(&coded(status, code), false);
            assert_eq!(verdict.label(), "unclear", "{status} {code}");
            assert!(text(&verdict).contains("a permission is missing"));
        }
    }
}

#[test]
fn no_answer_of_the_bot_and_a_5xx_without_a_graph_error_are_failures() {
    for ending in [
        Ending::NoConnection,
        Ending::TimedOut,
        Ending::Broken,
        answered(500, ""),
        own(503),
        answered(200, PAGE),
        answered(302, ""),
        answered(403, PAGE),
        answered(404, ""),
        own(404),
        answered(421, PAGE),
    ] {
        assert_eq!(
            (signal(&ending, 3), signal(&ending, 4)),
            (Signal::Failure, Signal::RepeatedFailure),
            "{ending:?}"
        );
    }
    for ending in [
        answered(200, ""),
        own(200),
        own(400),
        own(401),
        answered(409, ""),
        answered(429, ""),
        coded(404, 100),
        coded(400, 613),
        coded(500, 190),
    ] {
        assert_eq!(signal(&ending, 4), Signal::Success, "{ending:?}");
    }
}

#[test]
fn a_conflict_on_a_repeated_call_means_delivered() {
    for ending in [answered(409, ""), own(409)] {
        assert_eq!(judge(&ending, true), Verdict::Delivered, "{ending:?}");
    }
    assert_eq!(judge(&answered(409, PAGE), true).label(), "retry");
}

#[test]
fn the_pause_that_is_asked_for_is_passed_on() {
    let asked = Some(Duration::from_secs(7));
    for (status, body) in [
        (429, ""),
        (503, PAGE),
        (404, PAGE),
        (400, r#"{"error":{"code":613}}"#),
    ] {
        let ending = Ending::Answered(Answer {
            status,
            retry_after: asked,
            reply: Reply::read(body.as_bytes(), &[]),
        });
        let verdict = judge(&ending, true);
        assert!(
            matches!(verdict, Verdict::Retry { after, .. } if after == asked),
            "{status}"
        );
    }
}

proptest! {
    #[test]
    fn any_answer_is_judged_and_only_2xx_and_a_repeated_409_deliver(
        status in any::<u16>(),
        code in prop::option::of(prop_oneof![any::<i64>(), 0..1_300_i64]),
        subcode in prop::option::of(any::<i64>()),
        is_repeated in any::<bool>(),
    ) {
        let ending = code.map_or(answered(status, ""), |code| graph(status, code, subcode));
        let is_delivered = judge(&ending, is_repeated) == Verdict::Delivered;
        let may_be = match status {
            200..=299 => code.is_none(),
            409 => is_repeated,
            _ => false,
        };
        prop_assert!(may_be || !is_delivered);
        prop_assert!(is_delivered || code.is_some() || !may_be);
    }
}
