//! The scaled deployment, `docker-compose.yml` and what it refers to, held against the Compose
//! schema and against the rest of the repository: paths, variables, commands, ports, secrets.
//! Starts no container: whether the images can be had, built and run together is not shown here.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use serde_json::Value;

type Check<T = ()> = Result<T, Box<dyn Error>>;

/// What the deployment owes one of our services.
struct Expected {
    name: &'static str,
    replicas: u64,
    port_variable: &'static str,
    port: u64,
    /// Every secret it needs, and so may have. `MONGODB_URI` counts as one: it holds a password.
    secrets: &'static [&'static str],
}

const GATEWAY_SECRETS: &[&str] = &[
    "ENCRYPTION_KEYS",
    "INTERNAL_SERVICE_API_KEY",
    "JWT_ACCESS_SECRET",
    "JWT_REFRESH_SECRET",
    "NATS_PASSWORD",
];

const SERVICES: [Expected; 5] = [
    expected("gateway", 2, "PORT", 4000, GATEWAY_SECRETS),
    expected(
        "persister",
        2,
        "PERSISTER_PORT",
        4010,
        &["MONGODB_URI", "NATS_PASSWORD"],
    ),
    expected(
        "forwarder",
        2,
        "FORWARDER_PORT",
        4020,
        &[
            "ENCRYPTION_KEYS",
            "INTERNAL_SERVICE_API_KEY",
            "NATS_PASSWORD",
        ],
    ),
    expected(
        "scheduler",
        2,
        "SCHEDULER_PORT",
        4030,
        &[
            "ENCRYPTION_KEYS",
            "FACEBOOK_APP_SECRET",
            "GOOGLE_CLIENT_SECRET",
            "NATS_PASSWORD",
        ],
    ),
    expected(
        "realtime",
        3,
        "REALTIME_PORT",
        4001,
        &["JWT_ACCESS_SECRET", "NATS_PASSWORD"],
    ),
];

const fn expected(
    name: &'static str,
    replicas: u64,
    port_variable: &'static str,
    port: u64,
    secrets: &'static [&'static str],
) -> Expected {
    Expected {
        name,
        replicas,
        port_variable,
        port,
        secrets,
    }
}

const NATS_NODES: [&str; 3] = ["nats-1", "nats-2", "nats-3"];
const MONGO_MEMBERS: [&str; 3] = ["mongo-1", "mongo-2", "mongo-3"];
/// They run to their end before others start, so they have no health.
const ONE_SHOT: [&str; 2] = ["setup", "mongo-init"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Check<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}").into())
}

fn compose() -> Check<Value> {
    Ok(serde_saphyr::from_str(&read("docker-compose.yml")?)?)
}

fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    compose["services"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, service)| (name.as_str(), service))
}

