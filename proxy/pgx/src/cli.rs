//! The command line: what can be said, and nothing of what it does.

use std::path::PathBuf;

use axum::http::Uri;
use clap::builder::RangedI64ValueParser;
use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use pgx_ring::Choice;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Means;
use crate::import::Tool;
use crate::moment::unix_ms;
use crate::pcp::Pcp;

/// Where pgx looks for its configuration unless told otherwise.
pub(crate) const CONFIG_PATH: &str = "/etc/pgx/pgx.toml";

/// Where the authority's certificate is unless told otherwise.
pub(crate) const CA_PATH: &str = "/etc/pgx/ca.pem";

/// Keeps a PostgreSQL cluster available behind one address.
#[derive(Parser)]
#[command(name = "pgx", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(crate) struct Command {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What each exit code says; manual pages make a list of it.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed or found trouble; \
    2 wrong command line; 3 wrong configuration; 4 pgx is not running or cannot be reached; \
    5 refused by pgx.";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Runs the roles that the configuration's sections name
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// How the threads of a pool do their I/O, whatever the file says: auto, full (io_uring,
        /// kernel 6.1 and later), reduced (io_uring of older kernels) or epoll
        #[arg(long, value_name = "ENGINE")]
        engine: Option<Choice>,
        /// Takes the place of the pgx that runs with the same admin.socket, such as an older
        /// release: that hands its sockets over, and its sessions go on there until they end, for
        /// at most its proxy.drain_timeout
        #[arg(long)]
        take_over: bool,
    },
    /// Asks a running pgx, or tells it what to do
    Ctl(Ctl),
    /// Does what pgpool-II's pcp commands do, by their names and options, for scripts that use them
    Pcp(Pcp),
    /// Says what this machine allows pgx to do, and what to do about the rest
    Doctor(Doctor),
    /// Makes what a node needs before its first start: certificates, and its store
    Init {
        #[command(subcommand)]
        verb: InitVerb,
    },
    /// Checks a configuration file, prints an example of one, or what is answered by HTTP
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Prints a pgx configuration that does what another tool's does, and names what it cannot
    Import {
        /// The file: PgBouncer's pgbouncer.ini, pgpool-II's pgpool.conf or Patroni's patroni.yml
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Whose configuration it is; told from what is in the file without it
        #[arg(long, value_name = "TOOL")]
        from: Option<Tool>,
    },
    /// Fences this host's PostgreSQL without a running pgx
    Fence {
        #[command(subcommand)]
        verb: FenceVerb,
    },
    /// Prints a script that completes these commands in a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Prints the manual page, or writes those of all commands
    Man {
        /// The folder to write them into, such as /usr/local/share/man/man1
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum FenceVerb {
    /// Pins the fence around PostgreSQL's port; it opens nothing and ends no lease that is held
    Shut(FenceShut),
    /// Prints the systemd unit that does so before network and PostgreSQL start
    Unit {
        /// PostgreSQL's port
        #[arg(long, default_value_t = pgx_bpf::PORT_DEFAULT, value_parser = port())]
        port: u16,
    },
}

/// A time in milliseconds since 1970.
fn time_of_day(text: &str) -> Result<u64, String> {
    let far = || "that is too far away".to_owned();
    if let Ok(from_now) = humantime::parse_duration(text) {
        let from_now = u64::try_from(from_now.as_millis()).map_err(|_| far())?;
        return unix_ms().checked_add(from_now).ok_or_else(far);
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        "neither a time with its zone, such as 2030-01-31T03:00:00+01:00, nor a duration, such as \
         90m"
    })?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| "that is over".to_owned())
}

#[derive(Args)]
pub(crate) struct FenceShut {
    /// PostgreSQL's port
    #[arg(long, default_value_t = pgx_bpf::PORT_DEFAULT, value_parser = port())]
    pub(crate) port: u16,
    /// The best means that may be used, and all that come after it
    #[arg(long, value_name = "MEANS", default_value = "native", value_parser = Means::WORDS)]
    pub(crate) best: String,
}

