//! The pages say what is: paths, floors, flags, commands, metrics and scenarios they name exist.
//!
//! A page grows stale one name at a time, and nobody notices. Names are what a machine can check,
//! so they are read out of the text, from `code` and from fenced blocks, and looked up.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::config;
use tidegate::telemetry::{Kind, Metric};

use crate::tidy::FLOORS;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("a page")
}

/// The text between single backticks, fenced blocks left out.
fn code(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

/// The lines of fenced blocks of one kind, continued lines joined.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```").skip(1).step_by(2).filter_map(|b| b.strip_prefix("sh\n"));
    blocks
        .flat_map(|b| b.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Splits words as a shell does, as far as our pages need it: single quotes, and comments.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let line = line.split(" #").next().unwrap_or_default();
    for (i, part) in line.split('\'').enumerate() {
        let mut pieces = part.split(' ');
        if let Some(last) = words.last_mut() {
            last.push_str(if i % 2 == 1 { part } else { pieces.next().unwrap_or_default() });
        }
        if i % 2 == 0 {
            words.extend(pieces.map(str::to_owned));
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A path of the tree that `name` says it is.
fn missing(name: &str) -> bool {
    let ours = ["src/", "tests/", "systemd/", "loadgen/", "proto/", "benches/", ".ci/"];
    let page = name
        .split_once('.')
        .is_some_and(|(stem, end)| end == "md" && stem.bytes().all(|b| b.is_ascii_uppercase()));
    let path = ours.iter().any(|folder| name.starts_with(folder)) && !name.contains(' ');
    (page || path) && !root().join(name).exists()
}

#[test]
fn every_path_exists() {
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = page(name);
        let lost: Vec<&str> = code(&text).into_iter().filter(|name| missing(name)).collect();
        assert!(lost.is_empty(), "{name} names {lost:?}, which are not there");
    }
    assert!(missing("src/nothing.rs") && missing("NOTHING.md") && !missing("mod.rs"));
}

#[test]
fn the_code_map_is_the_map_of_the_code() {
    let text = page("ARCHITECTURE.md");
    let mut map: BTreeMap<&str, u8> = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(floor) = cells.get(1).and_then(|cell| cell.parse().ok()) else { continue };
        map.extend(code(cells[2]).into_iter().map(|module| (module, floor)));
    }
    for (module, floor) in &map {
        assert!(FLOORS.contains(&(module, *floor)), "{module} does not stand on floor {floor}");
    }
    for (module, _) in FLOORS {
        let path = format!("src/{}", module.replace("::", "/"));
        let there = root().join(&path).is_dir() || root().join(format!("{path}.rs")).is_file();
        assert_eq!(there, map.contains_key(module), "{module}: in the tree, in the map");
    }
}

#[test]
fn the_tour_has_thirteen_files() {
    let text = page("ARCHITECTURE.md");
    let (_, last) = text.rsplit_once("\n## ").expect("a last heading");
    let tour = last.lines().filter_map(|line| {
        let (number, rest) = line.split_once(". `")?;
        number.parse::<u8>().ok()?;
        rest.split('`').next()
    });
    let tour: Vec<&str> = tour.collect();
    assert_eq!(tour.len(), 13, "{tour:?}");
    assert!(tour.iter().all(|path| root().join(path).is_file()), "{tour:?}");
}

#[test]
fn every_flag_and_command_is_understood() {
    for name in ["README.md", "CHANGELOG.md"] {
        let text = page(name);
        let flags = code(&text).into_iter().filter_map(|code| code.strip_prefix("--"));
        for flag in flags.filter(|flag| !flag.contains('*')) {
            let flag = flag.split(['=', ' ']).next().unwrap_or_default();
            let of_loadgen = ["verify", "targets", "work-dir", "scenario", "order"].contains(&flag);
            let ours = of_loadgen || flag == "help" || config::table::find(flag).is_some();
            // The pages say objstore.config for the flag and its -file sister.
            assert!(ours, "{name}: --{flag} is no flag");
        }
    }
    let mut seen = 0;
    for line in commands(&page("README.md")) {
        let words = words(&line);
        let Some(at) = words.iter().position(|word| word == "receive") else { continue };
        let args = ["tidegate".to_owned()].into_iter().chain(words[at..].iter().cloned());
        let parsed = config::parse(args.map(OsString::from), "host-1");
        assert!(matches!(parsed, Ok(config::Command::Receive(_))), "{line}: {parsed:?}");
        seen += 1;
    }
    assert!(seen >= 2, "{seen} command lines");
}

#[test]
fn every_metric_is_on_the_list() {
    let text = page("README.md");
    let known: Vec<String> = Metric::ALL
        .iter()
        .map(|metric| match metric.kind() {
            Kind::Counter => format!("{}_total", metric.name()),
            Kind::Gauge | Kind::Histogram => metric.name().to_owned(),
        })
        .collect();
    let is_metric = |name: &&str| {
        let families = ["tidegate_", "prometheus_tsdb_", "thanos_", "grpc_", "http_", "process_"];
        families.iter().any(|family| name.starts_with(family))
    };
    let named: Vec<&str> = code(&text).into_iter().filter(is_metric).collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(known.iter().any(|known| known == name), "{name} is no metric");
    }
}

#[test]
fn the_peers_are_those_that_ci_installs() {
    let run = page(".ci/run");
    let packages = run.lines().find_map(|line| line.strip_prefix("for package in "));
    let packages = packages.and_then(|line| line.strip_suffix("; do")).expect("a list");
    // What a build needs is named before.
    let build = ["gcc", "libc6-dev", "git", "ca-certificates"];
    let peers: Vec<&str> = packages.split(' ').filter(|name| !build.contains(name)).collect();
    let text = page("README.md");
    let told = text.split("Peers for all tests are").nth(1).expect("a sentence");
    let told = told.split(". ").next().unwrap_or_default();
    assert_eq!(told.split('`').skip(1).step_by(2).collect::<Vec<_>>(), peers);
}

#[test]
fn every_scenario_exists() {
    let text = page("README.md");
    let words = commands(&text).iter().flat_map(|line| words(line)).collect::<Vec<_>>();
    let named: Vec<&String> =
        words.windows(2).filter(|pair| pair[0] == "--scenario").map(|pair| &pair[1]).collect();
    assert!(!named.is_empty());
    for name in named {
        let file = Path::new("loadgen/scenarios").join(format!("{name}.toml"));
        assert!(root().join(&file).is_file(), "{} is missing", file.display());
    }
}
