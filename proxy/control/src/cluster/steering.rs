//! Which proxies share what clients send to virtual addresses, as agreed on: see [`crate::steer`].
//!
//! Nothing that is promised to clients depends on it. A table that comes late, or one that another
//! host has not applied yet, costs hops and at worst connections, never commits.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::limits::{BUCKETS, PROXIES_MAX};
use crate::steer::{Proxies, Standing, Table};

/// How a proxy takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// The link address of its host on the network of the virtual addresses.
    pub link: [u8; 6],
    /// Whether it is about to stop: it keeps the flows that it has, and gets no new ones.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub is_leaving: bool,
}

/// A proxy that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharer {
    /// How.
    pub proxy: Proxy,
    /// Since which table, without a break. In between its flows went to others, and what it had
    /// from before nobody can reach.
    pub since: u64,
}

/// The table in force, and who is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    number: u64,
    proxies: BTreeMap<NodeId, Sharer>,
    #[serde(with = "shared")]
    table: Arc<Table>,
    is_at_rest: bool,
}

impl Default for Steering {
    /// No table: whatever comes to a host stays there.
    fn default() -> Self {
        let table = Arc::new(Table::new(BUCKETS));
        Self { number: 0, proxies: BTreeMap::new(), table, is_at_rest: true }
    }
}

impl Steering {
    /// Grows by one with each table; zero before the first one.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who takes part.
    #[must_use]
    pub fn proxies(&self) -> &BTreeMap<NodeId, Sharer> {
        &self.proxies
    }

    /// Whose the buckets are: [`BUCKETS`] of them, whose owners are among [`Self::proxies`].
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether the next table with the same proxies is this one, as long as no flows end.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// Whether steering has not begun.
    pub(super) fn is_none(&self) -> bool {
        self.number == 0
    }

    /// The table of that number, with these proxies; those that are settled have none of their
    /// older flows any more that are in buckets of others. `None` if the number does not follow,
    /// there are too many, or nothing would change.
    pub(super) fn next(
        &self,
        number: u64,
        proxies: &BTreeMap<NodeId, Proxy>,
        settled: &BTreeSet<NodeId>,
    ) -> Option<Self> {
        if number != self.number + 1 || proxies.len() > PROXIES_MAX {
            return None;
        }
        let standings = standings(proxies);
        let mut table = Table::clone(&self.table);
        for node in settled {
            table.settle(*node);
        }
        let table = table.next(&standings);
        let is_at_rest = table.next(&standings) == table;
        let sharer = |(node, proxy): (&NodeId, &Proxy)| {
            let since = self.proxies.get(node).map_or(number, |known| known.since);
            (*node, Sharer { proxy: *proxy, since })
        };
        let proxies = proxies.iter().map(sharer).collect();
        let is_new = proxies != self.proxies || table != *self.table;
        is_new.then(|| Self { number, proxies, table: Arc::new(table), is_at_rest })
    }
}

fn standings(proxies: &BTreeMap<NodeId, Proxy>) -> Proxies {
    let standing = |proxy: &Proxy| {
        if proxy.is_leaving { Standing::Draining } else { Standing::Serving { weight: 1 } }
    };
    proxies.iter().map(|(node, proxy)| (*node, standing(proxy))).collect()
}

/// States are cloned to try out what becomes of them; tables are not.
mod shared {
    use alloc::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::steer::Table;

    pub(super) fn serialize<S: Serializer>(
        table: &Arc<Table>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        table.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Table>, D::Error> {
        Table::deserialize(deserializer).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn proxies(nodes: &[u64]) -> BTreeMap<NodeId, Proxy> {
        let proxy = |node: &u64| {
            let link = [2, 0, 0, 0, 0, u8::try_from(*node).unwrap()];
            (NodeId(*node), Proxy { link, is_leaving: false })
        };
        nodes.iter().map(proxy).collect()
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let mut steering = Steering::default();
        for (number, nodes) in [(1, &[1][..]), (2, &[1, 7]), (3, &[1, 7, 900])] {
            let proxies = proxies(&nodes.iter().map(|node| node % 200).collect::<Vec<_>>());
            steering = steering.next(number, &proxies, &BTreeSet::new()).unwrap();
            let written = serde_json::to_vec(&steering).unwrap();
            assert!(written.len() < 8 * 1024, "{} bytes", written.len());
            assert_eq!(serde_json::from_slice::<Steering>(&written).unwrap(), steering);
        }
    }

    #[test]
    fn a_table_that_names_nobody_it_lists_or_has_another_length_is_not_read() {
        let steering = Steering::default().next(1, &proxies(&[1]), &BTreeSet::new()).unwrap();
        let whole = serde_json::to_string(&steering).unwrap();
        for (from, to) in [("\"owners\":[1,", "\"owners\":[2,"), ("\"owners\":[1,", "\"owners\":[")]
        {
            let damaged = whole.replacen(from, to, 1);
            assert_ne!(damaged, whole);
            assert!(serde_json::from_str::<Steering>(&damaged).is_err(), "{to}");
        }
    }

    #[test]
    fn numbers_follow_and_what_changes_nothing_is_void() {
        let none = BTreeSet::new();
        let first = Steering::default().next(1, &proxies(&[1, 2]), &none).unwrap();
        assert!(first.is_at_rest());
        assert_eq!(first.next(2, &proxies(&[1, 2]), &none), None);
        assert_eq!(first.next(3, &proxies(&[1]), &none), None);
        assert_eq!(first.next(1, &proxies(&[1]), &none), None);
        let crowd: Vec<_> = (1..=64).collect();
        assert_eq!(first.next(2, &proxies(&crowd), &none), None);
    }

    #[test]
    fn who_was_left_out_in_between_is_known_to_be_new() {
        let none = BTreeSet::new();
        let mut steering = Steering::default();
        for (number, nodes) in [(1, &[1, 2][..]), (2, &[1]), (3, &[1, 2])] {
            steering = steering.next(number, &proxies(nodes), &none).unwrap();
        }
        let since = |node| steering.proxies()[&NodeId(node)].since;
        assert_eq!((since(1), since(2)), (1, 3));
    }
}
