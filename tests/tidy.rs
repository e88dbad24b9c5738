//! The house rules that a machine can keep, as a test.
//!
//! A rule looks at one file, given as path and text, and returns findings; a finding names file,
//! line and fact. So every rule is tested below with small sources that must fail, and
//! [`the_tree_is_tidy`] runs them all over what is really there.
//!
//! Rules read *code*: the text with comments, strings and test items blanked, line by line as long
//! as before. Words that may stand nowhere, not even in a comment, are looked for in the text.
//!
//! ## Why
//!
//! Not a lint of the compiler: floors, folders and prose are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::rust_text::{blank_prose, blank_tests, is_word, paths, word_offsets};

/// Where each module stands (design: "Data falls"). A module may import only strictly lower floors.
pub(crate) const FLOORS: &[(&str, u8)] = &[
    // Both are the top; `main` starts `server`.
    ("main", 10),
    ("server", 9),
    ("api", 8),
    ("tools", 8),
    ("listener", 7),
    ("store_api", 7),
    ("rules", 7),
    ("route", 6),
    ("query", 6),
    ("ship", 6),
    ("compact", 6),
    ("shard", 5),
    ("bucket", 5),
    ("shard::head", 4),
    ("shard::wal", 4),
    ("block", 4),
    ("index", 3),
    ("decode", 3),
    ("frame", 3),
    ("config", 2),
    ("rt", 2),
    ("chunk", 2),
    ("promql", 2),
    ("model", 1),
    ("telemetry", 1),
    ("stdx", 0),
];

/// A path that may be named only in some modules of `src/`, or nowhere in some.
struct Ban {
    /// Paths start so, whole segments: `std::fs`, `tokio`.
    path: &'static [&'static str],
    /// Modules it is about.
    modules: Only,
    reason: &'static str,
}

enum Only {
    /// Allowed here, banned elsewhere.
    In(&'static [&'static str]),
    /// Banned here, allowed elsewhere.
    NotIn(&'static [&'static str]),
}

/// Folders that do no I/O and cannot block.
const PURE: &[&str] = &["chunk", "index", "decode", "frame", "promql", "model"];
/// Folders on the control side that may name tokio.
const TOKIO: &[&str] = &["rt", "api", "store_api", "server", "bucket", "ship", "query"];
/// Folders that may know HTTP: floor 7 and up, and the bucket, which speaks S3.
const HTTP: &[&str] = &["listener", "store_api", "api", "bucket"];
/// Why a pure folder may not.
const PURE_REASON: &str = "this folder does no I/O and cannot block";
/// Why HTTP ends at the doors.
const HTTP_REASON: &str = "nothing below the doors knows HTTP";

const BANS: &[Ban] = &[
    Ban {
        path: &["glommio"],
        modules: Only::In(&["rt"]),
        reason: "the cores' runtime is named in rt alone, so that it can be exchanged there",
    },
    Ban {
        path: &["tokio"],
        modules: Only::In(TOKIO),
        reason: "tokio belongs to the control side; channels come from rt::channel",
    },
    Ban {
        path: &["object_store"],
        modules: Only::In(&["bucket"]),
        reason: "object storage is named in bucket alone, so that there is one table of verdicts",
    },
    Ban { path: &["std", "fs"], modules: Only::NotIn(PURE), reason: PURE_REASON },
    Ban { path: &["std", "net"], modules: Only::NotIn(PURE), reason: PURE_REASON },
    Ban { path: &["std", "process"], modules: Only::NotIn(PURE), reason: PURE_REASON },
    Ban { path: &["std", "thread"], modules: Only::NotIn(PURE), reason: PURE_REASON },
    Ban { path: &["File"], modules: Only::NotIn(PURE), reason: PURE_REASON },
    Ban { path: &["httparse"], modules: Only::In(HTTP), reason: HTTP_REASON },
    Ban { path: &["http"], modules: Only::In(HTTP), reason: HTTP_REASON },
    Ban { path: &["axum"], modules: Only::In(HTTP), reason: HTTP_REASON },
    Ban { path: &["hyper"], modules: Only::In(HTTP), reason: HTTP_REASON },
    Ban { path: &["hyper_util"], modules: Only::In(HTTP), reason: HTTP_REASON },
];

