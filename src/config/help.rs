//! The texts of `--help`, written from the table.

use std::fmt::{self, Write};

use crate::config::table::{Does, Flag, GROUPS, Kind};

/// Where a flag's text begins, and where it ends.
const TEXT_COLUMN: usize = 8;
const COLUMNS: usize = 100;

/// `tidegate --help`.
pub(crate) fn overview() -> String {
    "Tidegate receives Prometheus remote write, durably, and serves it to Thanos.\n\
     \n\
     tidegate receive [<flags>]       receive, store, serve and ship; runs without any flag\n\
     tidegate inspect wal <path>...   print what segments of the log hold\n\
     \n\
     tidegate receive --help          all flags\n\
     tidegate --version               the version\n"
        .into()
}

/// `tidegate receive --help`.
pub(crate) fn receive() -> String {
    let mut out = String::from(
        "tidegate receive [<flags>]\n\n\
         Flags are those of Thanos Receive, in kingpin's forms: --flag=value, --flag value, \
         --[no-]flag,\n\
         @file for arguments from a file, one a line. Durations: 1d12h. Sizes: 32MiB.\n",
    );
    for (title, flags) in GROUPS {
        // Writing to a String cannot fail.
        let _ = write_group(&mut out, title, flags);
    }
    out
}

fn write_group(out: &mut String, title: &str, flags: &[Flag]) -> fmt::Result {
    write!(out, "\n{title}\n")?;
    let mut shown = flags.iter().filter(|flag| !flag.hidden).peekable();
    while let Some(flag) = shown.next() {
        writeln!(out, "  {}", form(flag))?;
        // Flags that share a reason stand above it together.
        if shown.peek().is_none_or(|next| text(next) != text(flag)) {
            wrap(out, text(flag))?;
        }
    }
    Ok(())
}

fn text(flag: &Flag) -> &'static str {
    match flag.does {
        Does::Acts => flag.help,
        Does::Nothing(why) | Does::Refused(why) => why,
    }
}

/// A flag with its default, as kingpin shows it.
fn form(flag: &Flag) -> String {
    let name = flag.name;
    let more = if flag.repeatable { " ..." } else { "" };
    match (flag.kind, flag.default) {
        (Kind::Bool, "true") => format!("--[no-]{name} (on)"),
        (Kind::Bool, _) => format!("--[no-]{name}"),
        (Kind::OneOf(words), default) => {
            let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
            let default = if default.is_empty() { String::new() } else { format!(" ({default})") };
            format!("--{name}={}{default}{more}", words.join("|"))
        }
        (kind, "") => format!("--{name}=<{}>{more}", placeholder(kind)),
        (_, default) => format!("--{name}={default}{more}"),
    }
}

fn placeholder(kind: Kind) -> &'static str {
    match kind {
        Kind::Count => "number",
        Kind::Duration => "duration",
        Kind::Bytes => "size",
        Kind::Address => "host:port",
        Kind::Label => "name=\"value\"",
        Kind::Bool | Kind::Text | Kind::OneOf(_) => "text",
    }
}

fn wrap(out: &mut String, text: &str) -> fmt::Result {
    let mut column = 0;
    for word in text.split(' ') {
        if column == 0 || column + 1 + word.len() > COLUMNS {
            let newline = if column == 0 { "" } else { "\n" };
            write!(out, "{newline}{:TEXT_COLUMN$}{word}", "")?;
            column = TEXT_COLUMN + word.len();
        } else {
            write!(out, " {word}")?;
            column += 1 + word.len();
        }
    }
    out.push('\n');
    Ok(())
}