fn environment(service: &Value) -> impl Iterator<Item = (&str, &Value)> {
    service["environment"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn is_secret(name: &str) -> bool {
    [
        "_SECRET",
        "_PASSWORD",
        "_KEY",
        "_KEYS",
        "MONGODB_URI",
        "NATS_ROUTES",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_uppercase() || character.is_ascii_digit() || character == '_'
}

/// The names that follow `marker`, such as `${` in YAML or `$` in a config, each with the text
/// after it.
fn names_after<'a>(text: &'a str, marker: &str) -> Vec<(&'a str, &'a str)> {
    text.split(marker)
        .skip(1)
        .map(|rest| {
            rest.split_at(
                rest.find(|character| !is_name_character(character))
                    .unwrap_or(rest.len()),
            )
        })
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

/// Every `${NAME…}` of the file, and every `NAME:` without a value: both come from `.env`.
fn variables(compose: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => found.extend(
                names_after(text, "${")
                    .into_iter()
                    .map(|(name, _)| name.to_owned()),
            ),
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Object(map) => map.values().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(compose, &mut found);
    let passed_through = services(compose)
        .flat_map(|(_, service)| environment(service))
        .filter(|(_, value)| value.is_null());
    found.extend(passed_through.map(|(key, _)| key.to_owned()));
    found
}

/// `(name, value)` of every line `NAME=value` of `.env.example`, also of those commented out as
/// `#NAME=value`.
fn example_variables(example: &str) -> Vec<(&str, &str)> {
    let settings = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='));
    settings
        .filter(|(name, _)| !name.is_empty() && name.chars().all(is_name_character))
        .collect()
}

/// The settings that each program reads, by the name of its service in the compose file: as
/// `petbuddy settings` lists them.
fn settings_read() -> Check<BTreeMap<String, BTreeSet<String>>> {
    let listed = Command::new(env!("CARGO_BIN_EXE_petbuddy"))
        .arg("settings")
        .output()?;
    let mut read: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in String::from_utf8(listed.stdout)?.lines().skip(2) {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, _, of, _] = columns[..] else {
            return Err(format!("not a row of five columns: {row}").into());
        };
        let every = SERVICES.iter().map(|expected| expected.name);
        let of: Vec<&str> = match of {
            "all" => every.chain(["setup"]).collect(),
            of => of
                .split(", ")
                .map(|program| program.strip_prefix("petbuddy ").unwrap_or(program))
                .collect(),
        };
        for program in of {
            read.entry(program.to_owned())
                .or_default()
                .insert(name.trim_matches('`').to_owned());
        }
    }
    Ok(read)
}

/// Open files that a container may have.
fn open_files(service: &Value) -> u64 {
    service["ulimits"]["nofile"].as_u64().unwrap_or_default()
}

/// `(host path, container path)` of every bind mount.
fn bind_mounts(service: &Value) -> Vec<(&str, &str)> {
    let mounts = texts(&service["volumes"])
        .into_iter()
        .filter_map(|mount| mount.strip_prefix("./")?.split_once(':'));
    mounts
        .map(|(host, rest)| (host, rest.split(':').next().unwrap_or(rest)))
        .collect()
}

/// `(sources, target)` of every `COPY` from the repository, not from another stage.
fn copies(dockerfile: &str) -> Vec<Vec<&str>> {
    let copies = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|words| !words.starts_with("--from"));
    copies
        .map(|words| words.split_whitespace().collect())
        .collect()
}

/// The binaries of the image: `petbuddy`, and its links.
fn binaries(dockerfile: &str) -> Check<Vec<&str>> {
    let mut lines = dockerfile.lines().map(str::trim);
    let links = lines.clone().find_map(|line| {
        line.strip_prefix("&& for service in ")?
            .strip_suffix("; do ln -s petbuddy /out/$service; done")
    });
    assert!(
        lines.any(|line| line.starts_with("&& cp target/dist/petbuddy /out/")),
        "the Dockerfile copies no petbuddy"
    );
    let links = links.ok_or("no links to petbuddy in the Dockerfile")?;
    Ok(["petbuddy"].into_iter().chain(links.split(' ')).collect())
}

#[test]
fn the_compose_file_matches_the_compose_schema() -> Check {
    let schema = jsonschema::validator_for(&serde_json::from_str(&read(
        "tests/fixtures/compose-spec.json",
    )?)?)?;
    let mut compose = compose()?;
    let faults: Vec<String> = schema
        .iter_errors(&compose)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");

    compose["services"]["gateway"]["helthcheck"] = serde_json::json!({});
    assert!(
        !schema.is_valid(&compose),
        "the schema must refuse an unknown key, or it checks nothing"
    );
    Ok(())
}

#[test]
fn every_referenced_path_exists() -> Check {
    let compose = compose()?;
    for (name, service) in services(&compose) {
        let mounts = bind_mounts(service);
        for (host, _) in &mounts {
            assert!(
                root().join(host).exists(),
                "{name} mounts {host}, which is not here"
            );
        }
        // A file that a command names must come by one of the mounts.
        let words = [texts(&service["entrypoint"]), texts(&service["command"])].concat();
        for word in words.into_iter().filter(|word| word.starts_with('/')) {
            let host = mounts
                .iter()
                .find_map(|(host, inside)| Some(format!("{host}{}", word.strip_prefix(inside)?)));
            let host = host.ok_or(format!("{name} names {word}, which no mount provides"))?;
            assert!(
                root().join(&host).is_file(),
                "{name} names {word}, but there is no {host}"
            );
        }
        if let Some(context) = service["build"].as_str() {
            assert!(
                root().join(context).join("Dockerfile").is_file(),
                "{name} builds from {context} without a Dockerfile"
            );
        }
    }
    Ok(())
}

#[test]
fn variables_and_env_example_agree() -> Check {
    let compose = compose()?;
    let used = variables(&compose);
    let example = read(".env.example")?;
    let listed: BTreeSet<String> = example_variables(&example)
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    let unlisted: Vec<_> = used.difference(&listed).collect();
    assert!(unlisted.is_empty(), "not in .env.example: {unlisted:?}");

    let set_here = services(&compose)
        .flat_map(|(_, service)| environment(service))
        .map(|(key, _)| key.to_owned());
    let known: BTreeSet<String> = used.iter().cloned().chain(set_here).collect();
    let unknown: Vec<_> = listed.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "in .env.example, but nothing reads it: {unknown:?}"
    );

    for (name, value) in example_variables(&example)
        .into_iter()
        .filter(|(name, _)| is_secret(name) && *name != "MONGODB_URI")
    {
        assert!(
            value.is_empty(),
            ".env.example must not hold a secret, but {name} has a value"
        );
    }
    Ok(())
}

