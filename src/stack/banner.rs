//! The page that a run prints once everything is up: addresses, a login, lines to try. Under 40
//! lines, every one to paste.

use std::path::Path;

use crate::stack::run_file::{Demo, Run};

/// The whole page.
pub fn page(run: &Run, folder: &Path, stub_bot: bool) -> String {
    let Run {
        gateway,
        realtime,
        bot,
        operator,
        ..
    } = run;
    let (nats, mongodb) = (&run.nats, without_login(&run.mongodb));
    let folder = folder.display();
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
        format!("  state     {folder}      addresses for scripts: run.json; logs: logs/"),
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
                r#"CONTACT=$(curl -s $API/contacts -H "$AUTH" -H "$JSON" -d '{{"fullName":"Ada","social":{{"facebookId":"ada-1"}}}}' | {})"#,
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
            true => "Ctrl-C stops everything; what was stored stays. Below: what arrives at the bot, and problems of the parts.".into(),
            false => "Ctrl-C stops everything; what was stored stays. Below: problems of the parts.".into(),
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

/// Takes the first field of that name out of JSON, with what every shell has.
fn field(name: &str) -> String {
    format!(r#"grep -o '"{name}":"[^"]*"' | head -1 | cut -d'"' -f4"#)
}

/// An address without the user and password that it may have.
pub fn without_login(url: &str) -> String {
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
    fn the_page_is_short_and_hides_database_passwords() {
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
        let page = page(&run, Path::new("/x/.petbuddy"), true);
        assert!(page.lines().count() < 40);
        assert!(page.contains("ws://127.0.0.1:4001/ws"));
        assert!(!page.contains("hidden"), "{page}");
    }
}
