//! Runs this binary under callgrind and reads what it counted.
//!
//! Of callgrind's profile little is needed: after `fn=<name>` come lines that begin with a line
//! number and end with instructions, those of the function itself and, after `calls=`, those of
//! what it called. Together they are what the function cost.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no valgrind.
    #[error("valgrind is not installed")]
    NoValgrind,
    /// It could not be run, or its profile not be read.
    #[error("cannot run callgrind: {0}")]
    Io(#[from] io::Error),
    /// It, or the work under it, failed.
    #[error("callgrind failed: {0}")]
    Failed(String),
}

/// Runs this binary with `argument` and counts the instructions of these functions, each with all
/// that it calls. None of them may call another. One that did not run is not in the answer.
pub(crate) fn count(argument: &str, functions: &[String]) -> Result<BTreeMap<String, u64>, Error> {
    let dir = tempfile::tempdir()?;
    let profile = dir.path().join("profile");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.args(functions.iter().map(|name| format!("--toggle-collect={name}")));
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.arg(std::env::current_exe()?).arg(argument);
    let ran = valgrind.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoValgrind,
        _ => Error::Io(error),
    })?;
    if !ran.status.success() {
        return Err(Error::Failed(String::from_utf8_lossy(&ran.stderr).into_owned()));
    }
    let mut costs = costs(&std::fs::read_to_string(profile)?);
    costs.retain(|name, _| functions.contains(name));
    Ok(costs)
}

/// What each function of a profile cost; names and positions are in full.
fn costs(profile: &str) -> BTreeMap<String, u64> {
    let mut costs = BTreeMap::new();
    let mut function = "";
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if line.starts_with(|c: char| c.is_ascii_digit())
            && let Some((_, cost)) = line.split_once(' ')
            && let Ok(cost) = cost.parse::<u64>()
        {
            *costs.entry(function.to_owned()).or_default() += cost;
        }
    }
    costs
}
