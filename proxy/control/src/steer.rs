//! Which proxy gets new flows: the table of buckets, computed from the list of proxies.
//!
//! A table is the outcome of all changes so far, so every node that applies the same changes in the
//! same order has the same one. It must not know packets, link addresses or the kernel's maps: who
//! writes it there translates.
//!
//! **Old flows.** A bucket remembers one previous owner, who keeps the flows that it had. As long
//! as it may have some, the bucket does not move on to a third proxy, unless its owner is lost:
//! arrivals and drains wait for [`Table::settle`], and no flow of a proxy that lives is cut.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::limits::{BUCKETS, PROXIES_MAX, WEIGHT_MAX};

/// How a living proxy takes part. One that is not listed is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes new flows, in proportion to its weight; at least one, at most [`WEIGHT_MAX`].
    Serving {
        /// The weight.
        weight: u32,
    },
    /// It keeps the flows that it has, and takes new ones only if nobody serves.
    Draining,
}

/// The living proxies.
pub type Proxies = BTreeMap<NodeId, Standing>;

/// Whose the flows of one bucket are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Who gets new ones.
    pub owner: Option<NodeId>,
    /// Who may still have some from before.
    pub previous: Option<NodeId>,
}

/// The buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Table {
    buckets: Vec<Bucket>,
}

/// A table in few bytes: the proxies, and for each bucket which of them, counted from one; zero is
/// nobody.
#[derive(Serialize, Deserialize)]
struct Written {
    nodes: Vec<NodeId>,
    owners: Vec<u8>,
    previous: Vec<u8>,
}

impl From<Table> for Written {
    fn from(table: Table) -> Self {
        let nodes: BTreeSet<_> = table.named().collect();
        let nodes: Vec<_> = nodes.into_iter().collect();
        let place = |node: Option<NodeId>| {
            let place = node.and_then(|node| nodes.binary_search(&node).ok());
            // At most twice as many as there may be proxies: owners, and those before them.
            place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
        };
        let owners = table.buckets.iter().map(|bucket| place(bucket.owner)).collect();
        let previous = table.buckets.iter().map(|bucket| place(bucket.previous)).collect();
        Self { nodes, owners, previous }
    }
}

impl TryFrom<Written> for Table {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { nodes, owners, previous } = written;
        if owners.len() != BUCKETS || previous.len() != BUCKETS {
            return Err("a table of another length");
        }
        let node = |place: u8| match usize::from(place).checked_sub(1) {
            None => Ok(None),
            Some(place) => nodes.get(place).copied().map(Some).ok_or("a bucket of nobody"),
        };
        let bucket = |(owner, previous): (&u8, &u8)| {
            Ok(Bucket { owner: node(*owner)?, previous: node(*previous)? })
        };
        let buckets = owners.iter().zip(&previous).map(bucket).collect::<Result<_, Self::Error>>();
        Ok(Self { buckets: buckets? })
    }
}

impl Table {
    /// A table of that many buckets, which nobody owns yet.
    #[must_use]
    pub fn new(buckets: usize) -> Self {
        Self { buckets: vec![Bucket::default(); buckets] }
    }

    /// The buckets, by number.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// How many buckets a proxy owns.
    #[must_use]
    pub fn owned_by(&self, node: NodeId) -> usize {
        self.buckets.iter().filter(|bucket| bucket.owner == Some(node)).count()
    }

    /// Whether a proxy may have flows in buckets of others.
    #[must_use]
    pub fn is_waiting_for(&self, node: NodeId) -> bool {
        self.buckets.iter().any(|bucket| bucket.previous == Some(node))
    }