/// Words of sharing, which have no place in what one core owns.
const SHARING: &[&str] = &["Arc", "Mutex", "RwLock", "OnceLock", "LazyLock"];

/// The one file of a shard that speaks with other threads.
const SHARD_DOOR: &str = "src/shard/message.rs";

/// Names that say nothing of what a thing is.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "manager", "handler"];

const LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;

/// A file to judge.
#[derive(Clone)]
struct Source {
    /// From the root of the tree, with slashes.
    path: String,
    text: String,
    /// `text` with comments and literals blanked.
    bare: String,
    /// `bare` without what is compiled for tests only; empty in a file that is all test.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let bare = blank_prose(text);
        let (code, _) = blank_tests(&bare);
        Self { path: path.into(), text: text.into(), bare, code }
    }

    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|ending| ending == "rs")
    }

    /// Module path below the crate: `src/shard/head/append.rs` is `[shard, head, append]`. `None`
    /// outside `src/`; empty for `lib.rs`.
    fn module(&self) -> Option<Vec<&str>> {
        let inner = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let mut module: Vec<&str> = inner.split('/').collect();
        if matches!(module.last(), Some(&"mod" | &"lib")) {
            module.pop();
        }
        Some(module)
    }

    /// The module's top folder.
    fn folder(&self) -> Option<&str> {
        self.module()?.first().copied()
    }

    fn finding(&self, offset: usize, what: impl std::fmt::Display) -> String {
        let line = self.text.as_bytes().iter().take(offset).filter(|&&b| b == b'\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }
}

// ---- the rules ---------------------------------------------------------------------------------

/// The floor's key of a module path: two segments where the table has them, else one.
fn floor_key<'a>(module: &[&'a str]) -> Option<(&'a str, u8)>
where
    'static: 'a,
{
    let two = module.get(..2).map(|two| two.join("::"));
    let row = FLOORS.iter().find(|(name, _)| Some(*name) == two.as_deref());
    row.or_else(|| FLOORS.iter().find(|(name, _)| Some(name) == module.first())).copied()
}

/// Floors: which module names which, and what of that goes up.
fn floors(source: &Source, edges: &mut BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    if module.is_empty() {
        return Vec::new();
    }
    let Some((own, own_floor)) = floor_key(&module) else {
        return vec![source.finding(0, format!("module {} has no floor", module[0]))];
    };
    let mut named: Vec<(usize, Vec<&str>)> = Vec::new();
    for root in ["crate", "tidegate"] {
        named.extend(paths(&source.code, root).into_iter().map(|(at, p)| (at, p[1..].to_vec())));
    }
    for (at, path) in paths(&source.code, "super") {
        let up = path.iter().take_while(|s| **s == "super").count();
        let Some(kept) = module.len().checked_sub(up) else { continue };
        named.push((at, [&module[..kept], &path[up..]].concat()));
    }
    // `pub(crate)` names nothing.
    named.retain(|(_, path)| !path.is_empty());
    let mut findings = Vec::new();
    for (at, path) in named {
        let Some((other, floor)) = floor_key(&path) else {
            let path = path.join("::");
            findings.push(source.finding(at, format!("{path} is in no module with a floor")));
            continue;
        };
        if other == own {
            continue;
        }
        edges.entry(own.into()).or_default().insert(other.into());
        if floor >= own_floor {
            let fact = format!("{own} (floor {own_floor}) names {other} (floor {floor})");
            findings.push(source.finding(at, fact));
        }
    }
    findings
}

/// Bans by folder.
fn bans(source: &Source) -> Vec<String> {
    let Some(folder) = source.folder() else { return Vec::new() };
    let mut findings = Vec::new();
    for ban in BANS {
        let allowed = match ban.modules {
            Only::In(folders) => folders.contains(&folder),
            Only::NotIn(folders) => !folders.contains(&folder),
        };
        if allowed {
            continue;
        }
        for (at, path) in paths(&source.code, ban.path[0]) {
            // A lone word may be a variable: a crate is named by a path into it.
            let into = path.len() > 1 && path.starts_with(ban.path);
            if into {
                let name = ban.path.join("::");
                findings.push(source.finding(at, format!("{name} in {folder}: {}", ban.reason)));
            }
        }
    }
    if folder == "shard" && source.path != SHARD_DOOR {
        let words = SHARING.iter().flat_map(|word| word_offsets(&source.code, word));
        let atomics = source.code.match_indices("Atomic").map(|(at, _)| at);
        for at in words.chain(atomics) {
            findings.push(source.finding(at, "a shard shares nothing: no Arc, lock or atomic"));
        }
    }
    findings
}

/// What one file looks like.
fn shape(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if !(source.text.starts_with("//!") || source.text.starts_with("#![doc = include_str!")) {
        findings.push(source.finding(0, "opens without `//!`: say what this file is"));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push(source.finding(0, format!("{lines} lines, at most {LINES_MAX}")));
    }
    let mut at = 0;
    for line in source.text.split_inclusive('\n') {
        let columns = line.trim_end_matches('\n').chars().count();
        if columns > COLUMNS_MAX {
            findings.push(source.finding(at, format!("{columns} columns, at most {COLUMNS_MAX}")));
        }
        at += line.len();
    }
    let in_tests = source.path.starts_with("tests/");
    if !in_tests && !source.path.starts_with("src/rt/") {
        for at in word_offsets(&source.bare, "unsafe") {
            findings.push(source.finding(at, "unsafe outside src/rt"));
        }
    }
    for name in ["dbg", "todo", "unimplemented"] {
        for at in word_offsets(&source.bare, name) {
            if source.bare[at + name.len()..].starts_with('!') {
                findings.push(source.finding(at, format!("{name}! left in")));
            }
        }
    }
    if source.path.ends_with("/mod.rs") {
        for at in word_offsets(&source.code, "use") {
            if source.code[at..].starts_with("use super::") {
                findings.push(source.finding(at, "`use super::` in mod.rs: say `use crate::`"));
            }
        }
    }
    findings
}

/// Names of types and modules.
fn names(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let stem = source.path.rsplit_once('.').map_or(source.path.as_str(), |(stem, _)| stem);
    let mut judge = |at: usize, name: &str| {
        if let Some(word) = name_words(name).find(|w| EMPTY_NAMES.contains(&w.as_str())) {
            findings.push(source.finding(at, format!("{name}: `{word}` says nothing")));
        }
    };
    stem.split('/').for_each(|part| judge(0, part));
    for keyword in ["mod", "struct", "enum", "trait", "type"] {
        for at in word_offsets(&source.bare, keyword) {
            let name = source.bare[at + keyword.len()..].trim_start();
            let end = name.bytes().position(|b| !is_word(b)).unwrap_or(name.len());
            judge(at, &name[..end]);
        }
    }
    findings
}

/// The words of a name, in lower case: `flush_util` and `FlushUtil` give `flush`, `util`.
fn name_words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.into_iter()
}

