//! The ids of operations, of which client generators make the names of functions. They are part of
//! the contract, unlike the names of handlers. Knows no handler.

/// The operations with a name of their own.
const NAMED: [(&str, &str, &str); 36] = [
    ("post", "/api/v1/auth/register", "register"),
    ("post", "/api/v1/auth/login", "login"),
    ("post", "/api/v1/auth/refresh", "refreshLogin"),
    ("post", "/api/v1/auth/logout", "logout"),
    ("get", "/api/v1/auth/me", "getMe"),
    ("post", "/api/v1/auth/invitations", "createInvitation"),
    ("get", "/api/v1/contacts", "listContacts"),
    ("post", "/api/v1/contacts", "createContact"),
    ("put", "/api/v1/contacts", "findOrCreateContact"),
    ("get", "/api/v1/contacts/{id}", "getContact"),
    ("patch", "/api/v1/contacts/{id}", "updateContact"),
    ("get", "/api/v1/conversations", "listConversations"),
    ("get", "/api/v1/dead-letters", "listDeadLetters"),
    ("post", "/api/v1/dead-letters/replay", "replayDeadLetters"),
    ("get", "/api/v1/dead-letters/{seq}", "getDeadLetter"),
    (
        "post",
        "/api/v1/dead-letters/{seq}/discard",
        "discardDeadLetter",
    ),
    (
        "post",
        "/api/v1/dead-letters/{seq}/replay",
        "replayDeadLetter",
    ),
    ("get", "/api/v1/integrations", "listIntegrations"),
    ("get", "/api/v1/integrations/{platform}", "getIntegration"),
    ("put", "/api/v1/integrations/{platform}", "putIntegration"),
    (
        "delete",
        "/api/v1/integrations/{platform}",
        "deleteIntegration",
    ),
    ("get", "/api/v1/integrations/google", "getGoogleIntegration"),
    ("put", "/api/v1/integrations/google", "putGoogleIntegration"),
    (
        "delete",
        "/api/v1/integrations/google",
        "deleteGoogleIntegration",
    ),
    ("get", "/api/v1/messages", "listMessages"),
    ("post", "/api/v1/messages", "createMessage"),
    ("patch", "/api/v1/messages", "updateMessage"),
    ("delete", "/api/v1/messages", "deleteMessage"),
    ("post", "/api/v1/messages/batch", "createMessages"),
    (
        "post",
        "/api/v1/messages/instagram",
        "listInstagramConversations",
    ),
    ("put", "/api/v1/messages/mark-read", "markConversationRead"),
    ("get", "/api/v1/messages/{id}", "getMessage"),
    (
        "get",
        "/api/v1/messages/{id}/delivery",
        "getMessageDelivery",
    ),
    ("get", "/api/v1/sla", "getSlaReport"),
    ("get", "/api/v1/sla/targets", "getSlaTargets"),
    ("put", "/api/v1/sla/targets", "putSlaTargets"),
];

/// The id of an operation: its own name, or one made of method and path, such as `postMediaById`
/// for `POST /api/v1/media/{id}`.
pub fn operation_id(method: &str, path: &str) -> String {
    let named = NAMED
        .iter()
        .find(|(of_method, of_path, _)| (*of_method, *of_path) == (method, path));
    if let Some((.., name)) = named {
        return (*name).to_owned();
    }
    let mut id = method.to_owned();
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    for segment in path.split('/') {
        let parameter = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        if parameter.is_some() {
            id.push_str("By");
        }
        for word in parameter.unwrap_or(segment).split(['-', '_']) {
            let mut letters = word.chars();
            id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            id.push_str(letters.as_str());
        }
    }
    id
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Methods and paths of the operations with a name of their own.
    pub fn named() -> impl Iterator<Item = (&'static str, &'static str)> {
        NAMED.iter().map(|(method, path, _)| (*method, *path))
    }

    #[test]
    fn an_operation_has_its_own_name_or_one_of_method_and_path() {
        for (method, path, id) in [
            ("post", "/api/v1/messages", "createMessage"),
            ("get", "/api/v1/messages/{id}", "getMessage"),
            ("put", "/api/v1/messages/{id}", "putMessagesById"),
            (
                "post",
                "/api/v1/message-events/{event_id}/undo",
                "postMessageEventsByEventIdUndo",
            ),
            ("get", "/health", "getHealth"),
        ] {
            assert_eq!(operation_id(method, path), id);
        }
    }
}
