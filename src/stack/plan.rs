//! What a run will be, decided before anything is started: which parts are children, how many
//! replicas there are, which ports and addresses are used. Starts nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::failure::Failure;
use crate::stack::ports::{self, PortRequest};
use crate::stack::private_file;
use crate::stack::run_file::{Login, Run};
use crate::stack::secrets::{NATS_USERS, Secrets};
use crate::stack::services::Service;
use crate::stack::state_dir::StateDir;
use crate::stack::stub_bot;

/// Replicas of one service. More are refused.
const MAX_REPLICAS: u16 = 16;

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

/// How many replicas of a service are to run.
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
            Ok(count) if (1..=MAX_REPLICAS).contains(&count) => Ok(Replicas { service, count }),
            _ => Err(format!("a service runs 1 to {MAX_REPLICAS} times")),
        }
    }
}

/// One replica of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `persister`, `persister-2`
    pub name: String,
    pub service: Service,
    pub port: u16,
}

/// The parts of a run with their addresses.
pub struct Plan {
    /// Every replica of every service.
    pub replicas: Vec<Replica>,
    /// Port of the nats-server that is a child; `None` if `NATS_URL` is set.
    pub nats_port: Option<u16>,
    /// `NATS_URL` for the services, without a login. The NATS client does not read a login from
    /// the URL.
    pub nats_url: String,
    /// NATS login by user: the services and `operator`.
    pub nats_logins: BTreeMap<String, Login>,
    /// Port of the mongod that is a child; `None` if `MONGODB_URI` is set.
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
    /// Settings cannot work, or ports are taken.
    pub fn make(
        options: &Options,
        environment: &BTreeMap<String, String>,
        secrets: &Secrets,
        state_dir: &StateDir,
    ) -> Result<Plan, Failure> {
        let external = External::from_environment(environment);
        let replicas = name_replicas(&options.replicas);
        let requests = port_requests(&external, &replicas, options.free_ports);
        let ports = choose_ports(&requests, environment, state_dir)?;
        let port = |name: &str| ports.get(name).copied();
        Ok(Plan {
            nats_port: port("nats-server"),
            nats_logins: nats_logins(&external, environment, secrets)?,
            nats_url: external
                .nats
                .map_or_else(|| local("nats", port("nats-server"), ""), |nats| nats.url),
            mongodb_port: port("mongod"),
            mongodb_uri: external
                .mongodb_uri
                .unwrap_or_else(|| local("mongodb", port("mongod"), "/petbuddy?replicaSet=rs0")),
            bot_port: port("bot"),
            bot_url: external
                .bot_url
                .unwrap_or_else(|| local("http", port("bot"), "")),
            replicas: replicas
                .into_iter()
                .filter_map(|(service, name)| {
                    let port = port(&name)?;
                    Some(Replica {
                        name,
                        service,
                        port,
                    })
                })
                .collect(),
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
            .map(|r| local("http", Some(r.port), ""))
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

/// The servers that the user's environment names. They are used instead of children.
struct External {
    nats: Option<ExternalNats>,
    mongodb_uri: Option<String>,
    bot_url: Option<String>,
}

struct ExternalNats {
    /// `NATS_URL` without its login.
    url: String,
    /// The login in `NATS_URL`.
    login: Option<Login>,
}

impl External {
    fn from_environment(environment: &BTreeMap<String, String>) -> External {
        External {
            nats: variable(environment, "NATS_URL").map(|urls| {
                let (url, login) = split_logins(urls);
                ExternalNats { url, login }
            }),
            mongodb_uri: variable(environment, "MONGODB_URI").map(str::to_owned),
            bot_url: variable(environment, "META_BOT_BASE_URL").map(str::to_owned),
        }
    }
}

/// The value of a variable. An empty variable counts as unset.
fn variable<'a>(environment: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    environment
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// An address on this machine.
fn local(scheme: &str, port: Option<u16>, path: &str) -> String {
    format!("{scheme}://127.0.0.1:{}{path}", port.unwrap_or_default())
}

/// Every replica with its name. The last option counts for a service that is named twice.
fn name_replicas(options: &[Replicas]) -> Vec<(Service, String)> {
    let count = |service: Service| {
        options
            .iter()
            .rfind(|r| r.service == service)
            .map_or(1, |r| r.count)
    };
    let name = |service: Service, n: u16| match n {
        1 => service.name().to_owned(),
        _ => format!("{}-{n}", service.name()),
    };
    Service::ALL
        .into_iter()
        .flat_map(|service| (1..=count(service)).map(move |n| (service, name(service, n))))
        .collect()
}

/// The ports that the run needs. External servers need none, and only the first replica of a
/// service has a usual port.
fn port_requests(
    external: &External,
    replicas: &[(Service, String)],
    free_ports: bool,
) -> Vec<PortRequest> {
    let usual = |variable, default| (!free_ports).then_some((variable, default));
    let servers = [
        ("nats-server", "NATS_PORT", 4222, external.nats.is_some()),
        (
            "mongod",
            "MONGODB_PORT",
            27017,
            external.mongodb_uri.is_some(),
        ),
        (
            "bot",
            "BOT_PORT",
            stub_bot::DEFAULT_PORT,
            external.bot_url.is_some(),
        ),
    ];
    let servers = servers
        .into_iter()
        .filter(|(_, _, _, is_external)| !is_external)
        .map(|(name, variable, default, _)| PortRequest {
            name: name.to_owned(),
            fixed: usual(variable, default),
        });
    let replicas = replicas.iter().map(|(service, name)| {
        let (variable, default) = service.port();
        let is_first = name == service.name();
        PortRequest {
            name: name.clone(),
            fixed: usual(variable, default).filter(|_| is_first),
        }
    });
    servers.chain(replicas).collect()
}

/// Chooses the ports and remembers them in `ports.json` for the next run.
fn choose_ports(
    requests: &[PortRequest],
    environment: &BTreeMap<String, String>,
    state_dir: &StateDir,
) -> Result<BTreeMap<String, u16>, Failure> {
    let file = state_dir.file("ports.json");
    let mut remembered: BTreeMap<String, u16> = private_file::read_json(&file).unwrap_or_default();
    let given = |name: &str| variable(environment, name).map(str::to_owned);
    let chosen = ports::choose(requests, given, &remembered)?;
    remembered.extend(chosen.clone());
    let text = serde_json::to_string(&remembered).map_err(|e| Failure::Other(e.to_string()))?;
    private_file::replace(&file, &text).map_err(Failure::storage(&file))?;
    Ok(chosen)
}

/// The NATS login of each user. A login in `NATS_URL` is used for all of them.
fn nats_logins(
    external: &External,
    environment: &BTreeMap<String, String>,
    secrets: &Secrets,
) -> Result<BTreeMap<String, Login>, Failure> {
    match &external.nats {
        None => Ok(Login::by_user(&secrets.nats)),
        Some(ExternalNats {
            login: Some(login), ..
        }) => Ok(NATS_USERS
            .iter()
            .map(|user| (user.to_string(), login.clone()))
            .collect()),
        Some(ExternalNats { login: None, .. }) => Ok(Login::by_user(&passwords_in(environment)?)),
    }
}

/// Splits addresses with commas between them into the addresses without logins, and the first
/// login.
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
    let urls = urls.split(',').map(split).collect::<Vec<_>>().join(",");
    (urls, first)
}

/// Password by user, from `NATS_GATEWAY_PASSWORD` and the like.
///
/// # Errors
/// A password is missing.
fn passwords_in(
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let name = |user: &str| format!("NATS_{}_PASSWORD", user.to_uppercase());
    let (mut passwords, mut missing) = (BTreeMap::new(), Vec::new());
    for user in NATS_USERS {
        match variable(environment, &name(user)) {
            Some(password) => {
                passwords.insert(user.to_owned(), password.to_owned());
            }
            None => missing.push(name(user)),
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Failure::Settings(format!(
            "NATS_URL is set without user:password@, so the passwords of the NATS users are \
             needed too; not set: {missing}"
        )));
    }
    Ok(passwords)
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
        let state_dir = StateDir::open(&scratch.0)?;
        let (secrets, _) = Secrets::load(&state_dir.file("secrets.json"))?;
        let environment = environment
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        Plan::make(&options(replicas), &environment, &secrets, &state_dir)
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
    fn a_server_that_the_environment_names_is_no_child() {
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
    fn logins_are_split_from_addresses() {
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
