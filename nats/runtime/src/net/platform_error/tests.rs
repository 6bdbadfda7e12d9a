//! The table of codes, row by row, and errors as bots and the platforms spell them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(body: &str) -> Reply {
    Reply::read(body.as_bytes(), &[])
}

fn code_of(body: &str) -> Option<(i64, Option<i64>)> {
    read(body).graph().map(|error| (error.code, error.subcode))
}

#[test]
fn every_code_is_about_what_the_platforms_pages_say() {
    type Codes = &'static [(i64, Option<i64>)];
    let rows: &[(About, Codes)] = &[
        (
            About::Passing,
            &[
                (1, None),
                (1, Some(99)),
                (2, None),
                (4, None),
                (4, Some(2_018_022)),
                (17, None),
                (32, None),
                (101, None),
                (341, None),
                (368, None),
                (613, None),
                (613, Some(1_893_016)),
                (1_200, None),
                (80_000, None),
                (80_001, None),
                (80_006, None),
                (80_014, None),
                (130_429, None),
                (131_016, None),
                (131_056, None),
            ],
        ),
        (
            About::Token,
            &[
                (102, None),
                (190, None),
                (190, Some(458)),
                (190, Some(460)),
                (190, Some(463)),
                (190, Some(467)),
                (190, Some(492)),
                (190, Some(1_234_567)),
                (102, Some(464)),
                (463, None),
                (467, None),
                (100, Some(463)),
            ],
        ),
        (
            About::Permission,
            &[
                (3, None),
                (10, None),
                (200, None),
                (230, None),
                (299, None),
                (200, Some(2_018_028)),
                (131_031, None),
            ],
        ),
        (
            About::Customer,
            &[
                (551, None),
                (551, Some(1_545_041)),
                (200, Some(1_545_041)),
                (10, Some(2_018_278)),
                (10, Some(2_018_065)),
                (10, Some(2_018_108)),
                (10, Some(2_534_022)),
                (10, Some(7)),
                (100, Some(2_018_001)),
                (131_026, None),
                (131_047, None),
            ],
        ),
        (
            About::Request,
            &[
                (100, None),
                (100, Some(2_018_109)),
                (100, Some(33)),
                (506, None),
                (1_609_005, None),
            ],
        ),
        (
            About::Unknown,
            &[
                (0, None),
                (5, None),
                (199, None),
                (300, None),
                (79_999, None),
                (80_015, None),
                (i64::MIN, None),
            ],
        ),
    ];
    for (about, codes) in rows {
        for (code, subcode) in *codes {
            let error = |is_transient| GraphError {
                code: *code,
                subcode: *subcode,
                is_transient,
                words: None,
            };
            assert_eq!(error(false).about(), *about, "{code} {subcode:?}");
            assert_eq!(error(true).about(), About::Passing, "{code} {subcode:?}");
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
        (r#"{"code":190,"error_subcode":"463"}"#, 190, Some(463)),
        (r#"{"error":{"code":"190"}}"#, 190, None),
        (r#"{"error_code":190,"error_msg":"expired"}"#, 190, None),
        (
            r#"{"success":false,"error":{"error":{"code":613}}}"#,
            613,
            None,
        ),
        (
            r#"{"statusCode":400,"code":400,"message":"Bad","details":{"error":{"code":613}}}"#,
            613,
            None,
        ),
        (
            r#"{"code":"ERR_BAD_REQUEST","response":{"data":{"error":{"code":190}}}}"#,
            190,
            None,
        ),
        (r#"{"errors":[{"code":131047}]}"#, 131_047, None),
        (r#"{"error":"{\"error\":{\"code\":190}}"}"#, 190, None),
        (
            r#"{"error":"(#551) This person isn't available right now."}"#,
            551,
            None,
        ),
        (r#"{"message":"(#10) outside of window"}"#, 10, None),
        ("\u{feff} {\"error\":{\"code\":190}}\r\n", 190, None),
        (
            r#"{"error":{"code":190,"message":"bad \ud83d text"}}"#,
            190,
            None,
        ),
        (
            r#"{"error":{"code":190,"message":"\\ud83d \"\ud83d\ude00\" \uDE00"}}"#,
            190,
            None,
        ),
    ] {
        assert_eq!(code_of(body), Some((code, subcode)), "{body}");
    }
    let latin = b"{\"error\":{\"code\":190,\"message\":\"caf\xe9\"}}";
    assert_eq!(Reply::read(latin, &[]).graph().unwrap().code, 190);
    for body in [
        "",
        "190",
        "[]",
        r#"{"error":"190"}"#,
        r#"{"error":{"code":"EAUTH"}}"#,
        r#"{"code":404,"message":"no such route"}"#,
        r#"{"error":{"code":503}}"#,
        r#"{"error":"bad","customer":{"code":4}}"#,
        "<html>190</html>",
    ] {
        assert_eq!(code_of(body), None, "{body}");
    }
}

#[test]
fn a_page_a_bots_error_and_neither_are_told_apart() {
    let own = |status: Option<u16>, words: Option<&str>| {
        Some(PlatformError::Own {
            status,
            words: words.map(str::to_owned),
        })
    };
    for (body, is_page, is_failure, error) in [
        ("", false, false, None),
        ("OK", false, false, None),
        ("true", false, false, None),
        ("{}", false, false, None),
        (r#"{"success":true,"message_id":"m_1"}"#, false, false, None),
        (
            r#"{"recipient_id":"9","message_id":"m_abc"}"#,
            false,
            false,
            None,
        ),
        (r#"{"status":"sent","error":null}"#, false, false, None),
        (
            r#"{"ok":true,"errors":[],"status":200}"#,
            false,
            false,
            None,
        ),
        (r#"{"error":{"message":""}}"#, false, false, None),
        ("<!DOCTYPE html><html>", true, false, None),
        ("\u{feff}\n <html>", true, false, None),
        (
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>",
            true,
            false,
            None,
        ),
        (
            r#"{"message":"sent"}"#,
            false,
            false,
            own(None, Some("sent")),
        ),
        (r#"{"success":false}"#, false, true, own(None, None)),
        (r#"{"success":"false"}"#, false, true, own(None, None)),
        (
            r#"{"ok":false,"error_code":"x","description":"blocked"}"#,
            false,
            true,
            own(None, Some("blocked")),
        ),
        (
            r#"{"error":"no such customer"}"#,
            false,
            true,
            own(None, Some("no such customer")),
        ),
        (
            r#"{"success":false,"error":{"message":"told to fail","code":null}}"#,
            false,
            true,
            own(None, Some("told to fail")),
        ),
        (
            r#"{"status":"error","message":"down"}"#,
            false,
            true,
            own(None, Some("down")),
        ),
        (
            r#"{"statusCode":503,"message":"down"}"#,
            false,
            true,
            own(Some(503), Some("down")),
        ),
        (
            r#"{"error":{"code":503,"message":"down"}}"#,
            false,
            true,
            own(Some(503), Some("down")),
        ),
        (
            r#"{"results":[{"status":200},{"status":500}]}"#,
            false,
            true,
            own(None, None),
        ),
        (r#"[{"status":500}]"#, false, true, own(Some(500), None)),
    ] {
        let found = read(body);
        let expected = Reply {
            is_page,
            is_failure,
            error,
            message_id: found.message_id.clone(),
        };
        assert_eq!(found, expected, "{body}");
    }
}

#[test]
fn staff_read_status_code_subcode_and_the_platforms_words() {
    let body = json!({"error": {
        "message": format!("(#100) too long\n{}", "x ".repeat(400)),
        "code": 100,
        "error_subcode": 2_018_109,
    }});
    let reply = read(&body.to_string());
    let text = reply.describe(400, Some("refused"));
    assert!(
        text.starts_with("HTTP 400, Graph code 100, subcode 2018109: refused: (#100) too long x x"),
        "{text}"
    );
    assert!(text.chars().count() <= WORDS_CHARS + 60, "{text}");
    assert_eq!(
        read("").describe(404, Some("not the bot")),
        "HTTP 404: not the bot"
    );
    assert_eq!(
        read(r#"{"error":"no"}"#).describe(422, None),
        "HTTP 422: no"
    );
}

#[test]
fn tokens_are_hidden_in_words() {
    for (text, secrets, tidied) in [
        (
            "Malformed access token EAABsbCS1iHgBAO",
            &[][..],
            "Malformed access token [hidden]",
        ),
        ("token 'IGAA-long' ended", &[], "token '[hidden]' ended"),
        ("ya29.a0Af_x, no more", &[], "[hidden], no more"),
        ("demo-1 is invalid", &["demo-1"], "[hidden] is invalid"),
        ("key 0123456789abcdef0123456789abcdef", &[], "key [hidden]"),
        (
            "see https://developers.facebook.com/docs/messenger-platform",
            &[],
            "see https://developers.facebook.com/docs/messenger-platform",
        ),
        ("user 17841400000000000", &[], "user 17841400000000000"),
        ("a short key x", &["x"], "a short key x"),
    ] {
        assert_eq!(tidy(text, secrets).as_deref(), Some(tidied), "{text}");
    }
    assert_eq!(tidy(" \n\u{7} ", &[]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Reply::read(&body, &["ab"]);
    }

    #[test]
    fn any_escapes_are_read_without_a_panic(body in r#"[{}":\\ud89aé😀 0]{0,40}"#) {
        let _ = Reply::read(body.as_bytes(), &[]);
    }

    #[test]
    fn any_codes_are_read_back(
        code in any::<i64>(),
        subcode in prop::option::of(any::<i64>()),
        is_short in any::<bool>(),
    ) {
        prop_assume!(!(400..=599).contains(&code));
        let error = json!({"code": code, "error_subcode": subcode, "message": "…"});
        let body = if is_short { error } else { json!({"error": error}) };
        prop_assert_eq!(code_of(&body.to_string()), Some((code, subcode)));
    }

    #[test]
    fn words_are_bounded_and_on_one_line(text in "\\PC{0,20}|.{0,400}") {
        if let Some(tidied) = tidy(&text, &[]) {
            prop_assert!(tidied.chars().count() <= WORDS_CHARS);
            prop_assert!(!tidied.chars().any(char::is_control));
        }
    }
}

#[test]
fn the_id_that_the_platform_gave_is_found_where_bots_put_it() {
    for (body, id) in [
        (
            r#"{"recipient_id":"9","message_id":"m_abc"}"#,
            Some("m_abc"),
        ),
        (
            r#"{"success":true,"data":{"messageId":"m_abc"}}"#,
            Some("m_abc"),
        ),
        (r#"{"ok":true,"result":{"message_id":42}}"#, Some("42")),
        (r#"{"messages":[{"id":"wamid.x"}]}"#, Some("wamid.x")),
        (r#"{"success":true}"#, None),
        (r#"{"message_id":null,"id":"5"}"#, None),
        ("[]", None),
        ("thanks", None),
    ] {
        let reply = Reply::read(body.as_bytes(), &[]);
        assert_eq!(reply.message_id.as_deref(), id, "{body}");
    }
}
