//! The client's side: logs in with a password, or with keys that were learned from a client.
//!
//! The server is not trusted before it has proved that it knows the password: how much it can make
//! us work is bounded, and a login without its proof is none.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::message::{self, Attributes, FLAG_END_POINT, channel, signed};
use super::{Key, Keys, Mechanism, Nonce, ScramError, hmac, stored_key};
use crate::limits::SCRAM_SALT_BYTES_MAX;

/// What this side knows of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding<'a> {
    /// It cannot bind to one: there is no TLS.
    Unsupported,
    /// It could, but the server does not offer to.
    NotOffered,
    /// The hash of the server's certificate (RFC 5929, `tls-server-end-point`).
    EndPoint(&'a [u8]),
}

impl<'a> Binding<'a> {
    /// The strongest that goes with what the server offers; `None` when it offers no mechanism that
    /// is spoken here. `end_point` is the hash of its certificate if there is TLS.
    #[must_use]
    pub fn choose<'b>(
        offered: impl IntoIterator<Item = &'b [u8]>,
        end_point: Option<&'a [u8]>,
    ) -> Option<Self> {
        let (mut plain, mut plus) = (false, false);
        for mechanism in offered.into_iter().filter_map(Mechanism::from_name) {
            match mechanism {
                Mechanism::Plain => plain = true,
                Mechanism::Plus => plus = true,
            }
        }
        match end_point {
            Some(end_point) if plus => Some(Self::EndPoint(end_point)),
            _ if !plain => None,
            Some(_) => Some(Self::NotOffered),
            None => Some(Self::Unsupported),
        }
    }

    /// The mechanism that goes with it.
    #[must_use]
    pub fn mechanism(self) -> Mechanism {
        match self {
            Self::EndPoint(_) => Mechanism::Plus,
            Self::Unsupported | Self::NotOffered => Mechanism::Plain,
        }
    }

    fn flag(self) -> &'static [u8] {
        match self {
            Self::Unsupported => b"n",
            Self::NotOffered => b"y",
            Self::EndPoint(_) => FLAG_END_POINT,
        }
    }
}

/// An exchange that waits for the server's challenge.
#[derive(Debug)]
pub struct Begun {
    message: Vec<u8>,
    /// Where in the message the name begins.
    first_at: usize,
    nonce: Nonce,
    channel: Vec<u8>,
}

impl Begun {
    /// Begins an exchange.
    #[must_use]
    pub fn new(binding: Binding<'_>, nonce: Nonce) -> Self {
        let flag = binding.flag();
        let data = if let Binding::EndPoint(end_point) = binding { end_point } else { &[] };
        // PostgreSQL goes by the name in the start-up packet; as libpq does, this one stays empty.
        let message = [flag, b",,n=,r=", &nonce.0].concat();
        Self { message, first_at: flag.len() + 2, nonce, channel: channel(flag, data) }
    }

    /// What the server is to be sent in `SASLInitialResponse`.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Takes the server's challenge.
    ///
    /// # Errors
    /// When it cannot be read, is of another exchange, or asks for more work than is allowed.
    pub fn handle_challenge(self, challenge: &[u8]) -> Result<Challenged, ScramError> {
        let mut attributes = Attributes::new("server-first-message", challenge)?;
        let nonce = attributes.nonce()?;
        if nonce.strip_prefix(&self.nonce.0[..]).is_none_or(<[u8]>::is_empty) {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD.decode(attributes.value(b's', "salt")?);
        let salt = salt.map_err(|_| attributes.malformed("salt"))?;
        if !(1..=SCRAM_SALT_BYTES_MAX).contains(&salt.len()) {
            return Err(ScramError::Salt { bytes: salt.len() });
        }
        let iterations = message::iterations(attributes.value(b'i', "iteration count")?)?;
        let answer = [&self.channel[..], b",r=", nonce].concat();
        let signed = signed(&self.message[self.first_at..], challenge, &answer);
        Ok(Challenged { salt, iterations, answer, signed })
    }
}

/// An exchange that waits for keys: those that [`super::salted_password`] gives with this salt and
/// count, now or at an earlier login, or those that a client's login left.
#[derive(Debug)]
pub struct Challenged {
    salt: Vec<u8>,
    iterations: u32,
    answer: Vec<u8>,
    signed: Vec<u8>,
}

impl Challenged {
    /// What the server hashed the password with. Keys that were made with another do not fit.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// How often the server hashed the password.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Proves to the server that the keys are known.
    #[must_use]
    pub fn prove(self, keys: &Keys) -> Proved {
        let signature = hmac(&stored_key(&keys.client), &[&self.signed]);
        let proof = STANDARD.encode(signature.xor(&keys.client).bytes());
        let message = [&self.answer[..], b",p=", proof.as_bytes()].concat();
        Proved { message, expected: hmac(&keys.server, &[&self.signed]) }
    }
}

/// An exchange that waits for the server's own proof.
#[derive(Debug)]
pub struct Proved {
    message: Vec<u8>,
    expected: Key,
}

impl Proved {
    /// What the server is to be sent in `SASLResponse`.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Takes the server's last message. Only after this has succeeded is the login one.
    ///
    /// # Errors
    /// When the message cannot be read, is an error, or the server does not know the password.
    pub fn handle_final(self, final_message: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new("server-final-message", final_message)?;
        if final_message.starts_with(b"e=") {
            return Err(ScramError::Refused);
        }
        let found = message::key(attributes.value(b'v', "signature")?);
        let found = found.ok_or(attributes.malformed("signature"))?;
        if found == self.expected { Ok(()) } else { Err(ScramError::WrongServer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::salted_password;

    /// The exchange of RFC 7677, section 3; only its user's name is not left empty.
    #[test]
    fn the_exchange_of_the_rfc_is_spoken_to_the_letter() {
        let begun = Begun {
            message: b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO".to_vec(),
            first_at: 3,
            nonce: Nonce(b"rOprNGfwEbeRWgbNEkqO".to_vec()),
            channel: b"c=biws".to_vec(),
        };
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let challenged = begun.handle_challenge(challenge).unwrap();
        let (salt, iterations) = (challenged.salt(), challenged.iterations());
        let keys = Keys::from(&salted_password(b"pencil", salt, iterations));

        let proved = challenged.prove(&keys);

        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(proved.message(), expected.as_bytes());
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(proved.handle_final(last), Ok(()));
    }

    #[test]
    fn a_client_without_a_name_differs_from_the_rfcs_in_nothing_else() {
        let nonce = Nonce(b"rOprNGfwEbeRWgbNEkqO".to_vec());
        let begun = Begun::new(Binding::Unsupported, nonce);
        assert_eq!(begun.message(), b"n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!((begun.first_at, &begun.channel[..]), (3, &b"c=biws"[..]));
    }

    #[test]
    fn the_strongest_that_both_sides_can_do_is_chosen() {
        let (plain, plus) = (&b"SCRAM-SHA-256"[..], &b"SCRAM-SHA-256-PLUS"[..]);
        let end_point = Some(&b"hash"[..]);
        let choose = |offered: &[&'static [u8]], end_point: Option<&'static [u8]>| {
            Binding::choose(offered.iter().copied(), end_point)
        };
        assert_eq!(choose(&[plus, plain], end_point), Some(Binding::EndPoint(b"hash")));
        assert_eq!(choose(&[plain], end_point), Some(Binding::NotOffered));
        assert_eq!(choose(&[plus, plain], None), Some(Binding::Unsupported));
        assert_eq!(choose(&[plus], None), None);
        assert_eq!(choose(&[b"OAUTHBEARER"], end_point), None);
    }
}
