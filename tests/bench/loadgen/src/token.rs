//! Mints the access token that the generator presents. It knows no other algorithm than HS256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::{Common, Result, message};

/// Seconds that a token is valid: longer than any run.
const LIFETIME: u64 = 86_400;

pub fn mint(common: &Common) -> Result<String> {
    let secret = common
        .jwt_secret
        .as_deref()
        .ok_or("--jwt-secret or JWT_ACCESS_SECRET is needed")?;
    let now = message::since_epoch().as_secs();
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = json!({
        "userId": common.user, "companyId": common.company, "role": common.role,
        "iat": now, "exp": now + LIFETIME,
    });
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(format!("{header}.{claims}").as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Ok(format!("{header}.{claims}.{signature}"))
}
