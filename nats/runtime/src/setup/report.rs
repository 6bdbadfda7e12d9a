//! What `setup` has done, for people to read. Compares nothing.

use std::fmt;

/// What happened to one thing of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The server did not have it.
    Created,
    /// The server has it as the contract says.
    Unchanged,
    /// These fields were brought up.
    Updated(Vec<&'static str>),
    /// An earlier contract had it, and this one does not.
    Deleted,
    /// These fields differ and were left: changing them could lose something.
    Drift(Vec<&'static str>),
}

/// What happened to each thing, by name.
#[derive(Clone, Debug, Default)]
pub struct Report(pub Vec<(String, Change)>);

impl Report {
    /// Whether a person must decide on a difference.
    pub fn has_drift(&self) -> bool {
        self.0
            .iter()
            .any(|(_, change)| matches!(change, Change::Drift(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, change) in &self.0 {
            match change {
                Change::Created => writeln!(f, "{name}: created")?,
                Change::Deleted => {
                    writeln!(f, "{name}: deleted, it belonged to an earlier contract")?
                }
                Change::Unchanged => writeln!(f, "{name}: as it should be")?,
                Change::Updated(fields) => writeln!(f, "{name}: updated {}", fields.join(", "))?,
                Change::Drift(fields) => writeln!(
                    f,
                    "{name}: DIFFERS in {}. Changing it could lose messages, so it was left. \
                     Compare with nats/README.md, then use `nats stream edit` or \
                     `nats consumer edit`.",
                    fields.join(", ")
                )?,
            }
        }
        Ok(())
    }
}
