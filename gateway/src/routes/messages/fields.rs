//! Fields that several bodies of messages have.

use contract::Id;
use contract::domain::{Attachment, MAX_ATTACHMENTS, ShortText, Url};
use serde_json::{Map, Value};

use crate::api::declare::{body, path_parameter};
use crate::api::field::{Described, Description, Field, List, NonEmpty};
use crate::api::field_reader::FieldReader;
use crate::api::free_form::{self, Extra, Payload};
use crate::api::schema::Components;

/// `attachments` of a message.
pub type Attachments = List<NewAttachment, MAX_ATTACHMENTS>;

/// Kinds of attachment that are a file. One of which nothing is known but its kind is refused, and
/// one of another kind says with its kind what has happened.
const FILES: &[&str] = &["image", "video", "audio", "voice", "file", "document"];
/// The most bytes of all payloads and unknown fields of a message's attachments together, as JSON.
/// Beyond them the message is refused, because an event has a limit.
const FREE_FORM_BYTES: usize = 64 * 1024;

body! {
    /// What goes with a message: a file, of which only the address is kept, or whatever else the
    /// channel has. Fields that are not named here are kept under `extra`.
    pub struct NewAttachment {
        /// What it is: `image`, `video`, `file`, `location`, …
        kind as "type": ShortText,
        /// Where a file is; `url` of the payload where it is not given.
        url: Option<Url>,
        file_description: NonEmpty<ShortText>,
        /// What the channel says of it, at most 16 KiB; kept as it is.
        payload: Payload,
        /// Other fields, at most 16 KiB; kept as they are.
        extra: Extra,
    }
    check |reader| {
        let is_file = kind.as_ref().is_some_and(|kind| {
            FILES.contains(&kind.as_str().to_lowercase().as_str())
        });
        let is_alone = matches!((&url, &payload), (Some(None), Some(None)))
            && extra.as_ref().is_some_and(Map::is_empty);
        if is_file && is_alone {
            reader.wrong("url", "is required, or a payload or an id of the file");
        }
    }
}

/// Notes attachments whose payloads and unknown fields are too long together.
pub fn check_free_form(reader: &mut FieldReader<'_>, attachments: &Option<Vec<NewAttachment>>) {
    let of_one = |attachment: &NewAttachment| {
        let payload = attachment.payload.as_ref().map_or(0, free_form::bytes);
        payload + free_form::bytes(&Value::Object(attachment.extra.clone()))
    };
    let bytes: usize = attachments.iter().flatten().map(of_one).sum();
    if bytes > FREE_FORM_BYTES {
        let rule = format!(
            "must have at most {FREE_FORM_BYTES} bytes of payloads and unknown fields, has {bytes}"
        );
        reader.wrong("attachments", rule);
    }
}

impl From<NewAttachment> for Attachment {
    fn from(new: NewAttachment) -> Attachment {
        let NewAttachment {
            kind,
            url,
            file_description,
            payload,
            extra,
        } = new;
        let of_payload = || Url::new(payload.as_ref()?.get("url")?.as_str()?).ok();
        Attachment {
            url: url.or_else(of_payload),
            kind,
            file_description,
            payload,
            extra,
        }
    }
}

path_parameter! {
    /// The message.
    pub struct MessageInPath { id: Id }
}

/// `_id`, or `id` as some old clients send it.
pub struct IdOrAlias;

impl Field for IdOrAlias {
    type Value = Id;

    fn read(reader: &mut FieldReader<'_>, name: &'static str) -> Option<Id> {
        const ALIAS: &str = "id";
        if !reader.has(ALIAS) {
            return Id::read(reader, name);
        }
        let id = Option::<Id>::read(reader, name);
        let alias = Id::read(reader, ALIAS)?;
        match id? {
            Some(id) if id != alias => {
                reader.wrong(ALIAS, format!("differs from {name}"));
                None
            }
            _ => Some(alias),
        }
    }

    fn components(into: &mut Components) {
        <Id as Field>::components(into);
    }
}

impl Described for IdOrAlias {
    fn describe() -> Description {
        Id::describe()
    }
}
