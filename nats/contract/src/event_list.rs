//! The list of all events. [`crate::event::Event`] and [`crate::subject::EventSubject`] are made
//! from it, so a new event is one entry here, one struct in `event/data.rs` and one golden file.
//! What the services do with an event is not said here: they match on the two enums.

/// Hands the list to the macro `$then`. An entry reads:
///
/// ```text
/// /// Doc of the variant.
/// Variant(Data): "entity.event" { token: Type = |data| value_of_the_token };
/// ```
///
/// The subject of an event is `<entity>.<event>.<company>` and then one token for each entry in
/// the braces. Empty braces mean that the event is about the company itself, whose id is then
/// written a second time.
macro_rules! for_each_event {
    ($then:ident) => {
        $then! {
            /// A message was accepted.
            MessageCreated(Message): "message.created" {
                contact: Id = |m| m.contact_id,
                facets: Facets = |m| Facets::from(m)
            };
            /// A message was edited.
            MessageUpdated(MessageUpdated): "message.updated" { contact: Id = |m| m.contact_id };
            /// A message was deleted.
            MessageDeleted(MessageDeleted): "message.deleted" { contact: Id = |m| m.contact_id };
            /// A conversation was read.
            MessageRead(MessageRead): "message.read" { contact: Id = |m| m.contact_id };
            /// Delivery of a message came a step further.
            MessageDelivery(MessageDelivery): "message.delivery" { contact: Id = |m| m.contact_id };
            /// A message missed its company's target.
            MessageSlaBreached(MessageSlaBreached): "message.sla_breached" {
                contact: Id = |m| m.contact_id
            };
            /// A contact was entered.
            ContactCreated(Box<Contact>): "contact.created" { contact: Id = |c| c.id };
            /// A contact was edited.
            ContactUpdated(Box<ContactUpdated>): "contact.updated" {
                contact: Id = |c| c.contact_id
            };
            /// The bot speaks to a contact again.
            ContactBotResumed(ContactBotResumed): "contact.bot_resumed" {
                contact: Id = |c| c.contact_id
            };
            /// A company registered.
            CompanyCreated(CompanyCreated): "company.created" {};
            /// A company changed its settings.
            CompanyUpdated(CompanyUpdated): "company.updated" {};
            /// A member of staff joined a company.
            UserCreated(User): "user.created" { user: Id = |u| u.id };
            /// A company's access to a platform was entered or replaced.
            IntegrationUpdated(Integration): "integration.updated" {
                provider: Provider = |i| i.provider
            };
            /// A company's access to a platform was removed.
            IntegrationDeleted(IntegrationDeleted): "integration.deleted" {
                provider: Provider = |i| i.provider
            };
            /// The token of a company's access to a platform could not be renewed.
            IntegrationRefreshFailed(IntegrationRefreshFailed): "integration.refresh_failed" {
                provider: Provider = |i| i.provider
            };
        }
    };
}
