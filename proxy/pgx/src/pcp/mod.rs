//! `pgx pcp`: the pcp commands of pgpool-II by their names, options and output, done by what pgx
//! has instead, so that scripts go on. Standard output is theirs; what else is to be said goes to
//! standard error. What is different stands in docs/OPERATING.md. Read next: [`options`],
//! [`mod@print`].

mod options;
mod place;
mod print;
mod stop;
#[cfg(test)]
mod tests;
mod watchdog;

use std::time::{Duration, Instant};

use nix::unistd::gethostname;
use pgx_control::admin::{Body, Request, Status, Table, Verb};

use self::options::{OneNode, PcpVerb, Scope};
pub(crate) use self::options::{Pcp, by_name};
use self::print::{Row, Times, rows};
use crate::cli::Whom;
use crate::ctl::{ask, drain};
use crate::exit::Failure;
use crate::moment::unix_ms;

/// How long `pcp_detach_node -g` waits: pgpool-II's recovery_timeout, unless it is set there.
const GRACE: Duration = Duration::from_secs(90);

/// Between two tries of what is refused until others have what it has.
const AGAIN: Duration = Duration::from_millis(500);

/// How many changes of primary are looked at for the last one of a node.
const CHANGES: u32 = 100;

/// One command, and the pgx that it is for.
struct Task<'a> {
    whom: Whom,
    pcp: &'a Pcp,
}

/// Does it, and prints what the pcp command prints.
///
/// # Errors
/// When pgx does not answer, refuses, or there is no such node.
pub(crate) fn run(pcp: &Pcp) -> Result<(), Failure> {
    let name = pcp.verb.name();
    for word in pcp.verb.ignored() {
        eprintln!("{name}: Warning: extra command-line argument {word:?} ignored");
    }
    let own_name = gethostname().ok().and_then(|name| name.into_string().ok());
    let whom = place::of(pcp, |name| std::env::var_os(name), own_name.as_deref())?;
    if pcp.debug {
        let place = match &whom.url {
            Some(url) => url.to_string(),
            None => whom.socket.display().to_string(),
        };
        eprintln!("{name}: asks pgx at {place}; there is no port and no password for pcp");
    }
    let text = Task { whom, pcp }.carry_out()?;
    print!("{}", text.unwrap_or_else(|| format!("{name} -- Command Successful\n")));
    Ok(())
}

