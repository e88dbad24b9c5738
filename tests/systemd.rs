//! The unit we ship: its flags exist, systemd accepts it, and it exposes little.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tidegate::config;

use crate::peer;

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

/// Lines that set something without a comment of their own right above. A section's title is none.
fn unexplained(unit: &str) -> Vec<&str> {
    let mut reason = false;
    let sets = |line: &&str| {
        let explained = reason;
        let title = line.starts_with("# -- ") && line.ends_with(" --");
        reason = line.starts_with("# ") && !title;
        !explained && line.contains('=') && !line.starts_with('#')
    };
    unit.lines().filter(sets).collect()
}

#[test]
fn each_line_of_the_unit_has_its_reason() {
    let unit = unit();
    assert_eq!(unexplained(&unit), Vec::<&str>::new());
    let bad = "[Unit]\nA=1\n# Why.\nB=1\nC=1\n\n# -- title --\nD=1\n# Why.\n\nE=1\n";
    assert_eq!(unexplained(bad), ["A=1", "C=1", "D=1", "E=1"]);
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
    let config::Command::Receive(plain) =
        config::parse(["tidegate", "receive"].map(OsString::from), "host-1").expect("no flags")
    else {
        panic!("no receive")
    };
    assert_eq!(receive.data.retention, plain.data.retention, "as the README says of the default");
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
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !peer::is_there(found, "systemd-analyze", "the unit's check by systemd") {
        return;
    }
    // A package puts the binary elsewhere; verify wants it where the unit says.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("tidegate.service");
    let in_place = |binary| unit().replace("/usr/bin/tidegate", binary);
    fs::write(&copy, in_place("/usr/bin/no-tidegate")).expect("a copy");
    let missing = analyze(&["verify", "--man=no"], &copy).expect("runs");
    assert!(!missing.status.success(), "it looks for the binary");
    fs::write(&copy, in_place(env!("CARGO_BIN_EXE_tidegate"))).expect("a copy");
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

/// Runs this test again where nothing is found.
fn without_peers(ci: bool) -> Output {
    let mut test = Command::new(std::env::current_exe().expect("this program"));
    test.args(["--exact", "systemd::systemd_takes_it_and_it_exposes_little"]);
    test.env("PATH", "/nowhere").env_remove("CI");
    if ci {
        test.env("CI", "true");
    }
    test.output().expect("runs")
}

#[test]
fn a_missing_peer_is_told_and_fails_in_ci() {
    let output = without_peers(false);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let want = "skipped: the unit's check by systemd, for want of systemd-analyze (";
    assert!(said.lines().any(|line| line.starts_with(want)), "{said}");
    let output = without_peers(true);
    assert!(!output.status.success(), "{output:?}");
}
