use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn settings(values: &[(&str, &str)]) -> Settings {
    Settings::of(values.iter().map(|(k, v)| (k.to_string(), v.to_string())))
}

#[test]
fn every_problem_is_listed_at_once_and_no_secret_is_shown() {
    let mut s = settings(&[("PORT", "99999"), ("JWT", "short-secret"), ("TTL", "soon")]);
    s.named("PORT", "").port(4000);
    s.named("JWT", "").secret();
    s.named("TTL", "").duration(
        Duration::from_secs(1),
        Duration::ZERO..=Duration::from_secs(9),
    );
    s.named("MONGODB_URI", "").required("say where MongoDB is");
    let text = s.finish().unwrap_err().to_string();
    for part in ["PORT", "JWT", "TTL", "MONGODB_URI"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("short-secret"));
}

#[test]
fn a_secret_of_digits_keeps_its_zeros() {
    let digits = "0".repeat(8) + &"1".repeat(24);
    let mut s = settings(&[("KEY", &digits)]);
    assert_eq!(s.named("KEY", "").secret().expose_secret(), digits);
    s.finish().unwrap();
}

#[test]
fn each_reading_is_remembered_once_with_its_default_and_limits() {
    let mut s = settings(&[("URL", "http://a.example/")]);
    let url = s.named("URL", "Where the pages are.").optional_http_url();
    assert_eq!(url.as_deref(), Some("http://a.example"));
    s.named("URL", "Another meaning.").optional();
    s.named("COUNT", "How many.").number(3_u32, 1..=9);
    s.named("EVERY", "How often.").seconds(
        Duration::from_secs(300),
        Duration::from_secs(1)..=Duration::from_secs(600),
    );
    let key = s.named("KEY", "What for.").sensitive();
    key.required("set it");
    s.named("USER", "Who.")
        .default_in_words("the service's name")
        .text("gateway");
    let shown: Vec<_> = s
        .specs()
        .iter()
        .map(|spec| (spec.name, spec.meaning, &*spec.accepts, spec.secret))
        .collect();
    assert_eq!(
        shown,
        [
            ("URL", "Where the pages are.", "", false),
            ("COUNT", "How many.", "1 to 9", false),
            ("EVERY", "How often.", "1s to 10m, whole seconds", false),
            ("KEY", "What for.", "", true),
            ("USER", "Who.", "", false),
        ]
    );
    let unset: Vec<_> = s.specs().iter().map(|spec| spec.unset.clone()).collect();
    assert_eq!(
        unset,
        [
            Unset::Nothing,
            Unset::Value("3".into()),
            Unset::Value("5m".into()),
            Unset::Required,
            Unset::Described("the service's name"),
        ]
    );
}
