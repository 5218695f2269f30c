//! What must hold of the wire for any bytes: each function takes some, and panics if it does not.
//!
//! Whatever a reader takes, the writer writes again to the byte; so nothing is read that is not
//! there, and nothing is passed over. The oracle is postgres-protocol, which shares no line with
//! the readers.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::client::{Begun, Binding};
use pgx_wire::auth::scram::server::Challenged;
use pgx_wire::auth::scram::{
    Keys, Mechanism, NONCE_BYTES, Nonce, ScramError, Verifier, salted_password,
};
use pgx_wire::backend::{self, Authentication, Fields};
use pgx_wire::frontend::{self, BindHead, Parse};
use pgx_wire::limits::{SCRAM_ITERATIONS_MAX, SCRAM_SALT_BYTES_MAX, STARTUP_BYTES_MAX};
use pgx_wire::startup::{self, TLS_REQUEST};
use pgx_wire::{FrameError, Frames, Startup, frame};
use postgres_protocol::message::backend::{Header, Message};

/// What stands in an input for the nonce, which no input could guess.
const NONCE_MARK: u8 = 1;
const SALT: &[u8] = b"sixteen bytes of";
const END_POINT: &[u8] = b"hash of a certificate";

/// A stream gives the same messages in one piece and in many, and none that is not there.
pub fn frames(stream: &[u8]) {
    let (whole, rest, end) = walk(stream);
    let bytes: usize = whole.iter().map(|(_, body)| 5 + body.len()).sum();
    assert_eq!(bytes + rest, stream.len(), "bytes are lost, or read twice");
    if let Ok(Some(header)) = Header::parse(stream)
        && let Ok(Some((tag, body_bytes))) = frame::header(stream)
    {
        let length = i32::try_from(body_bytes + 4).unwrap();
        assert_eq!((tag, length), (header.tag(), header.len()));
    }

    let piece = usize::from(stream.first().copied().unwrap_or_default()) % 7 + 1;
    let (mut found, mut carry, mut last) = (Vec::new(), Vec::new(), Ok(()));
    for arrived in stream.chunks(piece) {
        carry.extend_from_slice(arrived);
        let (frames, left, end) = walk(&carry);
        found.extend(frames);
        carry.drain(..carry.len() - left);
        last = end;
        if last.is_err() {
            break;
        }
    }
    assert_eq!((found, last), (whole, end), "in pieces of {piece} bytes");
}

type Walked = (Vec<(u8, Vec<u8>)>, usize, Result<(), FrameError>);

/// The messages of a stream, how many bytes are left, and whether it is one.
fn walk(stream: &[u8]) -> Walked {
    let mut frames = Frames::new(stream);
    let mut found = Vec::new();
    let end = loop {
        match frames.next_frame() {
            Ok(Some(frame)) => found.push((frame.tag, frame.body.to_vec())),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (found, frames.rest().len(), end)
}

/// A packet before start-up is what its writer writes, is known at its last byte and not before,
/// and is refused for good.
pub fn startup(bytes: &[u8]) {
    let longer = [bytes, b"\0smuggled"].concat();
    let (packet, taken) = match startup::parse(bytes) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return assert!(bytes.len() < STARTUP_BYTES_MAX, "waits for more than there is");
        }
        Err(error) => return assert_eq!(startup::parse(&longer), Err(error)),
    };
    assert_eq!(startup::parse(&longer), Ok(Some((packet.clone(), taken))));
    for cut in 0..taken {
        assert_eq!(startup::parse(&bytes[..cut]), Ok(None), "cut after {cut} bytes");
    }
    let mut again = Vec::new();
    match packet {
        Startup::Login { version_minor, parameters } => {
            frontend::write::startup(&mut again, version_minor, parameters);
        }
        Startup::Cancel { process_id, key } => frontend::write::cancel(&mut again, process_id, key),
        Startup::TlsRequest => again.extend_from_slice(&TLS_REQUEST),
        Startup::GssRequest => return,
    }
    assert_eq!(again, bytes[..taken]);
}