/// Words that stand nowhere, in no kind of file. `machine` is where this tree lies here.
fn words(source: &Source, machine: Option<&str>) -> Vec<String> {
    let mut findings = Vec::new();
    for word in [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("X", "XX")] {
        for at in word_offsets(&source.text, word) {
            findings.push(source.finding(at, format!("{word}: finish it, or write an issue")));
        }
    }
    let homes = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    for path in homes.into_iter().chain(machine) {
        for (at, _) in source.text.match_indices(path) {
            findings.push(source.finding(at, format!("{path} is a path of one machine")));
        }
    }
    findings
}

/// `foo.rs` beside `foo/`: a folder's door is its `mod.rs`. A folder for `tests.rs` alone is none.
fn doors(paths: &BTreeSet<&str>) -> Vec<String> {
    let beside = |path: &&&str| {
        let folder = path.strip_suffix(".rs").map(|stem| format!("{stem}/"));
        let inside = |folder: &str, other: &&str| {
            other.strip_prefix(folder).is_some_and(|name| name != "tests.rs")
        };
        folder.is_some_and(|folder| paths.iter().any(|other| inside(&folder, other)))
    };
    let say = |path: &&str| format!("{path}:1: stands beside a folder of its name; use mod.rs");
    paths.iter().filter(beside).map(say).collect()
}

