//! Answers of the Graph API, of OAuth and of what stands before them, row by row.

use super::*;
use proptest::prelude::*;
use runtime::net::http_client::{Answer, Body};
use runtime::net::platform_error::WORDS_CHARS;
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
            "HTTP 400, Graph code 190: the token is invalid: [hidden]",
        ),
        (
            coded(401, 190),
            "reject",
            "HTTP 401, Graph code 190: the token is invalid: [hidden]",
        ),
        (
            coded(500, 190),
            "reject",
            "HTTP 500, Graph code 190: the token is invalid: [hidden]",
        ),
        (
            coded(200, 190),
            "reject",
            "HTTP 200, Graph code 190: the token is invalid: [hidden]",
        ),
        (
            coded(400, 102),
            "reject",
            "HTTP 400, Graph code 102: the token is invalid: [hidden]",
        ),
        (coded(400, 1), "retry", "HTTP 400, Graph code 1: [hidden]"),
        (coded(400, 2), "retry", "HTTP 400, Graph code 2: [hidden]"),
        (coded(400, 4), "retry", "HTTP 400, Graph code 4: [hidden]"),
        (coded(400, 17), "retry", "HTTP 400, Graph code 17: [hidden]"),
        (coded(403, 32), "retry", "HTTP 403, Graph code 32: [hidden]"),
        (
            coded(400, 341),
            "retry",
            "HTTP 400, Graph code 341: [hidden]",
        ),
        (
            coded(400, 613),
            "retry",
            "HTTP 400, Graph code 613: [hidden]",
        ),
        (
            coded(400, 100),
            "reject",
            "HTTP 400, Graph code 100: [hidden]",
        ),
        (
            coded(403, 10),
            "reject",
            "HTTP 403, Graph code 10: access refused: [hidden]",
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
            "HTTP 400, invalid_grant: the token is invalid: [hidden]",
        ),
        (
            oauth(401, "invalid_grant"),
            "reject",
            "HTTP 401, invalid_grant: the token is invalid: [hidden]",
        ),
        (
            oauth(401, "invalid_client"),
            "retry",
            "HTTP 401, invalid_client: [hidden]",
        ),
        (
            oauth(400, "invalid_client"),
            "retry",
            "HTTP 400, invalid_client: [hidden]",
        ),
        (
            oauth(403, "rate_limit_exceeded"),
            "retry",
            "HTTP 403, rate_limit_exceeded: [hidden]",
        ),
        (
            oauth(503, "temporarily_unavailable"),
            "retry",
            "HTTP 503, temporarily_unavailable: [hidden]",
        ),
        (
            oauth(400, "temporarily_unavailable"),
            "retry",
            "HTTP 400, temporarily_unavailable: [hidden]",
        ),
        (
            oauth(400, "unauthorized_client"),
            "reject",
            "HTTP 400, unauthorized_client: [hidden]",
        ),
        (
            oauth(429, "slow_down"),
            "retry",
            "HTTP 429, slow_down: [hidden]",
        ),
        (
            oauth(500, "internal_failure"),
            "retry",
            "HTTP 500, internal_failure: [hidden]",
        ),
        (
            oauth(400, "EAAB-secret"),
            "retry",
            "HTTP 400: not an answer of the platform: [hidden]",
        ),
        (
            oauth(400, &"x".repeat(41)),
            "retry",
            "HTTP 400: not an answer of the platform: [hidden]",
        ),
        (
            answered(
                200,
                r#"{"access_token":"EAAB","refresh_token":"two words"}"#,
            ),
            "retry",
            "an answer without a token",
        ),
        (
            answered(401, ""),
            "retry",
            "HTTP 401: not an answer of the platform",
        ),
        (
            answered(403, "{}"),
            "retry",
            "HTTP 403: not an answer of the platform",
        ),
        (
            answered(408, ""),
            "retry",
            "HTTP 408: not an answer of the platform",
        ),
        (
            answered(425, ""),
            "retry",
            "HTTP 425: not an answer of the platform",
        ),
        (
            answered(429, ""),
            "retry",
            "HTTP 429: not an answer of the platform",
        ),
        (
            answered(500, ""),
            "retry",
            "HTTP 500: not an answer of the platform",
        ),
        (
            answered(599, "<html>"),
            "retry",
            "HTTP 599: not an answer of the platform",
        ),
        (
            answered(400, ""),
            "retry",
            "HTTP 400: not an answer of the platform",
        ),
        (
            answered(404, ""),
            "retry",
            "HTTP 404: not an answer of the platform",
        ),
        (
            oauth(404, "not_found"),
            "retry",
            "HTTP 404, not_found: [hidden]",
        ),
        (
            coded(404, 803),
            "reject",
            "HTTP 404, Graph code 803: [hidden]",
        ),
        (
            coded(400, 101),
            "retry",
            "HTTP 400, Graph code 101: [hidden]",
        ),
        (
            coded(400, 80_006),
            "retry",
            "HTTP 400, Graph code 80006: [hidden]",
        ),
        (
            coded(400, 467),
            "reject",
            "HTTP 400, Graph code 467: the token is invalid: [hidden]",
        ),
        (
            coded(500, 100),
            "retry",
            "HTTP 500, Graph code 100: [hidden]",
        ),
        (
            coded(200, 100),
            "reject",
            "HTTP 200, Graph code 100: [hidden]",
        ),
        (
            answered(302, ""),
            "retry",
            "HTTP 302: not an answer of the platform",
        ),
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
        let (label, error) = match judge(&ending, &[]) {
            Verdict::Renewed(_) => ("renewed", String::new()),
            Verdict::Retry { error, .. } => ("retry", error),
            Verdict::Reject { error } => ("reject", error),
        };
        assert_eq!((label, error.as_str()), (expected, text), "{ending:?}");
    }
}

