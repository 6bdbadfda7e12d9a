//! Refusals of access without a code of the token: are they about the company, or about one text or
//! one customer? Only another conversation with the same token can tell. Holds nothing itself; see
//! `token_holds`. No I/O, no clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::Id;

use crate::delivery::token_holds::Version;
use crate::delivery::work::Scope;

/// Scopes with a refusal that are remembered. Beyond that the first one is forgotten, and its next
/// refusal counts as the first.
const SCOPES: usize = 10_000;

/// What a refusal is about, as far as other conversations tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// No other conversation has been tried yet.
    Open,
    /// Another conversation was refused as well.
    Company,
    /// Another conversation was delivered since.
    Conversation,
}

struct Refusal {
    version: Version,
    conversation: Id,
    /// Whether another conversation was delivered since, with the same token.
    is_alone: bool,
}

/// The last refusal of each company's access to a platform. Cloning shares them.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<Scope, Refusal>>>);

impl Refusals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Scope, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a conversation was refused, and says what this refusal is about.
    pub fn refused(&self, scope: Scope, version: Version, conversation: Id) -> Blame {
        let mut all = self.all();
        let blame = match all.get(&scope).filter(|known| known.version == version) {
            Some(known) if known.conversation == conversation && known.is_alone => {
                return Blame::Conversation;
            }
            // The company is well, as a third conversation has shown.
            Some(known) if known.conversation == conversation || known.is_alone => Blame::Open,
            Some(_) => Blame::Company,
            None => Blame::Open,
        };
        if all.len() >= SCOPES && !all.contains_key(&scope) {
            all.pop_first();
        }
        let refusal = Refusal {
            version,
            conversation,
            is_alone: false,
        };
        all.insert(scope, refusal);
        blame
    }

    /// Takes note that a conversation was delivered.
    pub fn delivered(&self, scope: Scope, version: Version, conversation: Id) {
        let mut all = self.all();
        match all.get_mut(&scope).filter(|known| known.version == version) {
            Some(known) if known.conversation == conversation => {
                all.remove(&scope);
            }
            Some(known) => known.is_alone = true,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::Timestamp;
    use contract::domain::Provider;

    use super::*;

    const SCOPE: Scope = (Id::from_bytes([1; 12]), Provider::Facebook);
    const OTHER: Scope = (Id::from_bytes([2; 12]), Provider::Facebook);
    const TOKEN: Version = Some(Timestamp::from_millis(7));
    const NEW: Version = Some(Timestamp::from_millis(8));

    enum Seen {
        Refused(Scope, Version, u8, Blame),
        Delivered(Scope, Version, u8),
    }
    use Blame::{Company, Conversation, Open};
    use Seen::{Delivered, Refused};

    #[test]
    fn only_two_refused_conversations_without_a_delivered_one_blame_the_company() {
        for (n, case) in [
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Refused(SCOPE, TOKEN, 2, Company),
            ],
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Refused(SCOPE, TOKEN, 1, Open),
                Refused(SCOPE, TOKEN, 1, Open),
            ],
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Delivered(SCOPE, TOKEN, 2),
                Refused(SCOPE, TOKEN, 1, Conversation),
                Refused(SCOPE, TOKEN, 1, Conversation),
            ],
            // Two texts that nobody takes, and a company that is well.
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Delivered(SCOPE, TOKEN, 2),
                Refused(SCOPE, TOKEN, 3, Open),
                Delivered(SCOPE, TOKEN, 2),
                Refused(SCOPE, TOKEN, 3, Conversation),
            ],
            // What was delivered before or with another token says nothing about this one.
            vec![
                Delivered(SCOPE, TOKEN, 2),
                Refused(SCOPE, TOKEN, 1, Open),
                Delivered(SCOPE, NEW, 2),
                Delivered(OTHER, TOKEN, 2),
                Refused(SCOPE, TOKEN, 1, Open),
                Refused(SCOPE, TOKEN, 2, Company),
            ],
            vec![Refused(SCOPE, TOKEN, 1, Open), Refused(SCOPE, NEW, 2, Open)],
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Refused(OTHER, TOKEN, 2, Open),
            ],
            vec![
                Refused(SCOPE, TOKEN, 1, Open),
                Delivered(SCOPE, TOKEN, 1),
                Refused(SCOPE, TOKEN, 2, Open),
            ],
        ]
        .into_iter()
        .enumerate()
        {
            let refusals = Refusals::default();
            for (step, seen) in case.into_iter().enumerate() {
                match seen {
                    Refused(scope, version, of, blame) => assert_eq!(
                        refusals.refused(scope, version, Id::from_bytes([of; 12])),
                        blame,
                        "case {n}, step {step}"
                    ),
                    Delivered(scope, version, of) => {
                        refusals.delivered(scope, version, Id::from_bytes([of; 12]));
                    }
                }
            }
        }
    }

    #[test]
    fn a_bounded_number_of_scopes_is_remembered() {
        let refusals = Refusals::default();
        for n in 0..SCOPES as u32 + 5 {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let scope = (Id::from_bytes(bytes), Provider::Facebook);
            assert_eq!(
                refusals.refused(scope, TOKEN, Id::from_bytes([1; 12])),
                Open
            );
        }
        assert_eq!(refusals.all().len(), SCOPES);
    }
}
