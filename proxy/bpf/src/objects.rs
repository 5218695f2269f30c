//! The BPF objects: those that this binary was built with, or others from a directory.

use std::borrow::Cow;
use std::path::Path;

use pgx_abi::{LAB_OBJECT, PGX_OBJECT};

use crate::Error;

/// The bytes of the BPF objects.
#[derive(Clone, Debug)]
pub struct Objects {
    pub(crate) pgx: Cow<'static, [u8]>,
    pub(crate) lab: Cow<'static, [u8]>,
}

/// The committed object of that name; aya reads it in place, which takes an aligned copy.
macro_rules! committed {
    ($name:ident) => {
        Cow::Borrowed(aya::include_bytes_aligned!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../ebpf/objects/",
            pgx_abi::name!($name),
            ".o"
        )))
    };
}

impl Objects {
    /// The objects that were committed with the sources of this binary.
    #[must_use]
    pub fn embedded() -> Self {
        Self { pgx: committed!(pgx), lab: committed!(lab) }
    }

    /// The objects in a directory, as `cargo xtask ebpf --out` leaves them there.
    ///
    /// # Errors
    /// [`Error::ObjectRead`] if one of them cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(format!("{name}.o"));
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(source) => Err(Error::ObjectRead { path, source }),
            }
        };
        Ok(Self { pgx: read(PGX_OBJECT)?, lab: read(LAB_OBJECT)? })
    }

    /// The bytes of the object `pgx`.
    #[must_use]
    pub fn pgx(&self) -> &[u8] {
        &self.pgx
    }

    /// The bytes of the object `lab`.
    #[must_use]
    pub fn lab(&self) -> &[u8] {
        &self.lab
    }
}
