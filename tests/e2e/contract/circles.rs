//! No circle of files: within a crate the `use` lines and inline paths of the files form a graph
//! without cycles. Reads the sources as text. Code below `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The source folders of all crates of the workspace.
const CRATES: [&str; 8] = [
    "nats/contract/src",
    "nats/runtime/src",
    "gateway/src",
    "persister/src",
    "forwarder/src",
    "scheduler/src",
    "realtime/src",
    "src",
];
/// Re-exports that are followed from one name to its definition.
const MAX_REEXPORTS: usize = 8;

/// A module's path from the root of its crate.
type Module = Vec<String>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Separator,
    Other(char),
}

impl Token {
    fn is(&self, text: &str) -> bool {
        match self {
            Token::Word(word) => word == text,
            Token::Separator => text == "::",
            Token::Other(c) => text.len() == c.len_utf8() && text.starts_with(*c),
        }
    }

    fn word(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// The tokens of a source text without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(chars[i] == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == 'r'
            && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#')))
        {
            let hashes = (i + 1..).take_while(|&n| at(n) == '#').count();
            i += hashes + 2;
            while i < chars.len() && !(chars[i] == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            i += hashes + 1;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character ends with a quote; a lifetime does not.
            let end = if at(i + 1) == '\\' {
                (i + 3..chars.len()).find(|&n| chars[n] == '\'')
            } else {
                (at(i + 2) == '\'').then_some(i + 2)
            };
            i = end.map_or(i + 1, |end| end + 1);
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(Token::Word(chars[start..i].iter().collect()));
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push(Token::Separator);
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Other(c));
            }
            i += 1;
        }
    }
    tokens
}