#[test]
fn each_service_gets_exactly_the_settings_that_its_code_reads() -> Check {
    let (compose, read) = (compose()?, settings_read()?);
    for name in SERVICES
        .iter()
        .map(|expected| expected.name)
        .chain(["setup"])
    {
        let given: BTreeSet<String> = environment(&compose["services"][name])
            .map(|(key, _)| key.to_owned())
            .collect();
        assert_eq!(
            Some(&given),
            read.get(name),
            "{name}: what it is given, and what its code reads"
        );
    }
    Ok(())
}

#[test]
fn the_balancer_has_room_for_every_socket_and_stops_within_its_grace_period() -> Check {
    let (compose, balancer, example) = (
        compose()?,
        read("deploy/haproxy.cfg")?,
        read(".env.example")?,
    );
    let global = balancer.split("\ndefaults").next().unwrap_or_default();
    let setting = |name: &str| {
        global
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' '))
            .ok_or(name.to_owned())
    };
    let maxconn: u64 = setting("maxconn")?.parse()?;
    let max_sockets = example_variables(&example)
        .into_iter()
        .find(|(name, _)| *name == "MAX_SOCKETS")
        .ok_or("MAX_SOCKETS")?
        .1;
    let (max_sockets, realtime) = (
        max_sockets.parse::<u64>()?,
        &compose["services"]["realtime"],
    );
    let sockets = max_sockets * realtime["deploy"]["replicas"].as_u64().unwrap_or_default();
    assert!(
        sockets > 0 && maxconn > sockets,
        "{maxconn} connections for {sockets} sockets and the requests"
    );
    assert!(
        open_files(realtime) > max_sockets,
        "a realtime node runs out of files before its sockets"
    );
    let max_connections = example_variables(&example)
        .into_iter()
        .find(|(name, _)| *name == "MAX_CONNECTIONS")
        .ok_or("MAX_CONNECTIONS")?
        .1;
    assert!(
        open_files(&compose["services"]["gateway"]) > max_connections.parse()?,
        "a gateway runs out of files before its connections"
    );
    // HAProxy wants two for each connection and refuses to start with fewer.
    assert!(
        open_files(&compose["services"]["load-balancer"]) > 2 * maxconn,
        "too few files for {maxconn} connections"
    );

    let seconds = |text: &str| {
        text.strip_suffix('s')
            .and_then(|text| text.parse::<u64>().ok())
    };
    let stop = seconds(setting("hard-stop-after")?).ok_or("hard-stop-after in seconds")?;
    let grace = compose["services"]["load-balancer"]["stop_grace_period"]
        .as_str()
        .and_then(seconds)
        .ok_or("stop_grace_period")?;
    assert!(
        stop < grace,
        "killed after {grace} s, before it gives up its sockets after {stop} s"
    );
    Ok(())
}

