//! The admin socket: one JSON request a line over a Unix socket, checked by the peer's user.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgx_control::admin::{Body, ProxyStatus, Refusal, Reply, Request, Status, VERSION, Verb};
use pgx_control::ids::NodeId;
use pgx_control::limits::{ADMIN_CLIENT_MS_MAX, ADMIN_CLIENTS_MAX, ADMIN_REQUEST_BYTES_MAX};
use pgx_control::survey::local_troubles;
use pgx_controller::Request as ClusterRequest;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{Instrument, info, info_span, warn};

use crate::claim::Denied;
use crate::config::{Config, is_host_and_port};
use crate::console::Desk;
use crate::controller::{Control, Question, Told, Wish, records};
use crate::fence::Fence;
use crate::front::Front;
use crate::kernel::Kernel;
use crate::limits::control::TOLD_MAX;
use crate::pause;
use crate::peer::PeerSet;
use crate::reloads::Reloads;
use crate::takeover::give::Hand;
use crate::unix::{Access, BoundSocket};
use crate::vip::Addresses;

/// The key that names the socket.
const KEY: &str = "admin.socket";

/// What the admin socket reports on.
pub(crate) struct Node {
    pub(crate) started: Instant,
    pub(crate) config: Config,
    pub(crate) listen: Vec<String>,
    pub(crate) front: Option<Front>,
    pub(crate) desk: Option<Arc<Desk>>,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) peers: Option<Arc<PeerSet>>,
    pub(crate) controller: Option<Control>,
    pub(crate) fence: Option<Fence>,
    pub(crate) vips: Option<Arc<Addresses>>,
    pub(crate) hand: Arc<Hand>,
    pub(crate) reloads: Arc<Reloads>,
}

/// Binds the socket at `path`, replacing one that an unclean stop left behind.
///
/// # Errors
/// When a living process has it, a foreign file is in its place, or the system refuses.
pub(crate) fn bind(path: &Path) -> Result<BoundSocket, Denied> {
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| {
            let (step, path) = ("make the folder of", path.to_owned());
            Denied::System { key: KEY, step, path, error }
        })?;
    }
    // Everybody may connect so that a refusal can say why; who may ask is checked per peer.
    BoundSocket::bind(path, KEY, Access { mode: 0o666, group: None })
}

/// Serves requests until dropped.
pub(crate) async fn serve(listener: UnixListener, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(ADMIN_CLIENTS_MAX));
    loop {
        let mut peer = match listener.accept().await {
            Ok((peer, _)) => peer,
            Err(error) => {
                warn!(%error, "cannot accept an admin client; trying again shortly");
                tokio::time::sleep(crate::limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let served = async {
                match place {
                    Ok(_place) => serve_peer(&mut peer, &node).await,
                    Err(_) => {
                        let busy = answer(&mut peer, Body::Refused(Refusal::Busy)).await;
                        busy.map(|()| Next::Nothing)
                    }
                }
            };
            let limit = Duration::from_millis(ADMIN_CLIENT_MS_MAX);
            // A peer that stalls or leaves harms nobody but itself.
            if let Ok(Ok(Next::HandOver)) = tokio::time::timeout(limit, served).await {
                hand_over(peer, Arc::clone(&node.hand));
            }
        });
    }
}

/// What becomes of an admin connection.
enum Next {
    /// It has had its answer.
    Nothing,
    /// A process that is to take over is at the other end.
    HandOver,
}

/// On a thread of its own, as this takes as long as the other process needs to get ready.
fn hand_over(peer: UnixStream, hand: Arc<Hand>) {
    let begun = peer.into_std().and_then(|stream| {
        std::thread::Builder::new().name("hand-over".to_owned()).spawn(move || hand.over(stream))
    });
    if let Err(error) = begun {
        warn!(%error, "a process asks to take over, and cannot be heard");
    }
}

async fn serve_peer(peer: &mut UnixStream, node: &Node) -> io::Result<Next> {
    let expected = nix::unistd::geteuid().as_raw();
    let found = peer.peer_cred()?.uid();
    if found != 0 && found != expected {
        warn!(user_id = found, "refused an admin client");
        answer(peer, Body::Refused(Refusal::Peer { found, expected })).await?;
        return Ok(Next::Nothing);
    }
    let bound = u64::try_from(ADMIN_REQUEST_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new((&mut *peer).take(bound)).read_until(b'\n', &mut line).await?;
    let body = if line.last() != Some(&b'\n') && line.len() >= ADMIN_REQUEST_BYTES_MAX {
        Body::Refused(Refusal::TooLong)
    } else {
        match parse(&line) {
            Ok(Request { verb: Verb::TakeOver, dry_run: false, .. }) => return Ok(Next::HandOver),
            Ok(request) => node.carry_out(request).await,
            Err(refusal) => Body::Refused(refusal),
        }
    };
    answer(peer, body).await?;
    Ok(Next::Nothing)
}

/// The version is read first and alone: another version may have other verbs.
fn parse(line: &[u8]) -> Result<Request, Refusal> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let malformed = |error: serde_json::Error| Refusal::Malformed { detail: error.to_string() };
    let Versioned { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != VERSION {
        return Err(Refusal::Version { expected: VERSION, found: version });
    }
    serde_json::from_slice(line).map_err(malformed)
}

async fn answer(peer: &mut UnixStream, body: Body) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Reply::new(body))?;
    line.push(b'\n');
    peer.write_all(&line).await?;
    peer.shutdown().await?;
    // Closing with bytes unread would reset the connection and could take the reply with it, so the
    // peer closes first; its time is bounded by our caller.
    tokio::io::copy(peer, &mut tokio::io::sink()).await.map(|_| ())
}

