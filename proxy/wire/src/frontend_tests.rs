//! What another implementation writes is read, and what is written here is the same bytes.

use alloc::vec::Vec;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend as oracle;

use super::*;
use crate::frame::{Frame, Frames};
use crate::startup::{self, Startup};

fn theirs(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

fn ours(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let mut frames = Frames::new(bytes);
    let frame = frames.next_frame().unwrap().unwrap();
    assert!(frames.rest().is_empty(), "bytes are left behind the message");
    frame
}

#[test]
fn a_query_is_written_alike_and_read_back() {
    let bytes = ours(|out| write::query(out, b"select 1"));
    assert_eq!(bytes, theirs(|out| oracle::query("select 1", out).unwrap()));
    assert_eq!(frame(&bytes).tag, tag::QUERY);
    assert_eq!(query(frame(&bytes).body), Ok(&b"select 1"[..]));
    assert_eq!(query(b"a\0b\0"), Err(BodyError::Long { message: "Query", bytes: 2 }));
}

#[test]
fn a_statement_to_prepare_is_written_alike_and_read_back() {
    for types in [&[][..], &[23], &[25, 0, 1 << 31]] {
        let raw: Vec<u8> = types.iter().flat_map(|oid: &u32| oid.to_be_bytes()).collect();
        let bytes = ours(|out| write::parse(out, b"s", b"select $1", &raw));
        let oids = types.iter().copied();
        assert_eq!(bytes, theirs(|out| oracle::parse("s", "select $1", oids, out).unwrap()));
        let found = Parse::read(frame(&bytes).body);
        assert_eq!(found, Ok(Parse { name: b"s", text: b"select $1", types: &raw }));
    }
}

#[test]
fn a_count_of_types_that_lies_is_refused() {
    let short = BodyError::Short { message: "Parse", field: "types" };
    assert_eq!(Parse::read(b"s\0t\0\xff\xff\0\0\0\x19"), Err(short));
    let long = BodyError::Long { message: "Parse", bytes: 4 };
    assert_eq!(Parse::read(b"s\0t\0\0\0\0\0\0\x19"), Err(long));
}

/// A Bind with one text value, as another implementation writes it.
fn bind(portal: &str, statement: &str) -> Vec<u8> {
    theirs(|out| {
        let value = |value: &[u8], out: &mut BytesMut| {
            out.extend_from_slice(value);
            Ok(IsNull::No)
        };
        let values = [&b"value\0with\0nul"[..]];
        assert!(oracle::bind(portal, statement, [0], values, value, [1], out).is_ok());
    })
}

#[test]
fn a_bind_is_renamed_without_touching_its_values() {
    let (from, to) = (bind("p", "client's"), bind("", "server_17"));
    let body = frame(&from).body;
    let head = BindHead::read(body).unwrap();
    assert_eq!((head.portal, head.statement), (&b"p"[..], &b"client's"[..]));

    let rest = &body[head.rest_at..];
    let mut renamed = ours(|out| write::bind_head(out, b"", b"server_17", rest.len()));
    renamed.extend_from_slice(rest);

    assert_eq!(renamed, to);
}

#[test]
fn the_names_of_a_bind_are_read_as_soon_as_both_have_arrived() {
    let whole = bind("p", "stmt");
    let body = frame(&whole).body;
    for arrived in 0..body.len() {
        let head = BindHead::read(&body[..arrived]);
        assert_eq!(head.is_some(), arrived >= b"p\0stmt\0".len(), "{arrived} bytes");
    }
}

#[test]
fn targets_are_written_alike_and_read_back_and_other_kinds_are_refused() {
    for kind in [STATEMENT, PORTAL] {
        let bytes = ours(|out| write::describe(out, kind, b"x"));
        assert_eq!(bytes, theirs(|out| oracle::describe(kind, "x", out).unwrap()));
        let bytes = ours(|out| write::close(out, kind, b"x"));
        assert_eq!(bytes, theirs(|out| oracle::close(kind, "x", out).unwrap()));
        assert_eq!(target(frame(&bytes).body), Ok((kind, &b"x"[..])));
    }
    assert!(matches!(target(b"Xx\0"), Err(BodyError::Value { found: 0x58, .. })));
}

#[test]
fn execute_is_written_alike_and_read_back() {
    for rows_max in [0, 7, i32::MAX, -1] {
        let bytes = ours(|out| write::execute(out, b"p", rows_max));
        assert_eq!(bytes, theirs(|out| oracle::execute("p", rows_max, out).unwrap()));
        assert_eq!(execute(frame(&bytes).body), Ok((&b"p"[..], rows_max)));
    }
}

#[test]
fn messages_without_a_body_are_written_alike() {
    assert_eq!(ours(write::sync), theirs(oracle::sync));
    assert_eq!(ours(write::flush), theirs(oracle::flush));
    assert_eq!(ours(write::terminate), theirs(oracle::terminate));
}

#[test]
fn passwords_and_sasl_messages_are_written_alike_and_read_back() {
    let bytes = ours(|out| write::password(out, b"md5x"));
    assert_eq!(bytes, theirs(|out| oracle::password_message(b"md5x", out).unwrap()));
    assert_eq!(password(frame(&bytes).body), Ok(&b"md5x"[..]));

    let bytes = ours(|out| write::sasl_initial(out, "SCRAM-SHA-256", b"n,,"));
    let initial =
        |out: &mut BytesMut| oracle::sasl_initial_response("SCRAM-SHA-256", b"n,,", out).unwrap();
    assert_eq!(bytes, theirs(initial));
    let found = sasl_initial(frame(&bytes).body);
    assert_eq!(found, Ok((&b"SCRAM-SHA-256"[..], Some(&b"n,,"[..]))));

    let bytes = ours(|out| write::sasl_response(out, b"c=biws"));
    assert_eq!(bytes, theirs(|out| oracle::sasl_response(b"c=biws", out).unwrap()));
    assert_eq!(sasl_response(frame(&bytes).body), b"c=biws");
}

#[test]
fn a_sasl_response_may_be_absent_but_not_longer_or_shorter_than_it_says() {
    assert_eq!(sasl_initial(b"X\0\xff\xff\xff\xff"), Ok((&b"X"[..], None)));
    assert_eq!(sasl_initial(b"X\0\0\0\0\0"), Ok((&b"X"[..], Some(&b""[..]))));
    let short = BodyError::Short { message: "SASLInitialResponse", field: "response" };
    assert_eq!(sasl_initial(b"X\0\0\0\0\x03ab"), Err(short));
    assert_eq!(sasl_initial(b"X\0\x80\0\0\0ab"), Err(short));
    let long = BodyError::Long { message: "SASLInitialResponse", bytes: 1 };
    assert_eq!(sasl_initial(b"X\0\0\0\0\x01ab"), Err(long));
    assert_eq!(sasl_initial(b"X\0\xff\xff\xff\xffa").map_err(|_| ()), Err(()));
}

#[test]
fn a_copy_that_is_broken_off_is_written_alike_and_read_back() {
    let bytes = ours(|out| write::copy_fail(out, b"gone"));
    assert_eq!(bytes, theirs(|out| oracle::copy_fail("gone", out).unwrap()));
    assert_eq!(copy_fail(frame(&bytes).body), Ok(&b"gone"[..]));
}

#[test]
fn a_start_up_packet_is_written_alike_and_read_back() {
    let texts = [("user", "ann"), ("application_name", "")];
    let parameters = texts.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let bytes = ours(|out| write::startup(out, 0, parameters));
    let theirs = theirs(|out| oracle::startup_message(texts, out).unwrap());
    assert_eq!(bytes, theirs);

    let bytes = ours(|out| write::startup(out, 2, parameters));
    let login = Startup::Login { version_minor: 2, parameters: parameters.to_vec() };
    assert_eq!(startup::parse(&bytes), Ok(Some((login, bytes.len()))));
}

#[test]
fn a_parameter_without_a_name_cannot_end_the_list_early() {
    let parameters = [(&b""[..], &b"x"[..]), (b"user", b"ann")];
    let bytes = ours(|out| write::startup(out, 0, parameters));
    let (packet, _) = startup::parse(&bytes).unwrap().unwrap();
    assert_eq!(packet.parameter(b"user"), Some(&b"ann"[..]));
}

#[test]
fn cancel_requests_are_written_alike_and_read_back() {
    let bytes = ours(|out| write::cancel(out, 42, &7_u32.to_be_bytes()));
    assert_eq!(bytes, theirs(|out| oracle::cancel_request(42, 7, out)));
    let long = [5; 256];
    let bytes = ours(|out| write::cancel(out, 42, &long));
    let cancel = Startup::Cancel { process_id: 42, key: &long };
    assert_eq!(startup::parse(&bytes), Ok(Some((cancel, bytes.len()))));
}

#[test]
fn a_bind_of_texts_is_read_back_whole_and_by_its_head() {
    let mut out = Vec::new();
    write::bind(&mut out, &[b"ann", b""]);
    let body = &out[5..];
    let bind = Bind::read(body).unwrap();
    assert_eq!((bind.portal, bind.statement, bind.values), (&b""[..], &b""[..], 2));
    assert!(bind.formats.is_empty());
    assert_eq!(BindHead::read(body).map(|head| head.rest_at), Some(2));
    assert!((0..body.len()).all(|end| Bind::read(&body[..end]).is_err()));
}
