//! What a lab consists of: its hosts, their names, addresses and hardware addresses.
//!
//! Pure: a [`Spec`] goes in, a list of [`Plan`]s comes out. The same name always gets the same
//! addresses, in every lab, because labs share no namespace. Nothing here touches the machine; see
//! `super::launch` for that.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// The port on which each data host's PostgreSQL listens.
pub const POSTGRES_PORT: u16 = 5432;
/// The port on which each pgx listens for clients.
pub const PROXY_PORT: u16 = 6432;
/// The port on which each pgx of a cluster tells its metrics.
pub const METRICS_PORT: u16 = 9127;
/// The name of the host that holds the bridge.
pub const SWITCH: &str = "switch";
/// The name of the host from which clients connect.
pub const CLIENT: &str = "client";
/// The host that has the address of readers when it is free.
pub const READERS_HOST: &str = "n3";
/// The role and the database that benchmarks and tests use.
pub const APP: &str = "app";
/// The most hosts of one kind; their addresses are ten apart.
pub const HOSTS_OF_A_KIND_MAX: u8 = 9;
/// The smallest disk on which a cluster and its write-ahead log have room.
pub const DISK_MB_MIN: u32 = 256;
/// The size of a data host's disk when nobody asks for another.
pub const DISK_MB_DEFAULT: u32 = 1024;

/// What to bring up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Tells labs on one machine apart.
    pub name: String,
    /// How many hosts run PostgreSQL: `n1`, `n2`, …; `n1` starts as the primary.
    pub data: u8,
    /// How many hosts run only pgx: `p1`, `p2`, ….
    pub proxies: u8,
    /// Whether there is a host `w1` without data and without clients.
    pub witness: bool,
    /// The size of each data host's own disk.
    pub disk_mb: u32,
    /// The PostgreSQL major version, or none for the highest that is installed.
    pub postgres: Option<String>,
    /// Whether data hosts run PostgreSQL at all; without it a lab is only a network of hosts.
    pub run_postgres: bool,
    /// Whether pgx runs the data hosts' PostgreSQL, as one cluster. They have its proxies too, and
    /// proxy hosts belong to it without a vote.
    pub control: bool,
    /// Whether the kernel shuts PostgreSQL's port where pgx runs it, unless a lease opens it, and
    /// answers for the VIP under a lease.
    #[serde(default)]
    pub kernel: bool,
    /// The `pgx` that data and proxy hosts run; none runs none.
    pub pgx: Option<PathBuf>,
    /// The library that slows fsync; without it `slow-fsync` is refused.
    pub shim: Option<PathBuf>,
    /// Whether the lab gives the VIP to its first proxy as a plain address. Say no where pgx
    /// itself is to answer for it.
    pub plain_vip: bool,
}

impl Spec {
    /// Three data hosts, a client and a switch, without pgx.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            data: 3,
            proxies: 0,
            witness: false,
            disk_mb: DISK_MB_DEFAULT,
            postgres: None,
            run_postgres: true,
            control: false,
            kernel: false,
            pgx: None,
            shim: None,
            plain_vip: true,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that cannot be and what it may be.
    pub fn check(&self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        if !(1..=HOSTS_OF_A_KIND_MAX).contains(&self.data) {
            bail!("{} data hosts asked for; a lab has 1 to {HOSTS_OF_A_KIND_MAX}", self.data);
        }
        if self.proxies > HOSTS_OF_A_KIND_MAX {
            bail!("{} proxies asked for; a lab has at most {HOSTS_OF_A_KIND_MAX}", self.proxies);
        }
        if self.disk_mb < DISK_MB_MIN {
            bail!("a disk of {} MB is too small; give {DISK_MB_MIN} or more", self.disk_mb);
        }
        if self.control && (self.pgx.is_none() || !self.run_postgres) {
            bail!("a lab whose PostgreSQL is run by pgx needs both");
        }
        Ok(())
    }

    /// Every host of the lab, the switch first because the others are plugged into it.
    #[must_use]
    pub fn plans(&self) -> Vec<Plan> {
        let mut plans = vec![Plan { name: SWITCH.to_owned(), kind: Kind::Switch, number: 1 }];
        let mut add = |kind: Kind, count: u8, prefix: &str, base: u8| {
            for index in 1..=count {
                plans.push(Plan { name: format!("{prefix}{index}"), kind, number: base + index });
            }
        };
        add(Kind::Data, self.data, "n", 10);
        add(Kind::Proxy, self.proxies, "p", 20);
        add(Kind::Witness, u8::from(self.witness), "w", 30);
        plans.push(Plan { name: CLIENT.to_owned(), kind: Kind::Client, number: 100 });
        plans
    }

