//! The command line: what can be said, and nothing of what it does.

use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand};

/// Where pgx looks for its configuration unless told otherwise.
pub(crate) const CONFIG_PATH: &str = "/etc/pgx/pgx.toml";

/// Keeps a PostgreSQL cluster available behind one address.
#[derive(Parser)]
#[command(name = "pgx", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(crate) struct Command {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed or found trouble; 2 wrong command line; \
    3 wrong configuration; 4 pgx is not running or cannot be reached; 5 refused by pgx.";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Runs the roles that the configuration's sections name
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
    },
    /// Asks a running pgx, or tells it what to do
    Ctl(Ctl),
    /// Says what this machine allows pgx to do, and what to do about the rest
    Doctor(Doctor),
    /// Makes the certificates by which the nodes of a cluster know each other
    Init {
        #[command(subcommand)]
        verb: InitVerb,
    },
    /// Checks a configuration file, or prints an example of one
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Args)]
pub(crate) struct Ctl {
    /// The admin socket of the pgx to talk to
    #[arg(long, value_name = "PATH", default_value = crate::config::ADMIN_SOCKET, global = true)]
    pub(crate) socket: PathBuf,
    /// Prints JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: CtlVerb,
}

#[derive(Subcommand)]
pub(crate) enum CtlVerb {
    /// What this pgx does and how it fares
    Status,
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
    /// Says whom the certificates in a file name, and until when they are valid
    Show {
        /// The file with the certificates
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_free_of_contradictions() {
        Command::command().debug_assert();
    }
}
