#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Write;

fn from_yaml(yaml: &str) -> Result<Loaded, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    load(
        Some(file.path()),
        [("QUORATE_DATADIR".to_owned(), "/d".to_owned())],
        &[],
    )
}

#[test]
fn flags_override_variables_override_the_file() {
    let yaml = "quorate:\n  raft:\n    heartbeat: 60ms\n    electionMin: 300ms\ndataCoord:\n  segment:\n    maxRows: 5\n";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let variables = [
        ("QUORATE_DATADIR", "/d"),
        ("QUORATE_RAFT_HEARTBEAT", "70"),
        ("QUORATE_DATACOORD_SEGMENT_MAXROWS", "6"),
        ("QUORATE_ENDPOINTS", "not a setting of the server"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = [("dataCoord.segment.maxRows".to_owned(), "7".to_owned())];
    let config = load(Some(file.path()), variables, &flags).unwrap().config;
    assert_eq!(config.raft.election_min, Duration::from_millis(300));
    assert_eq!(config.raft.heartbeat, Duration::from_millis(70));
    assert_eq!(config.policy.segment_rows_max, 7);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    let error = from_yaml("quorate:\n  raft:\n    heartbeet: 50ms\n").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("did you mean quorate.raft.heartbeat?"),
        "{error}"
    );
    let error = from_yaml("dataCoord:\n  segment:\n    maxrow: 3\n").unwrap_err();
    assert!(
        error.to_string().contains("dataCoord.segment.maxRows"),
        "{error}"
    );
}

#[test]
fn a_bad_unit_names_the_key() {
    let error = from_yaml("quorate:\n  raft:\n    heartbeat: 5 parsecs\n").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("quorate.raft.heartbeat") && text.contains("parsecs"),
        "{text}"
    );
    assert!(from_yaml("dataCoord:\n  segment:\n    sealProportion: 1.5\n").is_err());
    assert!(from_yaml("quorate:\n  listen:\n    client: nowhere\n").is_err());
}

#[test]
fn other_sections_and_unused_milvus_keys_are_named_and_passed_over() {
    let loaded =
        from_yaml("etcd:\n  endpoints: x\ndataCoord:\n  gc:\n    lob:\n      enabled: true\n")
            .unwrap();
    let warnings = loaded.warnings.join("\n");
    assert!(
        warnings.contains("dataCoord.gc.lob.enabled") && warnings.contains("section etcd"),
        "{warnings}"
    );
}

#[test]
fn segment_size_reads_bytes_and_megabytes() {
    for (text, bytes) in [
        ("536870912", 512 << 20),
        ("1024", 1024 << 20),
        ("64MB", 64 << 20),
    ] {
        let loaded = from_yaml(&format!("dataCoord:\n  segment:\n    maxSize: {text}\n")).unwrap();
        assert_eq!(loaded.config.policy.segment_size_bytes_max, bytes, "{text}");
    }
}

#[test]
fn settings_that_do_not_fit_together_are_refused() {
    let error = from_yaml("quorate:\n  raft:\n    electionMin: 60ms\n").unwrap_err();
    assert!(matches!(error, ConfigError::Inconsistent(_)));
    assert!(load(None, [], &[]).is_err(), "a data folder is needed");
}

#[test]
fn a_broken_file_is_named() {
    let error = from_yaml("quorate: [unclosed").unwrap_err();
    assert!(matches!(error, ConfigError::Malformed { .. }), "{error}");
}

/// `docs/config.md` is written from the table of keys; UPDATE_DOCS=1 writes it again.
#[test]
fn the_documentation_has_every_key() {
    let path = "../../docs/config.md";
    let mut text = String::from(
        "# Settings\n\nDefaults, then the YAML file, then variables, then `--set key=value`. A \
         duration is a number with ms, s, m or h,\na size one with KB, MB or GB. Unknown keys under \
         `quorate` or `dataCoord` are refused; other sections of a\n`milvus.yaml`, and keys of Milvus \
         this release does not use, are named in the log and passed over.\n\n\
         | key | default | variable | meaning |\n| --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let variable = source::variable(key.name);
        text.push_str(&format!(
            "| `{}` | {} | `{variable}` | {} |\n",
            key.name, key.default, key.meaning
        ));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(written, text, "run this test with UPDATE_DOCS=1");
}