/// Runs `deploy/new-env.sh` on a copy of `.env.example`, with `openssl` (a program, or none) and
/// otherwise only what it needs on the PATH. The folder, its exit code, what it said.
fn new_env(test: &str, openssl: Option<&str>) -> Check<(PathBuf, Option<i32>, String)> {
    let folder = env::temp_dir().join(format!("petbuddy-new-env-{test}-{}", process::id()));
    for file in [".env.example", "deploy/new-env.sh"] {
        copy_tree(&root().join(file), &folder.join(file))?;
    }
    fs::create_dir(folder.join("bin"))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let programs = ["dirname", "grep", "mv", "rm"].map(|name| (name, name));
    for (name, program) in programs
        .into_iter()
        .chain(openssl.map(|program| ("openssl", program)))
    {
        let found = env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file());
        symlink(
            found.ok_or(format!("no {program} on the PATH"))?,
            folder.join("bin").join(name),
        )?;
    }
    let script = Command::new("/bin/sh")
        .arg(folder.join("deploy/new-env.sh"))
        .env("PATH", folder.join("bin"))
        .output()?;
    Ok((
        folder,
        script.status.code(),
        String::from_utf8_lossy(&script.stderr).into_owned(),
    ))
}

#[test]
fn new_env_generates_every_secret() -> Check {
    let (folder, code, said) = new_env("good", Some("openssl"))?;
    let made = fs::read_to_string(folder.join(".env"));
    let again = Command::new("/bin/sh")
        .arg(folder.join("deploy/new-env.sh"))
        .output()?;
    let left = fs::read_to_string(folder.join(".env"));
    fs::remove_dir_all(&folder)?;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let made = made?;
    assert!(
        !again.status.success() && left? == made,
        "an .env that exists must stay"
    );

    let example = read(".env.example")?;
    assert_eq!(made.lines().count(), example.lines().count());
    let mut secrets = BTreeSet::new();
    for (before, after) in example.lines().zip(made.lines()) {
        let ours = before.strip_suffix('=').filter(|name| {
            !name.starts_with('#') && is_secret(name) && !name.starts_with("FACEBOOK_")
        });
        let Some(name) = ours else {
            assert_eq!(before, after, "only our secrets are filled in");
            continue;
        };
        let secret = after.strip_prefix(before).ok_or(name)?;
        let of_its_form = |c: char| {
            c.is_ascii_alphanumeric() || (name == "ENCRYPTION_KEYS" && ":+/=".contains(c))
        };
        assert!(
            secret.len() > 40 && secret.chars().all(of_its_form),
            "{name} has {} characters",
            secret.len()
        );
        assert!(
            !name.ends_with("_PASSWORD") || secret.starts_with('n'),
            "{name} must begin with a letter"
        );
        assert!(secrets.insert(secret), "{name} is the same as another");
    }
    assert!(!secrets.is_empty());
    Ok(())
}

#[test]
fn new_env_writes_nothing_without_a_working_openssl() -> Check {
    // Absent; failing; ending well without a word.
    for (test, openssl) in [
        ("absent", None),
        ("failing", Some("false")),
        ("silent", Some("true")),
    ] {
        let (folder, code, said) = new_env(test, openssl)?;
        let written = [".env", ".env.partial"]
            .into_iter()
            .find(|file| folder.join(file).exists());
        fs::remove_dir_all(&folder)?;
        assert_eq!((code, written), (Some(1), None), "{test}");
        assert!(
            said.contains("openssl") && said.lines().count() == 1,
            "{test}: {said}"
        );
    }
    Ok(())
}

