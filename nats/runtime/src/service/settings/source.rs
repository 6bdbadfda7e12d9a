//! Where the values of settings come from: `petbuddy.toml`, then the environment, which counts more.
//! Knows no setting by name.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::Value;

/// The values by name, and what is wrong with the settings file.
pub(super) type Values = (BTreeMap<String, String>, Vec<String>);

/// From `petbuddy.toml` (or the file that `PETBUDDY_CONFIG` names) and the environment of this
/// process.
pub(super) fn load() -> Values {
    let file = std::env::var("PETBUDDY_CONFIG").unwrap_or_else(|_| "petbuddy.toml".into());
    merge(
        Figment::from(Toml::file(&file)),
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
    )
}

/// From given values only.
pub(super) fn of(values: impl IntoIterator<Item = (String, String)>) -> Values {
    merge(Figment::new(), values)
}

/// The environment is taken as text. Otherwise figment would read `NATS_PASSWORD=0123` as a
/// number.
fn merge(file: Figment, environment: impl IntoIterator<Item = (String, String)>) -> Values {
    let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
    match file.extract::<BTreeMap<String, Value>>() {
        Ok(entries) => {
            for (name, value) in entries {
                match scalar(&value) {
                    Some(text) => drop(values.insert(name.to_uppercase(), text)),
                    None => problems.push(format!(
                        "{name} in the settings file must be a text, number or boolean"
                    )),
                }
            }
        }
        Err(e) => problems.push(format!("the settings file cannot be read: {e}")),
    }
    values.extend(environment.into_iter().filter(|(_, v)| !v.is_empty()));
    (values, problems)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_, s) => Some(s.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(_, n) => n
            .to_i128()
            .map(|i| i.to_string())
            .or_else(|| n.to_u128().map(|u| u.to_string()))
            .or_else(|| n.to_f64().map(|f| f.to_string())),
        _ => None,
    }
}
