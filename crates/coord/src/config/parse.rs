//! Values of settings as text: numbers, durations, sizes, proportions, addresses.

use std::time::Duration;

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number in range"))
}

/// A duration: `500ms`, `10s`, `5m`, `1h`, or a bare number in `unit`.
pub(super) fn duration(text: &str, bare: Duration) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" => bare,
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        other => return Err(format!("`{other}` is no unit of time; use ms, s, m or h")),
    };
    let value: f64 = value
        .parse()
        .map_err(|_| format!("`{text}` is not a duration such as 500ms or 10s"))?;
    let seconds = value * unit.as_secs_f64();
    if seconds > 0.0 && seconds < 1e9 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("`{text}` is out of range"))
    }
}

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);
/// The bare unit of some of Milvus's keys.
pub(super) const H: Duration = Duration::from_secs(3600);

/// A size in bytes: `1048576`, `64KB`, `512MB`, `1GB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of size; use KB, MB or GB")),
    };
    number::<u64>(value)?
        .checked_mul(unit)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

/// `segment.maxSize`: the seeds give bytes, Milvus megabytes for the same key; values below 1 MiB
/// are megabytes.
pub(super) fn segment_size(text: &str) -> Result<u64, String> {
    let value = bytes(text)?;
    Ok(if value < 1 << 20 { value << 20 } else { value })
}

pub(super) fn permille(text: &str) -> Result<i64, String> {
    let value: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a proportion such as 0.9"))?;
    if (0.0..=1.0).contains(&value) {
        Ok((value * 1000.0).round() as i64)
    } else {
        Err(format!("`{text}` is not between 0 and 1"))
    }
}

pub(super) fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not an address such as 0.0.0.0:13333"))
}

pub(super) fn host_port(text: &str) -> Result<String, String> {
    quorate_rpc::channel::check_address(text.trim()).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

/// A factor of at least 1, such as 1.25, per mille.
pub(super) fn permille_from(text: &str) -> Result<u32, String> {
    let value: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a factor such as 1.25"))?;
    if (1.0..=100.0).contains(&value) {
        Ok((value * 1000.0).round() as u32)
    } else {
        Err(format!("`{text}` is not between 1 and 100"))
    }
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" | "on" => Ok(true),
        "false" | "0" | "off" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}
