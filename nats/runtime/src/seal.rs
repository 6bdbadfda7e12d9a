//! Secrets of companies under authenticated encryption (XChaCha20-Poly1305), so that neither log
//! nor database nor backups hold a platform's access token in the clear. A sealed text opens only
//! for the company and platform that it was sealed for. Stores nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};

use crate::service::settings::Settings;
use contract::Id;
use contract::domain::{Provider, Sealed};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of a nonce. They are so many that a random nonce for every sealing does not repeat.
const NONCE_BYTES: usize = 24;
/// Characters of a key's id. A longer one is a mistake in the settings.
const KEY_ID_CHARS: usize = 32;

/// The keys of `ENCRYPTION_KEYS`. The first key seals, all keys open. To rotate, put a new key in
/// front, and take the old one away once nothing is sealed with the old one. Cloning is cheap.
#[derive(Clone)]
pub struct Keyring(Arc<Keys>);

struct Keys {
    current: String,
    ciphers: BTreeMap<String, XChaCha20Poly1305>,
}

/// Why a sealed text stays shut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key that sealed the text is not in `ENCRYPTION_KEYS`.
    #[error("there is no key `{0}` in ENCRYPTION_KEYS")]
    UnknownKey(String),
    /// The sealed text was changed, or was sealed for another company or platform.
    #[error("the sealed text does not open: it was changed, or belongs elsewhere")]
    Broken,
}

impl Keyring {
    /// Reads `ENCRYPTION_KEYS`: `id:key` pairs separated by commas, each key 32 bytes in Base64.
    pub fn read(settings: &mut Settings) -> Keyring {
        let hint = "give it a key, such as `k1:$(openssl rand -base64 32)`; to rotate, put a new one in front";
        let text = settings
            .named(
                "ENCRYPTION_KEYS",
                "Keys that seal the platforms' access tokens in log and database. The first key \
                 seals, all open: to rotate put a new one in front, and keep the old one while \
                 anything is sealed with it. A token whose key is lost has to be entered anew.",
            )
            .sensitive()
            .accepts("`id:key` pairs, comma-separated, each key 32 bytes in Base64")
            .required(hint);
        let (mut current, mut ciphers) = (None, BTreeMap::new());
        for (position, pair) in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .enumerate()
        {
            match parse(pair) {
                Some((id, cipher)) if !ciphers.contains_key(&id) => {
                    current.get_or_insert(id.clone());
                    ciphers.insert(id, cipher);
                }
                Some(_) => settings.problem(format!(
                    "ENCRYPTION_KEYS names the id of key {} twice",
                    position + 1
                )),
                None => settings.problem(format!(
                    "key {} of ENCRYPTION_KEYS must be `id:key` with 32 bytes in Base64",
                    position + 1
                )),
            }
        }
        if current.is_none() && !text.is_empty() {
            settings.problem("ENCRYPTION_KEYS holds no key");
        }
        Keyring(Arc::new(Keys {
            current: current.unwrap_or_default(),
            ciphers,
        }))
    }

    /// Seals a secret for a company and platform.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] if there is no key at all, which the settings refuse at the start.
    pub fn seal(
        &self,
        secret: &SecretString,
        company: Id,
        provider: Provider,
    ) -> Result<Sealed, SealError> {
        let key_id = self.0.current.clone();
        let cipher = self
            .0
            .ciphers
            .get(&key_id)
            .ok_or_else(|| SealError::UnknownKey(key_id.clone()))?;
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let context = context(company, provider);
        let payload = Payload {
            msg: secret.expose_secret().as_bytes(),
            aad: context.as_bytes(),
        };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealError::Broken)?;
        Ok(Sealed {
            key_id,
            sealed: BASE64.encode([nonce.as_slice(), &sealed].concat()),
        })
    }

    /// Opens a text that was sealed for this company and platform.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(
        &self,
        sealed: &Sealed,
        company: Id,
        provider: Provider,
    ) -> Result<SecretString, SealError> {
        let cipher = self
            .0
            .ciphers
            .get(&sealed.key_id)
            .ok_or_else(|| SealError::UnknownKey(sealed.key_id.clone()))?;
        let bytes = BASE64
            .decode(&sealed.sealed)
            .map_err(|_| SealError::Broken)?;
        let (nonce, text) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Broken)?;
        let context = context(company, provider);
        let opened = cipher.decrypt(
            &XNonce::from(*nonce),
            Payload {
                msg: text,
                aad: context.as_bytes(),
            },
        );
        let text = String::from_utf8(opened.map_err(|_| SealError::Broken)?)
            .map_err(|_| SealError::Broken)?;
        Ok(text.into())
    }
}

