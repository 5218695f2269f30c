//! What is written is read by another implementation, and read back here; what no server may send
//! is an error that names it.

use alloc::vec::Vec;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};

use super::*;
use crate::error_response::{ErrorResponse, Severity, SqlState};
use crate::frame::Frames;

/// The one message that `write` appends: as another implementation reads it, and its body.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> (Message, Vec<u8>) {
    let mut out = Vec::new();
    write(&mut out);
    let mut bytes = BytesMut::from(&out[..]);
    let message = Message::parse(&mut bytes).unwrap().unwrap();
    assert!(bytes.is_empty(), "bytes are left behind the message");
    (message, body(&out))
}

/// The body of the one message in these bytes.
fn body(bytes: &[u8]) -> Vec<u8> {
    let mut frames = Frames::new(bytes);
    let frame = frames.next_frame().unwrap().unwrap();
    assert!(frames.rest().is_empty(), "bytes are left behind the message");
    frame.body.to_vec()
}

#[test]
fn requests_for_credentials_are_read_as_they_were_written() {
    let (message, body) = written(write::authentication_ok);
    assert!(matches!(message, Message::AuthenticationOk));
    assert_eq!(authentication(&body), Ok(Authentication::Ok));

    let (message, body) = written(write::authentication_clear_text);
    assert!(matches!(message, Message::AuthenticationCleartextPassword));
    assert_eq!(authentication(&body), Ok(Authentication::ClearText));

    let salt = [1, 0, 255, 3];
    let (message, body) = written(|out| write::md5(out, salt));
    assert!(matches!(message, Message::AuthenticationMd5Password(md5) if md5.salt() == salt));
    assert_eq!(authentication(&body), Ok(Authentication::Md5 { salt }));
}

#[test]
fn sasl_messages_are_read_as_they_were_written() {
    let names = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
    let (message, body) = written(|out| write::sasl(out, &names));
    let Message::AuthenticationSasl(sasl) = message else { panic!("not SASL") };
    assert_eq!(sasl.mechanisms().collect::<Vec<_>>().unwrap(), names);
    let Ok(Authentication::Sasl { mechanisms }) = authentication(&body) else { panic!("{body:?}") };
    assert!(mechanisms.eq(names.map(str::as_bytes)));

    let (message, body) = written(|out| write::sasl_continue(out, b"r=x"));
    assert!(matches!(message, Message::AuthenticationSaslContinue(it) if it.data() == b"r=x"));
    assert_eq!(authentication(&body), Ok(Authentication::SaslContinue(b"r=x")));

    let (message, body) = written(|out| write::sasl_final(out, b"v=x"));
    assert!(matches!(message, Message::AuthenticationSaslFinal(it) if it.data() == b"v=x"));
    assert_eq!(authentication(&body), Ok(Authentication::SaslFinal(b"v=x")));
}

#[test]
fn what_is_not_spoken_here_is_named_and_a_broken_request_is_refused() {
    assert_eq!(authentication(&[0, 0, 0, 7]), Ok(Authentication::Other(7)));
    let short = |field| Err(BodyError::Short { message: "Authentication", field });
    assert_eq!(authentication(&[0, 0, 0]), short("code"));
    assert_eq!(authentication(&[0, 0, 0, 5, 1, 2, 3]), short("salt"));
    assert_eq!(authentication(b"\0\0\0\x0aSCRAM-SHA-256\0"), short("mechanisms"));
    let long = Err(BodyError::Long { message: "Authentication", bytes: 1 });
    assert_eq!(authentication(&[0, 0, 0, 0, 9]), long);
    assert_eq!(authentication(b"\0\0\0\x0aX\0\0Y"), long);
}

#[test]
fn cancel_keys_of_every_allowed_length_are_read_and_no_others() {
    let (message, _) = written(|out| write::backend_key(out, 7, &[0, 0, 1, 2]));
    let Message::BackendKeyData(key) = message else { panic!("not BackendKeyData") };
    assert_eq!((key.process_id(), key.secret_key()), (7, 258));
    for bytes in 0..300 {
        let key = alloc::vec![9; bytes];
        let mut out = Vec::new();
        write::backend_key(&mut out, 7, &key);
        let is_allowed = (4..=256).contains(&bytes);
        assert_eq!(backend_key(&body(&out)) == Ok((7, &key[..])), is_allowed, "{bytes} bytes");
    }
    let long = Err(BodyError::Long { message: "BackendKeyData", bytes: 44 });
    assert_eq!(backend_key(&[0; 304]), long);
}

