//! The unit we ship: its flags exist, systemd accepts it, and it exposes little.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::config;

/// What we allow ourselves of systemd's scale from 0 to 10. Debian's Prometheus has 4.0.
const EXPOSURE_MAX: f64 = 1.5;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn unit() -> String {
    fs::read_to_string(shipped("tidegate.service")).expect("the unit")
}

/// Section, key and value of every line that sets something.
fn settings(unit: &str) -> Vec<(&str, &str, &str)> {
    let mut section = "";
    let mut settings = Vec::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
        } else {
            let (key, value) = line.split_once('=').expect("key=value");
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric()), "{line:?}");
            settings.push((section, key, value));
        }
    }
    settings
}

#[test]
fn each_line_of_the_service_has_its_reason() {
    let unit = unit();
    let service = unit.split("[Service]").nth(1).and_then(|s| s.split("[Install]").next());
    let mut explained = false;
    for line in service.expect("a service").lines() {
        match line {
            "" => explained = false,
            line if line.starts_with('#') => explained = true,
            line => assert!(explained, "{line} has no comment above it"),
        }
    }
    let keys: Vec<&str> = settings(&unit).iter().map(|(_, key, _)| *key).collect();
    for key in ["Type", "WatchdogSec", "LimitMEMLOCK", "ExecStart", "SystemCallFilter"] {
        assert!(keys.contains(&key), "{key} is set");
    }
}

#[test]
fn its_command_line_is_understood() {
    let unit = unit();
    let find = |key| settings(&unit).into_iter().find(|(_, k, _)| *k == key).expect("is set").2;
    let flags = fs::read_to_string(shipped("tidegate.flags")).expect("the flags");
    let args = find("ExecStart").split(' ').map(|word| match word {
        "$TIDEGATE_FLAGS" => format!("@{}", shipped("tidegate.flags").display()),
        word => word.to_owned(),
    });
    let got = config::parse(args.map(OsString::from), "host-1").expect("a good command line");
    let config::Command::Receive(receive) = got else { panic!("{got:?}") };
    assert_eq!(receive.data.path, Path::new("/var/lib").join(find("StateDirectory")));
    assert_eq!(receive.external.labels.get("cluster"), Some("eu-1"));
    // A flag that is offered as a comment exists too.
    for offered in flags.lines().filter_map(|line| line.strip_prefix("#--")) {
        let name = offered.split('=').next().unwrap_or_default();
        assert!(config::table::find(name).is_some(), "--{name} is a flag");
    }
    let env = fs::read_to_string(shipped("tidegate.env")).expect("the environment");
    assert!(env.contains("\nTIDEGATE_FLAGS=@/etc/tidegate/tidegate.flags\n"));
}

#[test]
fn systemd_takes_it_and_it_exposes_little() {
    let analyze = |args: &[&str], unit: &Path| {
        Command::new("systemd-analyze").args(args).arg(unit).env("SYSTEMD_COLORS", "0").output()
    };
    if let Err(e) = Command::new("systemd-analyze").arg("--version").output() {
        let must = std::env::var_os("CI").is_some();
        assert!(!must, "systemd-analyze is missing ({e}), and CI must have it");
        println!("skipped: the unit's check by systemd, for want of systemd-analyze");
        return;
    }
    // The binary is where a package puts it; verify wants one that is there.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("tidegate.service");
    let stand_in = unit().replace("/usr/bin/tidegate", "/bin/true");
    fs::write(&copy, stand_in).expect("a copy");
    let verified = analyze(&["verify", "--man=no"], &copy).expect("runs");
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("tidegate")).collect();
    assert!(verified.status.success() && about_us.is_empty(), "{said}");

    let judged = analyze(&["security", "--offline=true", "--no-pager"], &copy).expect("runs");
    let said = String::from_utf8_lossy(&judged.stdout).into_owned();
    let last = said.lines().rfind(|line| line.contains("Overall exposure level"));
    let number = last.and_then(|line| line.split(": ").nth(1)).and_then(|l| l.split(' ').next());
    let exposure: f64 = number.and_then(|n| n.parse().ok()).expect("an exposure");
    println!("exposure {exposure}, at most {EXPOSURE_MAX}");
    assert!(exposure <= EXPOSURE_MAX, "{said}");
}
