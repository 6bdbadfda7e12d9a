//! Bytes that no HTTP client would send, over a TCP socket: path traversal, request smuggling and
//! malformed HTTP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Caller;
use crate::support::{SOON, System};

/// Targets that the gateway does not have, or variant spellings of its targets.
const TARGETS: &[&str] = &[
    "/api/v1/../../etc/passwd",
    "/api/v1/%2e%2e/%2e%2e/etc/passwd",
    "/api/v1/messages/../contacts",
    "/api/v1/messages/%2e%2e/contacts",
    "/api/v1/messages/..%2fcontacts",
    "/api/v1/messages/%2e%2e%2fcontacts",
    "/api/v1/messages/%252e%252e%252fcontacts",
    "/api/v1/messages/..;/contacts",
    "/api/v1/messages/..\\contacts",
    "/api/v1/messages/%c0%ae%c0%ae/contacts",
    "/api/v1/./contacts",
    "/api/v1//contacts",
    "//api/v1/contacts",
    "/api//v1/contacts",
    "/api/v1/contacts//",
    "/api/v1/contacts/.",
    "/api/v1/contacts%2f",
    "/api/v1/contacts%00",
    "/api/v1/contacts%00.json",
    "/api/v1/contacts%20",
    "/api/v1/contacts;company_id=1",
    "/api/v1/contacts.json",
    "/api/v1/contacts%3fcompany_id=1",
    "/api/v1/contacts/%00",
    "/api/v1/contacts/%0d%0aSet-Cookie:%20evil=1",
    "/api/v1/contacts/%",
    "/api/v1/contacts/%zz",
    "/api/v1/contacts/%ff",
    "/api/v1/contacts?limit=1&limit=2",
    "/api/v1/contacts?limit=%",
    "/api/v2/contacts",
    "/nowhere",
    "/.env",
    "/.git/config",
    "/docs/../../etc/passwd",
    "/docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/docs/..%5c..%5cetc%5cpasswd",
    "/metrics/../.env",
    "http://169.254.169.254/latest/meta-data",
    "http://gateway:4000/nowhere",
    "https://user:password@example.com/",
    "*",
];
const METHODS: &[&str] = &[
    "TRACE",
    "PROPFIND",
    "PUT",
    "DELETE",
    "get",
    "GETT",
    "G-E-T",
    "X_HTTP_METHOD",
];
/// Request heads, or parts of them, that are not HTTP/1.1.
const NO_HTTP: &[&[u8]] = &[
    b"GET /api/v1/contacts\r\n\r\n",
    b"GET /api/v1/contacts HTTP/0.9\r\n\r\n",
    b"GET /api/v1/contacts HTTP/1.2\r\n\r\n",
    b"GET /api/v1/contacts HTTP/3\r\n\r\n",
    b"GET /api/v1/contacts HTP/1.1\r\n\r\n",
    b"GET  /api/v1/contacts HTTP/1.1\r\n\r\n",
    b"GET /api/v1/contacts /x HTTP/1.1\r\n\r\n",
    b"GET /api/v1/contacts\0 HTTP/1.1\r\n\r\n",
    b"GET /api/v1/contacts\rX HTTP/1.1\r\n\r\n",
    b"GET api/v1/contacts HTTP/1.1\r\n\r\n",
    b"GET \\api\\v1\\contacts HTTP/1.1\r\n\r\n",
    b"GET HTTP/1.1\r\n\r\n",
    b" GET / HTTP/1.1\r\n\r\n",
    b"G\0T / HTTP/1.1\r\n\r\n",
    b"(GET) / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n",
    b"\xff\xfe\xfd\xfc\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"{\"jsonrpc\":\"2.0\"}\n",
];
/// Malformed header lines, and contradictory lengths of the body.
const BAD_LINES: &[&[u8]] = &[
    b"X-Request-Id : a\r\n",
    b" X-Request-Id: a\r\n",
    b"X-Request-Id\r\n",
    b": a\r\n",
    b"X Request Id: a\r\n",
    b"X-R\xc3\xa9quest: a\r\n",
    b"X-Request-Id: a\rSet-Cookie: evil=1\r\n",
    b"X-Request-Id: a\r\n Set-Cookie: evil=1\r\n",
    b"X-Request-Id: a\r\r\nSet-Cookie: evil=1\r\n",
    b"X-Request-Id: a\0b\r\n",
    b"X-Request-Id: a\x7fb\r\n",
    b"X-Request-Id: a\x1b[2Jb\r\n",
    b"Content-Length: abc\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length: 5 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 5.0\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
];
/// Malformed bodies for `Transfer-Encoding: chunked`.
const BAD_CHUNKS: &[&str] = &[
    "ZZ\r\n{}\r\n0\r\n\r\n",
    "-2\r\n{}\r\n0\r\n\r\n",
    "0x2\r\n{}\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
    "2\r\n{}XX0\r\n\r\n",
    "1\r\n{}\r\n0\r\n\r\n",
    "2 2\r\n{}\r\n0\r\n\r\n",
    "\r\n{}\r\n0\r\n\r\n",
    "2;a=\n\r\n{}\r\n0\r\n\r\n",
    "{}",
];

/// Bytes that the gateway must refuse.
pub struct RawInput {
    what: String,
    bytes: Vec<u8>,
    wanted: Wanted,
}

/// The expected answer: never anything but one 4xx.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// The input has the form of a request, so the answer is a problem document.
    Problem,
    /// The input has not the form of a request: the status is enough.
    Status,
    /// The input is incomplete or too long, so the connection may end without an answer.
    End,
}