#[test]
fn a_settings_value_may_be_empty_but_not_missing() {
    let (message, body) = written(|out| write::parameter_status(out, b"TimeZone", b""));
    let Message::ParameterStatus(status) = message else { panic!("not ParameterStatus") };
    assert_eq!((status.name().unwrap(), status.value().unwrap()), ("TimeZone", ""));
    assert_eq!(parameter_status(&body), Ok((&b"TimeZone"[..], &b""[..])));
    let short = BodyError::Short { message: "ParameterStatus", field: "value" };
    assert_eq!(parameter_status(b"TimeZone\0"), Err(short));
}

#[test]
fn every_status_is_read_as_it_was_written_and_no_other_byte_is_one() {
    for status in [Status::Idle, Status::Block, Status::Failed] {
        let (message, body) = written(|out| write::ready(out, status));
        assert!(matches!(message, Message::ReadyForQuery(it) if it.status() == status.byte()));
        assert_eq!(ready(&body), Ok(status));
    }
    assert_eq!((0..=u8::MAX).filter(|&byte| ready(&[byte]).is_ok()).count(), 3);
    assert!(ready(b"").is_err() && ready(b"II").is_err());
}

#[test]
fn answers_without_a_body_are_what_another_implementation_takes_them_for() {
    assert!(matches!(written(write::parse_complete).0, Message::ParseComplete));
    assert!(matches!(written(write::bind_complete).0, Message::BindComplete));
    assert!(matches!(written(write::close_complete).0, Message::CloseComplete));
    assert!(matches!(written(write::no_data).0, Message::NoData));
    assert!(matches!(written(write::empty_query).0, Message::EmptyQueryResponse));
}

#[test]
fn a_command_tag_is_read_as_it_was_written() {
    let (message, body) = written(|out| write::command_complete(out, b"INSERT 0 1"));
    assert!(matches!(message, Message::CommandComplete(it) if it.tag().unwrap() == "INSERT 0 1"));
    assert_eq!(command_tag(&body), Ok(&b"INSERT 0 1"[..]));
    assert!(command_tag(b"INSERT 0 1").is_err());
}

#[test]
fn a_table_is_read_by_another_implementation() {
    let of = [("database", write::Type::Text), ("pool", write::Type::Int8)];
    let (message, _) = written(|out| write::row_description(out, &of, |place| place == 1));
    let Message::RowDescription(rows) = message else { panic!("not RowDescription") };
    let columns: Vec<_> = rows.fields().collect().unwrap();
    assert_eq!(columns.iter().map(|it| it.name()).collect::<Vec<_>>(), ["database", "pool"]);
    let types = columns.iter().map(|it| (it.type_oid(), it.type_size(), it.format()));
    assert_eq!(types.collect::<Vec<_>>(), [(25, -1, 0), (20, 8, 1)]);
    let (message, _) = written(write::no_parameters);
    let Message::ParameterDescription(none) = message else { panic!("not that") };
    assert_eq!(none.parameters().count().unwrap(), 0);

    let row = [Some(&b"shop"[..]), None, Some(&b""[..])];
    let (message, _) = written(|out| write::data_row(out, &row));
    let Message::DataRow(found) = message else { panic!("not DataRow") };
    assert_eq!(values(&found), row);
    let (_, body) = written(|out| write::data_row(out, &row));
    assert_eq!(data_row(&body).unwrap(), row);
    assert!((0..body.len()).all(|end| data_row(&body[..end]).is_err()));
}

fn values(row: &DataRowBody) -> Vec<Option<&[u8]>> {
    row.ranges().map(|range| Ok(range.map(|at| &row.buffer()[at]))).collect().unwrap()
}

