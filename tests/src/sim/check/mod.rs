//! The checkers: plain functions from what was recorded to what is wrong with it.

pub(super) mod deleted;
pub mod lineage;
pub mod oracle;
pub mod register;
pub mod rows;
pub mod term;
pub mod view;

#[cfg(test)]
mod tests;

use super::history::Op;

/// Everything wrong with a history, one line each.
pub fn history(ops: &[Op]) -> Vec<String> {
    let mut found = oracle::ids(ops);
    found.extend(oracle::timestamps(ops));
    found.extend(register::check(ops));
    found.extend(term::check(ops));
    found
}
