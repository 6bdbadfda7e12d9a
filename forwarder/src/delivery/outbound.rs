//! Reads a message of `OUTBOUND`, and checks that payload and subject agree. No I/O.

use contract::dead_letter::Reason;
use contract::domain::{Message, Platform, Provider};
use contract::event::{BadEvent, Envelope, Event};
use contract::subject::Outbound;
use contract::{Id, Timestamp};

/// A message for the bot.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboundMessage {
    pub message: Message,
    /// The platform whose token the message needs.
    pub provider: Provider,
    /// When the gateway accepted the message. The deadline counts from here.
    pub accepted_at: Timestamp,
}

/// Why a message of the stream is no message for the bot. Reason and text go into the dead letter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {why}")]
pub struct NotOutbound {
    pub reason: Reason,
    pub why: String,
}

/// Reads a message and checks it against its subject. This check isolates tenants.
///
/// # Errors
/// The payload is no `message.created` of this build, or contradicts its subject.
pub fn read(subject: &str, payload: &[u8]) -> Result<OutboundMessage, NotOutbound> {
    let malformed = |why: String| NotOutbound {
        reason: Reason::Malformed,
        why,
    };
    let unknown = |platform: &str| NotOutbound {
        reason: Reason::UnknownPlatform,
        why: format!("no forwarder carries messages of `{platform}`"),
    };
    if let Some(platform) = unknown_platform(subject) {
        return Err(unknown(platform));
    }
    let expected: Outbound = subject
        .parse()
        .map_err(|e: contract::subject::BadSubject| malformed(e.to_string()))?;
    let envelope = Envelope::from_json(payload).map_err(|e| match e {
        BadEvent::Unknown { .. } => NotOutbound {
            reason: Reason::UnknownVersion,
            why: e.to_string(),
        },
        BadEvent::Malformed(_) => malformed(e.to_string()),
    })?;
    let Event::MessageCreated(message) = envelope.event else {
        return Err(malformed(format!(
            "{} is nothing to forward",
            envelope.event.kind()
        )));
    };
    let says = |company: Id| (company, message.contact_id, message.platform);
    let subject_says = (expected.company, expected.contact, expected.platform);
    if says(envelope.company_id) != subject_says || says(message.company_id) != subject_says {
        return Err(malformed(format!(
            "the payload does not belong to the subject {subject}"
        )));
    }
    if !message.is_forwardable() {
        return Err(malformed(format!(
            "a {} {} message of {} is nothing to forward",
            message.direction, message.role, message.platform
        )));
    }
    let provider = message
        .platform
        .provider()
        .ok_or_else(|| unknown(message.platform.as_str()))?;
    Ok(OutboundMessage {
        message,
        provider,
        accepted_at: envelope.occurred_at,
    })
}

/// The platform that the subject names, if the bot does not serve that platform.
fn unknown_platform(subject: &str) -> Option<&str> {
    let platform = subject.split('.').nth(4)?;
    let known = platform.parse().is_ok_and(Platform::is_forwardable);
    (!known).then_some(platform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = include_str!("../../../nats/golden/message.created.v1.json");
    const SUBJECT: &str = "outbound.3.aaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb.facebook";

    fn reason(subject: &str, payload: &str) -> Option<Reason> {
        read(subject, payload.as_bytes()).err().map(|e| e.reason)
    }

    #[test]
    fn the_golden_event_is_read() {
        let outbound = read(SUBJECT, GOLDEN.as_bytes()).unwrap();
        assert_eq!(outbound.message.content.as_str(), "See you at ten.");
        assert_eq!(outbound.accepted_at.to_string(), "2025-11-24T16:00:00.005Z");
    }

    #[test]
    fn another_tenant_conversation_or_platform_in_the_subject_is_refused() {
        for subject in [
            SUBJECT.replace(".aaaa", ".daaa"),
            SUBJECT.replace("bbbb.", "bbbc."),
            SUBJECT.replace("facebook", "instagram"),
            SUBJECT.replace(".3.", ".99."),
            "message.created.x".to_owned(),
        ] {
            assert_eq!(
                reason(&subject, GOLDEN),
                Some(Reason::Malformed),
                "{subject}"
            );
        }
    }

    #[test]
    fn another_tenant_inside_the_envelope_is_refused() {
        let (envelope, data) = GOLDEN.split_once("\"data\"").unwrap();
        let smuggled = format!(
            "{envelope}\"data\"{}",
            data.replace("aaaaaaaaaaaaaaaaaaaaaaaa", "ffffffffffffffffffffffff")
        );
        assert_eq!(reason(SUBJECT, &smuggled), Some(Reason::Malformed));
    }

    #[test]
    fn a_platform_that_the_bot_does_not_serve_is_the_reason() {
        for platform in ["telegram", "myspace"] {
            assert_eq!(
                reason(&SUBJECT.replace("facebook", platform), GOLDEN),
                Some(Reason::UnknownPlatform),
                "{platform}"
            );
        }
    }

    #[test]
    fn a_message_that_is_not_for_the_bot_is_refused() {
        for (from, to) in [
            ("\"operator\"", "\"assistant\""),
            ("\"outbound\"", "\"inbound\""),
            ("message.created", "message.read"),
        ] {
            assert_eq!(
                reason(SUBJECT, &GOLDEN.replace(from, to)),
                Some(Reason::Malformed),
                "{to}"
            );
        }
        assert_eq!(reason(SUBJECT, "{"), Some(Reason::Malformed));
    }

    #[test]
    fn an_event_of_an_unknown_version_is_the_reason() {
        assert_eq!(
            reason(SUBJECT, &GOLDEN.replace("\"version\":1", "\"version\":2")),
            Some(Reason::UnknownVersion)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(subject in ".*", payload in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(read(&subject, &payload).is_err());
            prop_assert!(read(SUBJECT, &payload).is_err());
            prop_assert!(read(&subject, GOLDEN.as_bytes()).is_err());
        }
    }
}
