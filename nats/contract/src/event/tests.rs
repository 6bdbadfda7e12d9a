//! The format of every event is pinned by a file in `nats/golden/`: what was once written must stay
//! readable, byte for byte.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::domain::{
    Attachment, Contact, ContactPatch, Content, Delivery, DeliveryState, Direction, Email,
    ExternalId, Integration, Message, MessagePatch, Platform, Profile, Provider, Role, Sealed,
    ShortText, SlaTargets, Social, SocialPatch, StaffRole, Url, User,
};
use crate::{Id, Timestamp};

fn id(digit: char) -> Id {
    digit.to_string().repeat(24).parse().unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000 + millis)
}

fn short(text: &str) -> ShortText {
    ShortText::new(text).unwrap()
}

fn examples() -> Vec<(&'static str, Event)> {
    let message = Message {
        id: id('c'),
        company_id: id('a'),
        contact_id: id('b'),
        role: Role::Operator,
        platform: Platform::Facebook,
        direction: Direction::Outbound,
        content: Content::new("See you at ten.").unwrap(),
        attachments: vec![Attachment {
            kind: short("image"),
            url: Some(Url::new("https://files.example/a.png").unwrap()),
            file_description: Some(short("the way")),
            payload: None,
            extra: serde_json::Map::new(),
        }],
        external_message_id: Some(ExternalId::new("m_1").unwrap()),
        sent_elsewhere: false,
        created_at: at(0),
        of_channel: serde_json::Map::new(),
        extra: serde_json::Map::new(),
    };
    let delivery = Delivery {
        state: DeliveryState::Retrying,
        attempts: 2,
        last_error: Some("HTTP 503".into()),
        next_attempt_at: Some(at(4_000)),
        delivered_at: None,
        external_message_id: None,
    };
    let contact = Contact {
        id: id('b'),
        company_id: id('a'),
        full_name: short("Ada Brown"),
        email: Some(Email::new("ada@example.com").unwrap()),
        phone: None,
        social_network_name: Some(short("ada.b")),
        contact_status: None,
        lead_stage: Some(short("new")),
        bot_suspended: false,
        bot_suspend_until: None,
        social: Social {
            facebook_id: Some(short("1784")),
            ..Social::default()
        },
        profile: Profile {
            name: Some(short("Ada")),
            rest: serde_json::Map::new(),
        },
        created_at: at(0),
        extra: serde_json::Map::new(),
    };
    let company = crate::domain::Company {
        id: id('a'),
        name: short("Happy Paws"),
        created_at: at(0),
        sla: SlaTargets::default(),
    };
    let manager = User {
        id: id('d'),
        company_id: id('a'),
        email: Email::new("boss@example.com").unwrap(),
        full_name: short("Bo Boss"),
        role: StaffRole::Manager,
        password_hash: "$2b$12$…".into(),
        created_at: at(0),
    };
    let patch = ContactPatch {
        lead_stage: Some(Some(short("won"))),
        phone: Some(None),
        bot_suspended: Some(true),
        bot_suspend_until: Some(Some(at(60_000))),
        social: SocialPatch {
            instagram_id: Some(Some(short("55"))),
            ..SocialPatch::default()
        },
        ..ContactPatch::default()
    };
    let integration = Integration {
        company_id: id('a'),
        provider: Provider::Facebook,
        account_id: Some(short("1020")),
        account_name: Some(short("Happy Paws")),
        access_token: Some(Sealed {
            key_id: "k1".into(),
            sealed: "AAEC".into(),
        }),
        refresh_token: None,
        token_expires_at: Some(at(5_184_000_000)),
        updated_at: at(0),
    };
    vec![
        ("message.created", Event::MessageCreated(message)),
        (
            "message.updated",
            Event::MessageUpdated(MessageUpdated {
                message_id: id('c'),
                contact_id: id('b'),
                patch: MessagePatch {
                    content: Some(Content::new("See you at eleven.").unwrap()),
                    attachments: None,
                },
            }),
        ),
        (
            "message.deleted",
            Event::MessageDeleted(MessageDeleted {
                message_id: id('c'),
                contact_id: id('b'),
            }),
        ),
        (
            "message.read",
            Event::MessageRead(MessageRead {
                contact_id: id('b'),
                platform: Some(Platform::Facebook),
            }),
        ),
        (
            "message.delivery",
            Event::MessageDelivery(MessageDelivery {
                message_id: id('c'),
                contact_id: id('b'),
                message_seq: None,
                delivery,
                status: Some(503),
                duration_ms: Some(12),
            }),
        ),
        ("contact.created", Event::ContactCreated(Box::new(contact))),
        (
            "contact.updated",
            Event::ContactUpdated(Box::new(ContactUpdated {
                contact_id: id('b'),
                patch,
            })),
        ),
        (
            "company.created",
            Event::CompanyCreated(CompanyCreated {
                company,
                manager: manager.clone(),
            }),
        ),
        (
            "user.created",
            Event::UserCreated(User {
                id: id('f'),
                role: StaffRole::Receptionist,
                ..manager
            }),
        ),
        (
            "integration.updated",
            Event::IntegrationUpdated(integration),
        ),
        (
            "integration.deleted",
            Event::IntegrationDeleted(IntegrationDeleted {
                provider: Provider::Facebook,
            }),
        ),
        (
            "message.sla_breached",
            Event::MessageSlaBreached(MessageSlaBreached {
                message_id: id('c'),
                contact_id: id('b'),
                platform: Platform::Facebook,
                target_seconds: 60,
                accepted_at: at(0),
            }),
        ),
        (
            "contact.bot_resumed",
            Event::ContactBotResumed(ContactBotResumed {
                contact_id: id('b'),
                until: at(60_000),
            }),
        ),
        (
            "company.updated",
            Event::CompanyUpdated(CompanyUpdated {
                sla: Some(SlaTargets {
                    delivery_seconds: 30,
                    first_response_seconds: 600,
                }),
            }),
        ),
        (
            "integration.refresh_failed",
            Event::IntegrationRefreshFailed(IntegrationRefreshFailed {
                provider: Provider::Facebook,
                error: "HTTP 400 (code 190)".into(),
                token_expires_at: Some(at(5_184_000_000)),
            }),
        ),
    ]
}

