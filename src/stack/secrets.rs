//! The secrets of a development run, made once and kept in `secrets.json`, which only its owner may
//! read. A secret that the environment sets is used instead and never stored. Production does not
//! use this file: its services are given all secrets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::stack::private_file;

/// Random bytes in each secret.
const SECRET_BYTES: usize = 32;
/// Hexadecimal digits in a NATS password: 128 bits, and short enough to be pasted.
const NATS_PASSWORD_DIGITS: usize = 32;

/// The NATS users of `nats/server/users.conf`.
pub const NATS_USERS: [&str; 6] = [
    "gateway",
    "persister",
    "forwarder",
    "scheduler",
    "realtime",
    "operator",
];

/// All secrets. The type is not `Debug`, so that secrets are not printed by accident.
#[derive(Serialize, Deserialize)]
pub struct Secrets {
    /// `JWT_ACCESS_SECRET`
    pub jwt_access: String,
    /// `JWT_REFRESH_SECRET`
    pub jwt_refresh: String,
    /// `INTERNAL_SERVICE_API_KEY`
    pub internal_api_key: String,
    /// `ENCRYPTION_KEYS`; empty in a file of an earlier build.
    #[serde(default)]
    pub encryption_keys: String,
    /// Password by NATS user, for a nats-server that is a child.
    pub nats: BTreeMap<String, String>,
    /// Password of the demo company's manager.
    pub demo_password: String,
}

impl Secrets {
    fn generate() -> Secrets {
        Secrets {
            jwt_access: random_hex(),
            jwt_refresh: random_hex(),
            internal_api_key: random_hex(),
            encryption_keys: new_encryption_key(),
            // The letters in front keep the config of nats-server from reading a number.
            nats: NATS_USERS
                .iter()
                .map(|user| {
                    (
                        user.to_string(),
                        format!("nats{}", &random_hex()[..NATS_PASSWORD_DIGITS]),
                    )
                })
                .collect(),
            demo_password: format!("Demo-1{}", &random_hex()[..12]),
        }
    }

    /// Reads the secrets, or makes them if there is no file. The flag says whether they are new.
    ///
    /// # Errors
    /// The file cannot be read or written, or was not written by this program.
    pub fn load(path: &Path) -> Result<(Secrets, bool), Failure> {
        match fs::read(path) {
            Ok(text) => match serde_json::from_slice::<Secrets>(&text) {
                Ok(mut secrets)
                    if NATS_USERS
                        .iter()
                        .all(|user| secrets.nats.contains_key(*user)) =>
                {
                    if secrets.encryption_keys.is_empty() {
                        secrets.encryption_keys = new_encryption_key();
                        secrets.write(path)?;
                    }
                    Ok((secrets, false))
                }
                Ok(_) => Err(unreadable(path, "a NATS user is missing")),
                Err(e) => Err(unreadable(path, &e.to_string())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let secrets = Secrets::generate();
                secrets.write(path)?;
                Ok((secrets, true))
            }
            Err(error) => Err(Failure::Storage {
                path: path.to_owned(),
                error,
            }),
        }
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Failure::Other(e.to_string()))?;
        private_file::replace(path, &text).map_err(Failure::storage(path))
    }

    /// Replaces the secrets that the environment sets.
    pub fn or_environment(mut self, environment: impl Fn(&str) -> Option<String>) -> Secrets {
        for (name, secret) in [
            ("JWT_ACCESS_SECRET", &mut self.jwt_access),
            ("JWT_REFRESH_SECRET", &mut self.jwt_refresh),
            ("INTERNAL_SERVICE_API_KEY", &mut self.internal_api_key),
            ("ENCRYPTION_KEYS", &mut self.encryption_keys),
        ] {
            if let Some(value) = environment(name) {
                *secret = value;
            }
        }
        self
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::Settings(format!(
        "{} is damaged ({why}): delete it, and the next start makes new secrets",
        path.display()
    ))
}

fn random_bytes() -> [u8; SECRET_BYTES] {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn random_hex() -> String {
    random_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// A new key in the form of `ENCRYPTION_KEYS`.
fn new_encryption_key() -> String {
    format!("k1:{}", BASE64.encode(random_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_private_and_the_same_in_the_next_run() {
        let scratch = Scratch::new("secrets");
        let path = scratch.0.join("secrets.json");
        let (first, new) = Secrets::load(&path).unwrap();
        assert!(new);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let (second, new) = Secrets::load(&path).unwrap();
        assert!(!new);
        assert_eq!(first.jwt_access, second.jwt_access);
        assert_ne!(first.jwt_access, first.jwt_refresh);
        assert!(first.jwt_access.len() >= 32);
        assert!(
            first
                .nats
                .values()
                .all(|p| p.starts_with(|c: char| c.is_ascii_alphabetic()))
        );

        let set =
            second.or_environment(|name| (name == "JWT_ACCESS_SECRET").then(|| "mine".to_owned()));
        assert_eq!(set.jwt_access, "mine");
        assert_eq!(set.jwt_refresh, first.jwt_refresh);
    }

    #[test]
    fn a_file_of_an_earlier_build_gets_an_encryption_key_and_keeps_the_rest() {
        let scratch = Scratch::new("earlier");
        let path = scratch.0.join("secrets.json");
        let (first, _) = Secrets::load(&path).unwrap();
        let mut earlier: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        earlier.as_object_mut().unwrap().remove("encryption_keys");
        fs::write(&path, earlier.to_string()).unwrap();
        let (second, new) = Secrets::load(&path).unwrap();
        assert!(!new && second.encryption_keys.starts_with("k1:"));
        assert_eq!(
            (&second.jwt_access, &second.nats),
            (&first.jwt_access, &first.nats)
        );
        assert_eq!(
            Secrets::load(&path).unwrap().0.encryption_keys,
            second.encryption_keys
        );
    }

    #[test]
    fn a_damaged_file_is_reported_and_not_replaced() {
        let scratch = Scratch::new("damaged");
        let path = scratch.0.join("secrets.json");
        fs::write(&path, "{").unwrap();
        let failure = Secrets::load(&path).err().unwrap();
        assert!(failure.to_string().contains("secrets.json"), "{failure}");
        assert!(path.exists());
    }
}
