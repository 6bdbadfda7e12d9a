//! Which part listens on which port: what the environment says, or free ones. Checked before
//! anything is started, so that a taken port is one sentence and not a child that dies.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;

use crate::cli::exit_code::Failure;

/// Free ports are taken from here: below the range that systems use for outgoing connections (from
/// 32768 on Linux), where one could take the port of a part that is just being restarted.
const FREE: std::ops::Range<u16> = 20_000..32_000;
/// Random tries for one free port.
const TRIES: usize = 500;

/// A port that a part wants.
pub struct Want {
    /// Name of the part: `gateway`, `persister-2`.
    pub name: String,
    /// The environment variable that sets it, and its default; `None` for a free one.
    pub fixed: Option<(&'static str, u16)>,
}

/// Chooses a port for each. `remembered` are those of the last run in this folder: free ports are
/// the same again where possible, because a replica set knows its member by its port.
///
/// # Errors
/// A variable that is no port, two parts on one port, or ports that are taken.
pub fn choose(
    wants: &[Want],
    environment: impl Fn(&str) -> Option<String>,
    remembered: &BTreeMap<String, u16>,
) -> Result<BTreeMap<String, u16>, Failure> {
    let mut chosen: BTreeMap<String, u16> = BTreeMap::new();
    let mut taken = Vec::new();
    for want in wants {
        let Some((variable, default)) = want.fixed else {
            continue;
        };
        let port = match environment(variable) {
            None => default,
            Some(text) => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => {
                    return Err(Failure::Settings(format!(
                        "{variable} must be a port from 1 to 65535, not `{text}`"
                    )));
                }
            },
        };
        if let Some((other, _)) = chosen.iter().find(|(_, p)| **p == port) {
            let name = &want.name;
            return Err(Failure::Settings(format!(
                "{name} and {other} cannot both have port {port}: set {variable} to another one"
            )));
        }
        if !is_free(port) {
            taken.push(format!(
                "port {port}, which {} needs, is taken: end what listens there, or set {variable} to another port",
                want.name
            ));
        }
        chosen.insert(want.name.clone(), port);
    }
    if !taken.is_empty() {
        return Err(Failure::PortsTaken(taken));
    }
    for want in wants.iter().filter(|w| w.fixed.is_none()) {
        let usable =
            |port: u16| !chosen.values().any(|p| *p == port) && claim(port) && is_free(port);
        let again = remembered.get(&want.name).copied();
        let random = std::iter::repeat_with(|| rand::rng().random_range(FREE)).take(TRIES);
        let port = again.into_iter().chain(random).find(|port| usable(*port));
        let port = port.ok_or_else(|| {
            Failure::PortsTaken(vec![format!("no free port was found for {}", want.name)])
        })?;
        chosen.insert(want.name.clone(), port);
    }
    Ok(chosen)
}

/// Claims a free port until this process ends: between the choice and the part that listens there,
/// another run that starts at the same time must not choose it too.
fn claim(port: u16) -> bool {
    static CLAIMS: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    if claims.contains_key(&port) {
        return true;
    }
    let path = std::env::temp_dir().join(format!("petbuddy-port-{port}.lock"));
    // Where it cannot be made, as in another user's folder, the port is only looked at.
    let Ok(file) = File::create(path) else {
        return true;
    };
    match file.try_lock() {
        Ok(()) => {
            claims.insert(port, file);
            true
        }
        Err(_) => false,
    }
}

/// Whether one could listen there now.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(name: &str, variable: &'static str, default: u16) -> Want {
        Want {
            name: name.into(),
            fixed: Some((variable, default)),
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_part_and_its_variable() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure = choose(
            &[fixed("gateway", "PORT", port)],
            |_| None,
            &BTreeMap::new(),
        )
        .unwrap_err();
        let text = failure.to_string();
        assert!(matches!(failure, Failure::PortsTaken(_)));
        assert!(
            text.contains(&port.to_string()) && text.contains("gateway") && text.contains("PORT"),
            "{text}"
        );
    }

    #[test]
    fn the_environment_wins_and_nonsense_is_refused() {
        let free = choose(
            &[Want {
                name: "a".into(),
                fixed: None,
            }],
            |_| None,
            &BTreeMap::new(),
        )
        .unwrap()["a"];
        let with = |value: String| move |_: &str| Some(value.clone());
        assert_eq!(
            choose(
                &[fixed("a", "PORT", 1)],
                with(free.to_string()),
                &BTreeMap::new()
            )
            .unwrap()["a"],
            free
        );
        for text in ["0", "65536", "http"] {
            assert!(matches!(
                choose(
                    &[fixed("a", "PORT", 1)],
                    with(text.into()),
                    &BTreeMap::new()
                ),
                Err(Failure::Settings(_))
            ));
        }
        let both = [fixed("a", "PORT", 1), fixed("b", "BOT_PORT", 1)];
        assert!(matches!(
            choose(&both, with(free.to_string()), &BTreeMap::new()),
            Err(Failure::Settings(_))
        ));
    }

    #[test]
    fn free_ports_differ_and_are_remembered() {
        let wants: Vec<Want> = (0..20)
            .map(|n| Want {
                name: n.to_string(),
                fixed: None,
            })
            .collect();
        let first = choose(&wants, |_| None, &BTreeMap::new()).unwrap();
        let mut distinct: Vec<_> = first.values().collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), wants.len());
        assert_eq!(choose(&wants, |_| None, &first).unwrap(), first);
    }
}
