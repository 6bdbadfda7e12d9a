//! What a run will be, decided before anything is started: which parts are children, how many
//! replicas, which ports and addresses. It starts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::cli::exit_code::Failure;
use crate::stack::ports::{self, Want};
use crate::stack::run_file::{Login, Run};
use crate::stack::secrets::{NATS_USERS, Secrets};
use crate::stack::services::Service;
use crate::stack::state_dir::{Folder, write_private};
use crate::stack::stub_bot;

/// Most replicas of one service.
const MOST_REPLICAS: u16 = 16;

/// Options of `petbuddy up`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Folder for all state: data, logs, secrets, run.json
    #[arg(long, default_value = ".petbuddy")]
    pub dir: PathBuf,
    /// Take free ports for everything instead of the usual ones
    #[arg(long)]
    pub free_ports: bool,
    /// Replicas of services, as in persister=2,realtime=3; further ones get free ports
    #[arg(long, value_name = "SERVICE=N", value_delimiter = ',')]
    pub replicas: Vec<Replicas>,
    /// Stop when standard input ends
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// Show everything that the parts print, not only problems
    #[arg(long)]
    pub verbose: bool,
}

/// How often a service is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    service: Service,
    count: u16,
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Replicas, String> {
        let (name, count) = text
            .split_once('=')
            .ok_or("write SERVICE=N, as in persister=2")?;
        let service = Service::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| format!("there is no service {name}"))?;
        match count.parse() {
            Ok(count) if (1..=MOST_REPLICAS).contains(&count) => Ok(Replicas { service, count }),
            _ => Err(format!("a service runs 1 to {MOST_REPLICAS} times")),
        }
    }
}

/// A replica of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `persister`, `persister-2`
    pub name: String,
    /// Of which service.
    pub service: Service,
    /// Where it listens.
    pub port: u16,
}

/// The plan.
pub struct Plan {
    /// Every replica.
    pub replicas: Vec<Replica>,
    /// Port of the nats-server that is our child; `None` if `NATS_URL` is set.
    pub nats_port: Option<u16>,
    /// `NATS_URL` for the services, without a login: the client library does not look for one
    /// there.
    pub nats_url: String,
    /// NATS login by service, and that of `operator`.
    pub nats_logins: BTreeMap<String, Login>,
    /// Port of the mongod that is our child; `None` if `MONGODB_URI` is set.
    pub mongodb_port: Option<u16>,
    /// `MONGODB_URI`
    pub mongodb_uri: String,
    /// Port of the stub bot; `None` if `META_BOT_BASE_URL` is set.
    pub bot_port: Option<u16>,
    /// `META_BOT_BASE_URL`
    pub bot_url: String,
}