/// Runs the service without any setting, so that it lists the settings it lacks, and ends.
fn by_its_link_and_by_its_subcommand_a_service_is_the_same(service: &str) -> Check {
    let petbuddy = env!("CARGO_BIN_EXE_petbuddy");
    let folder = env::temp_dir().join(format!("petbuddy-link-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let link = folder.join(service);
    symlink(petbuddy, &link)?;
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir(&folder)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok::<_, std::io::Error>((output.status.code(), said))
    };
    let (by_link, by_subcommand) = (run(&link, &[]), run(Path::new(petbuddy), &[service]));
    fs::remove_dir_all(&folder)?;
    let by_link = by_link?;
    assert!(by_link.1.contains("NATS_PASSWORD"), "{by_link:?}");
    assert_eq!(by_link, by_subcommand?);
    Ok(())
}

#[test]
fn every_command_is_in_the_image() -> Check {
    let (compose, dockerfile) = (compose()?, read("Dockerfile")?);
    let binaries = binaries(&dockerfile)?;
    for binary in &binaries {
        let main = if *binary == "petbuddy" {
            "src/main.rs".to_owned()
        } else {
            format!("{binary}/src/main.rs")
        };
        assert!(
            root().join(&main).is_file(),
            "the image has {binary}, but there is no {main}"
        );
    }
    for service in binaries.iter().filter(|name| **name != "petbuddy") {
        by_its_link_and_by_its_subcommand_a_service_is_the_same(service)?;
    }

    let mut subcommands = BTreeSet::new();
    for (name, service) in services(&compose).filter(|(_, service)| !service["build"].is_null()) {
        let health = texts(&service["healthcheck"]["test"]);
        let health = health.strip_prefix(&["CMD"]).unwrap_or_default();
        for command in [texts(&service["command"]).as_slice(), health]
            .into_iter()
            .filter(|command| !command.is_empty())
        {
            assert!(
                binaries.contains(&command[0]),
                "{name} runs {}, which is not in the image",
                command[0]
            );
            if command[0] == "petbuddy" {
                subcommands.insert(
                    command
                        .get(1)
                        .copied()
                        .ok_or("petbuddy without a subcommand runs everything")?
                        .to_owned(),
                );
            }
        }
    }
    assert_eq!(
        subcommands,
        BTreeSet::from(["health".to_owned(), "setup".to_owned()])
    );
    for subcommand in subcommands {
        let help = Command::new(env!("CARGO_BIN_EXE_petbuddy"))
            .args([&subcommand, "--help"])
            .output()?;
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(
            help.status.success() && text.contains(&format!("Usage: petbuddy {subcommand}")),
            "petbuddy {subcommand} --help: {text}"
        );
    }
    Ok(())
}

#[test]
fn the_balancer_logs_no_query_string_because_it_may_hold_a_token() -> Check {
    let balancer = read("deploy/haproxy.cfg")?;
    let mut lines = balancer.lines().map(str::trim);
    assert!(lines.all(|line| !line.starts_with("option httplog")));
    let formats = balancer.lines().filter(|line| line.contains("log-format"));
    let formats: Vec<&str> = formats.collect();
    assert!(!formats.is_empty());
    // `%r`, `%HU` and `%HQ` have the query string.
    for with_query in ["%r", "%{+Q}r", "%HU", "%HQ"] {
        assert!(
            formats.iter().all(|format| !format
                .split([' ', '"', '\\'])
                .any(|part| part == with_query)),
            "{with_query}: {formats:?}"
        );
    }
    Ok(())
}

#[test]
fn ports_health_checks_and_the_balancer_agree() -> Check {
    let (compose, balancer) = (compose()?, read("deploy/haproxy.cfg")?);
    for expected in &SERVICES {
        let service = &compose["services"][expected.name];
        assert_eq!(
            service["environment"][expected.port_variable], expected.port,
            "{}",
            expected.name
        );
        let url = format!("http://127.0.0.1:{}/health", expected.port);
        assert_eq!(
            texts(&service["healthcheck"]["test"]),
            ["CMD", "petbuddy", "health", url.as_str()],
            "{}",
            expected.name
        );
    }

    let mut backends = BTreeSet::new();
    for line in balancer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("server-template "))
    {
        let [_, slots, address] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(line.into());
        };
        let (host, port) = address.split_once(':').ok_or(line)?;
        let expected = SERVICES
            .iter()
            .find(|expected| expected.name == host)
            .ok_or(format!("the balancer knows a {host}"))?;
        assert_eq!(
            port,
            expected.port.to_string(),
            "the balancer's port of {host}"
        );
        assert!(
            slots.parse::<u64>()? >= expected.replicas,
            "too few slots for {host}"
        );
        let shared = |name: &str| texts(&compose["services"][name]["networks"]).contains(&"edge");
        assert!(
            shared(host) && shared("load-balancer"),
            "the balancer cannot reach {host}"
        );
        backends.insert(host);
    }
    assert_eq!(backends, BTreeSet::from(["gateway", "realtime"]));
    let rules: Vec<&str> = balancer
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("_backend "))
        .collect();
    assert!(
        rules.contains(&"use_backend realtime if { path /ws /ws/ }"),
        "{rules:?}"
    );
    assert!(
        rules.contains(&"use_backend realtime_sticky if socket_io"),
        "{rules:?}"
    );
    assert_eq!(rules.last(), Some(&"default_backend gateway"));

    // The container's side of the published port and of the health check are what the balancer and
    // NATS listen on.
    let published = texts(&compose["services"]["load-balancer"]["ports"]);
    assert!(
        published.len() == 1 && published[0].ends_with(":8080") && balancer.contains("bind :8080"),
        "{published:?}"
    );
    let health = |name: &str| {
        texts(&compose["services"][name]["healthcheck"]["test"])
            .last()
            .copied()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(health("load-balancer"), "http://127.0.0.1:8404/health");
    assert!(balancer.contains("bind 127.0.0.1:8404") && balancer.contains("monitor-uri /health"));
    let cluster = read("nats/server/cluster.conf")?;
    assert!(
        cluster.contains("http_port: 8222")
            && cluster.contains("0.0.0.0:4222")
            && cluster.contains("0.0.0.0:6222")
    );
    for node in NATS_NODES {
        assert_eq!(health(node), "http://127.0.0.1:8222/healthz", "{node}");
    }
    Ok(())
}

