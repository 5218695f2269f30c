//! The fence as `pgx ctl status` shows it.

use pgx_bpf::{Gate, Hook, LeaseWord, Place, Standing, Trial};
use pgx_control::admin::{FenceStatus, PlaceStatus, RehearsalStatus, WordStatus};

use super::{Fence, Stands, lock};
use crate::controller::clock::boot_time;

impl Fence {
    /// What the fence is made of, where it stands, and how far the gate is open.
    pub(crate) fn status(&self) -> FenceStatus {
        let found = lock(&self.found);
        let mut status = FenceStatus {
            means: match self.stands {
                Stands::Programs { .. } => "programs",
                Stands::Nftables(_) => "nftables",
                Stands::Nothing => "none",
            }
            .to_owned(),
            cause: self.cause.clone(),
            port: self.port,
            gate: "unknown".to_owned(),
            primary: None,
            member: None,
            floor: None,
            fenced_up_to: None,
            fenced: Vec::new(),
            places: found.places.iter().map(place).collect(),
            rehearsals: found.rehearsals.iter().map(rehearsal).collect(),
            packets: Vec::new(),
        };
        drop(found);
        let Stands::Programs { gate, counters } = &self.stands else { return status };
        status.fenced = gate.fenced().iter().map(ToString::to_string).collect();
        match gate.with_keeper(|keeper| keeper.standing()) {
            Some(Ok(standing)) => words(&mut status, &standing),
            Some(Err(error)) => status.cause = error.to_string(),
            None => {}
        }
        match counters.read() {
            Ok(counters) => {
                let seen = counters
                    .into_iter()
                    .filter(|(name, counter)| name.starts_with("fence") && counter.packets > 0);
                status.packets =
                    seen.map(|(name, counter)| (name.to_owned(), counter.packets)).collect();
            }
            Err(error) => status.cause = error.to_string(),
        }
        status
    }
}

fn words(status: &mut FenceStatus, standing: &Standing) {
    let now = boot_time().0;
    let word = |word: LeaseWord| {
        (word != LeaseWord::default()).then(|| WordStatus {
            epoch: word.epoch(),
            remaining_ms: word.deadline_ns().saturating_sub(now) / 1_000_000,
            gate: name(word.gate()),
        })
    };
    status.gate = name(standing.gate(now));
    status.primary = word(standing.primary);
    status.member = word(standing.member);
    status.floor = Some(standing.floor);
    status.fenced_up_to = standing.fenced_up_to();
}

fn name(gate: Gate) -> String {
    match gate {
        Gate::Shut => "shut",
        Gate::Peers => "peers",
        Gate::Open => "open",
    }
    .to_owned()
}

fn place(place: &Place) -> PlaceStatus {
    let hook = |hook: Option<Hook>| hook.map(Hook::name).unwrap_or_default().to_owned();
    PlaceStatus {
        at: place.at.to_string(),
        incoming: hook(place.incoming),
        outgoing: hook(place.outgoing),
        trial: match &place.trial {
            Trial::Seen => "seen".to_owned(),
            Trial::Missed => "missed".to_owned(),
            Trial::Untried(why) => why.clone(),
        },
        cause: place.cause.clone(),
    }
}

fn rehearsal(rehearsal: &pgx_bpf::Rehearsal) -> RehearsalStatus {
    let failure = rehearsal.result.as_ref().err().map(ToString::to_string);
    RehearsalStatus { hook: rehearsal.hook.name().to_owned(), failure: failure.unwrap_or_default() }
}