impl Plan {
    /// Makes the plan and checks that its ports are free.
    ///
    /// # Errors
    /// Settings that cannot work, or taken ports.
    pub fn make(
        options: &Options,
        environment: &BTreeMap<String, String>,
        secrets: &Secrets,
        folder: &Folder,
    ) -> Result<Plan, Failure> {
        let set = |name: &str| {
            environment
                .get(name)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let (mongodb_uri, bot_url) = (set("MONGODB_URI"), set("META_BOT_BASE_URL"));
        let (nats_url, nats_login) = set("NATS_URL").map(|url| split_logins(&url)).unzip();
        let nats_login = nats_login.flatten();
        let mut wants = Vec::new();
        let mut want = |name: String, variable, default, fixed: bool| {
            wants.push(Want {
                name,
                fixed: (fixed && !options.free_ports).then_some((variable, default)),
            });
        };
        for (name, variable, default, external) in [
            ("nats-server", "NATS_PORT", 4222, nats_url.is_some()),
            ("mongod", "MONGODB_PORT", 27017, mongodb_uri.is_some()),
            ("bot", "BOT_PORT", stub_bot::DEFAULT_PORT, bot_url.is_some()),
        ] {
            if !external {
                want(name.into(), variable, default, true);
            }
        }
        let mut names = Vec::new();
        for service in Service::ALL {
            let count = options
                .replicas
                .iter()
                .rev()
                .find(|r| r.service == service)
                .map_or(1, |r| r.count);
            let (variable, default) = service.port();
            for n in 1..=count {
                let name = if n == 1 {
                    service.name().to_owned()
                } else {
                    format!("{}-{n}", service.name())
                };
                want(name.clone(), variable, default, n == 1);
                names.push((service, name));
            }
        }
        let ports = choose_ports(&wants, set, folder)?;
        let port = |name: &str| ports.get(name).copied();
        let or_local = |given: Option<String>, scheme: &str, name: &str, rest: &str| {
            given.unwrap_or_else(|| {
                format!(
                    "{scheme}://127.0.0.1:{}{rest}",
                    port(name).unwrap_or_default()
                )
            })
        };
        Ok(Plan {
            replicas: names
                .into_iter()
                .filter_map(|(service, name)| {
                    Some(Replica {
                        port: port(&name)?,
                        name,
                        service,
                    })
                })
                .collect(),
            nats_port: port("nats-server"),
            nats_logins: match (&nats_url, nats_login) {
                (None, _) => own_logins(&secrets.nats),
                (Some(_), Some(login)) => NATS_USERS
                    .iter()
                    .map(|user| (user.to_string(), login.clone()))
                    .collect(),
                (Some(_), None) => own_logins(&given_passwords(set)?),
            },
            nats_url: or_local(nats_url, "nats", "nats-server", ""),
            mongodb_port: port("mongod"),
            mongodb_uri: or_local(mongodb_uri, "mongodb", "mongod", "/petbuddy?replicaSet=rs0"),
            bot_port: port("bot"),
            bot_url: or_local(bot_url, "http", "bot", ""),
        })
    }

    /// Base URL of a service's first replica.
    pub fn url(&self, service: Service) -> String {
        self.urls(service).into_iter().next().unwrap_or_default()
    }

    fn urls(&self, service: Service) -> Vec<String> {
        self.replicas
            .iter()
            .filter(|r| r.service == service)
            .map(|r| format!("http://127.0.0.1:{}", r.port))
            .collect()
    }

    /// The NATS login that may do everything.
    pub fn operator(&self) -> Login {
        self.nats_logins
            .get("operator")
            .cloned()
            .unwrap_or_default()
    }

    /// The addresses, for `run.json`.
    pub fn describe(&self) -> Run {
        Run {
            gateway: self.url(Service::Gateway),
            realtime: self.url(Service::Realtime),
            nats: self.nats_url.clone(),
            mongodb: self.mongodb_uri.clone(),
            bot: self.bot_url.clone(),
            services: Service::ALL
                .into_iter()
                .map(|s| (s.name().to_owned(), self.urls(s)))
                .collect(),
            operator: self.operator(),
            ..Run::default()
        }
    }
}

/// The ports of the last run stand in `ports.json`.
fn choose_ports(
    wants: &[Want],
    set: impl Fn(&str) -> Option<String>,
    folder: &Folder,
) -> Result<BTreeMap<String, u16>, Failure> {
    let file = folder.file("ports.json");
    let mut remembered: BTreeMap<String, u16> = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let chosen = ports::choose(wants, set, &remembered)?;
    remembered.extend(chosen.clone());
    let text = serde_json::to_string(&remembered).map_err(|e| Failure::Other(e.to_string()))?;
    write_private(&file, &text).map_err(Failure::storage(&file))?;
    Ok(chosen)
}

/// Each user with its own password, as in nats/server/users.conf.
pub fn own_logins(passwords: &BTreeMap<String, String>) -> BTreeMap<String, Login> {
    passwords
        .iter()
        .map(|(user, password)| {
            (
                user.clone(),
                Login {
                    user: user.clone(),
                    password: password.clone(),
                },
            )
        })
        .collect()
}

/// Addresses with commas, without logins; and the first login among them.
fn split_logins(urls: &str) -> (String, Option<Login>) {
    let mut first = None;
    let split = |url: &str| match url
        .trim()
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest.rsplit_once('@')))
    {
        Some((scheme, Some((login, host)))) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            first.get_or_insert_with(|| Login {
                user: user.to_owned(),
                password: password.to_owned(),
            });
            format!("{scheme}://{host}")
        }
        _ => url.trim().to_owned(),
    };
    (
        urls.split(',').map(split).collect::<Vec<_>>().join(","),
        first,
    )
}

