//! Fields that several bodies of messages have.

use contract::Id;
use contract::domain::{Attachment, MAX_ATTACHMENTS, ShortText, Url};

use crate::api::declare::{body, path_parameter};
use crate::api::field::{Described, Description, Field, List, NonEmpty};
use crate::api::field_reader::FieldReader;
use crate::api::schema::Components;

/// `attachments` of a message.
pub type Attachments = List<NewAttachment, MAX_ATTACHMENTS>;

body! {
    /// A file that goes with a message; only its address is kept.
    pub struct NewAttachment {
        /// What it is: `image`, `video`, `file`, …
        kind as "type": ShortText,
        url: Url,
        file_description: NonEmpty<ShortText>,
    }
}

impl From<NewAttachment> for Attachment {
    fn from(new: NewAttachment) -> Attachment {
        let NewAttachment {
            kind,
            url,
            file_description,
        } = new;
        Attachment {
            kind,
            url,
            file_description,
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