fn port() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// Which pgx is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whom {
    /// The admin socket of the pgx to talk to
    #[arg(long, value_name = "PATH", default_value = crate::config::ADMIN_SOCKET, global = true)]
    pub(crate) socket: PathBuf,
    /// Asks the pgx of another host instead, by its http.listen, such as https://db1:6434
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) url: Option<Uri>,
    /// With --url: the authority that has signed that pgx's certificate
    #[arg(long, value_name = "FILE", default_value = CA_PATH, global = true)]
    pub(crate) ca: PathBuf,
    /// With --url: your certificate, which 'pgx init person' makes
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) cert: Option<PathBuf>,
    /// With --url: the key that belongs to it
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Ctl {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// Prints JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Does not ask before what cannot be taken back
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    /// Shows it again each so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(global = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) watch: Option<u32>,
    #[command(subcommand)]
    pub(crate) verb: CtlVerb,
}

#[derive(Subcommand)]
pub(crate) enum CtlVerb {
    /// What is wrong and what to do about it; what this pgx does and how it fares
    Status,
    /// The cluster's nodes: who is primary, who streams, and how far behind each is
    Nodes,
    /// How far each PostgreSQL is, and how many bytes behind the primary
    Lag,
    /// The leases that this node holds, and what its fence goes by
    Lease,
    /// The virtual addresses of this node, and how clients are shared
    Vip,
    /// The pools of this pgx: who is served, who waits, and how long
    Pools,
    /// The clients of this pgx
    Clients,
    /// Any table of the console: databases, servers, stats, users, config, memory and so on
    Show {
        /// The word after SHOW, such as servers
        #[arg(value_name = "TABLE")]
        what: String,
    },
    /// What has happened to the cluster, as this node has seen it
    Events {
        /// How many, the newest last
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        last: u32,
    },
    /// Changes of primary: when, why, how long each step took, what may be in doubt
    History {
        /// How many, the newest last
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        last: u32,
        /// With what was seen, and each step
        #[arg(long)]
        steps: bool,
    },
    /// Begins the cluster with a node's PostgreSQL as its primary
    Bootstrap {
        /// The node's number
        #[arg(long, value_name = "NUMBER")]
        node: u64,
        #[command(flatten)]
        dry: Dry,
    },
    /// Lets nodes belong to the cluster, or no more
    #[command(visible_alias = "member")]
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// Makes another node primary, without loss and without errors to clients
    Switchover {
        #[command(subcommand)]
        verb: Option<SwitchoverVerb>,
        /// The node's number; the best standby without it
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        /// Later: a time such as 2030-01-31T03:00:00+01:00, or how long from now, such as 90m; it
        /// is given up if another primary comes before, or nobody could take over five minutes long
        #[arg(long, value_name = "TIME", value_parser = time_of_day)]
        at: Option<u64>,
        #[command(flatten)]
        dry: Dry,
    },
    /// Makes a node primary: by a switchover while the primary serves, else by a failover, in which
    /// whoever has most of the log is elected
    Promote {
        /// The node's number
        #[arg(value_name = "NUMBER")]
        node: u64,
        #[command(flatten)]
        dry: Dry,
    },
    /// Spares a node: nobody is sent there who only reads, commits wait for it only where no other
    /// standby streams, and it becomes primary only if no other can
    Detach {
        /// The node's number
        #[arg(value_name = "NUMBER")]
        node: u64,
        #[command(flatten)]
        dry: Dry,
    },
    /// Spares a node no longer
    Attach {
        /// The node's number
        #[arg(value_name = "NUMBER")]
        node: u64,
        #[command(flatten)]
        dry: Dry,
    },
    /// Takes everything off a node, so that its host can be worked on: switches over if it is
    /// primary, detaches it, and waits until nobody has a transaction open there
    Drain(Drain),
    /// Ends the PostgreSQL of this pgx's host in order, and starts it again; a primary that has
    /// standbys is switched over first
    Restart,
    /// Tries at once what has failed with the PostgreSQL of this pgx's host
    Rejoin,
    /// Copies the data directory of this pgx's host anew from the primary, whatever is in it
    Reinit,
    /// Replaces the primary though it seems well
    Failover {
        /// Lets the failover under way lose acknowledged commits, as those who have them are gone
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Holds new transactions of a database; without one, leaves failover to operators
    Pause(Pause),
    /// Lets them go on; without a database, takes failover back from operators
    Resume {
        /// The database as clients name it; '*' for all
        #[arg(value_name = "DATABASE")]
        database: Option<String>,
        /// Where it is from now on; may be given several times
        #[arg(long, value_name = "HOST:PORT", requires = "database")]
        on: Vec<String>,
    },
    /// Reads configuration, users, rules and certificates of this pgx again, as SIGHUP does
    Reload,
    /// Prints the settings that all nodes share
    #[command(visible_alias = "config")]
    ShowConfig,
    /// Changes settings that all nodes share, in $EDITOR unless told otherwise
    EditConfig(EditConfig),
    /// Lets another voter coordinate
    Transfer {
        /// The voter's number
        #[arg(long, value_name = "NUMBER")]
        to: u64,
    },
    /// Fences the PostgreSQL of this pgx's host, whatever its lease; needs no quorum
    Fence,
    /// Takes that back; needs no quorum
    Unfence {
        /// The epoch up to which it is fenced, as 'pgx ctl fence' and 'pgx ctl status' print it
        #[arg(long, value_name = "NUMBER")]
        epoch: u64,
    },
    /// Says what this machine allows pgx to do, and what to do about the rest; as 'pgx doctor'
    Doctor {
        /// Checks what this configuration needs, too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Writes what somebody needs who is to find out what is wrong into one file, without secrets
    Bundle(Bundle),
}

#[derive(Args)]
pub(crate) struct Bundle {
    /// The file, which must not be there; pgx-bundle-HOST-TIME.tar.gz in this folder without it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The configuration of this pgx; passwords in it are left out
    #[arg(long, value_name = "FILE", default_value = "/etc/pgx/pgx.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Args)]
pub(crate) struct Drain {
    /// The node's number
    #[arg(value_name = "NUMBER")]
    pub(crate) node: u64,
    /// Seconds to wait for it
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u32,
}

#[derive(Args)]
pub(crate) struct Pause {
    /// The database as clients name it; '*' for all
    #[arg(value_name = "DATABASE")]
    pub(crate) database: Option<String>,
    /// Seconds that each client waits before it gets an error; as for any server without it
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "database")]
    pub(crate) wait: u32,
    /// Seconds after which transactions under way are ended; never without it
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "database")]
    pub(crate) drain: u32,
}

