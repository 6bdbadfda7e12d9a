//! Bodies of the messages that the generator creates. Each content carries a marker, so that a
//! frame on a socket can be matched with its request, whatever else the frame looks like.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;

use crate::{Common, Result};

/// Digits of an id.
const ID_DIGITS: usize = 24;
/// Fills a content up to its length.
const FILLER: &str = " hello, could we move the appointment to tomorrow morning please, thanks";

#[derive(Args)]
pub struct MessageOptions {
    /// Bytes of content of each message; the body is about 230 bytes longer
    #[arg(long, default_value_t = 80)]
    content_bytes: usize,
    /// Number of contacts that the messages are spread over
    #[arg(long, default_value_t = 500)]
    contacts: u64,
    /// First hexadecimal digits of those contacts' ids
    #[arg(long, default_value = "c0ffee04")]
    contact_prefix: String,
}

/// Makes the messages of one run.
pub struct MessageFactory {
    /// Tells the messages of this run from those of every other.
    run: String,
    company: String,
    contact_prefix: String,
    contacts: u64,
    content_bytes: usize,
}

impl MessageFactory {
    pub fn new(common: &Common, options: &MessageOptions) -> Result<MessageFactory> {
        let prefix = &options.contact_prefix;
        let is_hex = prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || prefix.len() >= ID_DIGITS {
            return Err("--contact-prefix must be less than 24 hexadecimal digits".into());
        }
        Ok(MessageFactory {
            run: format!("{:x}", since_epoch().as_micros()),
            company: common.company.clone(),
            contact_prefix: prefix.clone(),
            contacts: options.contacts.max(1),
            content_bytes: options.content_bytes,
        })
    }

    /// The text that a message's number follows, in decimal.
    pub fn marker(&self) -> String {
        format!("lg:{}:", self.run)
    }

    /// The request body of the message with this number.
    pub fn body(&self, number: u64) -> Bytes {
        let MessageFactory { run, company, .. } = self;
        let contact_digits = ID_DIGITS - self.contact_prefix.len();
        let contact = format!(
            "{}{:0contact_digits$x}",
            self.contact_prefix,
            number % self.contacts
        );
        let mut body = String::with_capacity(256 + self.content_bytes);
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            concat!(
                r#"{{"company_id":"{}","contact_id":"{}","role":"user","platform":"facebook","#,
                r#""direction":"inbound","external_message_id":"lg-{}-{}","content":""#
            ),
            company, contact, run, number
        );
        let content = body.len();
        let _ = write!(body, "lg:{run}:{number}:");
        while body.len() - content < self.content_bytes {
            let missing = self.content_bytes - (body.len() - content);
            body.push_str(&FILLER[..missing.min(FILLER.len())]);
        }
        body.push_str("\"}");
        Bytes::from(body)
    }
}

pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