pub fn inputs(caller: &Caller) -> Vec<RawInput> {
    let mut all = Vec::new();
    let mut add = |wanted: Wanted, bytes: Vec<u8>| {
        let what = String::from_utf8_lossy(&bytes).replace(&caller.token, "<token>");
        all.push(RawInput {
            what,
            bytes,
            wanted,
        });
    };
    let fields = format!(
        "Host: gateway\r\nAuthorization: {}\r\nConnection: close\r\n",
        caller.bearer()
    );
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"] {
        add(
            Wanted::Problem,
            format!(
                "GET /api/v1/contacts HTTP/1.1\r\n{}\r\n",
                fields.replace("Host: gateway\r\n", hosts)
            )
            .into_bytes(),
        );
    }
    for target in TARGETS {
        add(
            Wanted::Problem,
            format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes(),
        );
    }
    add(
        Wanted::Problem,
        format!(
            "GET /api/v1/contacts?search={} HTTP/1.1\r\n{fields}\r\n",
            "a".repeat(4_096)
        )
        .into_bytes(),
    );
    add(
        Wanted::Problem,
        format!(
            "GET /api/v1/{} HTTP/1.1\r\n{fields}\r\n",
            "../".repeat(1_500)
        )
        .into_bytes(),
    );
    for method in METHODS {
        add(
            Wanted::Problem,
            format!("{method} /api/v1/contacts HTTP/1.1\r\n{fields}\r\n").into_bytes(),
        );
    }
    add(
        Wanted::Problem,
        format!("CONNECT example.com:443 HTTP/1.1\r\n{fields}\r\n").into_bytes(),
    );
    add(
        Wanted::Problem,
        format!("GET example.com:443 HTTP/1.1\r\n{fields}\r\n").into_bytes(),
    );

    NO_HTTP
        .iter()
        .for_each(|bytes| add(Wanted::Status, bytes.to_vec()));
    add(Wanted::End, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
    add(Wanted::End, b"\r\n\r\n\r\n\r\n".to_vec());
    add(Wanted::End, b"GET / HT".to_vec());
    let message = format!(
        r#"{{"contact_id":"{}","role":"user","platform":"web","direction":"inbound","content":"smuggled"}}"#,
        caller.values.contact
    );
    let typed = format!("{fields}Content-Type: application/json\r\n");
    for lines in BAD_LINES {
        add(
            Wanted::Status,
            [
                format!("POST /api/v1/messages HTTP/1.1\r\n{typed}").as_bytes(),
                lines,
                b"\r\n",
                message.as_bytes(),
            ]
            .concat(),
        );
    }
    add(
        Wanted::Status,
        format!(
            "GET /api/v1/contacts HTTP/1.1\r\n{fields}X-Large: {}\r\n\r\n",
            "x".repeat(17 * 1024)
        )
        .into_bytes(),
    );
    add(
        Wanted::Status,
        format!(
            "GET /api/v1/contacts HTTP/1.1\r\n{fields}{}\r\n",
            "X-Many: x\r\n".repeat(101)
        )
        .into_bytes(),
    );
    add(
        Wanted::End,
        format!("GET /{} HTTP/1.1\r\n{fields}\r\n", "x".repeat(70_000)).into_bytes(),
    );
    add(
        Wanted::Status,
        format!("POST /api/v1/messages HTTP/1.0\r\n{typed}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
    );
    add(
        Wanted::End,
        format!("POST /api/v1/messages HTTP/1.1\r\n{typed}Content-Length: 500\r\n\r\n{message}")
            .into_bytes(),
    );
    add(Wanted::End, format!("POST /api/v1/messages HTTP/1.1\r\n{typed}Transfer-Encoding: chunked\r\n\r\n500\r\n{message}").into_bytes());
    add(
        Wanted::End,
        format!("POST /api/v1/messages HTTP/1.1\r\n{typed}X-Cut-Off: ").into_bytes(),
    );

    let post = format!("POST /api/v1/messages HTTP/1.1\r\n{typed}");
    for body in BAD_CHUNKS {
        add(
            Wanted::Problem,
            format!("{post}Transfer-Encoding: chunked\r\n\r\n{body}").into_bytes(),
        );
    }
    // Request smuggling: a reader that believes the other length sees a second request.
    let kept = post.replace("Connection: close", "Connection: keep-alive");
    let inner = format!("{post}Content-Length: {}\r\n\r\n{message}", message.len());
    let ends_early = format!("0\r\n\r\n{inner}");
    for lengths in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
            ends_early.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n",
            ends_early.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n",
            ends_early.len()
        ),
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: ,chunked\r\n",
            ends_early.len()
        ),
    ] {
        add(
            Wanted::Problem,
            format!("{kept}{lengths}\r\n{ends_early}").into_bytes(),
        );
    }
    for lengths in [
        format!("Content-Length: 0\r\nContent-Length: {}\r\n", message.len()),
        format!("Content-Length: {}\r\nContent-Length: 0\r\n", message.len()),
        "Content-Length: 5\r\nTransfer-Encoding: chunked, identity\r\n".to_owned(),
    ] {
        add(
            Wanted::Status,
            format!("{kept}{lengths}\r\n{message}{inner}").into_bytes(),
        );
    }
    let one_chunk = format!("{:x}\r\n{message}\r\n0\r\n\r\n", message.len());
    add(
        Wanted::Status,
        format!("{kept}Content-Length: 4\r\nTransfer-Encoding : chunked\r\n\r\n{one_chunk}")
            .into_bytes(),
    );
    all
}