#[derive(Args)]
pub(crate) struct Dry {
    /// Says what would be decided, from what is known now, and does nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Subcommand)]
pub(crate) enum NodeVerb {
    /// Lets a node belong, or changes where the others reach it
    Add {
        /// Its number; never one that another node had
        #[arg(value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        /// Its control.listen as host:port
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// Lets it have the log without counting
        #[arg(long)]
        learner: bool,
    },
    /// Lets a node belong no more; its number is never used again
    Remove {
        /// Its number
        #[arg(value_name = "NUMBER")]
        node: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum SwitchoverVerb {
    /// Gives a switchover up, while that is possible
    Cancel,
}

#[derive(Args)]
pub(crate) struct EditConfig {
    /// Changes one setting and opens no editor; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Takes the settings from a file of the form that show-config prints
    #[arg(long, value_name = "FILE", conflicts_with = "set")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dry: Dry,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Checks what this configuration needs, too
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Prints JSON for programs instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum InitVerb {
    /// Makes the authority that signs the certificates of a cluster's nodes
    Ca {
        /// The name of the cluster
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// The folder for ca.key and ca.pem
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is valid
        #[arg(long, default_value_t = 3650, value_parser = days())]
        days: u32,
    },
    /// Makes the key and the certificate of one node
    Node(InitNode),
    /// Makes the key and the certificate of somebody who asks by HTTP, or by 'pgx ctl --url'
    Person(InitPerson),
    /// Makes what the node must not forget about the cluster: once, before its first start
    Store(InitStore),
    /// Makes postgres.data_directory pgx's: founds a cluster where it is empty, or takes over a
    /// PostgreSQL that runs. Hosts without one get a copy by themselves
    Postgres(InitPostgres),
    /// Prints a unit for systemd that runs pgx and lets PostgreSQL outlive it
    Systemd {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
    },
    /// Says whom the certificates in a file name, and until when they are valid
    Show {
        /// The file with the certificates
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct InitPerson {
    /// The folder with the authority's ca.key and ca.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// The name that http.viewers or http.operators has
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// The folder for NAME.key and NAME.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it is valid
    #[arg(long, default_value_t = 365, value_parser = days())]
    pub(crate) days: u32,
}

#[derive(Args)]
pub(crate) struct InitNode {
    /// The folder with the authority's ca.key and ca.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// The node's number, as control.node in its configuration; never used again for another node
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: u64,
    /// The node's name, for people and for the names of its files
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,
    /// An address of the node; may be given several times
    #[arg(long, value_name = "HOST[:PORT]", required = true, num_args = 1..)]
    pub(crate) address: Vec<String>,
    /// The folder for NAME.key and NAME.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it is valid
    #[arg(long, default_value_t = 365, value_parser = days())]
    pub(crate) days: u32,
}

#[derive(Args)]
#[command(group = ArgGroup::new("way").required(true).args(["found", "join", "recover"]))]
pub(crate) struct InitStore {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
    pub(crate) config: PathBuf,
    /// Founds a cluster with this node as its only voter
    #[arg(long)]
    pub(crate) found: bool,
    /// Lets the nodes of a cluster take this one in
    #[arg(long, requires = "cluster_id")]
    pub(crate) join: bool,
    /// The cluster to join, as 'pgx init store --found' and 'pgx ctl status' print it
    #[arg(long, value_name = "ID", conflicts_with_all = ["found", "recover"])]
    pub(crate) cluster_id: Option<String>,
    /// Makes this node the only voter of a new cluster, when a majority of the old one is gone for
    /// good; commits that it never received are lost
    #[arg(long)]
    pub(crate) recover: bool,
    /// A voter that will never come back; each other one must be named, and is looked for all the
    /// same
    #[arg(long, value_name = "NUMBER", requires = "recover")]
    pub(crate) gone: Vec<u64>,
}

#[derive(Args)]
pub(crate) struct InitPostgres {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
    pub(crate) config: PathBuf,
    /// A word for initdb, such as --locale=C or --encoding=UTF8; may be given several times
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) initdb: Vec<String>,
}

/// Up to a century; whoever writes more has miscounted.
fn days() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..36_500)
}

#[derive(Subcommand)]
pub(crate) enum ConfigVerb {
    /// Reports every problem of a configuration file
    Check {
        /// The configuration file
        #[arg(value_name = "FILE", default_value = CONFIG_PATH)]
        file: PathBuf,
    },
    /// Prints a configuration with every key, its default and what it means
    Example,
    /// Prints what is answered by HTTP, as an OpenAPI document
    Openapi,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_free_of_contradictions() {
        Command::command().debug_assert();
    }

    #[test]
    fn time_has_its_zone_or_is_so_long_from_now() {
        assert_eq!(time_of_day("1970-01-01T01:00:02+01:00"), Ok(2_000));
        let later = time_of_day("90m").unwrap();
        assert!(later.abs_diff(unix_ms() + 5_400_000) < 60_000, "{later}");
        for (text, why) in [
            ("03:00", "neither a time with its zone"),
            ("2030-01-31T03:00:00", "neither a time with its zone"),
            ("18446744073709551615s", "too far away"),
            ("1969-12-31T00:00:00Z", "that is over"),
        ] {
            let found = time_of_day(text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