fn envelope(event: Event) -> Envelope {
    Envelope {
        id: id('e'),
        occurred_at: at(5),
        actor: Actor::User { id: id('d') },
        company_id: id('a'),
        idempotency: None,
        event,
    }
}

#[test]
fn every_event_is_written_and_read_as_its_golden_file_says() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let examples = examples();
    let mut kinds: Vec<&str> = examples.iter().map(|(kind, _)| *kind).collect();
    let mut known = Event::KINDS.to_vec();
    kinds.sort_unstable();
    known.sort_unstable();
    assert_eq!(
        kinds, known,
        "an event without an example has no golden file"
    );
    for (kind, event) in examples {
        let envelope = envelope(event);
        assert_eq!(envelope.event.kind(), kind);
        let file = folder.join(format!("{kind}.v{VERSION}.json"));
        let written = envelope.to_json().unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, [written.as_slice(), b"\n"].concat()).unwrap();
        }
        let golden = std::fs::read(&file).unwrap_or_else(|e| {
            panic!(
                "{}: {e}; a new event type: run with UPDATE_GOLDEN=1",
                file.display()
            )
        });
        assert_eq!(
            String::from_utf8(written).unwrap(),
            String::from_utf8(golden.trim_ascii().to_vec()).unwrap()
        );
        assert_eq!(
            Envelope::from_message(&envelope.subject().to_string(), &golden).unwrap(),
            envelope
        );
    }
}

#[test]
fn the_request_that_caused_an_event_is_kept_with_it() {
    let idempotency = Some(Idempotency {
        key: "service:7".into(),
        fingerprint: "0f".into(),
    });
    let envelope = Envelope {
        idempotency,
        ..envelope(examples().remove(0).1)
    };
    assert_eq!(
        Envelope::from_json(&envelope.to_json().unwrap()).unwrap(),
        envelope
    );
}

#[test]
fn fields_of_a_newer_build_are_kept_on_what_becomes_a_document() {
    let mut value: serde_json::Value =
        serde_json::from_slice(&envelope(examples().remove(0).1).to_json().unwrap()).unwrap();
    value["data"]["mood"] = "sunny".into();
    value["hint"] = 1.into();
    let read = Envelope::from_json(value.to_string().as_bytes()).unwrap();
    let Event::MessageCreated(message) = read.event else {
        panic!("another event")
    };
    assert_eq!(message.extra["mood"], "sunny");
}

