//! What a run prints: a line for each check as it ends, and a table of all of them.

use std::time::Instant;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// One kind of check.
#[derive(Debug, Default)]
struct Sum {
    check: String,
    passed: usize,
    failed: usize,
    /// What the last line of it said.
    last: String,
}

/// Results so far.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    sums: Vec<Sum>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            sums: Vec::new(),
        }
    }
}

impl Report {
    /// A check that ended, with what shows that the fault was in force and what came of it.
    pub fn line(&mut self, check: &str, passed: bool, evidence: &str) {
        let verdict = if passed { "PASS" } else { "FAIL" };
        let at = self.started.elapsed().as_secs();
        println!("{at:4} s  {verdict}  {check}: {evidence}");
        let known = self.sums.iter().position(|sum| sum.check == check);
        let index = known.unwrap_or_else(|| {
            self.sums.push(Sum {
                check: check.to_owned(),
                ..Sum::default()
            });
            self.sums.len() - 1
        });
        let sum = &mut self.sums[index];
        if passed {
            sum.passed += 1;
        } else {
            sum.failed += 1;
        }
        // A failure is more worth telling than what came after it.
        if !passed || sum.failed == 0 {
            sum.last = evidence.to_owned();
        }
    }

    /// Checks that failed.
    pub fn failed(&self) -> usize {
        self.sums.iter().map(|sum| sum.failed).sum()
    }

    /// Checks that passed.
    pub fn passed(&self) -> usize {
        self.sums.iter().map(|sum| sum.passed).sum()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header([
            "check",
            "passed",
            "failed",
            "the last, or the last that failed",
        ]);
        for sum in &self.sums {
            table.add_row([
                sum.check.clone(),
                sum.passed.to_string(),
                sum.failed.to_string(),
                shortened(&sum.last),
            ]);
        }
        table.trim_fmt()
    }
}

/// At most a line's worth.
fn shortened(text: &str) -> String {
    const CHARS: usize = 110;
    if text.chars().count() <= CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(CHARS).collect();
    short.push('…');
    short
}
