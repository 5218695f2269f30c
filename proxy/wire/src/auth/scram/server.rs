//! The server's side: challenges a client, and lets it in if its proof fits a verifier.
//!
//! An unknown user is given [`Verifier::mock`], and then is refused as for a wrong password, after
//! the same steps.

use alloc::format;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::message::{self, Attributes, FLAG_END_POINT, channel, signed};
use super::{Keys, Mechanism, Nonce, ScramError, Verifier, hmac, stored_key};

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub struct Challenged {
    verifier: Verifier,
    /// The client's first message, without what comes before the name.
    first: Vec<u8>,
    challenge: Vec<u8>,
    /// The attribute by which the client must name what it bound itself to.
    channel: Vec<u8>,
    /// Both nonces.
    nonce: Vec<u8>,
}

/// A client that proved that it knows the password.
#[derive(Debug)]
pub struct Accepted {
    /// With these one can log in as this client elsewhere, under the same verifier.
    pub keys: Keys,
    /// What it is to be sent in `AuthenticationSASLFinal`; by it the server proves itself.
    pub message: Vec<u8>,
}

impl Challenged {
    /// Takes the client's first message. `end_point` is the hash of the server's certificate (RFC
    /// 5929, `tls-server-end-point`) if [`Mechanism::Plus`] was offered, else `None`.
    ///
    /// # Errors
    /// When the message cannot be read, or contradicts mechanism or offer.
    pub fn new(
        mechanism: Mechanism,
        end_point: Option<&[u8]>,
        verifier: Verifier,
        nonce: &Nonce,
        first_message: &[u8],
    ) -> Result<Self, ScramError> {
        let mut attributes = Attributes::new("client-first-message", first_message)?;
        let flag = attributes.next_part().unwrap_or_default();
        let bound_to = check_flag(flag, mechanism, end_point)
            .ok_or(attributes.malformed("channel binding flag"))??;
        match attributes.next_part() {
            Some([]) => {}
            Some([b'a', b'=', ..]) => return Err(ScramError::Authzid),
            _ => return Err(attributes.malformed("authorization identity")),
        }
        let first = attributes.rest();
        // PostgreSQL goes by the name in the start-up packet; libpq leaves this one empty.
        attributes.value(b'n', "user name")?;
        let theirs = attributes.nonce()?;
        let nonce = [theirs, &nonce.0].concat();
        let how = format!(",s={},i={}", STANDARD.encode(verifier.salt()), verifier.iterations());
        let challenge = [b"r=", &nonce[..], how.as_bytes()].concat();
        let channel = channel(flag, bound_to);
        Ok(Self { verifier, first: first.to_vec(), challenge, channel, nonce })
    }

    /// By what the proof will be judged.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Has the proof judged by another verifier, which was not there when the challenge was made.
    /// None but one of the same salt and count can fit it.
    #[must_use]
    pub fn judged_by(self, verifier: Verifier) -> Self {
        Self { verifier, ..self }
    }

    /// What the client is to be sent in `AuthenticationSASLContinue`.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.challenge
    }

    /// Takes the client's last message.
    ///
    /// # Errors
    /// When the message cannot be read, is of another exchange or channel, or the proof is wrong.
    pub fn handle_final(self, final_message: &[u8]) -> Result<Accepted, ScramError> {
        let mut attributes = Attributes::new("client-final-message", final_message)?;
        attributes.value(b'c', "channel binding")?;
        if attributes.taken() != self.channel {
            return Err(ScramError::Binding);
        }
        if attributes.nonce()? != self.nonce {
            return Err(ScramError::Nonce);
        }
        // Extensions that are not known are to be passed over; the proof comes last.
        let (unproved, proof) = loop {
            let unproved = attributes.taken();
            match attributes.next_part() {
                Some([b'p', b'=', proof @ ..]) => break (unproved, proof),
                Some(_) => {}
                None => return Err(attributes.malformed("proof")),
            }
        };
        let proof = message::key(proof).filter(|_| attributes.next_part().is_none());
        let proof = proof.ok_or(attributes.malformed("proof"))?;

        let signed = signed(&self.first, &self.challenge, unproved);
        let client = hmac(self.verifier.stored(), &[&signed]).xor(&proof);
        let server = self.verifier.server();
        let signature = STANDARD.encode(hmac(server, &[&signed]).bytes());
        if stored_key(&client) != *self.verifier.stored() {
            return Err(ScramError::WrongPassword);
        }
        let keys = Keys { client, server: server.clone() };
        Ok(Accepted { keys, message: [b"v=", signature.as_bytes()].concat() })
    }
}

/// What the client binds itself to, by the flag that opens its first message; `None` when that is
/// no flag.
fn check_flag<'a>(
    flag: &[u8],
    mechanism: Mechanism,
    end_point: Option<&'a [u8]>,
) -> Option<Result<&'a [u8], ScramError>> {
    let verdict = match (flag, mechanism, end_point) {
        (FLAG_END_POINT, Mechanism::Plus, Some(end_point)) => Ok(end_point),
        (b"y", Mechanism::Plain, Some(_)) => Err(ScramError::Downgrade),
        (b"n" | b"y", Mechanism::Plain, _) => Ok(&[][..]),
        (FLAG_END_POINT | b"n" | b"y", _, _) => Err(ScramError::BindingFlag),
        ([b'p', b'=', ..], _, _) => Err(ScramError::BindingType),
        _ => return None,
    };
    Some(verdict)
}
