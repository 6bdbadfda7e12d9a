//! Chooses the port of each child: the port that the environment sets, the usual one, or a free
//! one. Ports are checked before anything is started. Otherwise a taken port would only show as a
//! child that keeps ending. Starts nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;

use crate::failure::Failure;

/// The range of free ports. It lies below the range for outgoing connections (from 32768 on Linux).
/// Otherwise an outgoing connection could take the port of a child that is being restarted.
const FREE: std::ops::Range<u16> = 20_000..32_000;
/// Random ports that are tried for one child. After that no free port counts as found.
const TRIES: usize = 500;

/// One child that needs a port.
pub struct PortRequest {
    /// Name of the child: `gateway`, `persister-2`.
    pub name: String,
    /// The environment variable that sets the port, and its default; `None` for a free port.
    pub fixed: Option<(&'static str, u16)>,
}

/// Chooses a port for each request. `remembered` are the ports of the last run in this folder. Free
/// ports stay the same where possible, because a replica set knows its member by the port.
///
/// # Errors
/// A variable is no port, two children would share a port, or ports are taken.
pub fn choose(
    requests: &[PortRequest],
    environment: impl Fn(&str) -> Option<String>,
    remembered: &BTreeMap<String, u16>,
) -> Result<BTreeMap<String, u16>, Failure> {
    let mut chosen: BTreeMap<String, u16> = BTreeMap::new();
    let mut taken = Vec::new();
    for request in requests {
        let Some((variable, default)) = request.fixed else {
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
            let name = &request.name;
            return Err(Failure::Settings(format!(
                "{name} and {other} cannot both have port {port}: set {variable} to another one"
            )));
        }
        if !is_free(port) {
            taken.push(format!(
                "port {port}, which {} needs, is taken: end what listens there, or set {variable} \
                 to another port",
                request.name
            ));
        }
        chosen.insert(request.name.clone(), port);
    }
    if !taken.is_empty() {
        return Err(Failure::PortsTaken(taken));
    }
    for request in requests.iter().filter(|w| w.fixed.is_none()) {
        let usable =
            |port: u16| !chosen.values().any(|p| *p == port) && claim(port) && is_free(port);
        let again = remembered.get(&request.name).copied();
        let random = std::iter::repeat_with(|| rand::rng().random_range(FREE)).take(TRIES);
        let port = again.into_iter().chain(random).find(|port| usable(*port));
        let port = port.ok_or_else(|| {
            Failure::PortsTaken(vec![format!("no free port was found for {}", request.name)])
        })?;
        chosen.insert(request.name.clone(), port);
    }
    Ok(chosen)
}

/// Claims a free port until this process ends. Otherwise another run that starts at the same time
/// could choose the same port before the child listens there.
fn claim(port: u16) -> bool {
    static CLAIMS: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    if claims.contains_key(&port) {
        return true;
    }
    let path = std::env::temp_dir().join(format!("petbuddy-port-{port}.lock"));
    // Without a lock file, as in another user's folder, only the port itself is checked.
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

/// Whether the port can be listened on now.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(name: &str, variable: &'static str, default: u16) -> PortRequest {
        PortRequest {
            name: name.into(),
            fixed: Some((variable, default)),
        }
    }

    #[test]
    fn a_taken_port_is_reported_with_its_child_and_its_variable() {
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
    fn a_port_in_the_environment_wins_and_must_be_valid() {
        let free = choose(
            &[PortRequest {
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
    fn free_ports_are_distinct_and_stay_the_same() {
        let requests: Vec<PortRequest> = (0..20)
            .map(|n| PortRequest {
                name: n.to_string(),
                fixed: None,
            })
            .collect();
        let first = choose(&requests, |_| None, &BTreeMap::new()).unwrap();
        let mut distinct: Vec<_> = first.values().collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), requests.len());
        assert_eq!(choose(&requests, |_| None, &first).unwrap(), first);
    }
}
