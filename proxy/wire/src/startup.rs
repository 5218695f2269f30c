//! What a client may send before its first message: start-up, encryption requests, cancel.
//!
//! These packets have no tag: a length word that counts itself, then a code. All four share the
//! code's position, so one bounded read serves them all.

use alloc::vec::Vec;
use core::fmt;

use crate::body::split_string;
use crate::limits::{
    CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_MIN, STARTUP_BYTES_MAX, STARTUP_BYTES_MIN,
};

/// Request code of `SSLRequest`.
const CODE_TLS: u32 = 80_877_103;
/// Request code of `GSSENCRequest`.
const CODE_GSS: u32 = 80_877_104;
/// Request code of `CancelRequest`.
pub(crate) const CODE_CANCEL: u32 = 80_877_102;
/// Major version of the protocol that this crate speaks.
pub(crate) const VERSION_MAJOR: u16 = 3;

/// The packet that asks for TLS, as a client sends it.
pub const TLS_REQUEST: [u8; 8] = {
    let [a, b, c, d] = CODE_TLS.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
};

/// One packet of the phase before authentication, borrowed from the bytes it arrived in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// The client wants to log in.
    Login {
        /// Minor protocol version: 0 for 3.0, 2 for 3.2.
        version_minor: u16,
        /// Names and values in the order in which they came.
        parameters: Vec<(&'a [u8], &'a [u8])>,
    },
    /// The client asks for TLS and waits for one byte, `S` or `N`.
    TlsRequest,
    /// The client asks for GSSAPI encryption and waits for one byte, `G` or `N`.
    GssRequest,
    /// Somebody asks to cancel what a connection is doing; no answer is sent.
    Cancel {
        /// Process id as it was told to the client in `BackendKeyData`.
        process_id: u32,
        /// The secret that goes with it: four bytes in 3.0, up to 256 in 3.2.
        key: &'a [u8],
    },
}

impl<'a> Startup<'a> {
    /// The value of a start-up parameter; the last one counts, as in PostgreSQL.
    #[must_use]
    pub fn parameter(&self, name: &[u8]) -> Option<&'a [u8]> {
        match self {
            Self::Login { parameters, .. } => {
                parameters.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
            }
            _ => None,
        }
    }
}

/// Why bytes are not a packet that may stand before authentication. The client is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// The length word is outside what any such packet has.
    Length {
        /// The length found, in bytes.
        found: u32,
    },
    /// A protocol version that this server does not speak.
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A parameter list without its end, or a name without its value.
    Parameters,
    /// A cancel request whose key is missing or too long.
    CancelKey {
        /// Bytes of the key found.
        bytes: usize,
    },
}

impl fmt::Display for StartupError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => write!(
                out,
                "start-up packet has length {found}, expected {STARTUP_BYTES_MIN} to \
                 {STARTUP_BYTES_MAX}"
            ),
            Self::Version { major, minor } => {
                write!(out, "protocol version {major}.{minor} is not supported, expected 3.x")
            }
            Self::Parameters => write!(out, "start-up packet's parameter list is not terminated"),
            Self::CancelKey { bytes } => {
                write!(
                    out,
                    "cancel key has {bytes} bytes, expected {CANCEL_KEY_BYTES_MIN} to \
                     {CANCEL_KEY_BYTES_MAX}"
                )
            }
        }
    }
}

impl core::error::Error for StartupError {}

/// Reads one packet at the start of `bytes`: the packet and the bytes it took, or `None` when more
/// bytes are needed. No more than [`STARTUP_BYTES_MAX`] are ever needed.
///
/// # Errors
/// When the bytes cannot be such a packet, as early as that can be known.
pub fn parse(bytes: &[u8]) -> Result<Option<(Startup<'_>, usize)>, StartupError> {
    let Some((length, _)) = split_u32(bytes) else {
        return Ok(None);
    };
    let taken = usize::try_from(length).unwrap_or(usize::MAX);
    if !(STARTUP_BYTES_MIN..=STARTUP_BYTES_MAX).contains(&taken) {
        return Err(StartupError::Length { found: length });
    }
    let Some(packet) = bytes.get(4..taken) else {
        return Ok(None);
    };
    let Some((code, body)) = split_u32(packet) else {
        return Err(StartupError::Length { found: length });
    };
    let packet = match code {
        CODE_TLS if body.is_empty() => Startup::TlsRequest,
        CODE_GSS if body.is_empty() => Startup::GssRequest,
        CODE_TLS | CODE_GSS => return Err(StartupError::Length { found: length }),
        CODE_CANCEL => cancel(body)?,
        version => login(version, body)?,
    };
    Ok(Some((packet, taken)))
}

