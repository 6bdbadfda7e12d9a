//! The end of a call to the bot: how the call ended, and the Graph API's error in the bot's answer.
//! What follows for the message is not decided here; see `delivery::verdict`.

use std::time::Duration;

use runtime::net::http_client;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The bot answered.
    Answered {
        /// HTTP status.
        status: u16,
        /// The time that the header `Retry-After` asks for.
        retry_after: Option<Duration>,
        /// The Graph API's error in the body, if the bot passes it on.
        graph: Option<GraphError>,
    },
    /// There was no connection, so the bot has seen nothing.
    NoConnection,
    /// There was no answer within the time limit. The bot may have taken the message. Because of the
    /// idempotency key, a repetition does no harm.
    TimedOut,
    /// The connection broke before the answer was there.
    Broken,
}

impl From<http_client::Ending> for Ending {
    /// A body that breaks off is read as far as it came, because the status is what counts.
    fn from(ending: http_client::Ending) -> Ending {
        match ending {
            http_client::Ending::Answered(answer) => Ending::Answered {
                status: answer.status,
                retry_after: answer.retry_after,
                graph: GraphError::read(answer.body.bytes()),
            },
            http_client::Ending::NoConnection => Ending::NoConnection,
            http_client::Ending::TimedOut => Ending::TimedOut,
            http_client::Ending::Broken => Ending::Broken,
        }
    }
}

/// An error of the Graph API. The codes are described at
/// developers.facebook.com/docs/graph-api/guides/error-handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphError {
    pub code: i64,
    pub subcode: Option<i64>,
}

/// Codes for a token that has expired, was revoked or is invalid.
const SESSION: i64 = 102;
const INVALID_TOKEN: i64 = 190;
/// The code for a permission that was not granted or was removed. The codes from 200 to 299 are of
/// the same kind.
const PERMISSION: i64 = 10;

impl GraphError {
    /// Reads the error in an answer's body: `{"error": {"code": 190, "error_subcode": 463}}`, or
    /// `{"code": 190}` as some bots shorten it.
    pub fn read(body: &[u8]) -> Option<GraphError> {
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

    /// Whether the company's token has expired or was revoked. The subcode says why, which makes no
    /// difference.
    pub fn is_of_the_token(self) -> bool {
        [SESSION, INVALID_TOKEN].contains(&self.code)
    }

    /// Whether the company lacks a permission. An error with a subcode is about one message instead:
    /// 10 with 2018278 is a customer outside the messaging window, 200 with 1545041 a customer who
    /// cannot be reached.
    pub fn is_of_a_permission(self) -> bool {
        matches!(self.code, PERMISSION | 200..=299) && self.subcode.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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
                GraphError::read(body.as_bytes()),
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
            assert_eq!(GraphError::read(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = GraphError::read(&body);
        }

        #[test]
        fn any_codes_are_read_back(code in any::<i64>(), subcode in prop::option::of(any::<i64>()), is_short in any::<bool>()) {
            let error = json!({"code": code, "error_subcode": subcode, "message": "…"});
            let body = if is_short { error } else { json!({"error": error}) };
            prop_assert_eq!(GraphError::read(body.to_string().as_bytes()), Some(GraphError { code, subcode }));
        }
    }
}
