//! Both sides together, each against another implementation, and against those who lie.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::client::{Begun, Binding, Proved};
use super::server::{Accepted, Challenged};
use super::*;
use crate::limits::{SCRAM_ITERATIONS_DEFAULT, SCRAM_ITERATIONS_MAX};

/// Few, so that the tests are fast.
const ITERATIONS: u32 = 16;
const SALT: &[u8] = b"sixteen bytes of";
const END_POINT: &[u8] = b"hash of a certificate";

fn verifier(password: &[u8]) -> Verifier {
    let salted = salted_password(password, SALT, ITERATIONS);
    Verifier::new(&salted, SALT, ITERATIONS).unwrap()
}

fn ours() -> Nonce {
    Nonce::from_random([7; NONCE_BYTES])
}

fn theirs() -> Nonce {
    Nonce::from_random([9; NONCE_BYTES])
}

/// A client with this password up to its proof, and the server that waits for it.
fn prove(password: &[u8], binding: Binding<'_>, end_point: Option<&[u8]>) -> (Proved, Challenged) {
    let begun = Begun::new(binding, ours());
    let mechanism = binding.mechanism();
    let verifier = verifier(b"pencil");
    let server =
        Challenged::new(mechanism, end_point, verifier, &theirs(), begun.message()).unwrap();
    let client = begun.handle_challenge(server.message()).unwrap();
    let salted = salted_password(password, client.salt(), client.iterations());
    (client.prove(&Keys::from(&salted)), server)
}

/// The first answer of a server to this message of a client.
fn challenge(mechanism: Mechanism, end_point: Option<&[u8]>, first: &str) -> Option<ScramError> {
    let first = first.as_bytes();
    Challenged::new(mechanism, end_point, verifier(b"pencil"), &theirs(), first).err()
}

