//! What can be said to `pgx pcp`: the commands of pgpool-II with their options (4.3, and what 4.6
//! has beyond that). What they do is in [`super`].

use std::ffi::OsString;

use clap::{ArgAction, ArgGroup, Args, Subcommand, ValueEnum};

use crate::cli::Whom;

/// What the names of all commands begin with.
const PREFIX: &str = "pcp_";

// Programs that say an option twice, or only its first letters, are understood by getopt_long.
#[derive(Args)]
#[command(disable_help_flag = true, version, propagate_version = true)]
#[command(infer_long_args = true, args_override_self = true)]
pub(crate) struct Pcp {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// The host of the pgx to ask, by https://HOST:6434 with --cert and --key; localhost, this
    /// host's name, or the path of an admin socket or of its folder is the pgx of this host
    #[arg(short, long, value_name = "HOSTNAME", global = true)]
    pub(crate) host: Option<String>,
    /// Taken, and of no meaning: pgx has no port for pcp
    #[arg(short, long, value_name = "PORT", global = true)]
    pub(crate) port: Option<u16>,
    /// Taken, and of no meaning: who asks is told by his user on this host, or by --cert
    #[arg(short = 'U', long, value_name = "NAME", global = true)]
    pub(crate) username: Option<String>,
    /// Taken, and of no meaning: no password is asked for
    #[arg(short = 'w', long, global = true)]
    pub(crate) no_password: bool,
    /// Taken, and of no meaning: no password is asked for
    #[arg(short = 'W', long, global = true)]
    pub(crate) password: bool,
    /// Says on standard error which pgx is asked
    #[arg(short, long, global = true)]
    pub(crate) debug: bool,
    /// Names what is printed; and says on standard error what pgx says
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help, global = true)]
    pub(crate) help: Option<bool>,
    #[command(subcommand)]
    pub(crate) verb: PcpVerb,
}

#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub(crate) enum PcpVerb {
    /// Spares a node no longer, as 'pgx ctl attach'
    #[command(visible_alias = "pcp_attach_node", alias = "attach-node")]
    AttachNode(OneNode),
    /// Spares a node, as 'pgx ctl detach'
    #[command(visible_alias = "pcp_detach_node", alias = "detach-node")]
    DetachNode {
        #[command(flatten)]
        node: OneNode,
        /// Waits until nobody has a transaction open there
        #[arg(short, long)]
        gracefully: bool,
    },
    /// Prints how a node is, and when it was last heard
    #[command(visible_alias = "pcp_health_check_stats", alias = "health-check-stats")]
    HealthCheckStats(OneNode),
    /// Does nothing: pgx keeps no answers of queries
    #[command(visible_alias = "pcp_invalidate_query_cache", alias = "invalidate-query-cache")]
    InvalidateQueryCache(Extra),
    /// Does nothing: pgx logs to standard error, and whoever reads that rotates
    #[command(visible_alias = "pcp_log_rotate", alias = "log-rotate")]
    LogRotate {
        #[command(flatten)]
        scope: Scoped,
        #[command(flatten)]
        extra: Extra,
    },
    /// Prints how many nodes there are
    #[command(visible_alias = "pcp_node_count", alias = "node-count")]
    NodeCount(Extra),
    /// Prints a line for a node, or for each
    #[command(visible_alias = "pcp_node_info", alias = "node-info")]
    NodeInfo {
        /// The node's number; all without it
        #[arg(short, long = "node-id", value_name = "NODEID")]
        node_id: Option<u64>,
        /// All nodes
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        id: NodeId,
    },
    /// Prints the settings of the proxy
    #[command(visible_alias = "pcp_pool_status", alias = "pool-status")]
    PoolStatus(Extra),
    /// Prints the process id of pgx, which is one process
    #[command(visible_alias = "pcp_proc_count", alias = "proc-count")]
    ProcCount(Extra),
    /// Prints a line for each connection to a server
    #[command(visible_alias = "pcp_proc_info", alias = "proc-info")]
    ProcInfo {
        /// The process; that of pgx is the only one
        #[arg(short = 'P', long = "process-id", value_name = "PID")]
        process_id: Option<u32>,
        /// Taken, and of no meaning: pgx has no slots without a connection
        #[arg(short, long)]
        all: bool,
        /// The same as -P
        #[arg(value_name = "PROCESS-ID")]
        id: Option<u32>,
        #[command(flatten)]
        extra: Extra,
    },
    /// Makes a node primary, as 'pgx ctl promote'
    #[command(visible_alias = "pcp_promote_node", alias = "promote-node")]
    PromoteNode {
        #[command(flatten)]
        node: OneNode,
        /// Taken, and of no meaning: transactions that run may always end
        #[arg(short, long)]
        gracefully: bool,
        /// Taken, and of no meaning: PostgreSQL is always promoted
        #[arg(short, long)]
        switchover: bool,
    },
    /// Copies the data directory of this pgx's host anew and attaches it, as 'pgx ctl reinit'
    #[command(visible_alias = "pcp_recovery_node", alias = "recovery-node")]
    RecoveryNode(OneNode),
    /// Reads configuration, users, rules and certificates of this pgx again
    #[command(visible_alias = "pcp_reload_config", alias = "reload-config")]
    ReloadConfig {
        #[command(flatten)]
        scope: Scoped,
        #[command(flatten)]
        extra: Extra,
    },
    /// Ends the pgx of this host; PostgreSQL goes on
    #[command(visible_alias = "pcp_stop_pgpool", alias = "stop-pgpool")]
    StopPgpool {
        /// What becomes of sessions: with smart they have proxy.drain_timeout to end, else none
        #[arg(short, long, value_name = "MODE", default_value = "smart")]
        mode: Mode,
        #[command(flatten)]
        scope: Scoped,
        // The pcp command takes it, and says so nowhere.
        #[arg(short, long, hide = true)]
        all: bool,
        #[command(flatten)]
        extra: Extra,
    },
    /// Prints the quorum and its nodes as this pgx sees them
    #[command(visible_alias = "pcp_watchdog_info", alias = "watchdog-info")]
    WatchdogInfo {
        /// The node's number, 0 for the node of this pgx; all without it
        #[arg(short = 'n', long = "watchdog-id", alias = "node-id", value_name = "ID")]
        watchdog_id: Option<u64>,
        /// The same as -n
        #[arg(value_name = "WATCHDOG-ID")]
        id: Option<u64>,
        #[command(flatten)]
        extra: Extra,
    },
}

