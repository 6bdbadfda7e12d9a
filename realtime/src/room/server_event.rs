//! The names of the events that clients are told of, in one list. What an event contains is in
//! `payload`. Each transport has a few answers of its own besides.

/// Declares the events once, so that the enum, the list and the names cannot differ.
macro_rules! server_events {
    ($($event:ident = $name:literal,)+) => {
        /// An event for clients.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ServerEvent {
            $(
                #[doc = concat!("`", $name, "`")]
                $event,
            )+
        }

        impl ServerEvent {
            /// All events.
            #[cfg(test)]
            pub const ALL: &[ServerEvent] = &[$(ServerEvent::$event,)+];

            /// The name on the wire, which needs no escape in JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(ServerEvent::$event => $name,)+
                }
            }
        }
    };
}

server_events! {
    Ready = "ready",
    Resync = "resync",
    MessageNew = "message:new",
    MessageUpdated = "message:updated",
    MessageDeleted = "message:deleted",
    MessageStatus = "message:status",
    SlaBreached = "sla:breached",
    IntegrationRefreshFailed = "integration:refresh_failed",
    TypingIndicator = "typing:indicator",
    PresenceUpdate = "presence:update",
    TokenExpiring = "token:expiring",
    ServerClosing = "server:closing",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_needs_an_escape_in_json() {
        for event in ServerEvent::ALL {
            let name = event.as_str();
            assert_eq!(serde_json::to_string(name).unwrap(), format!("\"{name}\""));
        }
    }
}
