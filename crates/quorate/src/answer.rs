//! What a command answers: for scripts as JSON, for people as text with tables.

use std::io::Write;
use std::process::ExitCode;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::error::{CliError, Exit};

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text and tables
    #[default]
    Table,
    /// One JSON value
    Json,
}

/// The answer of a command. Field names of the JSON form are part of the interface.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For scripts.
    pub json: Value,
    /// For people; empty when there is nothing to say.
    pub text: String,
    /// Exit code when it is not success: what was asked is false, or nobody could be asked.
    pub exit: Option<Exit>,
}

impl Answer {
    /// A successful answer.
    pub fn new(value: &impl Serialize, text: impl Into<String>) -> Result<Self, CliError> {
        Ok(Self {
            json: serde_json::to_value(value).map_err(CliError::failed)?,
            text: text.into(),
            exit: None,
        })
    }

    /// Nothing to say.
    pub fn silent() -> Self {
        Self {
            json: Value::Null,
            text: String::new(),
            exit: None,
        }
    }

    /// The same answer, with this exit code unless the condition holds.
    pub fn unless(mut self, holds: bool, exit: Exit) -> Self {
        if !holds {
            self.exit = Some(exit);
        }
        self
    }

    /// Writes it to stdout and gives the exit code.
    pub(crate) fn print(&self, output: Output) -> Result<ExitCode, CliError> {
        let text = match output {
            Output::Json if self.json.is_null() => String::new(),
            Output::Json => serde_json::to_string_pretty(&self.json).map_err(CliError::failed)?,
            Output::Table => self.text.trim_end().to_owned(),
        };
        if !text.is_empty() {
            match writeln!(std::io::stdout().lock(), "{text}") {
                // The reader has seen enough, as `| head` has.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                other => other?,
            }
        }
        Ok(match self.exit {
            None => ExitCode::SUCCESS,
            Some(exit) => ExitCode::from(exit as u8),
        })
    }
}

/// A column of a table: its heading, and whether it holds numbers.
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Lays out rows under headings; numbers to the right.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if let (Column::Number(_), Some(column)) = (column, table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values, one a line.
pub(crate) fn pairs<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    table.trim_fmt()
}

/// A number of bytes for people.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{size} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A hybrid timestamp (ms << 18 | logical) as UTC time; empty for 0.
pub(crate) fn time(hybrid: u64) -> String {
    if hybrid == 0 {
        return String::new();
    }
    if hybrid == u64::MAX {
        return "end of time".to_owned();
    }
    let ms = hybrid >> 18;
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 1970 to a civil date, after Howard Hinnant's public-domain algorithm.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        ms_of_day / 3_600_000,
        ms_of_day / 60_000 % 60,
        ms_of_day / 1000 % 60,
        ms_of_day % 1000
    )
}

/// `some`, or a dash for nothing.
pub(crate) fn or_dash(some: impl ToString) -> String {
    let text = some.to_string();
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_timestamps_read_as_utc() {
        let at = |ms: u64| time(ms << 18 | 5);
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(1_767_225_600_000), "2026-01-01T00:00:00.000Z");
        assert_eq!(time(0), "");
        assert_eq!(time(u64::MAX), "end of time");
    }

    #[test]
    fn sizes_read_in_binary_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(512 << 20), "512.0 MiB");
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let columns = [Column::Text("name"), Column::Number("rows")];
        let rows = [("a", "1"), ("bb", "1000")];
        let text = table(
            &columns,
            rows.map(|(a, b)| vec![a.to_owned(), b.to_owned()]),
        );
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, [" name  rows", " a        1", " bb    1000"]);
    }
}
