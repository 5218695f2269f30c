//! The file survives power loss at any write: what was acknowledged is there, nothing goes back.

use raft::eraftpb::{Entry, HardState, Snapshot};

use crate::body;
use crate::membership::Membership;
use crate::sim::{Rng, SimDisk};
use crate::store::{Batch, Contents, Expected, FOUNDING, Founding, Position, Store, StoreError};
use crate::{ClusterId, Identity, Incarnation, NodeId};

const SEEDS: u64 = 4;

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(3),
        node: NodeId::new(1).unwrap(),
        incarnation: Incarnation::new(9).unwrap(),
    }
}

fn membership() -> Membership {
    Membership::of_voters(&[(identity().node, identity().incarnation)]).unwrap()
}

/// What the file must hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    snapshot: u64,
    truncated: Position,
    entries: Vec<Entry>,
}

impl Model {
    fn founding() -> Self {
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.commit) = (FOUNDING.term, FOUNDING.index);
        Self { hard_state, snapshot: FOUNDING.index, truncated: FOUNDING, entries: Vec::new() }
    }

    fn of(contents: Contents) -> Self {
        Self {
            hard_state: contents.hard_state,
            snapshot: contents.snapshot.get_metadata().index,
            truncated: contents.truncated,
            entries: contents.entries,
        }
    }

    fn last(&self) -> u64 {
        self.truncated.index + self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        let slot = usize::try_from(index - self.truncated.index).unwrap();
        slot.checked_sub(1).map_or(self.truncated.term, |slot| self.entries[slot].term)
    }
}

/// One write, with what the file holds after it.
struct Step {
    received: Option<Snapshot>,
    entries: Vec<Entry>,
    compacted: Option<(Snapshot, Position)>,
    after: Model,
}

impl Step {
    fn write(&self, store: &mut Store) -> Result<(), StoreError> {
        store.write(&Batch {
            received: self.received.as_ref(),
            entries: &self.entries,
            hard_state: Some(&self.after.hard_state),
            compacted: self.compacted.as_ref().map(|(snapshot, truncated)| (snapshot, *truncated)),
        })
    }
}

/// Appends, overwrites of an uncommitted tail, votes, compactions and a coordinator's snapshot.
fn script(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut model = Model::founding();
    (0..24).map(|number| step(&mut rng, &mut model, number)).collect()
}

fn step(rng: &mut Rng, model: &mut Model, number: u64) -> Step {
    let mut step =
        Step { received: None, entries: Vec::new(), compacted: None, after: Model::default() };
    match number % 6 {
        2 => {
            model.hard_state.term += 1;
            model.hard_state.vote = 1 + rng.below(3);
        }
        4 => {
            let index = model.hard_state.commit;
            let at = Position { index, term: model.term_at(index) };
            step.compacted = Some((body::snapshot(&membership(), b"state", at), at));
            let gone = usize::try_from(index - model.truncated.index).unwrap();
            model.entries.drain(..gone);
            (model.snapshot, model.truncated) = (index, at);
        }
        5 if number > 12 => {
            let at = Position { index: model.last() + 7, term: model.hard_state.term };
            step.received = Some(body::snapshot(&membership(), &[7; 9000], at));
            model.entries.clear();
            (model.snapshot, model.truncated) = (at.index, at);
            model.hard_state.commit = at.index;
        }
        _ => {
            let kept = model.hard_state.commit.max(model.last().saturating_sub(rng.below(3)));
            model.entries.truncate(usize::try_from(kept - model.truncated.index).unwrap());
            for index in kept + 1..=kept + 1 + rng.below(4) {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, model.hard_state.term);
                let fill = u8::try_from(number).unwrap();
                entry.data = vec![fill; usize::try_from(rng.below(3000)).unwrap()].into();
                step.entries.push(entry.clone());
                model.entries.push(entry);
            }
            model.hard_state.commit += rng.below(1 + model.last() - model.hard_state.commit);
        }
    }
    step.after = model.clone();
    step
}

