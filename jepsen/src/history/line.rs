//! Operations as JSON lines, and back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Call, Op, Outcome};

/// What tells a refused compare-and-set from one that failed.
const MISMATCH: &str = "cas-mismatch";

/// The object an operation is about.
fn key(call: &Call) -> Value {
    match call {
        Call::Read { key, .. } | Call::Write { key, .. } | Call::Cas { key, .. } => json!(key),
        Call::AllocId { .. } => json!("ids"),
        Call::AllocTs { .. } => json!("timestamps"),
        Call::Assign { channel, .. } => json!(channel),
        Call::Snapshot { .. } => Value::Null,
    }
}

fn argument(call: &Call) -> Value {
    match call {
        Call::Read { .. } | Call::Snapshot { .. } => Value::Null,
        Call::Write { value, .. } => json!(value),
        Call::Cas { old, new, .. } => json!([old, new]),
        Call::AllocId { count, .. } | Call::AllocTs { count, .. } => json!(count),
        Call::Assign { rows, .. } => json!({ "rows": rows }),
    }
}

fn result(call: &Call) -> Value {
    match call {
        Call::Read { value, .. } => json!(value),
        Call::Write { .. } | Call::Cas { .. } => Value::Null,
        Call::AllocId { count, first } => json!([first, count]),
        Call::AllocTs { count, first } => json!([first, count]),
        Call::Assign { granted, .. } => match granted {
            Some((segment, rows)) => json!([{ "segment": segment, "rows": rows }]),
            None => json!([]),
        },
        Call::Snapshot { segments } => {
            let list: Vec<Value> = segments.iter().map(|id| json!({ "id": id })).collect();
            json!({ "segments": list, "channels": [] })
        }
    }
}

/// The line of an invocation.
pub(super) fn invocation(process: &str, call: &Call, time: u64) -> Value {
    json!({
        "process": process, "type": "invoke", "f": call.name(), "key": key(call),
        "value": argument(call), "time": time,
    })
}

/// The line of a completion.
pub(super) fn completion(op: &Op) -> Value {
    let kind = match op.outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    };
    let mut line = json!({
        "process": op.process, "type": kind, "f": op.call.name(), "key": key(&op.call),
        "time": op.completed,
    });
    if op.is_ok() {
        line["value"] = result(&op.call);
    }
    if let Call::Cas {
        seen: Some(seen), ..
    } = &op.call
    {
        line["error"] = json!(MISMATCH);
        line["value"] = json!(seen);
    } else if let Some(error) = &op.error {
        line["error"] = json!(error);
    }
    if let Some(term) = op.term {
        line["term"] = json!(term);
    }
    line
}

/// The operations of a history that was written before.
///
/// # Errors
/// It cannot be read, or a line is not as the format has it.
pub fn read_file(path: &Path) -> Result<Vec<Op>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut open: HashMap<String, Op> = HashMap::new();
    let mut ops = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        take(&line, &mut open, &mut ops)
            .with_context(|| format!("{} line {}", path.display(), number + 1))?;
    }
    ops.extend(open.into_values());
    ops.sort_by_key(|op| op.invoked);
    Ok(ops)
}

fn take(line: &str, open: &mut HashMap<String, Op>, ops: &mut Vec<Op>) -> Result<()> {
    let line: Value = serde_json::from_str(line).context("is no JSON object")?;
    let name = text(&line["f"]).context("f is missing")?;
    if name == "nemesis" || name == "note" {
        return Ok(());
    }
    let process = match &line["process"] {
        Value::String(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => bail!("process is missing"),
    };
    let time = line["time"].as_u64().context("time is missing")?;
    let outcome = match line["type"].as_str() {
        Some("invoke") => {
            let op = Op {
                process: process.clone(),
                call: asked(&name, &line)?,
                invoked: time,
                completed: u64::MAX,
                outcome: Outcome::Info,
                term: None,
                error: None,
            };
            if open.insert(process.clone(), op).is_some() {
                bail!("process {process} has an operation open already");
            }
            return Ok(());
        }
        Some("ok") => Outcome::Ok,
        Some("fail") => Outcome::Fail,
        Some("info") => Outcome::Info,
        other => bail!("type is {other:?}"),
    };
    let mut op = open
        .remove(&process)
        .with_context(|| format!("process {process} has no operation open"))?;
    op.outcome = outcome;
    op.term = line["term"].as_u64();
    op.error = text(&line["error"]);
    if outcome != Outcome::Info {
        op.completed = time;
    }
    if outcome == Outcome::Ok {
        answer(&mut op.call, &line["value"])?;
    }
    if let Call::Cas { seen, .. } = &mut op.call
        && outcome == Outcome::Fail
        && op.error.as_deref() == Some(MISMATCH)
        && let Some(value) = line.get("value")
    {
        *seen = Some(text(value));
        op.error = None;
    }
    ops.push(op);
    Ok(())
}

/// A string, or a number as one.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn asked(name: &str, line: &Value) -> Result<Call> {
    let key = || text(&line["key"]).context("key is missing");
    let value = &line["value"];
    let count = || {
        let count = value.as_u64().context("value is no count")?;
        u32::try_from(count).context("value is too large")
    };
    Ok(match name {
        "read" => Call::Read {
            key: key()?,
            value: None,
        },
        "write" => Call::Write {
            key: key()?,
            value: text(value).context("value is missing")?,
        },
        "cas" => Call::Cas {
            key: key()?,
            old: text(&value[0]).context("value is not [old,new]")?,
            new: text(&value[1]).context("value is not [old,new]")?,
            seen: None,
        },
        "alloc-id" => Call::AllocId {
            count: count()?,
            first: 0,
        },
        "alloc-ts" => Call::AllocTs {
            count: count()?,
            first: 0,
        },
        "assign" => Call::Assign {
            channel: key()?,
            rows: value["rows"]
                .as_u64()
                .and_then(|rows| u32::try_from(rows).ok())
                .context("value is not {rows}")?,
            granted: None,
        },
        "snapshot" => Call::Snapshot {
            segments: Vec::new(),
        },
        other => bail!("no checker knows {other}"),
    })
}

fn answer(call: &mut Call, value: &Value) -> Result<()> {
    match call {
        Call::Read { value: read, .. } => *read = text(value),
        Call::Write { .. } | Call::Cas { .. } => {}
        Call::AllocId { first, .. } => {
            *first = value[0].as_i64().context("value is not [first,count]")?;
        }
        Call::AllocTs { first, .. } => {
            *first = value[0].as_u64().context("value is not [first,count]")?;
        }
        Call::Assign { granted, .. } => {
            let rows = value[0]["rows"].as_u64().unwrap_or_default();
            *granted = value[0]["segment"]
                .as_i64()
                .map(|segment| (segment, u32::try_from(rows).unwrap_or(u32::MAX)));
        }
        Call::Snapshot { segments } => {
            let list = value["segments"].as_array().context("no segments")?;
            *segments = list.iter().filter_map(|one| one["id"].as_i64()).collect();
        }
    }
    Ok(())
}