impl Node {
    /// Does what is asked, by whomever. What is logged of it has its number.
    pub(crate) async fn carry_out(&self, request: Request) -> Body {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let span = info_span!("request", number = NUMBER.fetch_add(1, Ordering::Relaxed));
        self.answer(request).instrument(span).await
    }

    async fn answer(&self, Request { dry_run, verb, .. }: Request) -> Body {
        if !verb.only_looks() {
            info!(?verb, dry_run, "an operator asks");
        }
        if dry_run && !can_be_rehearsed(&verb) {
            let detail = "there is no dry run of this; nothing was done".to_owned();
            return Body::Refused(Refusal::Malformed { detail });
        }
        if verb == Verb::Status {
            return Body::Status(Box::new(self.status_and_troubles().await));
        }
        if let Verb::Show { what } = &verb {
            let shown = match &self.desk {
                Some(desk) => desk.show(what).await,
                None => Err("this pgx has no pool".to_owned()),
            };
            return match shown {
                Ok(table) => Body::Table(table),
                Err(detail) => Body::Refused(Refusal::Pool { detail }),
            };
        }
        if let Verb::Events { last } | Verb::History { last } = verb {
            return self.recorded(matches!(verb, Verb::History { .. }), last).await;
        }
        if let Verb::Fence | Verb::Unfence { .. } = verb {
            return self.fence_verb(&verb);
        }
        if let Verb::PauseDatabase { .. } | Verb::ResumeDatabase { .. } = verb {
            let proxy = self.config.proxy.as_ref();
            return match pause::carry_out(self.front.as_ref(), proxy, &verb).await {
                Ok(line) => Body::Done(vec![line]),
                Err(detail) => Body::Refused(Refusal::Pool { detail }),
            };
        }
        if verb == Verb::Reload {
            return self.reload().await;
        }
        let Some(controller) = &self.controller else { return Body::Refused(Refusal::NoCluster) };
        if let Some(wish) = wish(&verb) {
            return match controller.wish(wish).await {
                Ok(line) => Body::Done(vec![line]),
                Err(detail) => Body::Refused(Refusal::Postgres { detail }),
            };
        }
        if let Verb::Node { address: Some(address), .. } = &verb
            && !is_host_and_port(address)
        {
            let detail = format!("{address:?} is not host:port, such as db2:6433");
            return Body::Refused(Refusal::Malformed { detail });
        }
        if verb == Verb::Survey {
            let survey = controller.survey().await.map(|survey| Body::Survey(Box::new(survey)));
            return survey.unwrap_or_else(|unanswered| {
                Body::Refused(Refusal::Cluster { detail: unanswered.to_string() })
            });
        }
        let Some(request) = cluster_request(verb) else {
            let status = controller.status().await.filter(|status| status.halted.is_empty());
            return match status {
                Some(status) => Body::Config(status.settings),
                None => Body::Refused(Refusal::Stalled),
            };
        };
        let question = if dry_run { Question::Rehearse(request) } else { Question::Do(request) };
        match controller.ask(question).await {
            Ok(Told::Lines(lines)) => Body::Done(lines),
            Ok(Told::Survey(survey)) => Body::Survey(survey),
            Err(unanswered) => Body::Refused(Refusal::Cluster { detail: unanswered.to_string() }),
        }
    }

    /// What has happened to the cluster, from the files beside the log; needs no quorum.
    async fn recorded(&self, is_history: bool, last: u32) -> Body {
        let Some(control) = &self.config.control else { return Body::Refused(Refusal::NoCluster) };
        let (folder, last) = (control.data.clone(), TOLD_MAX.min(last as usize));
        let read = tokio::task::spawn_blocking(move || match is_history {
            true => records::history(&folder, last).map(Body::History),
            false => records::events(&folder, last).map(Body::Events),
        });
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        read.unwrap_or_else(|error| Body::Refused(Refusal::Files { detail: error.to_string() }))
    }

    async fn reload(&self) -> Body {
        match Arc::clone(&self.reloads).read_again().await {
            Ok(lines) => Body::Done(lines),
            Err(detail) => Body::Refused(Refusal::Files { detail }),
        }
    }

