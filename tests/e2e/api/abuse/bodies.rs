//! Bodies that are not JSON, that exceed a limit on JSON or that have a wrong content type, and
//! invalid headers. Wrong values inside valid JSON are in `values`.

use super::{Caller, InvalidInput};
use crate::support::openapi::{OpenApi, Request};

/// The detail of the problem for malformed JSON.
pub const NOT_JSON: &str = "not JSON";
/// Bodies that are not JSON or not an object, or have a name twice; with the problem's text.
const BAD: &[(&[u8], &str)] = &[
    (b"{", NOT_JSON),
    (b" ", NOT_JSON),
    (b"null", "an object"),
    (b"[]", "an object"),
    (b"1", "an object"),
    (b"\"{}\"", "an object"),
    (b"{}{}", NOT_JSON),
    (b"{} //", NOT_JSON),
    (b"{'a':1}", NOT_JSON),
    (b"{\"a\":1,}", NOT_JSON),
    (b"{\"a\":NaN}", NOT_JSON),
    (b"{\"a\":01}", NOT_JSON),
    (b"{\"a\":undefined}", NOT_JSON),
    (b"/**/{}", NOT_JSON),
    (b"{\0\"\0a\0\"\0:\x001\0}\0", NOT_JSON),
    (b"{\"a\":\"\xff\xfe\"}", NOT_JSON),
    (b"{\"\xc3\x28\":1}", NOT_JSON),
    (b"{\"a\":\"\xc0\x80\"}", NOT_JSON),
    (b"{\"a\":\"\xed\x80\"}", NOT_JSON),
    (b"{\"a\":\"\0\"}", NOT_JSON),
    (b"{\"a\":\"\n\"}", NOT_JSON),
    (b"{\"a\":\"\\x41\"}", NOT_JSON),
    (b"{\"a\":1,\"a\":2}", "twice"),
    (
        b"{\"contact_id\":\"a\",\"\\u0063ontact_id\":\"b\"}",
        "twice",
    ),
    (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", NOT_JSON),
    (b"a=b", NOT_JSON),
    (b"<a/>", NOT_JSON),
];
/// Content types other than JSON.
const OTHER_TYPES: &[&str] = &[
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=a",
    "application/xml",
    "application/jsonp",
    "json",
    "*/*",
    "text/plain; application/json",
];

/// Every bad body, for every operation that takes a body.
pub fn in_bodies(api: &OpenApi, caller: &Caller) -> Vec<InvalidInput> {
    let lists = |depth: usize| {
        format!(
            "{{\"a\":{}1{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let names = (0..1_001)
        .map(|n| format!("\"{n}\":0"))
        .collect::<Vec<_>>()
        .join(",");
    let values = vec![format!("[{}0]", "0,".repeat(999)); 101].join(",");
    let mut bad: Vec<(Vec<u8>, &str)> = BAD
        .iter()
        .map(|(body, says)| (body.to_vec(), *says))
        .collect();
    bad.extend([33, 10_000].map(|depth| (lists(depth).into_bytes(), "32 levels")));
    bad.extend([33, 10_000].map(|depth| (objects(depth).into_bytes(), "32 levels")));
    bad.push(("[".repeat(10_000).into_bytes(), "32 levels"));
    bad.push((
        format!("{{\"a\":[{}0]}}", "0,".repeat(1_000)).into_bytes(),
        "1000 elements",
    ));
    bad.push((format!("{{{names}}}").into_bytes(), "1000 names"));
    bad.push((
        format!("{{\"a\":[{values}]}}").into_bytes(),
        "100000 values",
    ));
    bad.push((
        format!("{{\"a\":1{}}}", "0".repeat(400)).into_bytes(),
        NOT_JSON,
    ));
    let mut inputs = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &caller.values, false, false);
        let Some(good) = api.bodies(&operation).into_iter().next() else {
            continue;
        };
        let good = good.example.to_string().into_bytes();
        for (body, says) in bad
            .iter()
            .chain(&[(good[..good.len() - 1].to_vec(), NOT_JSON)])
        {
            let what = String::from_utf8_lossy(body);
            inputs.push(caller.input(
                &what,
                bare.clone().with_body("application/json", body.clone()),
                &[says],
            ));
        }
        let other = OTHER_TYPES
            .iter()
            .map(|content_type| bare.clone().with_body(content_type, good.clone()));
        for request in other.chain([Request {
            body: Some(good.clone()),
            ..bare.clone()
        }]) {
            inputs.push(
                caller
                    .input(
                        &format!("{:?}", request.headers),
                        request,
                        &["UNSUPPORTED_MEDIA_TYPE"],
                    )
                    .wants(415),
            );
        }
        if operation.name() == "POST /messages" {
            let huge = format!("{{\"content\":\"{}\"}}", "x".repeat(11 * 1024 * 1024)).into_bytes();
            inputs.push(
                caller
                    .input(
                        "11 MB",
                        bare.with_body("application/json", huge),
                        &["PAYLOAD_TOO_LARGE"],
                    )
                    .wants(413),
            );
        }
    }
    inputs
}

/// Invalid idempotency keys and credentials.
pub fn in_headers(api: &OpenApi, caller: &Caller) -> Vec<InvalidInput> {
    let mut inputs = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &caller.values, false, false);
        for parameter in api
            .parameters(&operation)
            .into_iter()
            .filter(|p| p.name == "Idempotency-Key")
        {
            let good = api.bodies(&operation)[0].example.to_string().into_bytes();
            for key in ["", " ", "é", &"x".repeat(256), "a\tb\u{80}"] {
                let mut request = bare.clone().with_body("application/json", good.clone());
                request.headers.push((parameter.name.into(), key.into()));
                inputs.push(
                    caller
                        .input(&format!("the key {key}"), request, &[parameter.name])
                        .wants(400),
                );
            }
        }
    }
    let me = api
        .operations()
        .into_iter()
        .find(|operation| operation.name() == "GET /auth/me")
        .unwrap();
    let me = api.without_body(&me, &caller.values, false, false);
    let good = caller.bearer();
    for (name, value) in [
        ("authorization", good.replace("Bearer", "Basic")),
        ("authorization", good.replace("Bearer ", "")),
        ("authorization", good.replace('.', " ")),
        ("authorization", good.replace("ey", "e\u{79}\u{301}")),
        ("authorization", format!("{good}, {good}")),
        ("authorization", format!("Bearer {}", "x".repeat(10_000))),
        ("authorization", format!("Bearer {}", "a.".repeat(1_000))),
        ("authorization", r#"Bearer {"$gt":""}"#.into()),
        ("x-api-key", "$ne".into()),
        ("x-api-key", "x".repeat(10_000)),
        (
            "cookie",
            format!("accessToken={}", good.replace("Bearer ", "")),
        ),
    ] {
        let input = caller
            .input(&value, me.clone(), &["INVALID_TOKEN"])
            .wants(401);
        inputs.push(InvalidInput {
            credentials: (name, value),
            ..input
        });
    }
    inputs
}
