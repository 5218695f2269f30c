//! Clients that do not know their passwords, and those beside them that do.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::sync::Mutex;

use pgx_hba::{Files, ReadError};
use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::{Keys, NONCE_BYTES, Nonce, Verifier, client, salted_password};
use pgx_wire::backend::{self, Authentication, Fields};
use pgx_wire::{Frames, frontend};

use super::testing::{Bench, tags};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, Limits, PoolMode};
use crate::limits::{
    GUESS_DELAY_MS_MAX, GUESS_DELAY_MS_MIN, GUESS_HASHES_MAX, GUESS_LOOKS_MAX, GUESS_WAITING_MAX,
    LATE_MAX,
};
use crate::net::Socket;
use crate::route::ServerAddress;
use crate::secret::Secret;

const SALT: [u8; 16] = [3; 16];

/// Few, so that the tests are fast.
const FEW: u32 = 16;

/// Users with the password "right", by the form in which it is kept, and more of them.
fn users() -> BTreeMap<Vec<u8>, Secret> {
    let salted = salted_password(b"right", &SALT, FEW);
    let verifier = Verifier::new(&salted, &SALT, FEW).unwrap();
    BTreeMap::from([
        (b"ann".to_vec(), Secret::Password(b"right".to_vec())),
        (b"digest".to_vec(), Secret::Md5(Stored::from_password(b"right", b"digest"))),
        (b"verifier".to_vec(), Secret::Scram(verifier)),
    ])
}

fn bench(auth: AuthMethod, clients_max: usize) -> Bench {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let database = Database::new(backends, PoolMode::Transaction, 9);
    Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        users: users(),
        auth,
        clients_max,
        limits: Limits { prepared_max: 2, ..Limits::default() },
        ..Config::default()
    })
}

/// Rules by which everybody says the password.
struct OneFile;

impl Files for OneFile {
    fn read(&mut self, _path: &str, _bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        Ok(b"host all all all password\n".to_vec())
    }

