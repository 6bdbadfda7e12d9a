//! The error in the body of another server's answer: Meta's Graph API error, wherever a bot puts it,
//! or the bot's own. Holds the one table of what Graph's codes are about. Decides neither what
//! becomes of a message nor of a token.

use serde_json::{Map, Value};

/// Characters of another server's words that are kept. The rest is cut off.
pub const WORDS_CHARS: usize = 300;
/// How deep an error may lie in an answer. A deeper one is not looked for.
const DEPTH: usize = 6;
/// Items of a list of results that are looked at. The rest is ignored.
const ITEMS: usize = 100;
/// Shortest run of letters and digits that may be a token. Longer runs are hidden in words.
const TOKEN_RUN: usize = 32;
/// How tokens of Facebook, of Instagram and of Google begin.
const TOKEN_STARTS: &[&str] = &["EAA", "IGAA", "IGQ", "ya29."];
/// What stands for a hidden token.
const HIDDEN: &str = "[hidden]";

/// Fields that may hold the error that a bot passes on.
const CARRIERS: &[&str] = &[
    "error",
    "errors",
    "details",
    "detail",
    "data",
    "response",
    "body",
    "cause",
    "graph",
    "original",
    "meta",
    "result",
    "results",
    "message",
    "messages",
    "responses",
    "reason",
];
/// Fields that may hold an error's text for people, the best one first.
const WORDS: &[&str] = &[
    "message",
    "error_message",
    "error_msg",
    "error_description",
    "error_user_msg",
    "description",
    "detail",
    "details",
    "reason",
    "title",
    "error",
];
/// Fields that hold a message's id: of Messenger and Instagram, of Telegram, as bots spell it, and of
/// WhatsApp in its list of messages.
const MESSAGE_IDS: &[&str] = &["message_id", "messageId", "mid", "external_message_id"];
/// Fields that may hold the platform's answer.
const ANSWERS: &[&str] = &["result", "data", "response", "body"];
/// Fields that may hold a code of the Graph API.
const CODES: &[&str] = &["code", "error_code", "errorCode"];
/// Fields that may hold an HTTP status.
const STATUSES: &[&str] = &["status", "statusCode", "status_code", "code"];

/// What an error of the Graph API is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A limit of calls or a fault of the platform. The same call may succeed later.
    Passing,
    /// The company's token has expired, was revoked or is invalid.
    Token,
    /// A permission is missing: of the company, or for this one customer.
    Permission,
    /// This one customer cannot be reached, or not now.
    Customer,
    /// The request itself, such as its text. The same request never succeeds.
    Request,
    /// The code is not in the table.
    Unknown,
}

/// An error of the Graph API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphError {
    pub code: i64,
    pub subcode: Option<i64>,
    /// Whether the platform itself says that the error will pass.
    pub is_transient: bool,
    /// The platform's text, bounded and without tokens.
    pub words: Option<String>,
}

impl GraphError {
    /// The table. The codes are those of Meta's pages on handling errors and on rate limits of the
    /// Graph API, on errors of the Messenger Platform, and on errors of WhatsApp's Cloud API.
    pub fn about(&self) -> About {
        if self.is_transient {
            return About::Passing;
        }
        match (self.code, self.subcode) {
            // Outside the messaging window (10), not available (200, 551), receives no messages, no
            // such user (100).
            (
                _,
                Some(
                    1_545_041 | 2_018_001 | 2_018_065 | 2_018_108 | 2_018_278 | 2_534_014
                    | 2_534_022,
                ),
            ) => About::Customer,
            // Unknown, service down, calls of an app, a user, a page, "temporarily blocked", calls of
            // a kind, and "temporary send message failure". 101 is the app's own settings, which an
            // operator can correct.
            (1 | 2 | 4 | 17 | 32 | 101 | 341 | 368 | 613 | 1_200, _)
            // Calls of a business use case.
            | (80_000..=80_014, _)
            // WhatsApp: throughput, something went wrong, service down, spam limit, pair limit,
            // maintenance, server down.
            | (130_429 | 131_000 | 131_016 | 131_048 | 131_056 | 131_057 | 133_004, _) => {
                About::Passing
            }
            // 102 and 190 with any subcode. Some bots pass the subcode on as the code.
            (102 | 190 | 463 | 467, _) | (_, Some(458..=467 | 492)) => About::Token,
            // The app is not live yet, so that only its testers can be reached.
            (200, Some(2_018_027 | 2_018_028)) => About::Permission,
            // WhatsApp: access denied, account locked, payment missing.
            (3 | 10 | 200..=299, None) | (131_005 | 131_031 | 131_042, _) => About::Permission,
            // A subcode tells about what the permission is missing: one message or customer.
            (10 | 200..=299 | 551, _) => About::Customer,
            // WhatsApp: outside the window, part of an experiment, the country is not served,
            // undeliverable, outside the window, chosen not to be delivered, has opted out.
            (470 | 130_472 | 130_497 | 131_026 | 131_047 | 131_049 | 131_050, _) => About::Customer,
            (100 | 506 | 1_609_005, _) => About::Request,
            _ => About::Unknown,
        }
    }