// ---- the tree ----------------------------------------------------------------------------------

/// All text of ours. Files that only tests compile count as tests: their code is empty.
fn tree(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder of the tree") {
            let entry = entry.expect("an entry of the tree");
            let name = entry.file_name().into_string().expect("a UTF-8 name");
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let kind = entry.file_type().expect("a kind of file");
            if kind.is_dir() {
                let foreign = ["target", ".git", "data"].contains(&name.as_str());
                if !foreign {
                    folders.push(path);
                }
            } else if is_ours(&path) {
                let text = fs::read_to_string(root.join(&path)).expect("UTF-8 text");
                sources.push(Source::new(&path, &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let test_only: Vec<String> = sources.iter().flat_map(test_files).collect();
    for source in &mut sources {
        if test_only.iter().any(|stem| under(&source.path, stem)) {
            source.code = String::new();
        }
    }
    sources
}

/// Whether the file is the module at `stem`, or lies in its folder.
fn under(path: &str, stem: &str) -> bool {
    path.strip_prefix(stem).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Paths, without ending, of modules that this file declares for tests only.
fn test_files(source: &Source) -> Vec<String> {
    let Some(folder) = source.path.rsplit_once('/').map(|(folder, _)| folder) else {
        return Vec::new();
    };
    let door = source.path.ends_with("/mod.rs") || source.path.ends_with("/lib.rs");
    let own = source.path.strip_suffix(".rs").unwrap_or(folder);
    let base = if door { folder } else { own };
    let (_, names) = blank_tests(&source.bare);
    names.into_iter().map(|name| format!("{base}/{name}")).collect()
}

fn is_ours(path: &str) -> bool {
    let ending = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["rs", "toml", "md", "proto", "service", "conf", "env", "yaml"].contains(&ending)
        || path == ".ci/run"
}

fn judge(source: &Source, machine: Option<&str>) -> Vec<String> {
    let mut findings = words(source, machine);
    if source.is_rust() {
        findings.extend(shape(source));
        findings.extend(names(source));
        findings.extend(floors(source, &mut BTreeMap::new()));
        findings.extend(bans(source));
    }
    findings
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let above = root.parent().and_then(Path::to_str).unwrap_or_default();
    // A folder that any machine has says nothing of this one.
    let everywhere = ["", "/", "/tmp", "/opt", "/srv", "/usr/src", "/var/lib", "/mnt"];
    let machine = (!everywhere.contains(&above)).then(|| format!("{above}/"));
    let sources = tree(root);
    assert!(sources.iter().any(|s| s.path == "tests/tidy.rs"), "the tree holds this file");
    let mut findings: Vec<String> =
        sources.iter().flat_map(|s| judge(s, machine.as_deref())).collect();
    findings.extend(doors(&sources.iter().map(|s| s.path.as_str()).collect()));
    let mut edges = BTreeMap::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        floors(source, &mut edges);
    }
    for (module, others) in &edges {
        println!("{module} -> {}", others.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

// ---- the rules, tried on what must fail --------------------------------------------------------

/// Judges one small source; `want` must be in exactly one finding, or there must be none.
fn check(path: &str, text: &str, want: Option<&str>) {
    let source = Source::new(path, &format!("//! A file.\n{text}"));
    let findings = judge(&source, Some("/machine/"));
    match want {
        None => assert!(findings.is_empty(), "{path}: {text}\n{findings:?}"),
        Some(want) => assert!(
            findings.len() == 1 && findings[0].contains(want),
            "{path}: {text}\nwanted one finding with {want:?}, got {findings:?}"
        ),
    }
}

#[test]
fn floors_are_kept() {
    for (path, text, want) in [
        ("src/chunk/xor.rs", "use crate::model::Sample;", None),
        ("src/chunk/xor.rs", "use crate::chunk::Encoding;", None),
        ("src/model/a.rs", "pub(crate) fn f() {}", None),
        ("src/chunk/xor.rs", "use crate::block::Writer;", Some("chunk (floor 2) names block")),
        ("src/chunk/xor.rs", "use crate::rt::Sink;", Some("chunk (floor 2) names rt (floor 2)")),
        ("src/chunk/xor.rs", "use crate::{model::A, index::B};", Some("names index")),
        ("src/chunk/xor.rs", "fn f() -> crate::shard::Shard {}", Some("names shard")),
        ("src/chunk/xor.rs", "use super::super::index;", Some("chunk (floor 2) names index")),
        ("src/chunk/xor.rs", "use super::Encoding;", None),
        ("src/shard/head/gc.rs", "use crate::shard::wal;", Some("names shard::wal (floor 4)")),
        ("src/shard/head/gc.rs", "use crate::shard::message;", Some("names shard (floor 5)")),
        ("src/shard/head/gc.rs", "use super::super::message;", Some("names shard (floor 5)")),
        ("src/shard/commit.rs", "use crate::shard::{head, wal};", None),
        ("src/shard/wal/mod.rs", "use crate::block::Writer;", Some("names block (floor 4)")),
        ("src/server.rs", "use crate::api;", None),
        ("src/main.rs", "use tidegate::config;", None),
        ("src/main.rs", "use tidegate::server;", None),
        ("src/server/mod.rs", "use crate::main;", Some("server (floor 9) names main (floor 10)")),
        ("src/main.rs", "use tidegate::nowhere::X;", Some("nowhere::X is in no module")),
        ("src/attic/mod.rs", "", Some("module attic has no floor")),
        ("src/chunk/xor.rs", "// use crate::block;\nconst A: &str = \"crate::block\";", None),
        ("src/chunk/xor.rs", "#[cfg(test)]\nmod tests { use crate::block::Writer; }", None),
        ("src/chunk/xor.rs", "#[cfg(test)]\nmod t { fn f() {} }\nuse crate::block;", Some(":4:")),
    ] {
        check(path, text, want);
    }
    let mut edges = BTreeMap::new();
    let source = Source::new("src/query/merge.rs", "use crate::{frame::Frame, shard::message};");
    assert_eq!(floors(&source, &mut edges), Vec::<String>::new());
    assert_eq!(edges["query"], BTreeSet::from(["frame".into(), "shard".into()]));
}

#[test]
fn folders_keep_out_what_is_not_theirs() {
    for (path, text, want) in [
        ("src/rt/core.rs", "use glommio::LocalExecutor;", None),
        ("src/shard/mod.rs", "use glommio::timer;", Some("glommio in shard")),
        ("src/query/mod.rs", "tokio::spawn(f());", None),
        ("src/shard/mod.rs", "use tokio::sync::mpsc;", Some("tokio in shard")),
        ("src/listener/mod.rs", "use tokio as t; use tokio::net;", Some("tokio in listener")),
        ("src/chunk/mod.rs", "use std::{fmt, fs};", Some("std::fs in chunk")),
        ("src/model/mod.rs", "let f = File::open(p);", Some("File in model")),
        ("src/decode/mod.rs", "std::thread::yield_now();", Some("std::thread in decode")),
        ("src/block/mod.rs", "use std::fs;", None),
        ("src/shard/mod.rs", "use std::sync::Arc;", Some("a shard shares nothing")),
        ("src/shard/head/mod.rs", "let n = AtomicU64::new(0);", Some("a shard shares nothing")),
        ("src/shard/message.rs", "use std::sync::Arc;", None),
        ("src/route/mod.rs", "use http::StatusCode;", Some("http in route")),
        ("src/listener/mod.rs", "use http::StatusCode;", None),
        ("src/route/mod.rs", "let http = 1;", None),
        ("src/query/mod.rs", "use hyper::body;", Some("hyper in query")),
        ("loadgen/src/main.rs", "use tokio::net;", None),
        ("src/bucket/s3.rs", "use object_store::path::Path;", None),
        ("src/ship/mod.rs", "let e = object_store::Error::from(e);", Some("object_store in ship")),
    ] {
        check(path, text, want);
    }
}

#[test]
fn files_look_like_ours() {
    let todo = concat!("TO", "DO");
    let long = format!("// {}", "x".repeat(98));
    let tall = "\n".repeat(800);
    let home = concat!("/ho", "me/");
    for (path, text, want) in [
        ("src/rt/ring.rs", "unsafe { f() }", None),
        ("src/shard/mod.rs", "unsafe { f() }", Some("unsafe outside src/rt")),
        ("src/shard/mod.rs", "#![forbid(unsafe_code)]", None),
        ("tests/alloc.rs", "unsafe impl GlobalAlloc for A {}", None),
        ("src/shard/mod.rs", "let x = dbg!(1);", Some("dbg! left in")),
        ("src/shard/mod.rs", "fn f() { todo!() }", Some("todo! left in")),
        ("src/shard/mod.rs", "fn f() { unimplemented!() }", Some("unimplemented! left in")),
        ("src/shard/mod.rs", &format!("// {todo}: later"), Some("finish it")),
        ("src/shard/mod.rs", &long, Some("101 columns")),
        ("src/shard/mod.rs", &tall, Some("801 lines")),
        ("src/shard/mod.rs", "use super::model;", Some("`use super::` in mod.rs")),
        ("src/shard/mod.rs", "struct FlushManager;", Some("`manager` says nothing")),
        ("src/shard/mod.rs", "mod flush_helpers {}", Some("`helpers` says nothing")),
        ("src/shard/utils.rs", "", Some("`utils` says nothing")),
        ("src/shard/mod.rs", "fn common_prefix() {}", None),
        ("src/shard/mod.rs", "// unsafe, dbg!(x), struct Util", None),
        ("src/shard/mod.rs", &format!("// see {home}me"), Some("a path of one machine")),
        ("src/shard/mod.rs", "// see /machine/there", Some("a path of one machine")),
    ] {
        check(path, text, want);
    }
    let headless = Source::new("src/shard/mod.rs", "fn f() {}");
    assert!(judge(&headless, None)[0].contains("opens without"));
    let paths = BTreeSet::from(["src/shard/head.rs", "src/shard/head/mod.rs", "src/shard/mod.rs"]);
    assert_eq!(doors(&paths).len(), 1);
    assert!(doors(&BTreeSet::from(["src/chunk/xor.rs", "src/chunk/xor/tests.rs"])).is_empty());
}

#[test]
fn files_for_tests_alone_are_known() {
    let only = Source::new("src/chunk/mod.rs", "#[cfg(test)]\nmod oracle;\nmod xor;");
    assert_eq!(test_files(&only), ["src/chunk/oracle"]);
    let only = Source::new("src/chunk/xor.rs", "#[cfg(test)]\npub(crate) mod oracle;");
    assert_eq!(test_files(&only), ["src/chunk/xor/oracle"]);
    assert!(under("src/chunk/oracle.rs", "src/chunk/oracle"));
    assert!(!under("src/chunk/oracles.rs", "src/chunk/oracle"));
}