/// The index after the bracket that closes the one at `open`.
fn closed(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Other('{' | '(' | '[') => depth += 1,
            Token::Other('}' | ')' | ']') => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The tokens without the items that stand below `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let (mut kept, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        let is_test = ["#", "[", "cfg", "(", "test", ")", "]"]
            .iter()
            .enumerate()
            .all(|(n, text)| tokens.get(i + n).is_some_and(|token| token.is(text)));
        if !is_test {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += 7;
        // The item ends with its first semicolon or its first block, whichever comes first.
        while i < tokens.len() {
            match &tokens[i] {
                Token::Other(';') => {
                    i += 1;
                    break;
                }
                Token::Other('{') => {
                    i = closed(&tokens, i);
                    break;
                }
                Token::Other('(' | '[') => i = closed(&tokens, i),
                _ => i += 1,
            }
        }
    }
    kept
}

/// One name that a `use` brings in.
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// Flattens the tree of a `use` at `i`, which ends before `;`, `,` or `}`.
fn use_tree(
    tokens: &[Token],
    mut i: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) if word == "as" => {
                // The new name stands last, marked so that it is not taken for a segment.
                if let Some(name) = tokens.get(i + 1).and_then(Token::word) {
                    path.push(format!("as {name}"));
                }
                i += 2;
            }
            Some(Token::Word(word)) => {
                path.push(word.clone());
                i += 1;
            }
            Some(Token::Separator) => i += 1,
            Some(Token::Other('*')) => {
                path.push("*".into());
                i += 1;
            }
            Some(Token::Other('{')) => {
                i += 1;
                while !tokens.get(i).is_none_or(|token| token.is("}")) {
                    i = use_tree(tokens, i, &path, found);
                    if tokens.get(i).is_some_and(|token| token.is(",")) {
                        i += 1;
                    }
                }
                return i + 1;
            }
            _ => {
                found.push(path);
                return i;
            }
        }
    }
}

/// What one file says of others.
#[derive(Default)]
struct Source {
    imports: Vec<Import>,
    /// Paths in code, and the words that stand in code.
    paths: Vec<Vec<String>>,
    words: BTreeSet<String>,
}

impl Source {
    fn of(text: &str) -> Source {
        let tokens = without_tests(tokens(text));
        let (mut source, mut i) = (Source::default(), 0);
        while i < tokens.len() {
            if tokens[i].is("use") {
                let is_public = i > 0 && (tokens[i - 1].is("pub") || tokens[i - 1].is(")"));
                let mut found = Vec::new();
                i = use_tree(&tokens, i + 1, &[], &mut found);
                for mut path in found {
                    let mut name = path.last().cloned().unwrap_or_default();
                    if let Some(new) = name.strip_prefix("as ") {
                        name = new.to_owned();
                        path.pop();
                    }
                    if path.last().is_some_and(|last| last == "self") {
                        path.pop();
                        name = path.last().cloned().unwrap_or_default();
                    }
                    source.imports.push(Import {
                        path,
                        name,
                        is_public,
                    });
                }
                continue;
            }
            let Some(word) = tokens[i].word() else {
                i += 1;
                continue;
            };
            source.words.insert(word.to_owned());
            let mut path = vec![word.to_owned()];
            while tokens.get(i + 1).is_some_and(|token| token.is("::"))
                && let Some(next) = tokens.get(i + 2).and_then(Token::word)
            {
                path.push(next.to_owned());
                i += 2;
            }
            if path.len() > 1 {
                source.paths.push(path);
            }
            i += 1;
        }
        source
    }
}

/// The files of one crate, by module.
struct Crate {
    files: BTreeMap<Module, Source>,
}

impl Crate {
    fn read(folder: &Path) -> Crate {
        let mut files = BTreeMap::new();
        let is_library = folder.join("lib.rs").exists();
        for path in rust_files(folder) {
            let relative = path.strip_prefix(folder).unwrap().with_extension("");
            let mut module: Module = relative
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            match module.last().map(String::as_str) {
                Some("tests") => continue,
                Some("main") if is_library && module.len() == 1 => continue,
                Some("lib" | "main") if module.len() == 1 => module.clear(),
                Some("mod") => drop(module.pop()),
                _ => {}
            }
            files.insert(module, Source::of(&std::fs::read_to_string(&path).unwrap()));
        }
        Crate { files }
    }

    /// The module in which the name at the end of `path` is defined, as seen from `module`.
    fn definition(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let mut at = module.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [module.as_slice(), &[first.to_owned()]].concat();
                if !self.files.contains_key(&child) {
                    // A module that another `use` of this file has brought in.
                    let import = self.files[module].imports.iter().find(|import| {
                        import.name == first && import.path.first().is_some_and(|f| f != first)
                    })?;
                    if depth == 0 {
                        return None;
                    }
                    let whole = [import.path.as_slice(), &rest[1..]].concat();
                    return self.definition(module, &whole, depth - 1);
                }
            }
        }
        while let Some(next) = rest.first() {
            let below = [at.as_slice(), std::slice::from_ref(next)].concat();
            if !self.files.contains_key(&below) {
                break;
            }
            at = below;
            rest = &rest[1..];
        }
        let Some(name) = rest.first() else {
            return Some(at);
        };
        let exported = self.files[&at]
            .imports
            .iter()
            .find(|import| import.is_public && import.name == *name);
        match exported {
            Some(import) if depth > 0 => self.definition(&at, &import.path, depth - 1).or(Some(at)),
            _ => Some(at),
        }
    }

    /// Each file's module with those that it needs.
    fn graph(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        self.files
            .iter()
            .map(|(module, source)| {
                // A re-export alone needs nothing of what it passes on.
                let imported = source
                    .imports
                    .iter()
                    .filter(|import| !import.is_public || source.words.contains(&import.name))
                    .map(|import| &import.path);
                let needed = imported
                    .chain(&source.paths)
                    .filter_map(|path| self.definition(module, path, MAX_REEXPORTS))
                    .filter(|needed| needed != module)
                    .collect();
                (module, needed)
            })
            .collect()
    }

    /// A circle of modules, if there is one.
    fn circle(&self) -> Option<Vec<Module>> {
        let graph = self.graph();
        let mut done = BTreeSet::new();
        graph
            .keys()
            .find_map(|module| circle_from(&graph, module, &mut Vec::new(), &mut done))
    }
}

fn circle_from(
    graph: &BTreeMap<&Module, BTreeSet<Module>>,
    module: &Module,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<Vec<Module>> {
    if let Some(start) = way.iter().position(|passed| passed == module) {
        return Some(way[start..].to_vec());
    }
    if !done.contains(module) {
        way.push(module.clone());
        for needed in &graph[module] {
            if let Some(circle) = circle_from(graph, needed, way, done) {
                return Some(circle);
            }
        }
        way.pop();
        done.insert(module.clone());
    }
    None
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn crate_of(files: &[(&str, &str)]) -> Crate {
    let files = files
        .iter()
        .map(|(module, text)| {
            let module = module.split("::").filter(|part| !part.is_empty());
            (module.map(str::to_owned).collect(), Source::of(text))
        })
        .collect();
    Crate { files }
}

#[test]
fn no_files_of_a_crate_need_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut circles = Vec::new();
    for folder in CRATES {
        let files = Crate::read(&root.join(folder));
        assert!(files.files.len() > 5, "{folder} has hardly any files");
        let edges: usize = files.graph().values().map(BTreeSet::len).sum();
        assert!(edges > 5, "{folder}: the imports were not read");
        circles.extend(files.circle().map(|circle| {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            format!("{folder}: {}", names.join(" -> "))
        }));
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn circles_are_found_over_imports_inline_paths_parents_and_reexports() {
    for (what, files) in [
        (
            "imports",
            [
                ("", "mod a; mod b;"),
                ("a", "use crate::b::B;"),
                ("b", "use super::a::{A, C as D};"),
            ],
        ),
        (
            "inline paths",
            [
                ("", ""),
                ("a", "fn a() { crate::b::f(\"x\") }"),
                ("b", "fn b<'a>() { crate::a::f('\\'') }"),
            ],
        ),
        (
            "a parent",
            [
                ("", ""),
                ("a", "mod b; fn f() { b::g() }"),
                ("a::b", "use super::f;"),
            ],
        ),
        (
            "a re-export",
            [
                ("", "pub use b::B;"),
                ("a", "use crate::B;"),
                ("b", "use crate::a;"),
            ],
        ),
        (
            "an imported module",
            [
                ("", ""),
                ("a", "use crate::b; fn f() { b::g() }"),
                ("b", "use crate::a::f;"),
            ],
        ),
    ] {
        assert_eq!(
            crate_of(&files).circle().map(|c| c.len()),
            Some(2),
            "{what}"
        );
    }
    for (what, files) in [
        (
            "tests",
            [
                ("", ""),
                ("a", "use crate::b::B;"),
                ("b", "#[cfg(test)] mod tests { use crate::a::A; }"),
            ],
        ),
        (
            "comments",
            [
                ("", ""),
                ("a", "use crate::b::B;"),
                ("b", "// use crate::a::A;\nconst B: &str = \"crate::a::A\";"),
            ],
        ),
        (
            "a pure re-export",
            [
                ("", ""),
                ("a", "mod b; pub use b::B; struct A;"),
                ("a::b", "use super::A;"),
            ],
        ),
    ] {
        assert_eq!(crate_of(&files).circle(), None, "{what}");
    }
}