    fn of(fields: &Map<String, Value>, secrets: &[&str]) -> Option<GraphError> {
        let words = words(fields, secrets);
        let code = CODES
            .iter()
            .find_map(|name| integer(fields.get(*name)?))
            .or_else(|| code_in(words.as_deref()?))?;
        let error = GraphError {
            code,
            subcode: fields.get("error_subcode").and_then(integer),
            is_transient: fields.get("is_transient").is_some_and(is_true),
            words,
        };
        // An HTTP status that stands in the place of a code is the bot's own.
        let is_status = (400..=599).contains(&code) && error.about() == About::Unknown;
        (!is_status).then_some(error)
    }
}

/// An error in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformError {
    Graph(GraphError),
    /// The bot's own error: a JSON object that says in a usual way that something failed.
    Own {
        /// The HTTP status that the body names.
        status: Option<u16>,
        /// The bot's text, bounded and without tokens.
        words: Option<String>,
    },
}

/// What the body of an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The body is an HTML or XML page, which no bot writes: a proxy, a firewall or a login page.
    pub is_page: bool,
    /// The body says that the call failed, whatever the status says.
    pub is_failure: bool,
    /// The error in the body.
    pub error: Option<PlatformError>,
    /// The id that the platform gave a message, if the body has one.
    pub message_id: Option<String>,
}

impl Reply {
    /// Reads a body, or the beginning of one. `secrets` are hidden in the words that are kept.
    pub fn read(body: &[u8], secrets: &[&str]) -> Reply {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.starts_with('<') {
            return Reply {
                is_page: true,
                ..Reply::default()
            };
        }
        let Some(value) = parse(text) else {
            return Reply::default();
        };
        Reply {
            is_page: false,
            is_failure: is_failure(&value),
            error: graph_error(&value, secrets, DEPTH)
                .map(PlatformError::Graph)
                .or_else(|| own_error(&value, secrets)),
            message_id: message_id(&value),
        }
    }

    /// The Graph API's error, if there is one.
    pub fn graph(&self) -> Option<&GraphError> {
        match &self.error {
            Some(PlatformError::Graph(error)) => Some(error),
            _ => None,
        }
    }

    /// A text for staff: status, code, subcode, what that means, and the other server's words.
    pub fn describe(&self, status: u16, meaning: Option<&str>) -> String {
        let mut text = format!("HTTP {status}");
        let words = match &self.error {
            Some(PlatformError::Graph(error)) => {
                text += &format!(", Graph code {}", error.code);
                if let Some(subcode) = error.subcode {
                    text += &format!(", subcode {subcode}");
                }
                error.words.as_deref()
            }
            Some(PlatformError::Own { words, .. }) => words.as_deref(),
            None => None,
        };
        for part in [meaning, words].into_iter().flatten() {
            text += ": ";
            text += part;
        }
        text
    }
}

/// Makes another server's text fit for staff: on one line, at most [`WORDS_CHARS`] characters, and
/// without tokens.
pub fn tidy(text: &str, secrets: &[&str]) -> Option<String> {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret, HIDDEN);
    }
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut tidied = String::new();
    for run in text.split_inclusive(|c| !is_inner(c)) {
        let (run, end) = run.split_at(run.trim_end_matches(|c| !is_inner(c)).len());
        let is_long = run.len() >= TOKEN_RUN && run.bytes().any(|c| c.is_ascii_digit());
        let is_token = is_long || TOKEN_STARTS.iter().any(|start| run.starts_with(start));
        tidied += if is_token { HIDDEN } else { run };
        tidied += end;
    }
    let tidied: String = tidied.trim().chars().take(WORDS_CHARS).collect();
    (!tidied.is_empty()).then_some(tidied)
}

/// Reads JSON as bots write it: half an emoji, which is no valid JSON, must not hide the error.
fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&without_surrogates(text)))
        .ok()
}