/// Sends the input and describes the answer if it is not the expected refusal.
pub async fn check_refusal(system: &System, input: &RawInput) -> Option<String> {
    let answer = exchange(system, input).await;
    let statuses: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3))
        .collect();
    let is_refused = statuses.iter().all(|status| status.starts_with('4'));
    let is_problem =
        answer.contains("content-type: application/problem+json") && answer.contains(r#""code":"#);
    let is_wanted = match input.wanted {
        Wanted::Problem => statuses.len() == 1 && is_problem,
        Wanted::Status => statuses.len() == 1,
        Wanted::End => statuses.len() <= 1,
    };
    let is_split = answer.to_ascii_lowercase().contains("evil=1");
    let is_good = is_refused && is_wanted && !is_split;
    (!is_good).then(|| {
        format!(
            "{:?}: {answer:?}",
            input.what.chars().take(300).collect::<String>()
        )
    })
}

/// Sends the input and reads until the gateway closes the connection.
async fn exchange(system: &System, input: &RawInput) -> String {
    let gateway = system.url("gateway");
    let mut connection = TcpStream::connect(gateway.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let mut said = Vec::new();
    let talk = async {
        // The gateway may close the connection before it has read everything.
        let _ = connection.write_all(&input.bytes).await;
        if input.wanted == Wanted::End {
            let _ = connection.shutdown().await;
        }
        let _ = connection.read_to_end(&mut said).await;
    };
    tokio::time::timeout(SOON, talk)
        .await
        .unwrap_or_else(|_| panic!("no end: {:?}", input.what));
    String::from_utf8_lossy(&said).into_owned()
}