/// The associated data that binds a sealed text to its company and platform.
fn context(company: Id, provider: Provider) -> String {
    format!("{company}:{provider}")
}

fn parse(pair: &str) -> Option<(String, XChaCha20Poly1305)> {
    let (id, key) = pair.split_once(':')?;
    let good = !id.is_empty()
        && id.len() <= KEY_ID_CHARS
        && id
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    let key: [u8; KEY_BYTES] = BASE64.decode(key).ok()?.try_into().ok()?;
    good.then(|| (id.to_owned(), XChaCha20Poly1305::new(&Key::from(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &str) -> Result<Keyring, String> {
        let mut settings = Settings::of([("ENCRYPTION_KEYS".to_owned(), keys.to_owned())]);
        let keyring = Keyring::read(&mut settings);
        settings
            .finish()
            .map(|()| keyring)
            .map_err(|e| e.to_string())
    }

    fn key(byte: u8) -> String {
        BASE64.encode([byte; KEY_BYTES])
    }

    #[test]
    fn a_secret_opens_for_its_company_and_platform_only_and_after_a_rotation() {
        let (company, other) = (Id::from_bytes([1; 12]), Id::from_bytes([2; 12]));
        let old = keyring(&format!("k1:{}", key(1))).unwrap();
        let sealed = old
            .seal(&"EAAB-token".into(), company, Provider::Facebook)
            .unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("EAAB"));
        assert_ne!(
            sealed,
            old.seal(&"EAAB-token".into(), company, Provider::Facebook)
                .unwrap()
        );
        let rotated = keyring(&format!("k2:{}, k1:{}", key(2), key(1))).unwrap();
        assert_eq!(
            rotated
                .open(&sealed, company, Provider::Facebook)
                .unwrap()
                .expose_secret(),
            "EAAB-token"
        );
        assert_eq!(
            rotated
                .seal(&"x".into(), company, Provider::Facebook)
                .unwrap()
                .key_id,
            "k2"
        );
        let broken = |sealed: &Sealed, company, provider| old.open(sealed, company, provider).err();
        assert_eq!(
            broken(&sealed, other, Provider::Facebook),
            Some(SealError::Broken)
        );
        assert_eq!(
            broken(&sealed, company, Provider::Instagram),
            Some(SealError::Broken)
        );
        let mut changed = BASE64.decode(&sealed.sealed).unwrap();
        changed[30] ^= 1;
        let changed = Sealed {
            sealed: BASE64.encode(changed),
            ..sealed.clone()
        };
        assert_eq!(
            broken(&changed, company, Provider::Facebook),
            Some(SealError::Broken)
        );
        assert_eq!(
            broken(
                &Sealed {
                    sealed: "?".into(),
                    ..sealed.clone()
                },
                company,
                Provider::Facebook
            ),
            Some(SealError::Broken)
        );
        let gone = keyring(&format!("k2:{}", key(2))).unwrap();
        assert_eq!(
            gone.open(&sealed, company, Provider::Facebook).err(),
            Some(SealError::UnknownKey("k1".into()))
        );
    }

    #[test]
    fn bad_keys_are_named_by_position_and_never_quoted() {
        for bad in [
            "k1",
            "k1:c2hvcnQ=",
            &format!("k 1:{}", key(1)),
            &format!("k1:{0},k1:{0}", key(1)),
            ",",
        ] {
            let problem = keyring(bad).err().unwrap();
            assert!(
                problem.contains("ENCRYPTION_KEYS") && !problem.contains("c2hvcnQ="),
                "{bad}: {problem}"
            );
        }
    }
}
