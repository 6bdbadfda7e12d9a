//! The documents keep up with the repository: every link, anchor, code path and function that a
//! Markdown file names is there. Reads files only; needs no server. It does not follow links to
//! other hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Largest README, in bytes: a newcomer reads it in five minutes.
const README_BYTES: usize = 6_000;
/// Words for things that a reader of the repository cannot look up.
const OUTSIDE: [&str; 4] = [
    "the prototype",
    "the design",
    "the old backend",
    "performance-notes",
];
/// Endings of files that a code span names.
const ENDINGS: [&str; 12] = [
    "rs", "md", "toml", "json", "sh", "yml", "yaml", "conf", "cfg", "js", "ts", "py",
];

struct Document {
    /// From the root of the repository.
    path: PathBuf,
    text: String,
}

/// A link, and the name of a piece of code where its text is one.
#[derive(Debug, PartialEq)]
struct Link {
    target: String,
    name: Option<String>,
}

/// What a document says outside its blocks of code.
#[derive(Debug, Default)]
struct Content {
    anchors: BTreeSet<String>,
    links: Vec<Link>,
    spans: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository with this ending.
fn files(ending: &str) -> Vec<Document> {
    let (mut found, mut folders) = (Vec::new(), vec![root().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_source = name == ".github" || !name.starts_with('.');
            if path.is_dir() && is_source && !["target", "node_modules"].contains(&&*name) {
                folders.push(path);
            } else if path.is_file() && name.ends_with(ending) {
                found.push(Document {
                    text: fs::read_to_string(&path).unwrap(),
                    path: path.strip_prefix(root()).unwrap().to_owned(),
                });
            }
        }
    }
    found
}

fn documents() -> Vec<Document> {
    files(".md")
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The lines of each paragraph, list or table, without blocks of code.
fn paragraphs(text: &str) -> Vec<String> {
    let (mut paragraphs, mut fenced, mut indented) = (vec![String::new()], false, false);
    let mut after_blank = true;
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        indented = line.starts_with("    ") && (indented || after_blank);
        after_blank = line.trim().is_empty();
        if after_blank || is_fence {
            paragraphs.push(String::new());
        }
        if is_fence {
            fenced = !fenced;
        } else if !fenced && !indented {
            let last = paragraphs.last_mut().unwrap();
            last.push_str(line);
            last.push('\n');
        }
    }
    paragraphs
}

fn read(text: &str) -> Content {
    let mut content = Content::default();
    let mut headings = BTreeMap::<String, usize>::new();
    for paragraph in paragraphs(text) {
        for line in paragraph.lines().filter(|line| line.starts_with('#')) {
            let plain = anchor(&line.trim_start_matches('#').trim().replace('`', ""));
            let before = headings.entry(plain.clone()).or_default();
            content.anchors.insert(match *before {
                0 => plain,
                n => format!("{plain}-{n}"),
            });
            *before += 1;
        }
        // Odd parts stand between backticks. A link in code is none, but its text may be code.
        let parts: Vec<&str> = paragraph.split('`').collect();
        let code = |n: usize| n % 2 == 1;
        for (n, part) in parts.iter().enumerate() {
            if code(n) {
                content.spans.push(part.replace('\n', " "));
                continue;
            }
            for (at, _) in part.match_indices("](") {
                let Some(target) = part[at + 2..].split(')').next() else {
                    continue;
                };
                let before = &part[..at];
                let is_code = before.is_empty() && n > 0 && parts[n - 1].chars().all(is_of_name);
                content.links.push(Link {
                    target: target.to_owned(),
                    name: is_code.then(|| parts[n - 1].to_owned()),
                });
            }
        }
    }
    content
}

/// Of `Type::function`.
fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

/// The path of a link, from the root; `None` if it leads out of the repository.
fn resolve(document: &Path, link: &str) -> Option<PathBuf> {
    let mut path = document.parent()?.to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

/// Whether a file of Rust defines something of that name.
fn defines(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let kinds = ["fn", "struct", "enum", "trait", "const"];
    kinds.iter().any(|kind| {
        let definition = format!("{kind} {name}");
        text.match_indices(&definition)
            .any(|(at, _)| !text[at + definition.len()..].starts_with(is_of_name))
    })
}

/// Whether a code span is the path of a file or folder of the repository.
fn is_path(span: &str) -> bool {
    let is_plain = span
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let Some((first, rest)) = span.split_once('/').filter(|_| is_plain) else {
        return false;
    };
    // What a run makes.
    if first.is_empty() || ["target", ".petbuddy", "logs"].contains(&first) {
        return false;
    }
    let ending = rest.rsplit_once('.').map(|(_, ending)| ending);
    rest.is_empty()
        || root().join(first).is_dir()
        || ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

#[test]
fn every_link_and_anchor_resolves_and_a_file_defines_the_name_that_links_to_it() {
    let documents = documents();
    let contents: BTreeMap<_, _> = documents
        .iter()
        .map(|document| (document.path.clone(), read(&document.text)))
        .collect();
    let mut wrong = Vec::new();
    for (document, content) in &contents {
        let mut say = |link: &Link, why: &str| {
            wrong.push(format!("{}: {}: {why}", document.display(), link.target))
        };
        for link in &content.links {
            if link.target.contains("://") {
                continue;
            }
            let (path, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let path = if path.is_empty() {
                Some(document.clone())
            } else {
                resolve(document, path)
            };
            let Some(path) = path.filter(|path| root().join(path).exists()) else {
                say(link, "there is no such file");
                continue;
            };
            let anchors = contents.get(&path).map(|content| &content.anchors);
            if !anchor.is_empty() && !anchors.is_some_and(|anchors| anchors.contains(anchor)) {
                say(link, "there is no such heading");
            }
            let name = link.name.as_ref().and_then(|name| name.rsplit("::").next());
            if let Some(name) = name.filter(|_| path.extension().is_some_and(|e| e == "rs"))
                && !defines(&root().join(&path), name)
            {
                say(link, &format!("it does not define `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    for Document { path, text } in documents() {
        // The changelog tells of what was.
        if path == Path::new("CHANGELOG.md") {
            continue;
        }
        for span in read(&text).spans.iter().filter(|span| is_path(span)) {
            let beside = path.parent().unwrap().join(span);
            if !root().join(span).exists() && !root().join(beside).exists() {
                wrong.push(format!("{}: `{span}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_document_that_code_names_exists() {
    let documents: Vec<String> = documents()
        .iter()
        .map(|document| document.path.to_string_lossy().into_owned())
        .collect();
    let mut wrong = Vec::new();
    for Document { path, text } in files(".rs") {
        for (at, _) in text.match_indices("docs/") {
            if text[..at].ends_with(|c: char| c == '/' || c == '.' || c == '"' || is_of_name(c)) {
                continue;
            }
            let name = text[at..]
                .split(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c))
                .next()
                .unwrap()
                .trim_end_matches('.');
            // A decision may be named by its number alone.
            if !documents.iter().any(|document| document.starts_with(name)) {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_document_refers_to_what_is_not_in_the_repository() {
    let mut wrong = Vec::new();
    for Document { path, text } in documents() {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if OUTSIDE.iter().any(|words| lower.contains(words)) {
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readme_stays_short() {
    let bytes = fs::metadata(root().join("README.md")).unwrap().len();
    assert!(bytes <= README_BYTES as u64, "{bytes} bytes");
}

#[test]
fn every_decision_has_a_number_a_status_a_date_and_a_line_in_the_index() {
    let folder = root().join("docs/adr");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    names.sort();
    for (n, name) in names.iter().enumerate() {
        let number = format!("{:04}", n + 1);
        assert!(name.starts_with(&number), "{name} is not {number}");
        let text = fs::read_to_string(folder.join(name)).unwrap();
        for beginning in [&format!("# {number} "), "\n- Status: ", "\n- Date: 20"] {
            assert!(text.contains(beginning), "{name} lacks {beginning:?}");
        }
        assert!(index.contains(&format!("]({name})")), "{name}: no line");
    }
    assert!(!names.is_empty());
}

#[test]
fn links_headings_and_spans_are_found_and_blocks_of_code_are_not() {
    let content = read(
        "# One `two`: three, é\n\n## Same\n\n## Same\n\nA [`Lane::add`](../a.rs) and [b](c.md#d)\n\
         `e/f.rs` over `two\nlines`.\n\n    [no](no)\n\n```sh\n[no](no) `no`\n```\n",
    );
    let anchors = ["one-two-three-é", "same", "same-1"];
    assert_eq!(content.anchors, anchors.map(str::to_owned).into());
    let link = |target: &str, name: Option<&str>| Link {
        target: target.into(),
        name: name.map(str::to_owned),
    };
    assert_eq!(
        content.links,
        [link("../a.rs", Some("Lane::add")), link("c.md#d", None)]
    );
    assert!(content.spans.contains(&"e/f.rs".to_owned()));
    assert!(content.spans.contains(&"two lines".to_owned()));
    assert!(is_path("e/f.rs") && is_path("docs/adr") && is_path("examples/"));
    for other in [
        "/socket.io/",
        "a.rs",
        "logs/error.log",
        "live/x",
        "docs/<x>.md",
    ] {
        assert!(!is_path(other), "{other}");
    }
    let adr = Path::new("docs/adr/0001.md");
    assert_eq!(resolve(adr, "../x.md"), Some("docs/x.md".into()));
    assert_eq!(resolve(adr, "../../../x.md"), None);
}