    /// What operators ask of this host's fence; it needs no quorum, and no disk.
    fn fence_verb(&self, verb: &Verb) -> Body {
        let carried_out = match (&self.fence, verb) {
            (None, _) => {
                Err("this pgx keeps no fence: its configuration has no [fence]".to_owned())
            }
            (Some(fence), Verb::Unfence { epoch }) => fence.unfence(*epoch),
            (Some(fence), _) => fence.fence(),
        };
        match carried_out {
            Ok(line) => Body::Done(vec![line]),
            Err(detail) => Body::Refused(Refusal::Fence { detail }),
        }
    }

    async fn status_and_troubles(&self) -> Status {
        let survey = async {
            match &self.controller {
                Some(controller) => controller.survey().await.ok(),
                None => None,
            }
        };
        let (status, survey) = tokio::join!(self.status(), survey);
        let mut troubles = local_troubles(&status, survey.as_ref());
        troubles.splice(..0, survey.into_iter().flat_map(|survey| survey.troubles));
        Status { troubles, ..status }
    }

    /// All but the troubles.
    pub(crate) async fn status(&self) -> Status {
        let control = match &self.controller {
            Some(controller) => controller.status().await.map(Box::new),
            None => None,
        };
        let totals = self.front.as_ref().map(Front::totals);
        let proxy = self.config.proxy.as_ref().zip(totals);
        Status {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            up_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            proxy: proxy.map(|(config, totals)| ProxyStatus {
                listen: self.listen.clone(),
                backends: config.backends.iter().map(ToString::to_string).collect(),
                clients: totals.clients,
                clients_total: totals.clients_total,
                refused_total: totals.refused_total,
                connect_failures_total: totals.unreachable_total,
            }),
            kernel: self.kernel.as_ref().map(Kernel::status),
            addresses: self.vips.as_ref().and_then(|vips| vips.status()),
            peers: self.peers.as_ref().map(|peers| peers.status()),
            control,
            fence: self.fence.as_ref().map(Fence::status),
            troubles: Vec::new(),
        }
    }
}

/// Whether a dry run of it changes nothing: what only looks, and what is asked of the cluster.
pub(crate) fn can_be_rehearsed(verb: &Verb) -> bool {
    verb.only_looks() || cluster_request(verb.clone()).is_some()
}

/// What a verb asks of this host's PostgreSQL, if anything.
fn wish(verb: &Verb) -> Option<Wish> {
    Some(match verb {
        Verb::Restart => Wish::Restart,
        Verb::Rejoin => Wish::Rejoin,
        Verb::Reinit => Wish::Reinit,
        _ => return None,
    })
}

/// What a verb asks of the cluster; `None` for those that only look or concern this node alone.
fn cluster_request(verb: Verb) -> Option<ClusterRequest> {
    Some(match verb {
        Verb::Status
        | Verb::Survey
        | Verb::Show { .. }
        | Verb::Events { .. }
        | Verb::History { .. }
        | Verb::ShowConfig
        | Verb::PauseDatabase { .. }
        | Verb::ResumeDatabase { .. }
        | Verb::Fence
        | Verb::Unfence { .. }
        | Verb::Reload
        | Verb::Restart
        | Verb::Rejoin
        | Verb::Reinit
        | Verb::TakeOver => return None,
        Verb::EditConfig(change) => ClusterRequest::Edit(change),
        Verb::Bootstrap { node } => ClusterRequest::Bootstrap { node: NodeId(node) },
        Verb::Node { node, address, role } => {
            let address = address.unwrap_or_default();
            ClusterRequest::Node { node: NodeId(node), address, role }
        }
        Verb::Switchover { to, at_ms: None } => ClusterRequest::Switchover { to: to.map(NodeId) },
        Verb::Switchover { to, at_ms: Some(at_ms) } => {
            ClusterRequest::Schedule { to: to.map(NodeId), at_ms }
        }
        Verb::Promote { node } => ClusterRequest::Promote { to: NodeId(node) },
        Verb::Detach { node } => ClusterRequest::Detach { node: NodeId(node), is_detached: true },
        Verb::Attach { node } => ClusterRequest::Detach { node: NodeId(node), is_detached: false },
        Verb::CancelSwitchover => ClusterRequest::CancelSwitchover,
        Verb::Failover => ClusterRequest::Failover,
        Verb::AcceptLoss => ClusterRequest::AcceptLoss,
        Verb::Pause { is_paused } => ClusterRequest::Pause { is_paused },
        Verb::Transfer { to } => ClusterRequest::Transfer { to: NodeId(to) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_another_version_are_told_so_even_with_unknown_verbs() {
        let refusal = parse(br#"{"version":7,"verb":"dance"}"#).unwrap_err();
        assert_eq!(refusal, Refusal::Version { expected: VERSION, found: 7 });
        let refusal = parse(br#"{"version":1,"verb":"dance"}"#).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed { detail } if detail.contains("dance")));
        assert!(matches!(parse(b""), Err(Refusal::Malformed { .. })));
    }
}
