//! Writes documents as the contract's JSON, straight from MongoDB's bytes: a page of messages is
//! written field by field and never built in memory. Works only for documents whose field names are
//! the contract's. Fields that the view adds for itself are left out.

use contract::Timestamp;
use mongodb::bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use serde::Serialize;
use serde::ser::{Error, SerializeMap, Serializer};

use crate::fold::suspension;
use crate::mongo::document::{self, unescaped};

/// A message as clients see it.
pub struct Message(pub RawDocumentBuf);
/// A contact as clients see it.
pub struct Contact(pub RawDocumentBuf);
/// A call to the bot.
pub struct Attempt(pub RawDocumentBuf);
/// Any other document, with all fields.
pub struct Document(pub RawDocumentBuf);

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            &self.0,
            &["accepted_at", "applied", "deleted_at", "request"],
            serializer,
        )
    }
}

impl Serialize for Contact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            &self.0,
            &["applied", "revision", "search", "seq", suspension::FIELD],
            serializer,
        )
    }
}

impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(&self.0, &["_id", "message_id", "company_id"], serializer)
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(&self.0, &[], serializer)
    }
}

/// Writes all fields but the hidden ones. The fields of `extra` are written beside the others, under
/// the names that the caller gave.
fn write<S: Serializer>(
    document: &RawDocument,
    hidden: &[&str],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for field in document.iter() {
        let (name, value) = field.map_err(S::Error::custom)?;
        match (unescaped(name.as_str()), value) {
            (name, _) if hidden.contains(&name) => {}
            ("extra", RawBsonRef::Document(extra)) if !hidden.is_empty() => {
                for field in extra.iter() {
                    let (name, value) = field.map_err(S::Error::custom)?;
                    map.serialize_entry(unescaped(name.as_str()), &Value(value))?;
                }
            }
            (name, value) => map.serialize_entry(name, &Value(value))?,
        }
    }
    map.end()
}

struct Value<'a>(RawBsonRef<'a>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            RawBsonRef::String(text) => serializer.serialize_str(text),
            RawBsonRef::ObjectId(id) => document::id(id).serialize(serializer),
            RawBsonRef::DateTime(at) => {
                Timestamp::from_millis(at.timestamp_millis()).serialize(serializer)
            }
            RawBsonRef::Boolean(b) => serializer.serialize_bool(b),
            RawBsonRef::Int64(n) => serializer.serialize_i64(n),
            RawBsonRef::Int32(n) => serializer.serialize_i32(n),
            RawBsonRef::Double(n) => serializer.serialize_f64(n),
            RawBsonRef::Null => serializer.serialize_unit(),
            RawBsonRef::Document(document) => write(document, &[], serializer),
            RawBsonRef::Array(array) => {
                let values: Result<Vec<Value<'_>>, _> =
                    array.into_iter().map(|value| value.map(Value)).collect();
                values.map_err(S::Error::custom)?.serialize(serializer)
            }
            other => Err(S::Error::custom(format!(
                "a value of another kind: {:?}",
                other.element_type()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::domain::{Attachment, MessageView, ShortText};
    use contract::event::{Envelope, Event};
    use mongodb::bson::oid::ObjectId;

    fn golden(kind: &str) -> Event {
        let file = format!(
            "{}/../nats/golden/{kind}.v1.json",
            env!("CARGO_MANIFEST_DIR")
        );
        Envelope::from_json(&std::fs::read(file).unwrap())
            .unwrap()
            .event
    }

    fn raw(mut document: mongodb::bson::Document) -> RawDocumentBuf {
        document.insert("applied", mongodb::bson::doc! {"content": 7_i64});
        RawDocumentBuf::try_from(&document).unwrap()
    }

    #[test]
    fn documents_are_read_back_as_they_were_written() {
        let Event::MessageCreated(mut m) = golden("message.created") else {
            panic!()
        };
        let free_form = serde_json::json!({"$where": {"a.b": 1}, "extra": {"n": 1.5}});
        let free_form = free_form.as_object().unwrap().clone();
        m.extra = free_form.clone();
        m.extra.remove("extra");
        m.of_channel = free_form.clone();
        m.attachments.push(Attachment {
            kind: ShortText::new("location").unwrap(),
            url: None,
            file_description: None,
            payload: Some(serde_json::json!([{"coordinates": {"lat": 48.1}}, "x", null])),
            extra: free_form,
        });
        let text =
            serde_json::to_string(&Message(raw(document::message(&m, None, m.created_at, 7))))
                .unwrap();
        assert_eq!(
            serde_json::from_str::<MessageView>(&text).unwrap(),
            m.initial_view(Some(7))
        );
        let Event::ContactCreated(mut c) = golden("contact.created") else {
            panic!()
        };
        for name in [
            "$set",
            "$oid",
            "$date",
            "$numberLong",
            "$",
            "\\",
            "\\$oid",
            "\\\\$oid",
            "a.b",
            "",
        ] {
            c.profile.rest = [(
                name.to_owned(),
                serde_json::json!([1, 1.5, {name: null}, {name: {name: "5"}}]),
            )]
            .into_iter()
            .collect();
            let document = document::contact(&c, 7);
            let text = serde_json::to_string(&Contact(raw(document.clone()))).unwrap();
            assert_eq!(
                serde_json::from_str::<contract::domain::Contact>(&text).unwrap(),
                *c
            );
            // The fold of edits reads documents this way.
            let bytes = mongodb::bson::serialize_to_vec(&document).unwrap();
            assert_eq!(
                mongodb::bson::deserialize_from_slice::<mongodb::bson::Document>(&bytes).unwrap(),
                document
            );
        }
        let Event::MessageDelivery(d) = golden("message.delivery") else {
            panic!()
        };
        let attempt = document::attempt(&d, ObjectId::new(), 7, Timestamp::from_millis(5));
        let text =
            serde_json::to_string(&Attempt(RawDocumentBuf::try_from(&attempt).unwrap())).unwrap();
        let read: contract::query::Attempt = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (read.status, read.duration_ms, read.error),
            (d.status, d.duration_ms, d.delivery.last_error)
        );
    }
}
