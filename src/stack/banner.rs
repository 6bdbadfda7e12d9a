//! The banner that a run prints once everything is up: addresses, a login and commands to try, in
//! fewer than 40 lines. Prints nothing itself.

use std::path::Path;

use crate::stack::run_file::{Demo, Run};

/// The whole banner, to be pasted into a shell line by line.
pub fn text(run: &Run, state_dir: &Path, stub_bot: bool) -> String {
    let Run {
        gateway,
        realtime,
        bot,
        operator,
        ..
    } = run;
    let (nats, mongodb) = (&run.nats, without_login(&run.mongodb));
    let state_dir = state_dir.display();
    let mut lines = vec![
        String::new(),
        "PetBuddy Messaging is up.".into(),
        String::new(),
        format!("  REST      {gateway}/api/v1      health: {gateway}/health"),
        format!("  sockets   {}/ws", realtime.replacen("http", "ws", 1)),
        format!("  NATS      {nats}"),
        format!("  MongoDB   {mongodb}"),
        format!(
            "  Meta bot  {bot}{}",
            if stub_bot {
                "      (a stub that accepts everything)"
            } else {
                ""
            }
        ),
        format!("  state     {state_dir}      addresses for scripts: run.json; logs: logs/"),
        String::new(),
    ];
    if let Some(demo) = &run.demo {
        let Demo {
            email, password, ..
        } = demo;
        lines.extend([
            format!("Demo login: {email} / {password}. Try, in one shell:"),
            String::new(),
            format!("API={gateway}/api/v1; JSON='Content-Type: application/json'"),
            format!(
                r#"TOKEN=$(curl -s $API/auth/login -H "$JSON" -d '{{"email":"{email}","password":"{password}"}}' | {})"#,
                field("accessToken")
            ),
            r#"AUTH="Authorization: Bearer $TOKEN""#.into(),
            format!(
                r#"CONTACT=$(curl -s -X PUT $API/contacts -H "$AUTH" -H "$JSON" -d '{{"fullName":"Ada","social":{{"facebookId":"ada-1"}}}}' | {})"#,
                field("_id")
            ),
            message("user", "inbound", "Is my dog well?"),
            message("operator", "outbound", "He is. Come at five."),
            r#"curl -s "$API/messages?contact_id=$CONTACT" -H "$AUTH""#.into(),
        ]);
        if stub_bot {
            lines.push(format!(
                "curl -s {bot}/stub/deliveries      # what has arrived at the bot"
            ));
        }
        lines.push(String::new());
    }
    let cli = format!(
        "nats --server {nats} --user {} --password {}",
        operator.user, operator.password
    );
    lines.extend([
        "Watch it with the nats CLI:".into(),
        String::new(),
        format!("{cli} sub 'live.message.>'"),
        format!("{cli} stream view EVENTS"),
        String::new(),
        match stub_bot {
            true => {
                "Ctrl-C stops everything; what was stored stays. Below: what arrives at the bot, \
                     and problems of the parts."
                    .into()
            }
            false => {
                "Ctrl-C stops everything; what was stored stays. Below: problems of the parts."
                    .into()
            }
        },
        String::new(),
    ]);
    lines.join("\n")
}

fn message(role: &str, direction: &str, content: &str) -> String {
    format!(
        r#"curl -s $API/messages -H "$AUTH" -H "$JSON" -d "{{\"contact_id\":\"$CONTACT\",\"role\":\"{role}\",\"direction\":\"{direction}\",\"platform\":\"facebook\",\"content\":\"{content}\"}}""#
    )
}

/// A shell pipeline that reads the first field of this name out of JSON, with tools that every
/// system has.
fn field(name: &str) -> String {
    format!(r#"grep -o '"{name}":"[^"]*"' | head -1 | cut -d'"' -f4"#)
}

/// An address without its user and password.
fn without_login(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}{}", &url[..scheme + 3], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::run_file::Login;

    #[test]
    fn the_banner_is_short_and_hides_database_passwords() {
        let run = Run {
            gateway: "http://127.0.0.1:4000".into(),
            realtime: "http://127.0.0.1:4001".into(),
            nats: "nats://127.0.0.1:4222".into(),
            mongodb: "mongodb://me:hidden@db:27017/petbuddy".into(),
            bot: "http://127.0.0.1:5001".into(),
            demo: Some(Demo {
                email: "demo@petbuddy.test".into(),
                password: "Demo-1".into(),
                company_id: "c".into(),
            }),
            operator: Login {
                user: "operator".into(),
                password: "o".into(),
            },
            ..Run::default()
        };
        let banner = text(&run, Path::new("/x/.petbuddy"), true);
        assert!(banner.lines().count() < 40);
        assert!(banner.contains("ws://127.0.0.1:4001/ws"));
        assert!(!banner.contains("hidden"), "{banner}");
    }
}
