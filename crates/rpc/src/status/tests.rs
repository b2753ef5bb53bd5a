#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn every_code_survives_both_ways_round() {
    for &code in Code::ALL {
        assert_eq!(Code::from_number(code.number()), Some(code));
        if code == Code::Success {
            continue;
        }
        let in_body = check(&fail(code, "why")).unwrap_err();
        let in_grpc = from_grpc(&to_grpc(code, "why")).unwrap();
        assert_eq!(in_body, in_grpc);
        assert_eq!(in_body.code(), Some(code));
        assert_eq!(in_body.reason, "why");
        assert_eq!(in_body.retriable, code.retriable());
        assert_eq!(to_grpc(code, "why").code(), code.grpc());
    }
}

#[test]
fn success_is_the_empty_message() {
    use prost::Message;
    assert!(ok().encode_to_vec().is_empty());
    assert_eq!(check(&ok()), Ok(()));
}

#[test]
fn numbers_and_flags_are_those_of_milvus() {
    let table = include_str!("../../../../tests/wire/2.5/status_codes.tsv");
    let rows: Vec<(i32, &str, bool)> = table
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            (cells[0].parse().unwrap(), cells[1], cells[2] == "true")
        })
        .collect();
    // Not in the table: success, and the two Milvus makes of a context's end.
    let beside = [Code::Success, Code::Canceled, Code::Timeout];
    for code in Code::ALL.iter().filter(|code| !beside.contains(code)) {
        let row = rows.iter().find(|row| row.0 == code.number());
        assert_eq!(
            row,
            Some(&(code.number(), code.name(), code.retriable())),
            "{code:?}"
        );
    }
}

#[test]
fn older_numbers_are_those_the_real_server_answers() {
    let answers = [
        (Code::ServiceNotReady, 56),
        (Code::CollectionNotFound, 4),
        (Code::MetricNotFound, 1),
        (Code::ChannelNotFound, 1),
        (Code::SegmentNotFound, 47),
        (Code::IndexNotFound, 25),
        (Code::UnexpectedError, 1),
    ];
    for (code, legacy) in answers {
        assert_eq!(fail(code, "").error_code, legacy, "{code:?}");
    }
}

#[test]
fn an_older_error_alone_is_an_error() {
    let status = common::Status {
        error_code: ErrorCode::UnexpectedError.into(),
        reason: "pause duration param not found".to_owned(),
        ..Default::default()
    };
    assert!(check(&status).unwrap_err().is(Code::UnexpectedError));
}

#[test]
fn a_code_from_a_newer_server_keeps_its_number() {
    let status = common::Status {
        code: 4711,
        reason: "new".to_owned(),
        retriable: true,
        ..Default::default()
    };
    let error = check(&status).unwrap_err();
    assert_eq!((error.code, error.code()), (4711, None));
    let grpc = checked(tonic::Response::new(status)).unwrap_err();
    assert_eq!(grpc.code(), tonic::Code::Unavailable);
    assert_eq!(from_grpc(&grpc).unwrap().code, 4711);
}

#[test]
fn a_reason_of_any_text_fits_into_a_grpc_status() {
    let status = to_grpc(Code::ParameterInvalid, "name \"ä\u{1f600}\n\" is\0 odd");
    let headers = status
        .into_http::<tonic::body::Body>()
        .into_parts()
        .0
        .headers;
    assert!(headers.contains_key("grpc-message"));
}