#[test]
fn fields_that_the_api_does_not_know_are_kept_beside_those_of_a_newer_build() {
    let mut value: serde_json::Value =
        serde_json::from_slice(&envelope(examples().remove(0).1).to_json().unwrap()).unwrap();
    let of_channel = serde_json::json!({"reply_to": {"mid": "m_1"}});
    let location = serde_json::json!({
        "type": "location", "payload": {"lat": 48.1}, "extra": {"name": "us"},
    });
    value["data"]["mood"] = "sunny".into();
    value["data"]["extra"] = of_channel.clone();
    value["data"]["attachments"] = serde_json::json!([location]);
    let read = Envelope::from_json(value.to_string().as_bytes()).unwrap();
    let Event::MessageCreated(message) = &read.event else {
        panic!("another event")
    };
    assert_eq!(message.extra["mood"], "sunny");
    assert_eq!(Some(&message.of_channel), of_channel.as_object());
    assert_eq!(message.attachments[0].url, None);
    let again: serde_json::Value = serde_json::from_slice(&read.to_json().unwrap()).unwrap();
    assert_eq!(again, value);
}

#[test]
fn other_types_and_versions_are_told_from_malformed_ones() {
    let good: serde_json::Value =
        serde_json::from_slice(&envelope(examples().remove(2).1).to_json().unwrap()).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut v = good.clone();
        v[key] = value;
        Envelope::from_json(v.to_string().as_bytes())
    };
    assert!(matches!(
        with("version", 2.into()),
        Err(BadEvent::Unknown { version: 2, .. })
    ));
    assert!(matches!(
        with("type", "message.sung".into()),
        Err(BadEvent::Unknown { .. })
    ));
    assert!(matches!(
        with("data", serde_json::json!({})),
        Err(BadEvent::Malformed(_))
    ));
    assert!(matches!(
        with("company_id", "x".into()),
        Err(BadEvent::Malformed(_))
    ));
    assert!(matches!(
        Envelope::from_json(b"\xff{"),
        Err(BadEvent::Malformed(_))
    ));
}

/// A payload of an event, with some of its bytes replaced, removed or repeated.
fn damaged_payload() -> impl Strategy<Value = Vec<u8>> {
    let payloads: Vec<Vec<u8>> = examples()
        .into_iter()
        .map(|(_, event)| envelope(event).to_json().unwrap())
        .collect();
    let damage = (
        any::<Index>(),
        0..8_usize,
        proptest::collection::vec(any::<u8>(), 0..8),
    );
    (select(payloads), damage).prop_map(|(mut payload, (at, removed, added))| {
        let start = at.index(payload.len());
        let end = (start + removed).min(payload.len());
        payload.splice(start..end, added);
        payload
    })
}

proptest! {
    #[test]
    fn no_payload_makes_the_reader_panic(
        damaged in damaged_payload(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        subject in "[ -~]{0,40}",
    ) {
        let _ = (Envelope::from_json(&bytes), Envelope::from_message(&subject, &bytes));
        if let Ok(read) = Envelope::from_message(&subject, &damaged) {
            prop_assert_eq!(read.subject().to_string(), subject);
        }
        if let Ok(read) = Envelope::from_json(&damaged) {
            let again = read.to_json().unwrap();
            prop_assert_eq!(Envelope::from_json(&again).unwrap(), read);
        }
    }
}

#[test]
fn a_payload_under_another_companys_subject_is_malformed() {
    let envelope = envelope(examples().remove(0).1);
    let foreign = envelope
        .subject()
        .to_string()
        .replace(&"a".repeat(24), &"f".repeat(24));
    assert!(matches!(
        Envelope::from_message(&foreign, &envelope.to_json().unwrap()),
        Err(BadEvent::Malformed(_))
    ));
}

#[test]
fn a_steps_id_says_which_delivery_it_belongs_to() {
    let message = Id::from_bytes([7; 12]);
    let id = MessageDelivery::msg_id(message, 42, 3, DeliveryState::Retrying);
    assert_eq!(MessageDelivery::outbound_seq(message, &id), Some(42));
    assert_eq!(
        MessageDelivery::outbound_seq(Id::from_bytes([8; 12]), &id),
        None
    );
    assert_eq!(MessageDelivery::outbound_seq(message, "delivery-x"), None);
}
