//! Instruction gates: what the stages of the write path cost, counted and held against a table.
//!
//! `gates` runs itself under callgrind and compares; `gates renew` writes the table; `gates work`
//! is what callgrind watches. The number of instructions of one binary on one input is the same
//! on every run, however busy the machine is, so a few percent can be seen.
//!
//! The stages are pure, or nearly. So their modules are compiled here by themselves, from `src/`,
//! with the profile of a release, in a minute; the whole of Tidegate would take ten.
#![expect(clippy::expect_used, reason = "a gate that cannot be measured should stop")]
#![allow(dead_code, unused_imports, reason = "modules of the receiver, of which few are called")]
#![allow(unfulfilled_lint_expectations, reason = "what they expect is judged at their home")]

use std::process::ExitCode;

use crate::stages::STAGES;

mod callgrind;
mod stages;
mod table;

#[path = "../requests.rs"]
mod requests;

#[path = "../../src/chunk/mod.rs"]
mod chunk;
#[path = "../../src/decode/mod.rs"]
mod decode;
#[path = "../../src/model/mod.rs"]
mod model;
#[path = "../../src/stdx/mod.rs"]
mod stdx;

#[path = "../../src/rt"]
mod rt {
    pub mod channel;
    pub mod memory;
    pub mod mesh;
    pub mod quota;

    pub use memory::prefetch;
}

#[path = "../../src/shard"]
mod shard {
    pub(crate) mod alias;
    pub(crate) mod apply;
    pub(crate) mod head;
    pub(crate) mod share;
    pub mod slots;
    pub mod write;

    pub(crate) mod wal {
        pub(crate) mod record;
    }
}

/// Where the table is, from the root of the tree.
const TABLE: &str = "benches/instructions.txt";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => check(),
        Some("renew") => renew(),
        Some("work") => {
            stages::work();
            ExitCode::SUCCESS
        }
        Some(other) => fail(&format!("{other:?} is unknown; say `renew`, `work` or nothing")),
    }
}

/// Counts and compares. Where there is no valgrind nothing is counted, which CI does not accept.
fn check() -> ExitCode {
    let counted = match count() {
        Ok(counted) => counted,
        Err(callgrind::Error::NoValgrind) if std::env::var_os("CI").is_none() => {
            println!("skipped: the instruction gates, for want of valgrind");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error.to_string()),
    };
    let table = table::read(include_str!("../instructions.txt"));
    let findings = table::compare(&counted, &table, &STAGES);
    println!("instructions per sample:\n{}", findings.lines.join("\n"));
    let renew = "`cargo run --release -p tidegate-gates -- renew`";
    if findings.shut {
        return fail(&format!(
            "a stage costs more than {TABLE} allows: find the change that made it so. If that is \
             worth it, {renew} and say in the commit what it buys"
        ));
    }
    if findings.stale {
        println!("{TABLE} allows more than is needed: {renew}");
    }
    ExitCode::SUCCESS
}

fn renew() -> ExitCode {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let path = std::path::Path::new(root).join(TABLE);
    let written = count().map_err(|error| error.to_string()).and_then(|counted| {
        let text = table::write(&counted, &STAGES);
        print!("{text}");
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn count() -> Result<table::Table, callgrind::Error> {
    let function = |stage: &str| format!("gates::stages::gate_{stage}");
    let functions = STAGES.map(function);
    let counts = callgrind::count("work", &functions)?;
    let per_sample = |stage: &str| {
        let count = counts.get(&function(stage))?;
        Some((stage.to_owned(), *count as f64 / stages::SAMPLES as f64))
    };
    Ok(STAGES.into_iter().filter_map(per_sample).collect())
}

fn fail(why: &str) -> ExitCode {
    eprintln!("gates: {why}");
    ExitCode::FAILURE
}
