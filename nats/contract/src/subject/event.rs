//! The subjects of `EVENTS`, one for each event: printed, and parsed back from text that another
//! build may have written. Knows no payload.

use std::fmt;
use std::str::{FromStr, Split};

use crate::Id;
use crate::domain::{Direction, Message, Platform, Provider, Role, is_forwardable};

/// The last three tokens of `message.created`, so that the server can filter by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facets {
    /// The channel that carries the message.
    pub platform: Platform,
    /// From the customer, or to the customer.
    pub direction: Direction,
    /// The kind of author.
    pub role: Role,
    /// Whether the message was sent elsewhere, see [`Message::sent_elsewhere`].
    pub sent_elsewhere: bool,
}

/// The end of the token of the author of a message that was sent elsewhere. So no filter of messages
/// to forward, however old, takes such a message.
const SENT_ELSEWHERE: &str = "-elsewhere";

impl Facets {
    /// Whether the forwarder takes the message to the bot: as [`Message::is_forwardable`].
    pub const fn is_forwardable(self) -> bool {
        !self.sent_elsewhere && is_forwardable(self.platform, self.direction, self.role)
    }
}

impl From<&Message> for Facets {
    fn from(message: &Message) -> Facets {
        let Message {
            platform,
            direction,
            role,
            sent_elsewhere,
            ..
        } = *message;
        Facets {
            platform,
            direction,
            role,
            sent_elsewhere,
        }
    }
}

impl fmt::Display for Facets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facets {
            platform,
            direction,
            role,
            sent_elsewhere,
        } = self;
        let end = if *sent_elsewhere { SENT_ELSEWHERE } else { "" };
        write!(f, "{platform}.{direction}.{role}{end}")
    }
}

/// The text is not a subject of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of the contract: {0}")]
pub struct BadSubject(pub String);

/// A part of a subject after the company.
trait Token: Sized {
    fn read(tokens: &mut Split<'_, char>) -> Option<Self>;
}

macro_rules! one_token {
    ($($type:ident)+) => {
        $(impl Token for $type {
            fn read(tokens: &mut Split<'_, char>) -> Option<$type> {
                tokens.next()?.parse().ok()
            }
        })+
    };
}
one_token!(Id Platform Direction Provider);

impl Token for Facets {
    fn read(tokens: &mut Split<'_, char>) -> Option<Facets> {
        let (platform, direction) = (Token::read(tokens)?, Token::read(tokens)?);
        let token = tokens.next()?;
        let role = token.strip_suffix(SENT_ELSEWHERE);
        Some(Facets {
            platform,
            direction,
            role: role.unwrap_or(token).parse().ok()?,
            sent_elsewhere: role.is_some(),
        })
    }
}

macro_rules! event_subjects {
    ($(
        $(#[$doc:meta])*
        $variant:ident($data:ty): $kind:literal { $($token:ident: $type:ident = $of:expr),* };
    )+) => {
        /// A subject of `EVENTS`.
        ///
        /// ```
        /// use contract::subject::EventSubject;
        ///
        /// let text = "contact.created.aaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb";
        /// let subject: EventSubject = text.parse()?;
        /// let company = "a".repeat(24).parse().unwrap();
        /// let contact = "b".repeat(24).parse().unwrap();
        /// assert_eq!(subject, EventSubject::ContactCreated { company, contact });
        /// assert_eq!(subject.to_string(), text);
        /// assert!("contact.created.aaaaaaaaaaaaaaaaaaaaaaaa.*".parse::<EventSubject>().is_err());
        /// # Ok::<(), contract::subject::BadSubject>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // each variant's doc names its fields as tokens
        pub enum EventSubject {
            $(
                #[doc = event_subjects!(@doc $kind $($token)*)]
                $variant { company: Id, $($token: $type),* },
            )+
        }

        impl fmt::Display for EventSubject {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(EventSubject::$variant { company, $($token),* } => {
                        write!(f, concat!($kind, ".{}"), company)?;
                        event_subjects!(@write f company $($token)*)
                    })+
                }
            }
        }

        fn parse(text: &str) -> Option<EventSubject> {
            let (end, _) = text.match_indices('.').nth(1)?;
            let mut tokens = text[end + 1..].split('.');
            let company: Id = Token::read(&mut tokens)?;
            let subject = match &text[..end] {
                $($kind => {
                    event_subjects!(@read tokens company $($token)*);
                    EventSubject::$variant { company, $($token),* }
                })+
                _ => return None,
            };
            tokens.next().is_none().then_some(subject)
        }
    };

    (@doc $kind:literal) => { concat!("`", $kind, ".<company>.<company>`") };
    (@doc $kind:literal $($token:ident)+) => {
        concat!("`", $kind, ".<company>", $(".<", stringify!($token), ">",)+ "`")
    };

    (@write $f:ident $company:ident) => { write!($f, ".{}", $company) };
    (@write $f:ident $company:ident $($token:ident)+) => {{
        $(write!($f, ".{}", $token)?;)+
        Ok(())
    }};

    (@read $tokens:ident $company:ident) => {
        Id::read(&mut $tokens).filter(|again| *again == $company)?;
    };
    (@read $tokens:ident $company:ident $($token:ident)+) => {
        $(let $token = Token::read(&mut $tokens)?;)+
    };
}
for_each_event!(event_subjects);

impl FromStr for EventSubject {
    type Err = BadSubject;

    fn from_str(text: &str) -> Result<EventSubject, BadSubject> {
        parse(text).ok_or_else(|| BadSubject(text.to_owned()))
    }
}