/// Every reader of a body reads what its writer writes, and what the oracle reads.
pub fn readers(body: &[u8]) {
    from_server(body);
    authentication(body);
    fields(body);
    from_client(body);
    bind_head(body);
}

fn from_server(body: &[u8]) {
    use backend::{tag, write};
    if let Ok((process_id, key)) = backend::backend_key(body) {
        same(tag::BACKEND_KEY, body, |out| write::backend_key(out, process_id, key));
    }
    let found = backend::parameter_status(body).ok();
    let theirs = oracle(tag::PARAMETER_STATUS, body);
    assert_eq!(found.is_some(), theirs.is_some());
    if let Some((name, value)) = found {
        same(tag::PARAMETER_STATUS, body, |out| write::parameter_status(out, name, value));
    }
    if let Ok(status) = backend::ready(body) {
        same(tag::READY, body, |out| write::ready(out, status));
    }
    if let Ok(done) = backend::command_tag(body) {
        same(tag::COMMAND_COMPLETE, body, |out| write::command_complete(out, done));
    }
    if let Ok(found) = backend::negotiate(body)
        && body.starts_with(&[0, 3])
    {
        let unknown: Vec<_> = found.unknown.collect();
        let again = |out: &mut Vec<u8>| write::negotiate_protocol(out, found.minor, &unknown);
        same(tag::NEGOTIATE, body, again);
    }
    let found = backend::notification(body).ok();
    let theirs = oracle(tag::NOTIFICATION, body);
    assert_eq!(found.is_some(), theirs.is_some());
    if let (Some(ours), Some(Message::NotificationResponse(theirs))) = (found, theirs) {
        assert_eq!(ours.process_id.cast_signed(), theirs.process_id());
        // The oracle gives texts, not bytes.
        if let (Ok(channel), Ok(payload)) = (theirs.channel(), theirs.message()) {
            assert_eq!((ours.channel, ours.payload), (channel.as_bytes(), payload.as_bytes()));
        }
    }
}

fn authentication(body: &[u8]) {
    use backend::write;
    let out = &mut Vec::new();
    match backend::authentication(body) {
        Ok(Authentication::Ok) => write::authentication_ok(out),
        Ok(Authentication::ClearText) => write::authentication_clear_text(out),
        Ok(Authentication::Md5 { salt }) => write::md5(out, salt),
        Ok(Authentication::Sasl { mechanisms }) => {
            match mechanisms.map(str::from_utf8).collect::<Result<Vec<_>, _>>() {
                Ok(names) => write::sasl(out, &names),
                Err(_) => return,
            }
        }
        Ok(Authentication::SaslContinue(data)) => write::sasl_continue(out, data),
        Ok(Authentication::SaslFinal(data)) => write::sasl_final(out, data),
        Ok(Authentication::Other(_)) | Err(_) => return,
    }
    same(backend::tag::AUTHENTICATION, body, |again| again.append(out));
    assert!(oracle(backend::tag::AUTHENTICATION, body).is_some());
}

/// Whatever fields the oracle reads are read; where it finds fault, reading ends and goes no
/// further than the bytes.
fn fields(body: &[u8]) {
    let fields = Fields::new(body);
    let bytes: usize = fields.map(|(_, text)| text.len() + 2).sum();
    assert!(bytes <= body.len(), "fields that are not there");
    let _ = (fields.sqlstate(), fields.is_fatal(), fields.message(), fields.routine());
    let Some(Message::ErrorResponse(theirs)) = oracle(backend::tag::ERROR, body) else {
        panic!("the oracle takes any body for an error");
    };
    let theirs = theirs.fields().map(|it| Ok((it.type_(), it.value_bytes().to_vec())));
    if let Ok(theirs) = theirs.collect::<Vec<_>>() {
        assert!(fields.map(|(code, text)| (code, text.to_vec())).eq(theirs));
    }
}

