//! What `pgx doctor` prints about BPF: found, needed, next step.
//!
//! Nothing here changes the machine for longer than the call: a program is loaded and let go, no
//! file system is mounted, no interface is touched.

use std::path::Path;

use crate::device::Device;
use crate::xdp_features::{Native, native};
use crate::{Error, Objects, can_load, pins};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: String,
    /// Whether it is as pgx needs it.
    pub is_met: bool,
    /// What was found.
    pub found: String,
    /// What is needed.
    pub needed: &'static str,
    /// What to do about it, where there is something to do.
    pub next_step: Option<String>,
}

/// Looks at what BPF takes on this machine: loading, the BPF file system at `mount`, and XDP on
/// each of `interfaces`.
#[must_use]
pub fn probe(objects: &Objects, mount: &Path, interfaces: &[&str]) -> Vec<Feature> {
    let mut features = vec![loading(objects), file_system(mount)];
    features.extend(interfaces.iter().map(|interface| xdp(interface)));
    features
}

fn loading(objects: &Objects) -> Feature {
    let (found, next_step) = match can_load(objects) {
        Ok(()) => ("the kernel's verifier accepts our programs".to_owned(), None),
        Err(error) => ("cannot load".to_owned(), Some(error.to_string())),
    };
    Feature {
        name: "BPF programs".to_owned(),
        is_met: next_step.is_none(),
        found,
        needed: "CAP_BPF and CAP_NET_ADMIN, Linux 5.9 or later",
        next_step,
    }
}

fn file_system(mount: &Path) -> Feature {
    let is_met = pins::is_bpffs(mount);
    let at = mount.display();
    Feature {
        name: format!("BPF file system on {at}"),
        is_met,
        found: if is_met { "mounted" } else { "not mounted" }.to_owned(),
        needed: "mounted, so that programs and counters outlive a restart",
        next_step: (!is_met).then(|| {
            format!("pgx mounts it when it has CAP_SYS_ADMIN; else: mount -t bpf bpf {at}")
        }),
    }
}

fn xdp(interface: &str) -> Feature {
    let device = Device::find(interface);
    let native = device.map(|device| native(device.index));
    xdp_feature(interface, native)
}

/// Puts into words what was found out about an interface.
fn xdp_feature(interface: &str, native: Result<std::io::Result<Native>, Error>) -> Feature {
    let (is_met, found, next_step) = match native {
        Ok(Ok(Native::Offered)) => (true, "native".to_owned(), None),
        Ok(Ok(Native::Missing)) => {
            let step = "works, but slower; an interface whose driver has XDP makes it native";
            (true, "generic only: the driver has no XDP".to_owned(), Some(step.to_owned()))
        }
        Ok(Err(error)) => {
            let step = "the log says which mode was taken when pgx attaches";
            let found = format!("unknown: this kernel does not tell ({error})");
            (true, found, Some(step.to_owned()))
        }
        Err(error) => (false, "cannot be asked".to_owned(), Some(error.to_string())),
    };
    Feature {
        name: format!("XDP on {interface}"),
        is_met,
        found,
        needed: "native, or generic at a higher cost per packet",
        next_step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_tell_is_not_a_failure() {
        let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        let feature = xdp_feature("eth0", Ok(Err(error)));
        assert!(feature.is_met);
        assert!(feature.found.starts_with("unknown"));
    }

    #[test]
    fn an_unknown_interface_is_named_with_a_next_step() {
        let features = probe(&Objects::embedded(), Path::new("/proc"), &["no-such-interface"]);
        let [_, file_system, xdp] = &features[..] else { panic!("three features: {features:?}") };
        assert!(!file_system.is_met);
        assert!(file_system.next_step.as_ref().unwrap().contains("mount -t bpf bpf /proc"));
        assert!(!xdp.is_met);
        assert!(xdp.next_step.as_ref().unwrap().contains("no-such-interface"));
    }
}
