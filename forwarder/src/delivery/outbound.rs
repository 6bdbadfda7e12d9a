//! Reading a message of `OUTBOUND`: payload and subject must say the same. No I/O.

use contract::dead_letter::Reason;
use contract::domain::{Message, Platform, Provider};
use contract::event::{BadEvent, Envelope, Event};
use contract::subject::Outbound;
use contract::{Id, Timestamp};

/// A message that the bot shall have.
#[derive(Clone, Debug, PartialEq)]
pub struct Awaiting {
    /// What was accepted.
    pub message: Message,
    /// Whose access it needs.
    pub provider: Provider,
    /// When. Its day counts from here.
    pub accepted_at: Timestamp,
}

/// Why it cannot be one, for the dead letter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {why}")]
pub struct NotOutbound {
    /// The kind.
    pub reason: Reason,
    /// The particulars.
    pub why: String,
}

/// Reads it, and checks it against the subject it came on, which is what isolates tenants.
///
/// # Errors
/// The payload is no `message.created` of this build, or contradicts its subject.
pub fn read(subject: &str, payload: &[u8]) -> Result<Awaiting, NotOutbound> {
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
    let place: Outbound = subject
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
    let subject_says = (place.company, place.contact, place.platform);
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
    Ok(Awaiting {
        message,
        provider,
        accepted_at: envelope.occurred_at,
    })
}

/// The platform that the subject names, if none of ours goes there.
fn unknown_platform(subject: &str) -> Option<&str> {
    let platform = subject.split('.').nth(4)?;
    let known = platform.parse().is_ok_and(Platform::is_forwardable);
    (!known).then_some(platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../nats/golden/message.created.v1.json");
    const SUBJECT: &str = "outbound.3.aaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb.facebook";

    fn reason(subject: &str, payload: &str) -> Option<Reason> {
        read(subject, payload.as_bytes()).err().map(|e| e.reason)
    }

    #[test]
    fn the_golden_event_is_read() {
        let awaiting = read(SUBJECT, GOLDEN.as_bytes()).unwrap();
        assert_eq!(awaiting.message.content.as_str(), "See you at ten.");
        assert_eq!(awaiting.accepted_at.to_string(), "2025-11-24T16:00:00.005Z");
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
    fn a_platform_that_nobody_carries_is_named_as_the_reason() {
        for platform in ["telegram", "myspace"] {
            assert_eq!(
                reason(&SUBJECT.replace("facebook", platform), GOLDEN),
                Some(Reason::UnknownPlatform),
                "{platform}"
            );
        }
    }

    #[test]
    fn what_is_nothing_to_forward_is_refused() {
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
    fn another_builds_event_is_told_apart() {
        assert_eq!(
            reason(SUBJECT, &GOLDEN.replace("\"version\":1", "\"version\":2")),
            Some(Reason::UnknownVersion)
        );
    }
}