/// Replaces the escapes of surrogates, halves and pairs alike, because only a text for staff loses
/// by that.
fn without_surrogates(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended += before;
        let is_surrogate = escape.get(..4).is_some_and(|start| {
            let start = start.to_ascii_lowercase();
            start.starts_with("\\ud") && "89abcdef".contains(&start[3..])
        });
        // A backslash of its own is an escape of two characters.
        let length = match escape.chars().nth(1) {
            Some('u') if is_surrogate && escape.is_char_boundary(6) => 6,
            Some(c) => 1 + c.len_utf8(),
            None => 1,
        };
        mended += if length == 6 {
            "\\ufffd"
        } else {
            &escape[..length]
        };
        rest = &escape[length..];
    }
    mended + rest
}

/// Looks for an error of the Graph API, the innermost one first, because bots wrap what they pass
/// on.
fn graph_error(value: &Value, secrets: &[&str], depth: usize) -> Option<GraphError> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Object(fields) => CARRIERS
            .iter()
            .filter_map(|name| fields.get(*name))
            .find_map(|inner| graph_error(inner, secrets, depth))
            .or_else(|| GraphError::of(fields, secrets)),
        Value::Array(items) => items
            .iter()
            .take(ITEMS)
            .find_map(|item| graph_error(item, secrets, depth)),
        Value::String(text) if text.trim_start().starts_with('{') => {
            graph_error(&parse(text)?, secrets, depth)
        }
        _ => None,
    }
}

fn own_error(value: &Value, secrets: &[&str]) -> Option<PlatformError> {
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Array(items) => {
            let failed = items.iter().take(ITEMS).find(|item| is_failure(item))?;
            return own_error(failed, secrets);
        }
        _ => return None,
    };
    let status = STATUSES
        .iter()
        .chain(&["error"])
        .find_map(|name| status_in(fields.get(*name)?));
    let words = words(fields, secrets);
    let is_error = is_failure(value) || words.is_some();
    is_error.then_some(PlatformError::Own { status, words })
}

/// Whether the body says that the call failed.
fn is_failure(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            let is = |name: &str, test: fn(&Value) -> bool| fields.get(name).is_some_and(test);
            let lists = ["results", "messages", "responses"];
            is("success", is_false)
                || is("ok", is_false)
                || is("error", is_something)
                || is("errors", is_something)
                || is("status", |status| {
                    let words = ["error", "fail", "failed", "failure"];
                    status
                        .as_str()
                        .is_some_and(|status| words.contains(&status.to_lowercase().as_str()))
                })
                || STATUSES
                    .iter()
                    .any(|name| fields.get(*name).and_then(status_in).is_some())
                || lists.iter().any(|name| {
                    fields.get(*name).is_some_and(Value::is_array) && is_failure(&fields[*name])
                })
        }
        Value::Array(items) => items.iter().take(ITEMS).any(is_failure),
        _ => false,
    }
}

/// The status of a failure that a field or the object in it holds.
fn status_in(value: &Value) -> Option<u16> {
    if let Value::Object(fields) = value {
        return STATUSES
            .iter()
            .find_map(|name| status_in(fields.get(*name)?));
    }
    integer(value)
        .filter(|status| (400..=599).contains(status))
        .and_then(|status| status.try_into().ok())
}

fn words(fields: &Map<String, Value>, secrets: &[&str]) -> Option<String> {
    WORDS.iter().find_map(|name| match fields.get(*name)? {
        Value::String(text) => tidy(text, secrets),
        Value::Object(inner) if *name == "error" => words(inner, secrets),
        _ => None,
    })
}

/// The code in a text such as `(#551) This person isn't available right now.`
fn code_in(words: &str) -> Option<i64> {
    let (code, _) = words.split_once("(#")?.1.split_once(')')?;
    code.parse().ok()
}

/// A number, or the digits of one.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_i64(),
    }
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true) || value.as_str() == Some("true")
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false) || value.as_str() == Some("false")
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.values().any(is_something),
    }
}

/// The platform's id of a message in the answer, or in the platform's answer within it.
fn message_id(value: &Value) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        // Telegram counts the messages of a chat.
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let of = |fields: &Value| {
        let mut ids = MESSAGE_IDS.iter();
        let own = ids.find_map(|name| text(fields.get(*name)?));
        own.or_else(|| text(fields.get("messages")?.get(0)?.get("id")?))
    };
    let mut answers = ANSWERS.iter();
    of(value).or_else(|| answers.find_map(|name| of(value.get(*name)?)))
}

#[cfg(test)]
mod tests;