#[test]
fn only_an_error_of_the_platform_is_a_verdict_about_the_token() {
    for status in [400, 401, 403, 404, 405, 407, 421, 451] {
        for body in [
            "",
            "<html>nginx</html>",
            "no route",
            "{}",
            "[]",
            r#"{"message":"Forbidden"}"#,
        ] {
            let verdict = judge(&answered(status, body), &[]);
            assert!(
                matches!(&verdict, Verdict::Retry { error, .. } if error.contains("not an answer")),
                "{status} {body} {verdict:?}"
            );
        }
    }
}

#[test]
fn each_kind_of_invalid_grant_is_told_apart() {
    for (description, subtype, may_pass, meaning) in [
        (
            "Token has been expired or revoked.",
            "",
            false,
            "the token has expired or was revoked",
        ),
        (
            "Token has been revoked.",
            "",
            false,
            "the token has expired or was revoked",
        ),
        ("Bad Request", "", false, "the token is invalid"),
        (
            "Account has been deleted",
            "",
            false,
            "the account was deleted",
        ),
        ("Account disabled", "", false, "the account is disabled"),
        (
            "reauth related error",
            "invalid_rapt",
            false,
            "the organisation asks for a new sign-in",
        ),
        (
            "reauth related error (rapt_required)",
            "",
            false,
            "the organisation asks for a new sign-in",
        ),
        (
            "Invalid JWT: Token must be a short-lived token (60 minutes)",
            "",
            true,
            "the clock of this server may be wrong",
        ),
        (
            "Token was issued to another client",
            "",
            true,
            "the token was given to another app",
        ),
    ] {
        let body = serde_json::json!({
            "error": "invalid_grant",
            "error_description": description,
            "error_subtype": subtype,
        });
        let (has_passed, error) = match judge(&answered(400, &body.to_string()), &[]) {
            Verdict::Renewed(_) => panic!("{description}"),
            Verdict::Retry { error, .. } => (true, error),
            Verdict::Reject { error } => (false, error),
        };
        let expected = format!("HTTP 400, invalid_grant: {meaning}: {description}");
        assert_eq!((has_passed, error), (may_pass, expected));
    }
    let bare = judge(&answered(400, r#"{"error":"invalid_grant"}"#), &[]);
    assert!(matches!(
        bare,
        Verdict::Reject { error } if error == "HTTP 400, invalid_grant: the token is invalid"
    ));
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
        (r#","expires_in":"5183944""#, Some(5_183_944)),
        (r#","expires_in":" 5183944 ""#, Some(5_183_944)),
        (r#","expires_in":5183944.0"#, Some(5_183_944)),
        (r#","expires_in":5.183944e6"#, Some(5_183_944)),
        (r#","expires_in":"5183944.7""#, Some(5_183_944)),
        (r#","expires_in":-1"#, None),
        (r#","expires_in":1e300"#, None),
        (r#","expires_in":"NaN""#, None),
        (r#","expires_in":"never""#, None),
        (r#","expires_in":true"#, None),
        (r#","expires_in":{}"#, None),
        (r#","expires_in":0"#, None),
        (r#","expires_in":18446744073709551615"#, None),
    ] {
        let Verdict::Renewed(renewed) = judge(
            &answered(200, &format!(r#"{{"access_token":"EAAB-new"{more}}}"#)),
            &[],
        ) else {
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
        (r#","refresh_token":"""#, None),
        (r#","refresh_token":"1//next""#, Some("1//next")),
    ] {
        let Verdict::Renewed(renewed) = judge(
            &answered(200, &format!(r#"{{"access_token":"ya29.new"{more}}}"#)),
            &[],
        ) else {
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
        } = judge(&ending, &[])
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
            prop_assert!(!error.is_empty() && error.chars().count() <= WORDS_CHARS + 120);
            prop_assert!(!error.chars().any(char::is_control));
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
        let verdict = judge(&answered(status, &text), &[]);
        prop_assert!(!matches!(verdict, Verdict::Renewed(_)));
        check(status, &verdict)?;
    }

    #[test]
    fn any_json_is_judged(status in 100u16..=599, body in json()) {
        check(status, &judge(&answered(status, &body.to_string()), &[]))?;
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
            let error = match judge(&answered(status, &body), &[]) {
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
        let Verdict::Renewed(renewed) = judge(&answered(200, &body.to_string()), &[]) else {
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
