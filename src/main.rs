//! The program: parse, start, say how it ended.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tidegate::config::{self, Command, LogFormat, LogLevel};
use tidegate::rt::{control, thread};
use tidegate::telemetry::{log, panics};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        // Who reads what is printed has seen enough, as `head` does.
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody else to tell.
            drop(writeln!(io::stderr(), "tidegate: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.kind() == io::ErrorKind::BrokenPipe,
        None => error.source().is_some_and(is_closed_pipe),
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    match config::parse(std::env::args_os(), &control::hostname())? {
        Command::Print(text) => writeln!(io::stdout(), "{}", text.trim_end())?,
        Command::InspectWal { paths } => tidegate::tools::inspect_wal(&paths)?,
        Command::Receive(config) => {
            let (lines, waiting) = log::lines();
            let (level, form) = (level(config.log.level), form(config.log.format));
            let subscriber = log::subscriber(lines.clone(), level, form);
            tracing::subscriber::set_global_default(subscriber)?;
            panics::log(lines.clone());
            thread::spawn_named("tidegate-log", move || {
                log::write_lines(&waiting, form, io::stderr());
            })?;
            let ended = tidegate::server::receive(&config, lines.counts());
            if !lines.flush() && ended.is_err() {
                // Nobody reads standard error: to tell the error there would wait for ever.
                return Ok(ExitCode::FAILURE);
            }
            ended?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    }
}

fn form(format: LogFormat) -> log::Form {
    match format {
        LogFormat::Logfmt => log::Form::Logfmt,
        LogFormat::Json => log::Form::Json,
        LogFormat::Journald => log::Form::Journald,
    }
}