/// The node that a command is about.
#[derive(Args)]
#[command(group = ArgGroup::new("node").required(true).multiple(true).args(["node_id", "id"]))]
pub(crate) struct OneNode {
    /// The node's number
    #[arg(short, long, value_name = "NODEID")]
    pub(crate) node_id: Option<u64>,
    #[command(flatten)]
    pub(crate) id: NodeId,
}

/// The same without its option.
#[derive(Args)]
pub(crate) struct NodeId {
    /// The same as -n
    #[arg(value_name = "NODE-ID")]
    pub(crate) id: Option<u64>,
    #[command(flatten)]
    pub(crate) extra: Extra,
}

/// Words that mean nothing, which the pcp commands ignore with a warning.
#[derive(Args)]
pub(crate) struct Extra {
    #[arg(value_name = "WORD", hide = true)]
    pub(crate) words: Vec<String>,
}

/// Whose pgx a command is about.
#[derive(Args)]
pub(crate) struct Scoped {
    /// Whom it is about; each pgx has its own files and its own end, so cluster is refused
    #[arg(short, long, value_name = "SCOPE", default_value = "local")]
    pub(crate) scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    #[value(alias = "c")]
    Cluster,
    #[value(alias = "l")]
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    #[value(alias = "s")]
    Smart,
    #[value(alias = "f")]
    Fast,
    #[value(alias = "i")]
    Immediate,
}

impl PcpVerb {
    /// The pcp command's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AttachNode(_) => "pcp_attach_node",
            Self::DetachNode { .. } => "pcp_detach_node",
            Self::HealthCheckStats(_) => "pcp_health_check_stats",
            Self::InvalidateQueryCache(_) => "pcp_invalidate_query_cache",
            Self::LogRotate { .. } => "pcp_log_rotate",
            Self::NodeCount(_) => "pcp_node_count",
            Self::NodeInfo { .. } => "pcp_node_info",
            Self::PoolStatus(_) => "pcp_pool_status",
            Self::ProcCount(_) => "pcp_proc_count",
            Self::ProcInfo { .. } => "pcp_proc_info",
            Self::PromoteNode { .. } => "pcp_promote_node",
            Self::RecoveryNode(_) => "pcp_recovery_node",
            Self::ReloadConfig { .. } => "pcp_reload_config",
            Self::StopPgpool { .. } => "pcp_stop_pgpool",
            Self::WatchdogInfo { .. } => "pcp_watchdog_info",
        }
    }

    /// Words beyond those that have a meaning: in the place of one that an option has given, too.
    pub(super) fn ignored(&self) -> Vec<String> {
        let (is_given, id, extra) = match self {
            Self::AttachNode(node)
            | Self::DetachNode { node, .. }
            | Self::HealthCheckStats(node)
            | Self::PromoteNode { node, .. }
            | Self::RecoveryNode(node) => (node.node_id.is_some(), node.id.id, &node.id.extra),
            Self::NodeInfo { node_id, id, .. } => (node_id.is_some(), id.id, &id.extra),
            Self::ProcInfo { process_id, id, extra, .. } => {
                (process_id.is_some(), id.map(u64::from), extra)
            }
            Self::WatchdogInfo { watchdog_id, id, extra } => (watchdog_id.is_some(), *id, extra),
            Self::InvalidateQueryCache(extra)
            | Self::NodeCount(extra)
            | Self::PoolStatus(extra)
            | Self::ProcCount(extra)
            | Self::LogRotate { extra, .. }
            | Self::ReloadConfig { extra, .. }
            | Self::StopPgpool { extra, .. } => (false, None, extra),
        };
        let id = id.filter(|_| is_given).map(|id| id.to_string());
        id.into_iter().chain(extra.words.iter().cloned()).collect()
    }
}

impl OneNode {
    /// Its number.
    pub(super) fn number(&self) -> u64 {
        // One of them is there, by the group.
        self.node_id.or(self.id.id).unwrap_or_default()
    }
}

/// The words of the command line as `pgx` takes them, where it is called by the name of a pcp
/// command: by a symbolic link, so that scripts find it under that name.
pub(crate) fn by_name(words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|word| std::path::Path::new(word).file_name());
    match called.and_then(|name| name.to_str()).filter(|name| name.starts_with(PREFIX)) {
        Some(name) => {
            let own = ["pgx", "pcp", name].map(OsString::from);
            own.into_iter().chain(words.iter().skip(1).cloned()).collect()
        }
        None => words,
    }
}
