//! Tests of the document against the code: the document describes every event, command and subject
//! and no other, and the code sends what the document describes.

use std::collections::BTreeSet;
use std::path::Path;

use contract::event::Envelope;
use contract::subject::{self, EventSubject, Outbound};
use contract::{Id, Timestamp};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::DOCUMENT;
use crate::cluster::presence_exchange::NodeUsers;
use crate::room::frame::{Frame, Origin};
use crate::room::payload::{self, ResyncReason};
use crate::room::presence::{User, Users};
use crate::room::server_event::ServerEvent;
use crate::room::typing::Typing;
use crate::subscriber::command::{Command, Done, Failure};

const ID: Id = Id::from_bytes([0xab; 12]);
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

fn object<'a>(document: &'a Value, pointer: &str) -> &'a Map<String, Value> {
    document
        .pointer(pointer)
        .and_then(Value::as_object)
        .unwrap_or_else(|| panic!("no {pointer}"))
}

/// The names and schemas of the messages of a channel in one direction.
fn messages(document: &Value, channel: &str, direction: &str) -> Vec<(String, Value)> {
    let operation = object(document, &format!("/operations/{channel}_{direction}"));
    let references = operation["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["$ref"].as_str().unwrap());
    references
        .map(|reference| {
            let in_channel = document
                .pointer(&reference[1..])
                .unwrap_or_else(|| panic!("no {reference}"));
            let message = document
                .pointer(&in_channel["$ref"].as_str().unwrap()[1..])
                .unwrap();
            (
                message["name"].as_str().unwrap().to_owned(),
                message["payload"].clone(),
            )
        })
        .collect()
}

fn names(messages: &[(String, Value)]) -> BTreeSet<&str> {
    messages.iter().map(|(name, _)| name.as_str()).collect()
}

/// A validator for a schema of the document. It refuses properties that the schema does not name.
fn validator(document: &Value, schema: &Value) -> Validator {
    let mut whole = schema.clone();
    whole["components"] = json!({"schemas": document["components"]["schemas"]});
    close(&mut whole);
    jsonschema::options()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap()
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // A company may add fields to a contact, as its description says.
            let is_open = fields
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|text| text.contains("own fields"));
            if fields.contains_key("properties")
                && fields.get("type") == Some(&json!("object"))
                && !is_open
            {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn assert_valid(validator: &Validator, name: &str, value: &Value) {
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{value}");
}

/// The golden events of the contract.
fn golden() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats/golden");
    let events: Vec<Vec<u8>> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(events.len() >= 15);
    events
}

/// Frames of all events.
fn frames() -> Vec<Frame> {
    let origin = Origin {
        seq: 42,
        stored_at: NOW,
    };
    let stored = golden()
        .into_iter()
        .filter_map(|json| payload::of_event(Envelope::from_json(&json).unwrap(), origin).unwrap());
    let typing = Typing {
        user_id: ID,
        is_typing: true,
        socket: ID,
    };
    let passing = [
        payload::of_typing(ID, typing),
        payload::of_ready(7),
        payload::of_resync(7, ResyncReason::TooMany),
        payload::of_resync(7, ResyncReason::TooOld),
        payload::of_resync(7, ResyncReason::Unknown),
        payload::of_resync(7, ResyncReason::Late),
        payload::of_presence(&[], true),
        payload::of_presence(
            &[User {
                user_id: ID,
                online: true,
                viewing: [ID].into(),
            }],
            false,
        ),
        payload::of_expiry(NOW),
        payload::of_closing(1_200),
    ];
    stored
        .chain(passing.into_iter().map(Result::unwrap))
        .collect()
}

#[test]
fn the_document_describes_every_event_for_clients() {
    let document = document();
    let (web, io) = (
        messages(&document, "ws", "send"),
        messages(&document, "socket_io", "send"),
    );
    let frames = frames();
    let made: BTreeSet<&str> = frames.iter().map(|frame| frame.event().as_str()).collect();
    let all = ServerEvent::ALL
        .iter()
        .map(|event| event.as_str())
        .collect();
    assert_eq!(made, all, "the events of `frames`, and all events");
    let also =
        |more: [&'static str; 2]| made.iter().copied().chain(more).collect::<BTreeSet<&str>>();
    assert_eq!(names(&web), also(["ack", "error"]));
    assert_eq!(names(&io), also(["closing", "error"]));
    let of = |messages: &[(String, Value)], name: &str| {
        validator(
            &document,
            &messages.iter().find(|(n, _)| n == name).unwrap().1,
        )
    };
    for frame in &frames {
        let (name, data) = (frame.event().as_str(), frame.data().get());
        let data: Value = serde_json::from_str(data).unwrap();
        assert_valid(&of(&web, name), name, &json!({"event": name, "data": data}));
        assert_valid(&of(&io, name), name, &data);
    }
}

#[test]
fn the_document_describes_the_answers_to_commands() {
    let document = document();
    let web = messages(&document, "ws", "send");
    let of = |name: &str| validator(&document, &web.iter().find(|(n, _)| n == name).unwrap().1);
    for done in [
        Done::OK,
        Done {
            seq: Some(7),
            ..Done::OK
        },
    ] {
        assert_valid(
            &of("ack"),
            "ack",
            &json!({"event": "ack", "data": done, "id": 7}),
        );
        assert_valid(
            &validator(&document, &json!({"$ref": "#/components/schemas/Answer"})),
            "Answer",
            &json!(done),
        );
    }
    let malformed = Failure::malformed("no");
    for failure in [
        malformed,
        Failure::UNAVAILABLE,
        Failure::RATE_LIMITED,
        Failure::TOO_MANY_CONVERSATIONS,
    ] {
        assert_valid(
            &of("error"),
            "error",
            &json!({"event": "error", "data": failure, "id": "x"}),
        );
        let refused = json!({"ok": false, "code": failure.code, "message": failure.message});
        assert_valid(
            &validator(&document, &json!({"$ref": "#/components/schemas/Answer"})),
            "Answer",
            &refused,
        );
    }
    let error = of("error");
    assert!(
        !error.is_valid(&json!({"event": "error", "data": {"code": "WHATEVER", "message": ""}})),
        "the schemas are strict"
    );
}

#[test]
fn the_document_describes_every_command_of_clients() {
    let document = document();
    let (web, io) = (
        messages(&document, "ws", "receive"),
        messages(&document, "socket_io", "receive"),
    );
    let source = include_str!("../subscriber/command.rs");
    let in_code: BTreeSet<&str> = source
        .split("=> |t| Command::")
        .filter_map(|before| before.trim_end().rsplit('"').nth(1))
        .collect();
    let in_code: BTreeSet<&str> = in_code
        .into_iter()
        .filter(|name| name.contains(':'))
        .collect();
    assert_eq!(names(&web), in_code);
    assert_eq!(names(&io), in_code);
    for (name, schema) in &web {
        let frame = json!({"event": name, "data": {"conversationId": ID.to_string()}});
        assert_valid(&validator(&document, schema), name, &frame);
        assert!(
            Command::parse(name, Some(&frame["data"].to_string())).is_ok(),
            "{name}"
        );
        assert!(
            Command::parse(name, Some("{}")).is_err()
                && !validator(&document, schema).is_valid(&json!({"event": name, "data": {}})),
            "{name}"
        );
    }
    for (name, schema) in &io {
        assert_valid(&validator(&document, schema), name, &json!(ID.to_string()));
    }
}

#[test]
fn the_document_describes_every_event_of_the_log() {
    let document = document();
    let mut described = BTreeSet::new();
    for channel in object(&document, "/channels").values() {
        let address = channel["address"].as_str().unwrap();
        let parameters = channel["parameters"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let subject = parameters.keys().fold(address.to_owned(), |text, name| {
            let value = match name.as_str() {
                "platform" => "facebook".to_owned(),
                "direction" => "inbound".to_owned(),
                "role" => "user".to_owned(),
                "partition" => "15".to_owned(),
                "service" => "persister".to_owned(),
                "subject" => format!("message.read.{ID}.{ID}"),
                _ => ID.to_string(),
            };
            text.replace(&format!("{{{name}}}"), &value)
        });
        match address.split('.').next().unwrap() {
            "/ws" | "/socket" => {}
            "live" => assert_eq!(
                subject,
                subject::live(EventSubject::MessageRead {
                    company: ID,
                    contact: ID
                })
            ),
            "typing" => assert_eq!(subject, subject::typing(ID, ID)),
            "presence" => assert_eq!(subject, subject::presence_of_company(ID)),
            "outbound" => assert!(subject.parse::<Outbound>().is_ok(), "{subject}"),
            "dead" => assert_eq!(
                subject,
                subject::dead("persister", &format!("message.read.{ID}.{ID}"))
            ),
            _ => {
                let kind = subject.split('.').take(2).collect::<Vec<_>>().join(".");
                assert_eq!(
                    subject.parse::<EventSubject>().unwrap().to_string(),
                    subject
                );
                described.insert(kind);
            }
        }
    }
    let mut stored = BTreeSet::new();
    for json in golden() {
        let event: Value = serde_json::from_slice(&json).unwrap();
        let kind = event["type"].as_str().unwrap().to_owned();
        let message = object(&document, "/components/messages")
            .values()
            .find(|m| m["name"] == kind.as_str());
        let schema = &message.unwrap_or_else(|| panic!("{kind} is not described"))["payload"];
        assert_valid(&validator(&document, schema), &kind, &event);
        stored.insert(kind);
    }
    assert_eq!(described, stored);
    let typing = json!(Typing {
        user_id: ID,
        is_typing: true,
        socket: ID
    });
    assert_valid(
        &validator(
            &document,
            &document["components"]["messages"]["nats_typing"]["payload"],
        ),
        "typing",
        &typing,
    );
    let node_users = json!(NodeUsers {
        node: "realtime-1".into(),
        ask: false,
        users: Users::from([(ID, [ID].into())])
    });
    assert_valid(
        &validator(
            &document,
            &document["components"]["messages"]["nats_presence"]["payload"],
        ),
        "presence",
        &node_users,
    );
}

#[test]
fn every_schema_has_a_title_and_every_server_its_security() {
    fn untitled(schema: &Value, place: String, found: &mut Vec<String>) {
        match schema {
            Value::Object(parts) => {
                if parts.contains_key("properties") && !parts.contains_key("title") {
                    found.push(place.clone());
                }
                for (name, part) in parts {
                    untitled(part, format!("{place}/{name}"), found);
                }
            }
            Value::Array(parts) => {
                for (n, part) in parts.iter().enumerate() {
                    untitled(part, format!("{place}/{n}"), found);
                }
            }
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    for (name, message) in object(&document, "/components/messages") {
        let payload = &message["payload"];
        assert!(
            payload["title"].is_string() || payload["$ref"].is_string(),
            "{name}"
        );
        untitled(payload, name.clone(), &mut found);
    }
    for (name, schema) in object(&document, "/components/schemas") {
        assert_eq!(schema["title"], name.as_str());
        untitled(schema, name.clone(), &mut found);
    }
    assert_eq!(found, Vec::<String>::new(), "without a title");
    for (name, server) in object(&document, "/servers") {
        let security = server["security"]
            .as_array()
            .unwrap_or_else(|| panic!("{name}"));
        assert!(!security.is_empty(), "{name}");
        for scheme in security {
            let pointer = scheme["$ref"].as_str().unwrap().trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{name}: {pointer}");
        }
    }
}