#[test]
fn each_container_gets_only_its_own_secrets_and_the_file_contains_none() -> Check {
    let compose = compose()?;
    for (name, service) in services(&compose) {
        for (key, value) in
            environment(service).filter(|(key, value)| is_secret(key) && !value.is_null())
        {
            let text = value.as_str().unwrap_or_default();
            let from_env = names_after(text, "${");
            assert!(
                from_env.iter().any(|(variable, _)| is_secret(variable)),
                "{name}: {key} stands in the file"
            );
            assert!(
                from_env.iter().all(|(_, rest)| rest.starts_with(":?")),
                "{name}: {key} must be refused when it is not set"
            );
        }
    }
    for expected in &SERVICES {
        let service = &compose["services"][expected.name];
        let secrets: Vec<&str> = environment(service)
            .map(|(key, _)| key)
            .filter(|key| is_secret(key))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(secrets, expected.secrets, "{}", expected.name);
        assert_eq!(service["environment"]["NATS_USER"], expected.name);
        let password = format!("${{NATS_{}_PASSWORD:", expected.name.to_uppercase());
        assert!(
            service["environment"]["NATS_PASSWORD"]
                .as_str()
                .is_some_and(|text| text.starts_with(&password)),
            "{}",
            expected.name
        );
    }

    // MongoDB: the persister alone has the address with the password, and the way there.
    for (name, service) in services(&compose) {
        let holds = environment(service).any(|(key, value)| {
            key == "MONGODB_URI"
                || value
                    .as_str()
                    .is_some_and(|text| text.contains("MONGO_PERSISTER_PASSWORD"))
        });
        assert_eq!(
            holds,
            ["persister", "mongo-init"].contains(&name),
            "{name} and the database's password"
        );
        let reaches = texts(&service["networks"]).contains(&"database");
        assert_eq!(
            reaches,
            name == "persister" || MONGO_MEMBERS.contains(&name),
            "{name} and the network of the database"
        );
        let publishes = !service["ports"].is_null();
        assert_eq!(
            publishes,
            ["load-balancer", "nats-1"].contains(&name),
            "{name} and the outside"
        );
    }
    assert!(
        texts(&compose["services"]["nats-1"]["ports"])
            .iter()
            .all(|port| port.starts_with("127.0.0.1:"))
    );
    Ok(())
}