fn from_client(body: &[u8]) {
    use frontend::{tag, write};
    if let Ok(text) = frontend::query(body) {
        same(tag::QUERY, body, |out| write::query(out, text));
    }
    if let Ok(Parse { name, text, types }) = Parse::read(body) {
        same(tag::PARSE, body, |out| write::parse(out, name, text, types));
    }
    if let Ok((kind, name)) = frontend::target(body) {
        same(tag::DESCRIBE, body, |out| write::describe(out, kind, name));
        same(tag::CLOSE, body, |out| write::close(out, kind, name));
    }
    if let Ok((portal, rows_max)) = frontend::execute(body) {
        same(tag::EXECUTE, body, |out| write::execute(out, portal, rows_max));
    }
    if let Ok(password) = frontend::password(body) {
        same(tag::PASSWORD, body, |out| write::password(out, password));
    }
    if let Ok((name, Some(data))) = frontend::sasl_initial(body)
        && let Ok(name) = str::from_utf8(name)
    {
        same(tag::PASSWORD, body, |out| write::sasl_initial(out, name, data));
    }
    if let Ok(reason) = frontend::copy_fail(body) {
        same(tag::COPY_FAIL, body, |out| write::copy_fail(out, reason));
    }
    let data = frontend::sasl_response(body);
    same(tag::PASSWORD, body, |out| write::sasl_response(out, data));
}

/// The names of a Bind are the same however much has arrived, from the byte on that ends them.
fn bind_head(body: &[u8]) {
    let Some(whole) = BindHead::read(body) else {
        return;
    };
    for arrived in 0..body.len() {
        let expected = (arrived >= whole.rest_at).then_some(whole);
        assert_eq!(BindHead::read(&body[..arrived]), expected, "{arrived} bytes have arrived");
    }
    same(frontend::tag::BIND, body, |out| {
        let rest = &body[whole.rest_at..];
        frontend::write::bind_head(out, whole.portal, whole.statement, rest.len());
        out.extend_from_slice(rest);
    });
}

/// Checks that `write` writes this message.
fn same(tag: u8, body: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
    let mut again = Vec::new();
    write(&mut again);
    let mut frames = Frames::new(&again);
    let found = frames.next_frame().expect("a header").expect("a whole message");
    assert_eq!((found.tag, found.body), (tag, body));
    assert!(frames.rest().is_empty(), "bytes behind the message");
}

fn oracle(tag: u8, body: &[u8]) -> Option<Message> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    let bytes = [&[tag], &length[..], body].concat();
    Message::parse(&mut BytesMut::from(&bytes[..])).ok().flatten()
}

/// A stored password is printed as it was read, and any bytes can be a password. The input is a
/// password and a stored one, with a NUL between.
pub fn stored(bytes: &[u8]) {
    let (password, text) = split(bytes);
    if let Some(found) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(found.to_text().as_bytes()), Some(found));
    }
    if let Some(found) = Stored::parse(text) {
        assert_eq!(found.text(), text);
    }
    let salted = salted_password(password, SALT, 1);
    let verifier = Verifier::new(&salted, SALT, 1).expect("salt and count are in bounds");
    assert!(verifier.accepts(&salted));
    let found = Stored::from_password(password, text);
    assert!(found.accepts(&found.answer([1, 2, 3, 4]), [1, 2, 3, 4]));
}

/// Nobody who does not know the password is let in. The input is what a client sends first and
/// last, with a NUL between; the first byte says by which mechanism.
pub fn server(bytes: &[u8]) {
    let (&how, messages) = bytes.split_first().unwrap_or((&0, &[]));
    let (first, last) = split(messages);
    let mechanism = if how & 1 == 0 { Mechanism::Plain } else { Mechanism::Plus };
    let end_point = (how & 2 != 0).then_some(END_POINT);
    let Ok(challenged) = Challenged::new(mechanism, end_point, verifier(), &nonce(9), first) else {
        return;
    };
    let message = challenged.message();
    let end = message.iter().position(|&byte| byte == b',').expect("a salt behind the nonce");
    let nonce = message.strip_prefix(b"r=").map(|_| message[2..end].to_vec());
    let last = fill(last, &nonce.expect("the nonce comes first"));
    let refused = challenged.handle_final(&last).expect_err("nobody can guess a proof");
    let _ = (refused.sqlstate(), refused.to_string());
}