    /// The host that has the VIP as a plain address: the first that could be a proxy.
    #[must_use]
    pub fn vip_host(&self) -> &'static str {
        if self.proxies > 0 { "p1" } else { "n1" }
    }
}

/// Refuses a lab's name that could not be a path component or a cgroup's name.
///
/// # Errors
/// When the name is empty, longer than 32 characters, or has characters other than lower-case
/// letters, digits and inner hyphens.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=32).contains(&name.len())
        && name.chars().all(|c| plain(c) || c == '-')
        && name.starts_with(plain)
        && name.ends_with(plain);
    if !fits {
        bail!("{name:?} cannot name a lab; use 1 to 32 of a-z, 0-9 and inner hyphens");
    }
    Ok(())
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Holds the bridge into which the others are plugged.
    Switch,
    /// Runs PostgreSQL on a disk of its own, and pgx.
    Data,
    /// Runs pgx only.
    Proxy,
    /// Votes only.
    Witness,
    /// Where clients run.
    Client,
}

impl Kind {
    /// Whether hosts of this kind run pgx.
    #[must_use]
    pub fn runs_pgx(self) -> bool {
        matches!(self, Self::Data | Self::Proxy)
    }
}

/// One host as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The host's name, also its hostname and its port's name on the switch.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// The last part of its addresses.
    pub number: u8,
}

impl Plan {
    /// The IPv4 address; the prefix is /24.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        v4(self.number)
    }

    /// The IPv6 address; the prefix is /64.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        v6(self.number)
    }

    /// The hardware address of `eth0`: locally administered, then `pgx` in ASCII, then the number.
    #[must_use]
    pub fn mac(&self) -> String {
        self.link().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The same in bytes.
    #[must_use]
    pub fn link(&self) -> [u8; 6] {
        [0x02, 0x70, 0x67, 0x78, 0, self.number]
    }
}

/// The address that stands for the whole cluster.
#[must_use]
pub fn vip_v4() -> Ipv4Addr {
    v4(50)
}

/// The same for IPv6.
#[must_use]
pub fn vip_v6() -> Ipv6Addr {
    v6(50)
}

/// The address at which clients find standbys.
#[must_use]
pub fn readers_v4() -> Ipv4Addr {
    v4(51)
}

/// The same for IPv6.
#[must_use]
pub fn readers_v6() -> Ipv6Addr {
    v6(51)
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The number's decimal digits are read as hexadecimal, so that both addresses look alike.
fn v6(number: u8) -> Ipv6Addr {
    let number = u16::from(number);
    let low = (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10);
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, low)
}

#[cfg(test)]
mod tests {
    use super::{Spec, check_name, vip_v4, vip_v6};

    #[test]
    fn addresses_of_a_host_look_alike_in_both_families() {
        let spec = Spec { proxies: 1, witness: true, ..Spec::new("t") };
        let seen: Vec<_> = spec
            .plans()
            .iter()
            .map(|plan| format!("{} {} {} {}", plan.name, plan.v4(), plan.v6(), plan.mac()))
            .collect();
        assert_eq!(
            seen,
            [
                "switch 10.77.0.1 fd77::1 02:70:67:78:00:01",
                "n1 10.77.0.11 fd77::11 02:70:67:78:00:0b",
                "n2 10.77.0.12 fd77::12 02:70:67:78:00:0c",
                "n3 10.77.0.13 fd77::13 02:70:67:78:00:0d",
                "p1 10.77.0.21 fd77::21 02:70:67:78:00:15",
                "w1 10.77.0.31 fd77::31 02:70:67:78:00:1f",
                "client 10.77.0.100 fd77::100 02:70:67:78:00:64",
            ]
        );
        assert_eq!(format!("{} {}", vip_v4(), vip_v6()), "10.77.0.50 fd77::50");
    }

    #[test]
    fn vip_sits_on_the_first_host_that_could_be_a_proxy() {
        assert_eq!(Spec::new("t").vip_host(), "n1");
        assert_eq!(Spec { proxies: 2, ..Spec::new("t") }.vip_host(), "p1");
    }

    #[test]
    fn names_that_could_leave_the_state_directory_are_refused() {
        for bad in ["", "..", "a/b", "-a", "a-", "A", "a b", &"a".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad:?} was accepted");
        }
        check_name("two-labs-2").unwrap();
    }

    #[test]
    fn counts_and_sizes_out_of_range_are_refused() {
        assert!(Spec { data: 0, ..Spec::new("t") }.check().is_err());
        assert!(Spec { data: 10, ..Spec::new("t") }.check().is_err());
        assert!(Spec { proxies: 10, ..Spec::new("t") }.check().is_err());
        assert!(Spec { disk_mb: 10, ..Spec::new("t") }.check().is_err());
        Spec::new("t").check().unwrap();
    }
}