impl Task<'_> {
    /// What is printed; `None` for what is only done.
    fn carry_out(&self) -> Result<Option<String>, Failure> {
        let is_verbose = self.pcp.verbose;
        Ok(Some(match &self.pcp.verb {
            PcpVerb::NodeCount(_) => {
                print::count(rows(&self.table("pool_nodes")?).count(), is_verbose)
            }
            PcpVerb::NodeInfo { node_id, id, .. } => self.node_info(node_id.or(id.id))?,
            PcpVerb::HealthCheckStats(node) => self.health(node.number())?,
            PcpVerb::PoolStatus(_) => print::settings(&self.table("pool_status")?, is_verbose),
            PcpVerb::ProcCount(_) => print::processes(&[self.status()?.process_id], is_verbose),
            PcpVerb::ProcInfo { process_id, id, .. } => self.process_info(process_id.or(*id))?,
            PcpVerb::WatchdogInfo { watchdog_id, id, .. } => {
                watchdog::info(&self.status()?, watchdog_id.or(*id), is_verbose)?
            }
            _ => return self.change().map(|()| None),
        }))
    }

    /// What is no question.
    fn change(&self) -> Result<(), Failure> {
        match &self.pcp.verb {
            PcpVerb::AttachNode(node) => self.done(Verb::Attach { node: node.number() }),
            PcpVerb::DetachNode { node, gracefully } => self.detach(node, *gracefully),
            PcpVerb::PromoteNode { node, .. } => self.done(Verb::Promote { node: node.number() }),
            PcpVerb::RecoveryNode(node) => self.recover(node.number()),
            PcpVerb::ReloadConfig { scope, .. } => {
                self.local(scope.scope, "reads its own files")?;
                self.done(Verb::Reload)
            }
            PcpVerb::StopPgpool { mode, scope, .. } => {
                self.local(scope.scope, "is stopped on its own host")?;
                let hint = stop::run(&self.whom, &self.status()?, *mode)?;
                hint.iter().for_each(|hint| self.say(hint));
                Ok(())
            }
            PcpVerb::LogRotate { .. } => {
                self.say("pgx logs to standard error: whoever keeps that rotates it, as journald");
                Ok(())
            }
            PcpVerb::InvalidateQueryCache(_) => {
                self.say("pgx keeps no answers of queries, so there are none to forget");
                Ok(())
            }
            // Told by `carry_out`.
            _ => Ok(()),
        }
    }

    /// Says something beside what the pcp command prints.
    fn say(&self, text: &str) {
        eprintln!("{}: {text}", self.pcp.verb.name());
    }

    fn done(&self, verb: Verb) -> Result<(), Failure> {
        match ask(&self.whom, &Request::new(verb))? {
            Body::Done(lines) if self.pcp.verbose => lines.iter().for_each(|line| self.say(line)),
            _ => {}
        }
        Ok(())
    }

    fn status(&self) -> Result<Status, Failure> {
        match ask(&self.whom, &Request::new(Verb::Status))? {
            Body::Status(status) => Ok(*status),
            _ => Err(Failure::Failed("pgx did not answer with its status".to_owned())),
        }
    }

    fn table(&self, what: &str) -> Result<Table, Failure> {
        match ask(&self.whom, &Request::new(Verb::Show { what: what.to_owned() }))? {
            Body::Table(table) => Ok(table),
            _ => Err(Failure::Failed("pgx did not answer with a table".to_owned())),
        }
    }

    fn times(&self) -> Result<Times, Failure> {
        let started_ms = unix_ms().saturating_sub(self.status()?.up_ms);
        let changes = match ask(&self.whom, &Request::new(Verb::History { last: CHANGES })) {
            Ok(Body::History(changes)) => changes,
            // Without a cluster nothing changes.
            Ok(_) | Err(Failure::Refused(_)) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        Ok(Times { started_ms, changes })
    }

    fn node_info(&self, id: Option<u64>) -> Result<String, Failure> {
        let table = self.table("pool_nodes")?;
        let times = self.times()?;
        let shown = match id {
            Some(id) => vec![find(&table, id)?],
            None => rows(&table).collect(),
        };
        Ok(print::nodes(shown.into_iter(), &times, self.pcp.verbose))
    }

    fn health(&self, id: u64) -> Result<String, Failure> {
        let table = self.table("pool_nodes")?;
        let node = find(&table, id)?;
        // Without a cluster nobody hears of nodes.
        let survey = match drain::survey(&self.whom) {
            Ok(survey) => Some(survey),
            Err(Failure::Refused(_)) => None,
            Err(failure) => return Err(failure),
        };
        let seen = survey.iter().flat_map(|survey| &survey.nodes).find(|node| node.id == id);
        let heard_ms = seen.and_then(|node| node.heard_ms);
        let heard_ms = heard_ms.map(|ms| unix_ms().saturating_sub(ms));
        Ok(print::health(node, &self.times()?, heard_ms, self.pcp.verbose))
    }

    fn process_info(&self, id: Option<u32>) -> Result<String, Failure> {
        let table = self.table("pool_pools")?;
        if let Some(id) = id {
            let own = self.status()?.process_id;
            if id != own {
                let text = format!("there is no process {id}; pgx is one process, {own}");
                return Err(Failure::Failed(text));
            }
        }
        Ok(print::connections(&table, self.pcp.verbose))
    }

    fn detach(&self, node: &OneNode, is_gentle: bool) -> Result<(), Failure> {
        let node = node.number();
        self.done(Verb::Detach { node })?;
        match is_gentle {
            true => drain::wait_until_free(&self.whom, node, Instant::now() + GRACE),
            false => Ok(()),
        }
    }

    /// Only the node itself gives its directory up.
    fn recover(&self, node: u64) -> Result<(), Failure> {
        let status = self.status()?;
        let Some(control) = &status.control else {
            let text = "this pgx has no part in a cluster, or waits for its disk";
            return Err(Failure::Failed(text.to_owned()));
        };
        if control.node != node {
            let named = control.nodes.iter().find(|named| named.id == node);
            let place = named.map(|named| named.address.rsplit_once(':').unwrap_or_default().0);
            let Some(host) = place else {
                return Err(unknown(node));
            };
            return Err(Failure::Failed(format!(
                "this is node {}, and each copies its own directory: run 'pgx pcp recovery_node \
                 {node}' on {host}, or here with --url https://{host}:6434, --cert and --key. A \
                 node without a directory copies it by itself",
                control.node
            )));
        }
        // Commits are to wait for others before the directory is given up.
        self.done(Verb::Detach { node })?;
        let until = Instant::now() + GRACE;
        while let Err(failure) = self.done(Verb::Reinit) {
            if !matches!(failure, Failure::Refused(_)) || Instant::now() >= until {
                return Err(failure);
            }
            std::thread::sleep(AGAIN);
        }
        self.done(Verb::Attach { node })?;
        self.say(
            "the directory is being copied; 'pgx pcp node_info' says streaming when it is done",
        );
        Ok(())
    }

    /// Refuses what is for all nodes at once.
    fn local(&self, scope: Scope, why: &str) -> Result<(), Failure> {
        if scope == Scope::Local {
            return Ok(());
        }
        let status = self.status()?;
        let nodes = status.control.iter().flat_map(|control| &control.nodes);
        let places: Vec<_> = nodes.map(|node| node.address.as_str()).collect();
        Err(Failure::Failed(format!(
            "each pgx {why}: nothing is done for the whole cluster; run {} with --scope local for \
             each of its nodes ({})",
            self.pcp.verb.name(),
            places.join(", ")
        )))
    }
}

/// The row of a node.
fn find(table: &Table, id: u64) -> Result<Row<'_>, Failure> {
    let id_text = id.to_string();
    rows(table).find(|row| row.text("node_id") == id_text).ok_or_else(|| unknown(id))
}

fn unknown(id: u64) -> Failure {
    let first = if id == 0 { ": a cluster's numbers begin with 1" } else { "" };
    Failure::Failed(format!("there is no node {id}{first}; 'pgx ctl nodes' lists them"))
}