/// No server that does not know the password is believed, and none costs more than the limits
/// say. The input is what a server sends first and last, with a NUL between.
pub fn client(bytes: &[u8]) {
    let (challenge, last) = split(bytes);
    let begun = Begun::new(Binding::Unsupported, nonce(7));
    let nonce = begun.message().strip_prefix(b"n,,n=,r=").expect("no name").to_vec();
    let Ok(challenged) = begun.handle_challenge(&fill(challenge, &nonce)) else {
        return;
    };
    assert!((1..=SCRAM_ITERATIONS_MAX).contains(&challenged.iterations()));
    assert!((1..=SCRAM_SALT_BYTES_MAX).contains(&challenged.salt().len()));
    let refused = challenged.prove(&keys()).handle_final(last);
    assert!(refused.is_err(), "nobody can guess a signature");
}

/// Nobody between client and server can change anything and not be noticed. The input says which
/// message is changed, where, how many bytes are taken out there, and what is put in.
pub fn relay(bytes: &[u8]) {
    let Some((&[how, at, removed], added)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let is_bound = how & 4 != 0;
    let (binding, end_point) = match is_bound {
        true => (Binding::EndPoint(END_POINT), Some(END_POINT)),
        false => (Binding::Unsupported, None),
    };
    let change = |number: u8, message: &[u8]| {
        if how & 3 != number {
            return message.to_vec();
        }
        let at = usize::from(at).min(message.len());
        let behind = (at + usize::from(removed)).min(message.len());
        [&message[..at], added, &message[behind..]].concat()
    };
    let mut is_changed = false;
    let mut relayed = |number: u8, message: &[u8]| {
        let changed = change(number, message);
        is_changed |= changed != message;
        changed
    };

    let mut login = || -> Result<bool, ScramError> {
        let begun = Begun::new(binding, nonce(7));
        let first = relayed(0, begun.message());
        let mechanism = binding.mechanism();
        let challenged = Challenged::new(mechanism, end_point, verifier(), &nonce(9), &first)?;
        let challenge = relayed(1, challenged.message());
        let proved = begun.handle_challenge(&challenge)?.prove(&keys());
        let accepted = challenged.handle_final(&relayed(2, proved.message()))?;
        let last = relayed(3, &accepted.message);
        proved.handle_final(&last)?;
        // Behind the signature there may be extensions, over which nobody signs.
        Ok(last.starts_with(&accepted.message))
    };
    let outcome = login();
    match (how & 3, is_changed) {
        (_, false) => assert_eq!(outcome, Ok(true)),
        (3, true) => assert_ne!(outcome, Ok(false), "another signature was taken"),
        (_, true) => assert!(outcome.is_err(), "a change was not noticed"),
    }
}

fn nonce(byte: u8) -> Nonce {
    Nonce::from_random([byte; NONCE_BYTES])
}

/// One round, so that the fuzzer is fast: how often is not what is fuzzed.
fn keys() -> Keys {
    Keys::from(&salted_password(b"pencil", SALT, 1))
}

fn verifier() -> Verifier {
    let salted = salted_password(b"pencil", SALT, 1);
    Verifier::new(&salted, SALT, 1).expect("salt and count are in bounds")
}

/// What is before and behind the first NUL.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Puts the nonce where the input has its mark.
fn fill(bytes: &[u8], nonce: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = bytes.split(|&byte| byte == NONCE_MARK).collect();
    parts.join(nonce)
}