    fn list(&mut self, _path: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}

/// A pool that asks for passwords in clear text.
fn clear_text() -> Bench {
    let mut bench = bench(AuthMethod::Rules, 10_000);
    let mut config = (*bench.worker.config).clone();
    let rules = pgx_hba::Rules::read("rules", &mut OneFile).expect("rules");
    let access = crate::config::Access { rules, ident: pgx_hba::Ident::default() };
    config.rules = Some(alloc::sync::Arc::new(access));
    bench.worker.reload(&mut bench.wire, alloc::rc::Rc::new(config), bench.now);
    bench
}

/// What a client is asked.
fn asked(bench: &mut Bench, client: Socket) -> Vec<u8> {
    let challenge = bench.take(client);
    let mut frames = Frames::new(&challenge);
    frames.next_frame().unwrap().expect("a question").body.to_vec()
}

/// A client that has answered with this password whatever it was asked for.
fn try_with(bench: &mut Bench, user: &str, password: &str) -> Socket {
    let client = bench.begin_client_of(user, "shop", &[]);
    let mut out = Vec::new();
    let body = asked(bench, client);
    match backend::authentication(&body).unwrap() {
        Authentication::ClearText => frontend::write::password(&mut out, password.as_bytes()),
        Authentication::Md5 { salt } => {
            let stored = Stored::from_password(password.as_bytes(), user.as_bytes());
            frontend::write::password(&mut out, &stored.answer(salt));
        }
        Authentication::Sasl { .. } => {
            let nonce = Nonce::from_random([1; NONCE_BYTES]);
            let begun = client::Begun::new(client::Binding::Unsupported, nonce);
            frontend::write::sasl_initial(&mut out, "SCRAM-SHA-256", begun.message());
            bench.say(client, &out);
            out.clear();
            let body = asked(bench, client);
            let Authentication::SaslContinue(challenge) = backend::authentication(&body).unwrap()
            else {
                panic!("no challenge")
            };
            let challenged = begun.handle_challenge(challenge).unwrap();
            let (salt, count) = (challenged.salt().to_vec(), challenged.iterations());
            let keys = keys(password, salt, count);
            frontend::write::sasl_response(&mut out, challenged.prove(&keys).message());
        }
        other => panic!("{other:?}"),
    }
    bench.say(client, &out);
    client
}

/// What a client's password is hashed to, which takes long in a build that is not optimised.
fn keys(password: &str, salt: Vec<u8>, count: u32) -> Keys {
    type Which = (Vec<u8>, Vec<u8>, u32);
    static KNOWN: Mutex<BTreeMap<Which, Keys>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let which = (password.as_bytes().to_vec(), salt, count);
    let make =
        |(password, salt, count): &Which| Keys::from(&salted_password(password, salt, *count));
    known.entry(which).or_insert_with_key(make).clone()
}

/// Whether a client has been let in, servers being there.
fn is_in(bench: &mut Bench, client: Socket) -> bool {
    bench.hash_all();
    bench.open_all();
    let told = bench.take(client);
    tags(&told).ends_with('Z')
}

/// The error that a client has read.
fn read(bench: &mut Bench, client: Socket) -> (Vec<u8>, String) {
    let told = bench.take(client);
    let mut frames = Frames::new(&told);
    let body = frames.next_frame().unwrap().expect("an error").body;
    let fields = Fields::new(body);
    let message = String::from_utf8_lossy(fields.message().unwrap()).into_owned();
    (fields.sqlstate().unwrap().to_vec(), message)
}

const METHODS: [AuthMethod; 2] = [AuthMethod::Scram, AuthMethod::Md5];

#[test]
fn wrong_password_is_answered_late_and_later_each_time() {
    for auth in METHODS {
        let mut bench = bench(auth, 100);
        let mut delay = GUESS_DELAY_MS_MIN;
        while delay <= 400 {
            let client = try_with(&mut bench, "ann", "wrong");
            bench.hash_all();
            bench.tick(delay - 1);
            assert!(bench.take(client).is_empty() && !bench.is_closed(client), "{auth:?}");
            bench.tick(1);
            assert_eq!(states(&bench.take(client)), [*b"28P01"], "{auth:?}");
            assert!(bench.is_closed(client));
            delay *= 2;
        }
    }
}

#[test]
fn unknown_user_wrong_password_and_unfit_secret_read_the_same_after_the_same_time() {
    let all = [(AuthMethod::Scram, false), (AuthMethod::Md5, false), (AuthMethod::Rules, true)];
    for (auth, is_clear) in all {
        for user in ["ann", "digest", "verifier", "nobody"] {
            let mut bench = if is_clear { clear_text() } else { bench(auth, 100) };
            let client = try_with(&mut bench, user, "wrong");
            bench.hash_all();
            bench.tick(GUESS_DELAY_MS_MIN - 1);
            assert!(bench.take(client).is_empty(), "{user} by {auth:?}");
            bench.tick(1);
            let message = alloc::format!("password authentication failed for user \"{user}\"");
            assert_eq!(read(&mut bench, client), (b"28P01".to_vec(), message), "by {auth:?}");
        }
    }
}

#[test]
fn challenge_of_a_user_is_there_before_anything_is_hashed_and_the_same_afterwards() {
    let mut bench = bench(AuthMethod::Scram, 100);
    let mut salts = Vec::new();
    for user in ["ann", "nobody", "ann", "nobody"] {
        let client = try_with(&mut bench, user, "right");
        salts.push(bench.wire.hashes.len());
        assert_eq!(is_in(&mut bench, client), user == "ann");
    }
    assert_eq!(salts, [1, 0, 0, 0], "a password is hashed once");
}

#[test]
fn password_that_many_prove_at_once_is_hashed_once() {
    let mut bench = bench(AuthMethod::Scram, 100);
    let right: Vec<_> = (0..5).map(|_| try_with(&mut bench, "ann", "right")).collect();
    let wrong = try_with(&mut bench, "ann", "wrong");
    let gone = try_with(&mut bench, "ann", "right");
    bench.end(gone);
    assert_eq!(bench.hash_all(), 1);
    for client in right {
        assert!(is_in(&mut bench, client));
    }
    bench.tick(GUESS_DELAY_MS_MIN);
    assert_eq!(states(&bench.take(wrong)), [*b"28P01"]);
}

#[test]
fn right_password_gets_in_at_once_while_wrong_ones_wait_and_take_no_places() {
    for auth in METHODS {
        let mut bench = bench(auth, 2);
        let mut wrong = Vec::new();
        for _ in 0..GUESS_WAITING_MAX {
            wrong.push(try_with(&mut bench, "ann", "wrong"));
            bench.hash_all();
        }
        let client = try_with(&mut bench, "ann", "right");
        assert!(is_in(&mut bench, client), "{auth:?}");
        assert!(!wrong.iter().any(|each| bench.is_closed(*each)), "they wait");
        bench.tick(GUESS_DELAY_MS_MAX);
        assert!(wrong.iter().all(|each| bench.is_closed(*each)), "no longer than that");
        let other = try_with(&mut bench, "ann", "right");
        assert!(is_in(&mut bench, other), "the places of those who failed are free");
    }
}

#[test]
fn more_guesses_than_may_wait_are_turned_away_at_once_and_known_users_get_in() {
    for auth in METHODS {
        let mut bench = bench(auth, 10_000);
        let client = try_with(&mut bench, "ann", "right");
        assert!(is_in(&mut bench, client));
        for _ in 0..GUESS_WAITING_MAX {
            try_with(&mut bench, "nobody", "wrong");
        }
        for _ in 0..100 {
            let client = try_with(&mut bench, "nobody", "wrong");
            let (state, message) = read(&mut bench, client);
            assert_eq!(state, b"53300", "{message}");
            assert!(bench.is_closed(client));
        }
        for _ in 0..100 {
            let client = try_with(&mut bench, "ann", "right");
            assert!(is_in(&mut bench, client), "{auth:?}: ann has been in from there before");
        }
        // Of a user that is guessed nothing is looked at any more, and of others it is.
        let client = try_with(&mut bench, "nobody", "right");
        assert_eq!(states(&bench.take(client)), [*b"53300"]);
        bench.tick(GUESS_DELAY_MS_MAX);
        let client = try_with(&mut bench, "nobody", "wrong");
        assert!(bench.take(client).is_empty(), "it waits, as nobody does any more");
    }
}

#[test]
fn who_leaves_before_the_answer_makes_no_room_for_another_guess() {
    let mut bench = bench(AuthMethod::Md5, 10_000);
    for _ in 0..GUESS_WAITING_MAX {
        let client = try_with(&mut bench, "ann", "wrong");
        bench.end(client);
    }
    let client = try_with(&mut bench, "ann", "wrong");
    assert_eq!(states(&bench.take(client)), [*b"53300"]);
}

#[test]
fn passwords_in_clear_text_are_hashed_so_often_and_right_ones_are_known_again() {
    let mut bench = clear_text();
    let mut looked = 0;
    for number in 0..100 {
        let client = try_with(&mut bench, "verifier", &alloc::format!("wrong {number}"));
        looked += usize::from(!bench.is_closed(client));
    }
    assert_eq!((looked, bench.hash_all()), (usize::from(GUESS_HASHES_MAX), looked));
    let client = try_with(&mut bench, "nobody", "wrong");
    assert_eq!(states(&bench.take(client)), [*b"53300"], "users who are not there are no quicker");

    bench.tick(60_000);
    let client = try_with(&mut bench, "verifier", "right");
    assert_eq!(bench.wire.hashes.len(), 1);
    assert!(is_in(&mut bench, client));
    for _ in 0..100 {
        let client = try_with(&mut bench, "verifier", "right");
        assert!(bench.wire.hashes.is_empty() && is_in(&mut bench, client));
    }
    let client = try_with(&mut bench, "verifier", "wrong");
    assert_eq!(bench.wire.hashes.len(), 1);
    assert!(!is_in(&mut bench, client));
}

#[test]
fn password_that_has_changed_is_not_known_again() {
    let mut bench = clear_text();
    for _ in 0..2 {
        let client = try_with(&mut bench, "verifier", "right");
        assert!(is_in(&mut bench, client));
    }
    let mut config = (*bench.worker.config).clone();
    let salted = salted_password(b"other", &SALT, FEW);
    let verifier = Verifier::new(&salted, &SALT, FEW).unwrap();
    config.users.insert(b"verifier".to_vec(), Secret::Scram(verifier));
    config.users.insert(b"ann".to_vec(), Secret::Password(b"other".to_vec()));
    bench.worker.reload(&mut bench.wire, alloc::rc::Rc::new(config), bench.now);
    for user in ["verifier", "ann"] {
        let client = try_with(&mut bench, user, "right");
        assert!(!is_in(&mut bench, client), "{user}");
        let client = try_with(&mut bench, user, "other");
        assert!(is_in(&mut bench, client), "{user}");
    }
}

#[test]
fn connections_that_wait_for_their_refusal_are_bounded_over_all_addresses() {
    let mut bench = bench(AuthMethod::Md5, 100_000);
    let mut waiting = 0;
    for number in 0..LATE_MAX + 100 {
        bench.wire.from = u32::try_from(number / 4).unwrap();
        let client = try_with(&mut bench, "ann", "wrong");
        waiting += usize::from(!bench.is_closed(client));
    }
    assert_eq!(waiting, LATE_MAX);
}

#[test]
fn operator_hears_of_each_of_few_failures_and_of_an_address_with_many() {
    let mut bench = bench(AuthMethod::Md5, 10_000);
    for _ in 0..1_000 {
        try_with(&mut bench, "ann", "wrong");
    }
    let count = |kind: &str| bench.wire.notes.iter().filter(|note| note.starts_with(kind)).count();
    assert!(count("Unproved") == 10 && count("Refused") == 0, "{:?}", bench.wire.notes);
    // Of those that are not looked at nobody can tell whether they were wrong.
    let looked = GUESS_WAITING_MAX + usize::from(GUESS_LOOKS_MAX);
    let doublings = (1..).take_while(|times| 10 << times <= looked).count();
    assert_eq!(count("Guessing"), doublings + 1);
    let secret = |note: &String| note.contains("wrong\"") || note.contains("right");
    assert!(!bench.wire.notes.iter().any(secret), "{:?}", bench.wire.notes);
}

#[test]
fn server_is_proved_to_once_the_password_is_hashed_which_is_done_once() {
    let mut bench = bench(AuthMethod::Trust, 100);
    bench.begin_client_of("ann", "shop", &[]);
    let mut hashed = Vec::new();
    for _ in 0..2 {
        let server = bench.wire.connects.pop().expect("a server");
        bench.reach(server);
        let mut out = Vec::new();
        backend::write::sasl(&mut out, &["SCRAM-SHA-256"]);
        bench.say(server, &out);
        let initial = bench.take(server);
        let body = Frames::new(&initial).next_frame().unwrap().unwrap().body;
        let (_, first) = frontend::sasl_initial(body).unwrap();
        let salted = salted_password(b"right", &SALT, FEW);
        let verifier = Verifier::new(&salted, &SALT, FEW).unwrap();
        let nonce = Nonce::from_random([2; NONCE_BYTES]);
        let mechanism = pgx_wire::auth::scram::Mechanism::Plain;
        let first = first.expect("a message");
        let challenged = pgx_wire::auth::scram::server::Challenged::new(
            mechanism, None, verifier, &nonce, first,
        );
        let challenged = challenged.unwrap();
        out.clear();
        backend::write::sasl_continue(&mut out, challenged.message());
        bench.say(server, &out);
        hashed.push(bench.hash_all());
        let proof = bench.take(server);
        let body = Frames::new(&proof).next_frame().unwrap().unwrap().body;
        challenged.handle_final(frontend::sasl_response(body)).expect("it proves itself");
        bench.end(server);
        bench.tick(1_000);
        bench.begin_client_of("ann", "shop", &[]);
    }
    assert_eq!(hashed, [1, 0]);
}