#[test]
fn replicas_health_checks_and_start_order_are_as_documented() -> Check {
    let compose = compose()?;
    for (name, service) in services(&compose) {
        assert_eq!(
            service["healthcheck"].is_null(),
            ONE_SHOT.contains(&name),
            "{name}: a health check, unless it is one-shot"
        );
        let restart = if ONE_SHOT.contains(&name) {
            "no"
        } else {
            "unless-stopped"
        };
        assert_eq!(service["restart"], restart, "{name}");
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            let condition = if ONE_SHOT.contains(&needed.as_str()) {
                "service_completed_successfully"
            } else {
                "service_healthy"
            };
            assert_eq!(how["condition"], condition, "{name} waits for {needed}");
        }
    }
    for expected in &SERVICES {
        let service = &compose["services"][expected.name];
        assert_eq!(
            service["deploy"]["replicas"], expected.replicas,
            "{}",
            expected.name
        );
        assert_eq!(service["stop_grace_period"], "35s", "{}", expected.name);
        let log_dir = format!(
            "{}:size=",
            service["environment"]["LOG_DIR"]
                .as_str()
                .unwrap_or_default()
        );
        assert!(
            texts(&service["tmpfs"])[0].starts_with(&log_dir),
            "{}: unbounded log files",
            expected.name
        );
        assert!(
            service["depends_on"]["setup"].is_object(),
            "{} starts before the streams exist",
            expected.name
        );
        let servers: Vec<&str> = service["environment"]["NATS_URL"]
            .as_str()
            .unwrap_or_default()
            .split(',')
            .collect();
        assert_eq!(
            servers,
            NATS_NODES.map(|node| format!("nats://{node}:4222")),
            "{}",
            expected.name
        );
    }
    assert!(compose["services"]["persister"]["depends_on"]["mongo-init"].is_object());
    let setup = &compose["services"]["setup"];
    assert_eq!(setup["environment"]["NATS_REPLICAS"], 3);
    assert!(
        NATS_NODES
            .iter()
            .all(|node| setup["depends_on"][node].is_object())
    );

    let members = MONGO_MEMBERS
        .map(|member| format!("{member}:27017"))
        .join(",");
    assert_eq!(
        compose["services"]["mongo-init"]["environment"]["MONGO_MEMBERS"],
        members
    );
    assert_eq!(
        compose["services"]["mongo-init"]["network_mode"],
        "service:mongo-1"
    );
    assert!(
        compose["services"]["persister"]["environment"]["MONGODB_URI"]
            .as_str()
            .is_some_and(|uri| uri.contains(&format!("@{members}/petbuddy?replicaSet=rs0")))
    );
    Ok(())
}