#[test]
fn the_exchange_of_the_rfc_is_answered_to_the_letter() {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::new(&salted_password(b"pencil", &salt, 4096), &salt, 4096).unwrap();
    let nonce = Nonce(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_vec());
    let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    let server = Challenged::new(Mechanism::Plain, None, verifier, &nonce, first).unwrap();
    let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(server.message(), expected.as_bytes());

    let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let accepted = server.handle_final(last).unwrap();

    assert_eq!(accepted.message, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn both_sides_agree_with_and_without_a_channel() {
    let cases = [
        (Binding::Unsupported, None),
        (Binding::Unsupported, Some(END_POINT)),
        (Binding::NotOffered, None),
        (Binding::EndPoint(END_POINT), Some(END_POINT)),
    ];
    for (binding, end_point) in cases {
        let (client, server) = prove(b"pencil", binding, end_point);
        let accepted = server.handle_final(client.message()).unwrap();
        assert_eq!(client.handle_final(&accepted.message), Ok(()), "{binding:?}");
    }
}

#[test]
fn another_implementations_client_is_let_in_by_each_mechanism() {
    type MakeBinding = fn() -> ChannelBinding;
    let bound: MakeBinding = || ChannelBinding::tls_server_end_point(END_POINT.to_vec());
    let cases = [
        (Mechanism::Plain, None, ChannelBinding::unsupported as MakeBinding),
        (Mechanism::Plain, None, ChannelBinding::unrequested),
        (Mechanism::Plus, Some(END_POINT), bound),
    ];
    for (mechanism, end_point, binding) in cases {
        for password in [&b"pencil"[..], b"I\xc2\xadX", b"\xff\x01", b""] {
            let mut client = ScramSha256::new(password, binding());
            let verifier = verifier(password);
            let first = client.message().to_vec();
            let server =
                Challenged::new(mechanism, end_point, verifier, &theirs(), &first).unwrap();
            client.update(server.message()).unwrap();
            let accepted = server.handle_final(client.message()).unwrap();
            client.finish(&accepted.message).unwrap();
        }
    }
}

#[test]
fn another_implementations_client_with_a_wrong_password_is_refused() {
    let mut client = ScramSha256::new(b"Pencil", ChannelBinding::unsupported());
    let first = client.message().to_vec();
    let verifier = verifier(b"pencil");
    let server = Challenged::new(Mechanism::Plain, None, verifier, &theirs(), &first).unwrap();
    client.update(server.message()).unwrap();
    assert_eq!(server.handle_final(client.message()).unwrap_err(), ScramError::WrongPassword);
}

#[test]
fn a_client_that_was_let_in_can_be_logged_in_elsewhere_without_its_password() {
    let (client, server) = prove(b"pencil", Binding::Unsupported, None);
    let Accepted { keys, .. } = server.handle_final(client.message()).unwrap();

    let begun = Begun::new(Binding::Unsupported, theirs());
    let backend =
        Challenged::new(Mechanism::Plain, None, verifier(b"pencil"), &ours(), begun.message());
    let backend = backend.unwrap();
    let proved = begun.handle_challenge(backend.message()).unwrap().prove(&keys);
    let accepted = backend.handle_final(proved.message()).unwrap();

    assert_eq!(proved.handle_final(&accepted.message), Ok(()));
}

#[test]
fn an_unknown_user_is_answered_like_a_known_one_and_refused_like_a_wrong_password() {
    let secret = Key::from([1; 32]);
    let mock = || Verifier::mock(&secret, b"nobody", SCRAM_ITERATIONS_DEFAULT);
    assert_eq!(mock(), mock(), "the salt must not change between logins");
    let of_another_user = Verifier::mock(&secret, b"nobody else", SCRAM_ITERATIONS_DEFAULT);
    let of_another_node = Verifier::mock(&Key::from([2; 32]), b"nobody", SCRAM_ITERATIONS_DEFAULT);
    for other in [of_another_user, of_another_node] {
        assert_ne!(mock().salt(), other.salt());
        assert_ne!(mock().stored(), other.stored());
        assert_ne!(mock().server(), other.server());
    }

    let begun = Begun::new(Binding::Unsupported, ours());
    let first = begun.message();
    let server = Challenged::new(Mechanism::Plain, None, mock(), &theirs(), first).unwrap();
    let real = salted_password(b"pencil", SALT, SCRAM_ITERATIONS_DEFAULT);
    let real = Verifier::new(&real, SALT, SCRAM_ITERATIONS_DEFAULT).unwrap();
    let other = Challenged::new(Mechanism::Plain, None, real, &theirs(), first).unwrap();
    assert_eq!(server.message().len(), other.message().len());
    let client = begun.handle_challenge(server.message()).unwrap();
    let salted = salted_password(b"pencil", client.salt(), client.iterations());
    let proved = client.prove(&Keys::from(&salted));
    let error = server.handle_final(proved.message()).unwrap_err();
    assert_eq!(error, ScramError::WrongPassword);
}

#[test]
fn a_client_from_whom_the_offer_of_a_channel_was_hidden_is_refused() {
    let hidden = challenge(Mechanism::Plain, Some(END_POINT), "y,,n=,r=abc");
    assert_eq!(hidden, Some(ScramError::Downgrade));
    assert_eq!(challenge(Mechanism::Plain, None, "y,,n=,r=abc"), None);
}

#[test]
fn a_flag_that_contradicts_the_mechanism_is_refused() {
    let (plain, plus) = (Mechanism::Plain, Mechanism::Plus);
    let bound = "p=tls-server-end-point,,n=,r=abc";
    let flag = Some(ScramError::BindingFlag);
    assert_eq!(challenge(plain, Some(END_POINT), bound), flag);
    assert_eq!(challenge(plus, None, bound), flag);
    assert_eq!(challenge(plus, Some(END_POINT), "n,,n=,r=abc"), flag);
    assert_eq!(challenge(plus, Some(END_POINT), "y,,n=,r=abc"), flag);
    let unique = "p=tls-unique,,n=,r=abc";
    assert_eq!(challenge(plus, Some(END_POINT), unique), Some(ScramError::BindingType));
}

#[test]
fn a_client_that_is_bound_to_another_channel_is_refused() {
    let (client, server) = {
        let begun = Begun::new(Binding::EndPoint(b"certificate of who relays"), ours());
        let verifier = verifier(b"pencil");
        let first = begun.message();
        let server =
            Challenged::new(Mechanism::Plus, Some(END_POINT), verifier, &theirs(), first).unwrap();
        let client = begun.handle_challenge(server.message()).unwrap();
        let salted = salted_password(b"pencil", client.salt(), client.iterations());
        (client.prove(&Keys::from(&salted)), server)
    };
    assert_eq!(server.handle_final(client.message()).unwrap_err(), ScramError::Binding);
}

#[test]
fn first_messages_that_are_none_are_refused_by_what_is_wrong_with_them() {
    let malformed =
        |attribute| Some(ScramError::Malformed { message: "client-first-message", attribute });
    let cases = [
        ("", malformed("channel binding flag")),
        ("x,,n=,r=a", malformed("channel binding flag")),
        ("n", malformed("authorization identity")),
        ("n,x,n=,r=a", malformed("authorization identity")),
        ("n,a=root,n=,r=a", Some(ScramError::Authzid)),
        ("n,,", malformed("user name")),
        ("n,,r=a,n=", malformed("user name")),
        ("n,,m=x,n=,r=a", Some(ScramError::Extension)),
        ("n,,n=", malformed("nonce")),
        ("n,,n=,r=", malformed("nonce")),
        ("n,,n=,r=a b", malformed("nonce")),
        ("n,,n=,r=a,x=an extension is passed over", None),
    ];
    for (first, expected) in cases {
        assert_eq!(challenge(Mechanism::Plain, None, first), expected, "{first}");
    }
    let long = format!("n,,n=,r={}", "a".repeat(1017));
    let expected = ScramError::TooLong { message: "client-first-message", bytes: 1025 };
    assert_eq!(challenge(Mechanism::Plain, None, &long), Some(expected));
    assert_eq!(challenge(Mechanism::Plain, None, &long[..1024]), None);
}

#[test]
fn last_messages_that_are_none_are_refused_by_what_is_wrong_with_them() {
    let (client, _) = prove(b"pencil", Binding::Unsupported, None);
    let good = String::from_utf8(client.message().to_vec()).unwrap();
    let (unproved, proof) = good.split_once(",p=").unwrap();
    let malformed =
        |attribute| ScramError::Malformed { message: "client-final-message", attribute };
    let cases = [
        (String::new(), malformed("channel binding")),
        (good.replace("c=biws", "c=eSws"), ScramError::Binding),
        (good.replace("c=biws", "c="), ScramError::Binding),
        (String::from("c=biws"), malformed("nonce")),
        (good.replace(",r=", ",r=x"), ScramError::Nonce),
        (String::from("c=biws,r=abc,p="), ScramError::Nonce),
        (String::from(unproved), malformed("proof")),
        (format!("{unproved},p="), malformed("proof")),
        (format!("{unproved},p={}", &proof[4..]), malformed("proof")),
        (format!("{unproved},p={proof}{proof}"), malformed("proof")),
        (format!("{good},x=y"), malformed("proof")),
        // Signed over, and so no longer what was signed.
        (format!("{unproved},x=y,p={proof}"), ScramError::WrongPassword),
    ];
    for (last, expected) in cases {
        let (_, server) = prove(b"pencil", Binding::Unsupported, None);
        assert_eq!(server.handle_final(last.as_bytes()).unwrap_err(), expected, "{last}");
    }
}

/// What a client makes of this challenge.
fn take(challenge: &str) -> Option<ScramError> {
    let begun = Begun::new(Binding::Unsupported, ours());
    begun.handle_challenge(challenge.as_bytes()).err()
}

#[test]
fn a_server_that_lies_about_the_nonce_is_refused() {
    let Nonce(ours) = ours();
    let ours = String::from_utf8(ours).unwrap();
    assert_eq!(take(&format!("r={ours}x,s=YQ==,i=1")), None);
    for nonce in [&ours[..], "x", &format!("x{ours}"), &ours[1..]] {
        let challenge = format!("r={nonce},s=YQ==,i=1");
        assert_eq!(take(&challenge), Some(ScramError::Nonce), "{challenge}");
    }
}

#[test]
fn a_server_that_asks_for_too_much_work_or_memory_is_refused() {
    let Nonce(ours) = ours();
    let start = format!("r={}x", String::from_utf8(ours).unwrap());
    let malformed =
        |attribute| Some(ScramError::Malformed { message: "server-first-message", attribute });
    let most = SCRAM_ITERATIONS_MAX;
    assert_eq!(take(&format!("{start},s=YQ==,i={most}")), None);
    let above = most + 1;
    let huge = "99999999999999999999999999";
    let cases = [
        (format!("s=YQ==,i={above}"), Some(ScramError::Iterations { found: above.into() })),
        (format!("s=YQ==,i={huge}"), Some(ScramError::Iterations { found: u64::MAX })),
        (String::from("s=YQ==,i=0"), Some(ScramError::Iterations { found: 0 })),
        (String::from("s=YQ==,i=-1"), malformed("iteration count")),
        (String::from("s=YQ==,i="), malformed("iteration count")),
        (String::from("s=YQ=="), malformed("iteration count")),
        (String::from("s=,i=1"), Some(ScramError::Salt { bytes: 0 })),
        (String::from("s=*,i=1"), malformed("salt")),
        (String::from("m=x,s=YQ==,i=1"), Some(ScramError::Extension)),
        (format!("s={},i=1", "YWFh".repeat(86)), Some(ScramError::Salt { bytes: 258 })),
        (String::from("s=YQ==,i=1,x=an extension is passed over"), None),
    ];
    for (rest, expected) in cases {
        assert_eq!(take(&format!("{start},{rest}")), expected, "{rest}");
    }
}

#[test]
fn a_server_without_the_password_is_not_believed() {
    let finish = |last: &[u8]| {
        let (client, _) = prove(b"pencil", Binding::Unsupported, None);
        client.handle_final(last)
    };
    let malformed =
        |attribute| ScramError::Malformed { message: "server-final-message", attribute };
    let zeros = format!("v={}", STANDARD.encode([0; 32]));
    assert_eq!(finish(zeros.as_bytes()), Err(ScramError::WrongServer));
    assert_eq!(finish(b"e=other-error"), Err(ScramError::Refused));
    assert_eq!(finish(b""), Err(malformed("signature")));
    assert_eq!(finish(b"v="), Err(malformed("signature")));
    assert_eq!(finish(b"v=YQ=="), Err(malformed("signature")));
}

/// Made by PostgreSQL 15: `create user … password …`.
const STORED: [(&str, &str); 10] = [
    (
        "pencil",
        "nrXiIRrlzszxCNNFKQDuWA==$ru/bFRfABJSqdhwvdHsc93Rm99YUc7bUY7FJJ4q5AZk=:\
         yQaEP5a0Rr0HW99x/gCiLBoBeY7akzO+Z5GkDMe1wpo=",
    ),
    (
        "I\u{ad}X",
        "yjmUxIqsN22bwCkAZMqR2Q==$GSSZs1o2+q2cJN2B6gOqyxuE9dkzHWcKqDfftMwK8I4=:\
         72I/4mFqY5vzHJmwZgUx4yIh5c/94AkT6n3oJJr/qzs=",
    ),
    (
        "\u{340}\u{aa}",
        "bXcvsfV3ix3JmF1LWrH9Nw==$AWpnYBT3YXRlVjguabE3yBLsNbllXxhNnJH4XBodhWk=:\
         DpYUFapvLgGcvhcvOuvWxL3vYAEV6c8b7QaDIj6ap9I=",
    ),
    (
        "\u{1f100}\u{aa}",
        "ti321Fd1BuUIxH11wMIJ6w==$54f8iZqjWdBHxo6qWUfGF+7cTMrZ19GvB60A7GphLW8=:\
         5vdVQMscg0JGZ6iIeO2BcKHOoB3LB0vFzfitCg1rjZ0=",
    ),
    (
        "\u{ad}",
        "RipHdfY3Ut4/cGqCpYIiQA==$xVo7eay5tNsvAApFOB+kPHI5mBEj5xYItVEYVyDBkoQ=:\
         kaYZWi0gvfgtP9WzHTCmQVX3his0OhT0Qd89WNJnl8M=",
    ),
    (
        "\u{2168} \u{3000}\u{e9}e\u{301}",
        "L2r+UfiicgwgK0jQu6ghGQ==$N3DOcjXEzqPzVEU95wGblKkpqj1N4Ty2p42GNuub3Cs=:\
         4o61514VwDWiIyDLzaGzo8gK+cTL85OKGmbfIAjHKUg=",
    ),
    (
        "\u{627}\u{628}",
        "WZm259oj+HyipKB91UOUQQ==$lXvxD+cudGRmUM9HvoTIMP+sdtQ5FR77PcJ3qAjHIfw=:\
         PkumrWfZ0XniazimLb5QJqC1BtCj0h9HJadg5iBsaYw=",
    ),
    (
        "\u{627}x",
        "9PatRl5+ce1Ti/a0KFW4yA==$rVOOWwQPJQMX/lUUb/V1igcHDIEsPZRDwP0asckzTD8=:\
         WwxkZwXPX2rjapVPIeQSJMtsNLMrVm8fzr1QFaM2emE=",
    ),
    (
        "\u{2135}\u{627}",
        "EfwhusC+ntt+IJCo/DwInQ==$c6O8wZkk11FTkDusRDVk/XG8/jO41+vYlK/YGwdA5IY=:\
         223e0EtjAyaVZZlVqvTUo2jGTRYdLSgF/KzSqW1Shr0=",
    ),
    (
        "\u{fdfa}\u{2135}",
        "qomvKUg/iEx96D6KiTnTog==$TTlRFEY7CR3EWRLFwNyukvNauWH4hKr2k8Q7SRJpeBc=:\
         ZWGCf5Ym26EaFIa7Zt3X8oJ0qm7EgBHWxkXZHeQ7Tmg=",
    ),
];

#[test]
fn passwords_that_postgresql_stored_are_read_printed_and_known_again() {
    for (password, stored) in STORED {
        let text = format!("SCRAM-SHA-256$4096:{stored}");
        let verifier = Verifier::parse(text.as_bytes()).unwrap();
        assert_eq!(*verifier.to_text(), text);
        let salted = salted_password(password.as_bytes(), verifier.salt(), 4096);
        assert!(verifier.accepts(&salted), "{password:?}");
        assert_eq!(Verifier::new(&salted, verifier.salt(), 4096), Some(verifier));
    }
}

#[test]
fn what_another_implementation_would_store_is_known_again() {
    for password in [&b"pencil"[..], b"I\xc2\xadX", b"\xff"] {
        let text = postgres_protocol::password::scram_sha_256(password);
        let verifier = Verifier::parse(text.as_bytes()).unwrap();
        let salted = salted_password(password, verifier.salt(), verifier.iterations());
        assert!(verifier.accepts(&salted));
        assert!(!verifier.accepts(&salted_password(b"x", verifier.salt(), 4096)));
    }
}

#[test]
fn only_what_postgresql_takes_for_a_verifier_is_one() {
    let good = format!("SCRAM-SHA-256$4096:{}", STORED[0].1);
    assert!(Verifier::parse(good.as_bytes()).is_some());
    let bad = [
        String::new(),
        String::from("md5132ecbcbfa11be529b63ea4c4e734056"),
        good.replace("4096", "0"),
        good.replace("4096", "1000001"),
        good.replace("4096", "00000004096x"),
        good.replace("SHA-256$", "SHA-512$"),
        good.replace("nrXiIRrlzszxCNNFKQDuWA==", ""),
        good.replace(":yQ", ":"),
        good.replace(':', "$"),
        format!("{good}="),
    ];
    for text in &bad {
        assert!(Verifier::parse(text.as_bytes()).is_none(), "{text}");
    }
    let no_key: Vec<_> = good.bytes().take(good.len() - 4).collect();
    assert!(Verifier::parse(&no_key).is_none());
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let verifier = verifier(b"pencil");
    assert_eq!(format!("{verifier:?}"), "Verifier(16 iterations, ..)");
    let salted = salted_password(b"pencil", SALT, ITERATIONS);
    assert_eq!(format!("{salted:?}"), "SaltedPassword(Key(..))");
    let keys = Keys::from(&salted);
    assert_eq!(format!("{keys:?}"), "Keys { client: Key(..), server: Key(..) }");
}
