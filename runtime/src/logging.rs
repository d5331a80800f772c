//! Logs go to stderr, a line each.

use std::{fmt, io, str::FromStr};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(format!("«{other}» is no log format: «text» or «json»")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

/// Sends this process's log to stderr. `filter` is a level, or levels per module, separated by commas.
///
/// # Errors
/// If the filter cannot be read.
///
/// # Panics
/// Panics if called twice.
pub fn init(format: Format, filter: &str) -> Result<(), String> {
    let filter = parse(filter)?;
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::stderr);
    match format {
        Format::Text => {
            builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).finish().with(filter).init();
        }
        Format::Json => builder.json().flatten_event(true).finish().with(filter).init(),
    }
    Ok(())
}

fn parse(filter: &str) -> Result<Targets, String> {
    // A level that is misspelt would be taken for a module, and none for «error».
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let misspelt = filter.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part));
    if let Some(part) = misspelt {
        return Err(format!("«{part}» is no level: off, error, warn, info, debug or trace"));
    }
    filter.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_they_are_written() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("xml".parse::<Format>().unwrap_err().contains("«xml»"));
    }

    #[test]
    fn filters_are_a_level_or_levels_per_module() {
        for filter in ["info", "WARN", "off", "info,twofold_runtime=debug", "twofold_runtime::driver=trace"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["", "inof", "info,debgu", "twofold_runtime=inof"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
    }
}
