//! `pgx init store`: founds a cluster, joins one, or makes a new one of a survivor.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use pgx_quorum::{Identity, NodeId, Probe};
use pgx_session::route::ServerAddress;

use crate::cli::InitStore;
use crate::config::{self, Control};
use crate::controller::storage;
use crate::exit::Failure;

/// How long another voter is called before it counts as silent.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// Makes the store and says what it made.
pub(super) fn make(wanted: &InitStore) -> Result<String, Failure> {
    let config = config::load(&wanted.config)?;
    let Some(control) = config.control else {
        let text = format!("{} has no [control]", wanted.config.display());
        return Err(Failure::Failed(text));
    };
    let failed = |error: storage::StorageError| Failure::Failed(error.to_string());
    if wanted.recover {
        return recover(&control, &wanted.gone);
    }
    if let Some(text) = &wanted.cluster_id {
        let cluster = parse(text)?;
        let identity = storage::join(&control, cluster).map_err(failed)?;
        return Ok(format!(
            "made the store of {identity}\nnext: start pgx here, and on a node of the cluster \
             run\n  pgx ctl node add {} HOST:PORT\n",
            identity.node.get()
        ));
    }
    let identity = storage::found(&control).map_err(failed)?;
    Ok(format!("founded a cluster\n{}", describe(&identity)))
}

fn describe(identity: &Identity) -> String {
    format!(
        "  cluster id {:032x}\n  node {}\nnext: start pgx here; on every other node run\n  pgx \
         init store --join --cluster-id {:032x}\n",
        identity.cluster.0,
        identity.node.get(),
        identity.cluster.0
    )
}

fn parse(text: &str) -> Result<u128, Failure> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    number.ok_or_else(|| {
        Failure::Failed(format!(
            "--cluster-id {text:?} is not 32 hexadecimal digits, as 'pgx ctl status' prints them"
        ))
    })
}

fn recover(control: &Control, gone: &[u64]) -> Result<String, Failure> {
    let mut probes = BTreeMap::new();
    for node in gone {
        let Some(number) = NodeId::new(*node) else {
            return Err(Failure::Failed("--gone 0: no node has that number".to_owned()));
        };
        let address = control.peers.get(&pgx_control::ids::NodeId(*node));
        let answers = address.is_some_and(answers);
        probes.insert(number, if answers { Probe::Answers } else { Probe::Gone });
    }
    let recovered = storage::recover(control, &probes)
        .map_err(|error| Failure::Failed(format!("{error}; --gone NUMBER names a lost voter")))?;
    Ok(format!(
        "made a new cluster of the survivor; entries {} to {} may or may not have been agreed on \
         before\n{}before you start it, wait the longest lease that was ever configured\n",
        recovered.commit_index,
        recovered.last_index,
        describe(&recovered.identity),
    ))
}

/// Whether anything accepts a connection there.
fn answers(address: &ServerAddress) -> bool {
    let resolved = address.0.to_socket_addrs().into_iter().flatten();
    resolved.into_iter().any(|address| TcpStream::connect_timeout(&address, PROBE_MAX).is_ok())
}