fn create(disk: &SimDisk) {
    let founding = Founding::Cluster(membership());
    Store::create_on(disk.open(), identity(), &founding).unwrap();
}

/// Writes until power fails; the number of steps that were acknowledged.
fn run(disk: &SimDisk, script: &[Step]) -> usize {
    let Ok(mut store) = Store::open_on(disk.open(), Expected::default()) else { return 0 };
    script.iter().take_while(|step| step.write(&mut store).is_ok()).count()
}

fn operations_of(script: &[Step]) -> u64 {
    let disk = SimDisk::default();
    create(&disk);
    disk.crash(0);
    assert_eq!(run(&disk, script), script.len());
    disk.operations()
}

fn state_after(script: &[Step], steps: usize) -> Model {
    steps.checked_sub(1).map_or_else(Model::founding, |last| script[last].after.clone())
}

fn held(disk: &SimDisk) -> Model {
    let store = Store::open_on(disk.open(), Expected::default()).expect("the file opens");
    assert_eq!(store.identity(), identity());
    Model::of(store.load().expect("the file is sound"))
}

#[test]
fn file_survives_power_loss_at_any_write() {
    let mut crashes = 0;
    for seed in 0..SEEDS {
        let script = script(seed);
        for cut in 1..=operations_of(&script) {
            let disk = SimDisk::default();
            create(&disk);
            disk.crash(0);
            disk.cut_power_at(cut);
            let acknowledged = run(&disk, &script);
            disk.crash(seed.wrapping_mul(1_000_003) ^ cut);
            let found = held(&disk);
            // What was under way may be there as a whole; anything less or more may not.
            let old = state_after(&script, acknowledged);
            let new = state_after(&script, (acknowledged + 1).min(script.len()));
            assert!(found == old || found == new, "seed {seed}, power cut at operation {cut}");
            crashes += 1;
        }
    }
    assert!(crashes > 100 * SEEDS, "only {crashes} crashes were tried");
}

#[test]
fn file_survives_power_loss_while_it_recovers_from_power_loss() {
    let script = script(1);
    for cut in (1..=operations_of(&script)).step_by(5) {
        for second in 1..12 {
            let disk = SimDisk::default();
            create(&disk);
            disk.crash(0);
            disk.cut_power_at(cut);
            let acknowledged = run(&disk, &script);
            disk.crash(cut);
            disk.cut_power_at(second);
            drop(Store::open_on(disk.open(), Expected::default()));
            disk.crash(cut ^ second << 32);
            let found = held(&disk);
            let old = state_after(&script, acknowledged);
            let new = state_after(&script, (acknowledged + 1).min(script.len()));
            assert!(found == old || found == new, "cut at {cut}, then at {second}");
        }
    }
}

#[test]
fn full_disk_refuses_writes_and_takes_them_again_when_there_is_space() {
    let script = script(2);
    let disk = SimDisk::default();
    create(&disk);
    let mut store = Store::open_on(disk.open(), Expected::default()).unwrap();
    script[0].write(&mut store).unwrap();
    disk.set_full(true);
    let refused = script[1..].iter().map(|step| step.write(&mut store)).find_map(Result::err);
    assert!(matches!(refused, Some(StoreError::Full)), "{refused:?}");
    assert!(matches!(script[1].write(&mut store), Err(StoreError::Halted | StoreError::Full)));

    drop(store);
    disk.crash(5);
    disk.set_full(false);
    let found = held(&disk);
    let written = (0..script.len()).find(|steps| state_after(&script, *steps) == found).unwrap();
    let mut store = Store::open_on(disk.open(), Expected::default()).unwrap();
    for step in &script[written..] {
        step.write(&mut store).unwrap();
    }
    drop(store);
    assert_eq!(held(&disk), state_after(&script, script.len()));
}