fn cancel(body: &[u8]) -> Result<Startup<'_>, StartupError> {
    match split_u32(body) {
        Some((process_id, key))
            if (CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) =>
        {
            Ok(Startup::Cancel { process_id, key })
        }
        _ => Err(StartupError::CancelKey { bytes: body.len().saturating_sub(4) }),
    }
}

fn login(version: u32, body: &[u8]) -> Result<Startup<'_>, StartupError> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != VERSION_MAJOR {
        return Err(StartupError::Version { major, minor });
    }
    let mut parameters = Vec::new();
    let mut rest = body;
    loop {
        let (name, after) = split_string(rest).ok_or(StartupError::Parameters)?;
        if name.is_empty() {
            // PostgreSQL refuses bytes behind the terminator as well.
            let whole = after.is_empty();
            return if whole {
                Ok(Startup::Login { version_minor: minor, parameters })
            } else {
                Err(StartupError::Parameters)
            };
        }
        let (value, after) = split_string(after).ok_or(StartupError::Parameters)?;
        parameters.push((name, value));
        rest = after;
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn login_of_another_implementation_is_read() {
        let mut written = bytes::BytesMut::new();
        let parameters = [("user", "ann"), ("database", "shop")];
        postgres_protocol::message::frontend::startup_message(parameters, &mut written).unwrap();

        let (packet, taken) = parse(&written).unwrap().unwrap();

        assert_eq!(taken, written.len());
        assert_eq!(packet.parameter(b"user"), Some(&b"ann"[..]));
        assert_eq!(packet.parameter(b"database"), Some(&b"shop"[..]));
        assert_eq!(packet.parameter(b"options"), None);
    }

    #[test]
    fn a_packet_cut_at_any_byte_asks_for_more() {
        let whole = packet(0x0003_0000, b"user\0ann\0\0");
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Ok(None), "cut after {cut} bytes");
        }
        assert!(parse(&whole).unwrap().is_some());
    }

    #[test]
    fn encryption_requests_and_what_follows_them_are_told_apart() {
        let mut bytes = TLS_REQUEST.to_vec();
        bytes.extend_from_slice(b"smuggled");
        assert_eq!(parse(&bytes), Ok(Some((Startup::TlsRequest, 8))));
        assert_eq!(parse(&packet(CODE_GSS, b"")), Ok(Some((Startup::GssRequest, 8))));
        assert!(parse(&packet(CODE_TLS, b"x")).is_err());
    }

    #[test]
    fn cancel_keys_of_both_protocol_versions_are_read() {
        for key in [&[7_u8; 4][..], &[9_u8; CANCEL_KEY_BYTES_MAX][..]] {
            let whole = packet(CODE_CANCEL, &[&42_u32.to_be_bytes(), key].concat());
            let (packet, _) = parse(&whole).unwrap().unwrap();
            assert_eq!(packet, Startup::Cancel { process_id: 42, key });
        }
        let short = packet(CODE_CANCEL, &[0; 7]);
        assert_eq!(parse(&short), Err(StartupError::CancelKey { bytes: 3 }));
    }

    #[test]
    fn packets_out_of_bounds_are_refused_by_their_length_alone() {
        for length in [0_u32, 7, 10_001, u32::MAX] {
            assert_eq!(parse(&length.to_be_bytes()), Err(StartupError::Length { found: length }));
        }
    }

    #[test]
    fn other_protocols_and_unfinished_parameters_are_refused() {
        let old = packet(0x0002_0000, b"\0");
        assert_eq!(parse(&old), Err(StartupError::Version { major: 2, minor: 0 }));
        for body in [&b""[..], b"user", b"user\0ann", b"user\0ann\0", b"\0x"] {
            let whole = packet(0x0003_0000, body);
            assert_eq!(parse(&whole), Err(StartupError::Parameters), "{body:?}");
        }
    }
}