#[test]
fn an_error_is_read_field_by_field_as_another_implementation_reads_it() {
    let plain = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "stops");
    let error = ErrorResponse { detail: "at noon", routine: "stop", ..plain };
    let (message, body) = written(|out| error.write(out));
    let Message::ErrorResponse(oracle) = message else { panic!("not ErrorResponse") };
    let oracle = oracle.fields().map(|it| Ok((it.type_(), it.value_bytes().to_vec())));
    let oracle: Vec<_> = oracle.collect().unwrap();
    let fields = Fields::new(&body);
    assert!(fields.map(|(code, text)| (code, text.to_vec())).eq(oracle));
    assert_eq!(fields.sqlstate().as_ref(), Some(SqlState::ADMIN_SHUTDOWN.code()));
    assert_eq!((fields.message(), fields.routine()), (Some(&b"stops"[..]), Some(&b"stop"[..])));
    assert!(fields.is_fatal());
}

#[test]
fn a_notice_is_no_error_and_another_implementation_reads_its_text() {
    let text = "the session keeps its server";
    let (message, body) =
        written(|out| write::notice(out, write::Level::Warning, SqlState::WARNING, text));
    assert!(matches!(message, Message::NoticeResponse(_)));
    let fields = Fields::new(&body);
    assert_eq!(fields.severity(), Some(&b"WARNING"[..]));
    assert_eq!(fields.message(), Some(text.as_bytes()));
    assert!(!fields.is_fatal());
}

#[test]
fn the_severity_is_taken_from_the_field_that_is_never_translated() {
    assert!(Fields::new(b"SFATALE\0VFATAL\0\0").is_fatal());
    assert!(Fields::new(b"SPANIC\0\0").is_fatal());
    assert!(!Fields::new(b"SFATAL\0VERROR\0\0").is_fatal());
}

#[test]
fn errors_without_a_code_with_unknown_fields_or_broken_off_are_read_as_far_as_they_go() {
    let fields = Fields::new(b"\xffodd\0Mfull disk\0\0");
    assert_eq!((fields.sqlstate(), fields.message()), (None, Some(&b"full disk"[..])));
    assert_eq!(fields.count(), 2);
    assert_eq!(Fields::new(b"C4000\0\0").sqlstate(), None);
    assert_eq!(Fields::new(b"").next(), None);
    assert!(Fields::new(b"SERROR\0Mbroken o").eq([(b'S', &b"ERROR"[..])]));
    // What stands behind the terminator is no field.
    assert_eq!(Fields::new(b"\0\0C40001\0\0").next(), None);
}

#[test]
fn a_negotiated_version_is_read_as_postgresql_and_as_the_documentation_write_it() {
    let mut out = Vec::new();
    write::negotiate_protocol(&mut out, 2, &[b"_pq_.a", b"_pq_.b"]);
    assert_eq!(out, b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0");
    for version in [[0, 3, 0, 2], [0, 0, 0, 2]] {
        let body = [&version[..], &out[9..]].concat();
        let found = negotiate(&body).unwrap();
        assert_eq!(found.minor, 2);
        assert!(found.unknown.eq([&b"_pq_.a"[..], &b"_pq_.b"[..]]));
    }
}

#[test]
fn a_negotiated_version_with_a_lying_count_or_another_major_is_refused() {
    let short = BodyError::Short { message: "NegotiateProtocolVersion", field: "options" };
    assert_eq!(negotiate(b"\0\x03\0\0\xff\xff\xff\xffa\0"), Err(short));
    let long = BodyError::Long { message: "NegotiateProtocolVersion", bytes: 2 };
    assert_eq!(negotiate(b"\0\x03\0\0\0\0\0\0a\0"), Err(long));
    assert!(matches!(negotiate(b"\0\x04\0\0\0\0\0\0"), Err(BodyError::Value { .. })));
}

#[test]
fn a_notification_is_read_as_another_implementation_reads_it() {
    let bytes = b"A\0\0\0\x0f\0\0\0\x09jobs\0x\0";
    let Message::NotificationResponse(oracle) =
        Message::parse(&mut BytesMut::from(&bytes[..])).unwrap().unwrap()
    else {
        panic!("not NotificationResponse")
    };
    let body = body(bytes);
    let found = notification(&body).unwrap();
    assert_eq!(found, Notification { process_id: 9, channel: b"jobs", payload: b"x" });
    assert_eq!(oracle.channel().unwrap().as_bytes(), found.channel);
    assert_eq!(oracle.message().unwrap().as_bytes(), found.payload);
}
