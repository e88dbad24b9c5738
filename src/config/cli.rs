//! From arguments to what was said.
//!
//! The parser is clap, fed from the [table](crate::config::table). Added are kingpin's forms that
//! clap does not know: `--[no-]flag`, and `@file` for the lines of a file, one argument each; lines
//! that begin with `#` and empty ones are skipped. After `--` nothing is a flag or a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::Error;
use crate::config::table::{self, Flag, Kind};
use crate::config::typed::Typed;

/// How deep `@file` may lie in `@file`: more is a circle.
const FILES_DEEP_MAX: usize = 8;

/// What the command line asks for.
pub(crate) enum Said {
    Receive(Typed),
    InspectWal(Vec<PathBuf>),
    /// Help of the whole program.
    Help,
    HelpReceive,
    Version,
}

/// Reads arguments, of which the first is the program's own name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Said, Error> {
    let mut plain = vec!["tidegate".to_owned()];
    let mut rest = args.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        let arg = text(arg)?;
        let ended = arg == "--";
        expand(arg, 0, &mut plain)?;
        if ended {
            for arg in rest.by_ref() {
                plain.push(text(arg)?);
            }
        }
    }
    let matches = command().try_get_matches_from(plain).map_err(|e| reason(&e))?;
    Ok(match matches.subcommand() {
        _ if matches.get_flag("version") => Said::Version,
        Some((_, inner)) if inner.get_flag("version") => Said::Version,
        Some(("receive", inner)) if inner.get_flag("help") => Said::HelpReceive,
        Some(("receive", inner)) => Said::Receive(said(inner)),
        Some(("inspect", inner)) => match inner.subcommand() {
            Some((_, wal)) if !wal.get_flag("help") => {
                let paths = wal.get_many::<String>("path").unwrap_or_default();
                Said::InspectWal(paths.map(PathBuf::from).collect())
            }
            _ => Said::Help,
        },
        _ => Said::Help,
    })
}

fn text(arg: OsString) -> Result<String, Error> {
    arg.into_string().map_err(|arg| Error::NotUtf8 { arg: arg.to_string_lossy().into_owned() })
}

/// Pushes an argument, or the lines of the file it names.
fn expand(arg: String, depth: usize, out: &mut Vec<String>) -> Result<(), Error> {
    let Some(path) = arg.strip_prefix('@') else {
        out.push(arg);
        return Ok(());
    };
    if depth == FILES_DEEP_MAX {
        return Err(Error::FilesTooDeep { path: path.into() });
    }
    let lines = read(Path::new(path), "arguments")?;
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        expand(line.to_owned(), depth + 1, out)?;
    }
    Ok(())
}

/// Reads a file that an argument names.
pub(crate) fn read(path: &Path, what: &'static str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { what, path: path.into(), source })
}

/// The name of the other form of a Bool.
fn negated(flag: &Flag) -> String {
    format!("no-{}", flag.name)
}

fn command() -> Command {
    let bare = |name: &'static str| {
        let help = Arg::new("help").long("help").short('h').action(ArgAction::SetTrue);
        let version = Arg::new("version").long("version").action(ArgAction::SetTrue);
        Command::new(name)
            .disable_help_flag(true)
            .disable_help_subcommand(true)
            .disable_version_flag(true)
            .args([help, version])
    };
    let paths = Arg::new("path").num_args(1..).required_unless_present_any(["help", "version"]);
    bare("tidegate")
        .subcommand(bare("receive").args(table::flags().flat_map(arguments)))
        .subcommand(bare("inspect").subcommand(bare("wal").arg(paths)))
}

/// The clap arguments of a flag: two for a Bool.
fn arguments(flag: &'static Flag) -> Vec<Arg> {
    let arg = Arg::new(flag.name).long(flag.name);
    match (flag.kind, flag.repeatable) {
        (Kind::Bool, _) => {
            let no = Arg::new(negated(flag)).long(negated(flag)).action(ArgAction::SetTrue);
            vec![arg.action(ArgAction::SetTrue), no.conflicts_with(flag.name)]
        }
        (_, true) => vec![arg.action(ArgAction::Append)],
        (_, false) => vec![arg.action(ArgAction::Set)],
    }
}

fn said(matches: &ArgMatches) -> Typed {
    let mut typed = Typed::default();
    for flag in table::flags() {
        if flag.kind == Kind::Bool {
            let forms = [(flag.name.to_owned(), "true"), (negated(flag), "false")];
            for (_, value) in forms.iter().filter(|(id, _)| matches.get_flag(id)) {
                typed.say(flag, (*value).into());
            }
        } else {
            for value in matches.get_many::<String>(flag.name).unwrap_or_default() {
                typed.say(flag, value.clone());
            }
        }
    }
    typed
}

/// Says in one line what clap found.
fn reason(error: &clap::Error) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // clap names an argument with its placeholder: `--label <label>`.
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let arg = arg.split(' ').next().unwrap_or_default().to_owned();
    match error.kind() {
        ErrorKind::UnknownArgument if !arg.starts_with('-') => Error::Stray { arg },
        ErrorKind::UnknownArgument => {
            let known = table::find(arg.trim_start_matches("--")).is_some();
            if known {
                Error::FlagElsewhere { flag: arg }
            } else {
                Error::UnknownFlag { flag: arg, near: context(ContextKind::SuggestedArg) }
            }
        }
        ErrorKind::InvalidSubcommand => {
            let command = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            Error::UnknownCommand { command, near: context(ContextKind::SuggestedSubcommand) }
        }
        ErrorKind::ArgumentConflict => {
            let prior = context(ContextKind::PriorArg).unwrap_or_default();
            let prior = prior.split(' ').next().unwrap_or_default().to_owned();
            if prior.is_empty() || prior == arg {
                Error::Twice { flag: arg }
            } else {
                Error::Both { flag: arg, other: prior }
            }
        }
        ErrorKind::InvalidValue => Error::NoValue { flag: arg },
        ErrorKind::TooManyValues => Error::BoolWithValue { flag: arg },
        ErrorKind::MissingRequiredArgument => Error::NoPath,
        // No argument above is declared so that clap could find anything else.
        _ => Error::Usage { text: error.to_string() },
    }
}
