//! W3C trace context: parsed from a request, carried in headers of the log, printed in log lines.
//! Samples and exports nothing.

use std::fmt;
use std::str::FromStr;

/// A `traceparent`: trace id, id of the sending span, flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// A new trace, for a request that brings none.
    pub fn generate() -> TraceContext {
        // All-zero ids are invalid by the standard.
        TraceContext {
            trace: rand::random::<u128>().max(1),
            span: rand::random::<u64>().max(1),
            flags: 1,
        }
    }

    /// The same trace with a new span.
    pub fn child(self) -> TraceContext {
        TraceContext {
            span: rand::random::<u64>().max(1),
            ..self
        }
    }

    /// The trace id as 32 hex digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.span, self.flags
        )
    }
}

/// The text is not a `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct BadTraceparent;

impl FromStr for TraceContext {
    type Err = BadTraceparent;

    fn from_str(text: &str) -> Result<TraceContext, BadTraceparent> {
        let lower_hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut parts = text.split('-');
        let (Some("00"), Some(trace), Some(span), Some(flags), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(BadTraceparent);
        };
        if !(lower_hex(trace, 32) && lower_hex(span, 16) && lower_hex(flags, 2)) {
            return Err(BadTraceparent);
        }
        let context = TraceContext {
            trace: u128::from_str_radix(trace, 16).map_err(|_| BadTraceparent)?,
            span: u64::from_str_radix(span, 16).map_err(|_| BadTraceparent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| BadTraceparent)?,
        };
        if context.trace == 0 || context.span == 0 {
            Err(BadTraceparent)
        } else {
            Ok(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}", like in "0[01]-[0-9a-f]{30,34}-[0-9a-fé]{15,17}-[0-9a-f]{1,3}") {
            let _ = (text.parse::<TraceContext>(), like.parse::<TraceContext>());
        }
    }

    #[test]
    fn the_standards_example_round_trips_and_a_child_keeps_the_trace() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(
            context.child().trace_id(),
            "0af7651916cd43dd8448eb211c80319c"
        );
    }

    #[test]
    fn texts_that_are_no_traceparent_are_refused() {
        for text in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
    }
}