    /// Whether no bucket has a previous owner, so that nothing waits for old flows to end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.previous.is_none())
    }

    /// The next table, with these proxies. It is the same one when there is nothing to do, so it is
    /// asked for again after each change, until then: where a proxy was lost, only that is mended,
    /// and whatever else has changed comes with the next one.
    ///
    /// # Panics
    /// When there are more than [`PROXIES_MAX`] proxies, or a weight is out of its bounds.
    #[must_use]
    pub fn next(&self, proxies: &Proxies) -> Self {
        assert!(proxies.len() <= PROXIES_MAX, "{} proxies", proxies.len());
        let mut table = self.clone();
        if !table.mend(proxies) {
            table.move_new_flows(proxies);
        }
        table
    }

    /// That proxy has none of the flows any more that it had in buckets of others.
    pub fn settle(&mut self, node: NodeId) {
        for bucket in &mut self.buckets {
            if bucket.previous == Some(node) {
                bucket.previous = None;
            }
        }
    }

    /// All proxies that some bucket names.
    fn named(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.buckets.iter().flat_map(|bucket| [bucket.owner, bucket.previous]).flatten()
    }

    /// Gives the buckets of lost proxies to living ones; says whether any was lost.
    fn mend(&mut self, proxies: &Proxies) -> bool {
        let is_lost = |node: Option<NodeId>| node.is_some_and(|node| !proxies.contains_key(&node));
        let shares = Shares::of(proxies, self.buckets.len());
        let mut owned = self.owned(&shares);
        let mut has_changed = false;
        for bucket in &mut self.buckets {
            has_changed |= is_lost(bucket.owner) || is_lost(bucket.previous);
            bucket.previous = bucket.previous.filter(|node| proxies.contains_key(node));
            bucket.owner = bucket.owner.filter(|node| proxies.contains_key(node));
            let (None, Some(heir)) = (bucket.owner, shares.neediest(&owned)) else { continue };
            *owned.entry(heir).or_default() += 1;
            bucket.owner = Some(heir);
            // The heir has its own old flows itself.
            bucket.previous = bucket.previous.filter(|previous| *previous != heir);
            has_changed = true;
        }
        has_changed
    }

    /// Moves buckets off draining proxies, and from those with too many to those with too few.
    fn move_new_flows(&mut self, proxies: &Proxies) {
        let shares = Shares::of_serving(proxies, self.buckets.len());
        let mut owned = self.owned(&shares);
        let mut neediest = shares.neediest(&owned);
        // What can go back to where it was goes first: then two owners just change places.
        for goes_back in [true, false] {
            for bucket in &mut self.buckets {
                let heir = match bucket.previous {
                    Some(previous) if goes_back => Some(previous),
                    // It may have flows here, which a third owner would not know of.
                    Some(_) => None,
                    None if goes_back => None,
                    None => neediest,
                };
                let (Some(owner), Some(heir)) = (bucket.owner, heir) else { continue };
                if heir != owner && shares.should_move(owner, heir, &owned) {
                    *bucket = Bucket { owner: Some(heir), previous: Some(owner) };
                    *owned.entry(heir).or_default() += 1;
                    owned.entry(owner).and_modify(|count| *count -= 1);
                    neediest = shares.neediest(&owned);
                }
            }
        }
    }

    /// How many buckets each proxy that has a share owns.
    fn owned(&self, shares: &Shares) -> BTreeMap<NodeId, usize> {
        shares.weights.keys().map(|&node| (node, self.owned_by(node))).collect()
    }
}

/// Who takes new flows, and how many.
struct Shares {
    weights: BTreeMap<NodeId, u64>,
    sum: u64,
    buckets: u64,
}

impl Shares {
    /// Of those that serve; if nobody does, rather of those that drain.
    fn of(proxies: &Proxies, buckets: usize) -> Self {
        let serving = Self::of_serving(proxies, buckets);
        if !serving.weights.is_empty() {
            return serving;
        }
        let weights: BTreeMap<_, _> = proxies.keys().map(|node| (*node, 1)).collect();
        Self { sum: weights.values().sum(), weights, ..serving }
    }

    fn of_serving(proxies: &Proxies, buckets: usize) -> Self {
        let mut weights = BTreeMap::new();
        for (node, standing) in proxies {
            if let Standing::Serving { weight } = standing {
                assert!((1..=WEIGHT_MAX).contains(weight), "weight {weight} of proxy {node}");
                weights.insert(*node, u64::from(*weight));
            }
        }
        Self { sum: weights.values().sum(), weights, buckets: buckets as u64 }
    }

    /// Who is furthest below its share; the lowest number of several, nobody if nobody has one.
    ///
    /// Giving each bucket to that one is the method of D'Hondt: when a proxy goes, the shares of
    /// all others stay or grow, so nothing but its own buckets has to move.
    fn neediest(&self, owned: &BTreeMap<NodeId, usize>) -> Option<NodeId> {
        // What one more bucket makes of the load is (owned + 1) / weight; compared crosswise.
        let one_more = |node: &NodeId| owned.get(node).copied().unwrap_or(0) as u64 + 1;
        let lighter = |(a, weight_a): (&NodeId, &u64), (b, weight_b): (&NodeId, &u64)| {
            (one_more(a) * weight_b).cmp(&(one_more(b) * weight_a))
        };
        self.weights.iter().min_by(|a, b| lighter(*a, *b)).map(|(node, _)| *node)
    }

    /// Whether the heir should have one of the owner's buckets: any if that one drains, else as
    /// long as that one has more and this one less than its share, rounded down. So the remainders
    /// of the division move nothing to and fro.
    fn should_move(&self, owner: NodeId, heir: NodeId, owned: &BTreeMap<NodeId, usize>) -> bool {
        let has = |node| owned.get(&node).copied().unwrap_or(0) as u64;
        match (self.share(owner), self.share(heir)) {
            (None, Some(_)) => true,
            (Some(own), Some(heirs)) => has(owner) > own && has(heir) < heirs,
            (_, None) => false,
        }
    }

    /// Its share of the buckets, rounded down.
    fn share(&self, node: NodeId) -> Option<u64> {
        Some(self.buckets * self.weights.get(&node)? / self.sum)
    }
}

#[cfg(test)]
#[path = "steer_tests.rs"]
mod tests;