#[test]
fn configs_and_scripts_get_every_variable_that_they_read() -> Check {
    let compose = compose()?;
    let mut conf = String::new();
    for path in ["nats/server/cluster.conf", "nats/server/users.conf"] {
        for line in read(path)?.lines() {
            // Within quotes nats-server replaces nothing (`"$JS.ACK…"` is a subject), and a comment
            // it skips.
            let unquoted: String = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
            conf += unquoted.split('#').next().unwrap_or_default();
            conf.push('\n');
        }
    }
    let conf: BTreeSet<&str> = names_after(&conf, "$")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for node in NATS_NODES {
        let given: BTreeSet<&str> = environment(&compose["services"][node])
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            given, conf,
            "{node}: what it is given, and what its config reads"
        );
        assert_eq!(
            compose["services"][node]["environment"]["NATS_SERVER_NAME"],
            node
        );
        let routes: Vec<Value> = serde_json::from_str(
            compose["services"][node]["environment"]["NATS_ROUTES"]
                .as_str()
                .unwrap_or_default(),
        )?;
        let route = |to: &str| {
            routes.iter().any(|route| {
                route
                    .as_str()
                    .is_some_and(|url| url.ends_with(&format!("@{to}:6222")))
            })
        };
        assert!(
            routes.len() == NATS_NODES.len() && NATS_NODES.into_iter().all(route),
            "{node}: {routes:?}"
        );
    }

    let member = read("deploy/mongo-member.sh")?;
    let member: BTreeSet<&str> = names_after(&member, "$")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let init = read("deploy/mongo-init.js")?;
    let init: BTreeSet<&str> = names_after(&init, "setting(\"")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (name, read) in MONGO_MEMBERS
        .map(|name| (name, &member))
        .into_iter()
        .chain([("mongo-init", &init)])
    {
        let given: BTreeSet<&str> = environment(&compose["services"][name])
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            &given, read,
            "{name}: what it is given, and what its script reads"
        );
    }
    Ok(())
}

#[test]
fn the_image_is_built_from_what_the_dockerfile_copies() -> Check {
    let (dockerfile, ignore) = (read("Dockerfile")?, read(".dockerignore")?);
    assert!(
        ignore.lines().any(|line| line == "*"),
        ".dockerignore must let in only what it names"
    );
    let let_in: BTreeSet<&str> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();

    // What the build stage sees, laid out afresh: cargo must find every manifest and every target
    // that one names.
    let stage = env::temp_dir().join(format!("petbuddy-image-{}", process::id()));
    let mut copied = BTreeSet::new();
    for words in copies(&dockerfile) {
        let (target, sources) = words.split_last().ok_or("COPY of nothing")?;
        for source in sources {
            assert!(root().join(source).exists(), "COPY {source}: not here");
            assert!(
                let_in.contains(source),
                "COPY {source}: .dockerignore keeps it out"
            );
            let target = if target.ends_with('/') {
                format!("{target}{source}")
            } else {
                (*target).to_owned()
            };
            copy_tree(&root().join(source), &stage.join(target))?;
            copied.insert(*source);
        }
    }
    assert_eq!(
        copied, let_in,
        "what the Dockerfile copies, and what .dockerignore lets in"
    );
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(&stage)
        .output();
    fs::remove_dir_all(&stage)?;
    let cargo = cargo?;
    assert!(
        cargo.status.success(),
        "cargo in the build stage: {}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let metadata: Value = serde_json::from_slice(&cargo.stdout)?;
    let targets = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let built: BTreeSet<&str> = targets
        .filter(|target| texts(&target["kind"]) == ["bin"])
        .filter_map(|target| target["name"].as_str())
        .collect();
    assert_eq!(
        built,
        binaries(&dockerfile)?.into_iter().collect(),
        "what cargo builds there, and what goes into the image"
    );

    let user = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("USER "))
        .next_back();
    assert_eq!(user, Some("petbuddy"), "the image must not run as root");
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Check {
    if from.is_dir() {
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    } else {
        fs::create_dir_all(to.parent().ok_or("a file without a folder")?)?;
        fs::copy(from, to)?;
    }
    Ok(())
}