/// For a NATS that is not ours and whose URL has no login.
fn given_passwords(
    set: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let variable = |user: &str| format!("NATS_{}_PASSWORD", user.to_uppercase());
    let missing: Vec<String> = NATS_USERS
        .iter()
        .map(|user| variable(user))
        .filter(|name| set(name).is_none())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Failure::Settings(format!(
            "NATS_URL is set without user:password@, so the passwords of the NATS users are needed too; not set: {missing}"
        )));
    }
    Ok(NATS_USERS
        .iter()
        .filter_map(|user| Some((user.to_string(), set(&variable(user))?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;

    fn options(replicas: &[&str]) -> Options {
        let replicas = replicas.iter().map(|r| r.parse().unwrap()).collect();
        Options {
            dir: ".petbuddy".into(),
            free_ports: true,
            replicas,
            until_stdin_closes: false,
            verbose: false,
        }
    }

    fn plan(
        scratch: &Scratch,
        replicas: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Plan, Failure> {
        let folder = Folder::open(&scratch.0)?;
        let (secrets, _) = Secrets::load(&folder.file("secrets.json"))?;
        let environment = environment
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        Plan::make(&options(replicas), &environment, &secrets, &folder)
    }

    #[test]
    fn replicas_have_names_and_ports_of_their_own_and_keep_them() {
        let scratch = Scratch::new("plan");
        let first = plan(&scratch, &["persister=2", "realtime=3"], &[]).unwrap();
        let names: Vec<_> = first.replicas.iter().map(|r| r.name.as_str()).collect();
        let expected = [
            "gateway",
            "persister",
            "persister-2",
            "forwarder",
            "scheduler",
            "realtime",
            "realtime-2",
            "realtime-3",
        ];
        assert_eq!(names, expected);
        assert_eq!(first.describe().services["realtime"].len(), 3);
        let second = plan(&scratch, &["persister=2", "realtime=3"], &[]).unwrap();
        assert_eq!(first.replicas, second.replicas);
        assert!("persister=0".parse::<Replicas>().is_err());
        assert!("nats=2".parse::<Replicas>().is_err());
    }

    #[test]
    fn what_the_environment_names_is_no_child() {
        let scratch = Scratch::new("plan-external");
        let environment = [
            ("NATS_URL", "nats://me:secret@nats:4222"),
            ("MONGODB_URI", "mongodb://db/petbuddy"),
            ("META_BOT_BASE_URL", "http://bot"),
        ];
        let plan = plan(&scratch, &[], &environment).unwrap();
        assert_eq!(
            (plan.nats_port, plan.mongodb_port, plan.bot_port),
            (None, None, None)
        );
        assert_eq!(plan.nats_url, "nats://nats:4222");
        assert!(
            plan.nats_logins
                .values()
                .all(|login| login.user == "me" && login.password == "secret")
        );
        assert_eq!(plan.mongodb_uri, "mongodb://db/petbuddy");
    }

    #[test]
    fn logins_are_taken_out_of_addresses() {
        let login = |user: &str, password: &str| {
            Some(Login {
                user: user.into(),
                password: password.into(),
            })
        };
        assert_eq!(split_logins("nats://a:1"), ("nats://a:1".into(), None));
        assert_eq!(
            split_logins("nats://u:p@a:1, tls://u:p@b:2"),
            ("nats://a:1,tls://b:2".into(), login("u", "p"))
        );
        assert_eq!(split_logins("a:1"), ("a:1".into(), None));
    }

    #[test]
    fn a_nats_without_login_needs_every_password() {
        let scratch = Scratch::new("plan-passwords");
        let failure = plan(
            &scratch,
            &[],
            &[
                ("NATS_URL", "nats://nats:4222"),
                ("NATS_GATEWAY_PASSWORD", "g"),
            ],
        )
        .err()
        .unwrap();
        let text = failure.to_string();
        assert!(
            text.contains("NATS_OPERATOR_PASSWORD") && !text.contains("NATS_GATEWAY_PASSWORD"),
            "{text}"
        );
    }
}
