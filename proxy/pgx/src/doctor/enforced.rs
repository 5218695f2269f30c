//! What holds on this host when pgx or the host hangs: by what means, and what nothing covers.

use pgx_vip::Mode;

use super::{Finding, State};
use crate::config::{Config, Means};

/// What this machine allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// Some hook of the fence works.
    pub(super) fence: bool,
    /// XDP programs load.
    pub(super) xdp: bool,
}

/// Sums up what follows from the configuration on this machine.
pub(super) fn examine(config: &Config, allowed: Allowed) -> Vec<Finding> {
    let fence = config.fence.map(|fence| match fence.best {
        Means::Programs(_) if allowed.fence => Fence::Programs,
        Means::Programs(_) | Means::Nftables => Fence::Nftables,
        Means::Nothing => Fence::Nothing,
    });
    let fence = fence.unwrap_or(Fence::Nothing);
    let follows = config.proxy.as_ref().and_then(|proxy| proxy.pool.as_ref());
    let follows = follows.is_some_and(|pool| pool.cluster_port.is_some());
    let mut findings = Vec::new();
    if config.postgres.is_some() {
        findings.push(clients(fence));
    }
    if follows {
        findings.push(others(fence));
    }
    if let Some(vip) = config.vip.as_ref().filter(|vip| !vip.leases.is_empty()) {
        findings.push(addresses(vip.mode, allowed.xdp, follows));
    }
    if config.postgres.is_some() {
        findings.push(Finding {
            name: "not covered".to_owned(),
            state: State::Note,
            found: "what PostgreSQL does by itself (archive_command, foreign data, subscriptions, \
                    pg_cron), its Unix socket, and a paused virtual machine, whose clock stops: \
                    then other hosts' leases and synchronous replication still hold"
                .to_owned(),
            next_step: String::new(),
        });
    }
    findings
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    Programs,
    Nftables,
    Nothing,
}

fn finding(name: &str, state: State, found: &str, next_step: &str) -> Finding {
    let (found, next_step) = (found.to_owned(), next_step.to_owned());
    Finding { name: name.to_owned(), state, found, next_step }
}

fn clients(fence: Fence) -> Finding {
    let name = "without a lease";
    match fence {
        Fence::Programs => finding(
            name,
            State::Good,
            "the kernel keeps clients from this PostgreSQL by its own clock, whatever becomes of \
             pgx and of the host's processes",
            "",
        ),
        Fence::Nftables => finding(
            name,
            State::Reduced,
            "nftables keep clients from this PostgreSQL when pgx is dead; one that is stopped in \
             mid-renewal may open it again when it goes on",
            "see what the fence's programs lack above",
        ),
        Fence::Nothing => finding(
            name,
            State::Reduced,
            "nothing keeps clients from this PostgreSQL when pgx or the host hangs",
            "add [fence]",
        ),
    }
}

fn others(fence: Fence) -> Finding {
    let name = "others without a lease";
    if fence == Fence::Programs {
        let found = "nothing comes in here from PostgreSQL of a host that holds no lease";
        return finding(name, State::Good, found, "");
    }
    let found = "this proxy goes by its lease alone; the kernel lets in what comes from PostgreSQL \
        of a host that holds none";
    finding(name, State::Reduced, found, "add [fence], also where no PostgreSQL is")
}

fn addresses(mode: Mode, xdp: bool, follows: bool) -> Finding {
    let name = "addresses without a lease";
    let late = "an address stays up to two seconds longer when pgx is killed or frozen, and with \
        it all who came by it; they are not shared with other proxies";
    match mode {
        Mode::Xdp if xdp && follows => finding(
            name,
            State::Good,
            "the kernel answers for them by its own clock, and all proxies share their clients",
            "",
        ),
        Mode::Xdp if xdp => finding(
            name,
            State::Reduced,
            "the kernel answers for them by its own clock; this node offers none",
            "give proxy.cluster_port, so that its proxy follows the cluster",
        ),
        Mode::Xdp => finding(name, State::Reduced, late, "see what XDP lacks above"),
        Mode::Address => finding(name, State::Reduced, late, "mode \"xdp\" ends it in time"),
        Mode::Command => finding(
            name,
            State::Reduced,
            "nothing ends what the program has taken when pgx is killed",
            "let the program set a lifetime, or a watchdog",
        ),
        Mode::None => finding(name, State::Note, "others move them", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enforced_depends_on_configuration_and_machine() {
        assert_eq!(clients(Fence::Programs).state, State::Good);
        assert_eq!(clients(Fence::Nothing).next_step, "add [fence]");
        assert!(clients(Fence::Nftables).found.contains("mid-renewal"));
        assert_eq!(others(Fence::Programs).state, State::Good);
        assert_eq!(others(Fence::Nftables).state, State::Reduced);
        for (mode, xdp, follows, state) in [
            (Mode::Xdp, true, true, State::Good),
            (Mode::Xdp, true, false, State::Reduced),
            (Mode::Xdp, false, true, State::Reduced),
            (Mode::Address, true, true, State::Reduced),
            (Mode::None, true, true, State::Note),
        ] {
            assert_eq!(addresses(mode, xdp, follows).state, state, "{mode:?} {xdp} {follows}");
        }
    }
}
