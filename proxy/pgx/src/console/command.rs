//! What clients of the console may say, read from its text.

/// What is shown, by PgBouncer's word for it or by pgpool-II's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Help,
    Config,
    Databases,
    Pools,
    Clients,
    Servers,
    Users,
    Version,
    Fds,
    Sockets,
    ActiveSockets,
    Lists,
    Mem,
    DnsHosts,
    DnsZones,
    Stats,
    StatsTotals,
    StatsAverages,
    Totals,
    State,
    Peers,
    PeerPools,
    // pgpool-II's.
    PoolNodes,
    PoolProcesses,
    PoolPools,
    PoolStatus,
    PoolVersion,
}

impl Show {
    /// All of them, by their words.
    pub(super) const ALL: [(&str, Self); 27] = [
        ("HELP", Self::Help),
        ("CONFIG", Self::Config),
        ("DATABASES", Self::Databases),
        ("POOLS", Self::Pools),
        ("CLIENTS", Self::Clients),
        ("SERVERS", Self::Servers),
        ("USERS", Self::Users),
        ("VERSION", Self::Version),
        ("FDS", Self::Fds),
        ("SOCKETS", Self::Sockets),
        ("ACTIVE_SOCKETS", Self::ActiveSockets),
        ("LISTS", Self::Lists),
        ("MEM", Self::Mem),
        ("DNS_HOSTS", Self::DnsHosts),
        ("DNS_ZONES", Self::DnsZones),
        ("STATS", Self::Stats),
        ("STATS_TOTALS", Self::StatsTotals),
        ("STATS_AVERAGES", Self::StatsAverages),
        ("TOTALS", Self::Totals),
        ("STATE", Self::State),
        ("PEERS", Self::Peers),
        ("PEER_POOLS", Self::PeerPools),
        ("POOL_NODES", Self::PoolNodes),
        ("POOL_PROCESSES", Self::PoolProcesses),
        ("POOL_POOLS", Self::PoolPools),
        ("POOL_STATUS", Self::PoolStatus),
        ("POOL_VERSION", Self::PoolVersion),
    ];
}

/// When SHUTDOWN is to have its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// When clients have given all servers back.
    NoServers,
    /// When clients have left, or had their time.
    NoClients,
}

/// A command. Databases are `None` where all are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    Set { key: String, value: String },
    Pause(Option<String>),
    Resume(Option<String>),
    Disable(String),
    Enable(String),
    Reconnect(Option<String>),
    Kill(String),
    KillClient(String),
    Suspend,
    Shutdown(When),
    Reload,
    WaitClose(Option<String>),
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// There is no such command.
    Unknown,
    /// The command needs a database.
    NoDatabase,
}

/// A word, or a sign.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// As it was written.
    Word(String),
    /// In quotes: never a command's own word.
    Quoted(String),
    Sign(char),
}

/// Reads a text; one `;` may end it.
pub(super) fn parse(text: &str) -> Result<Command, Problem> {
    let mut tokens = tokens(text).ok_or(Problem::Unknown)?;
    if tokens.last() == Some(&Token::Sign(';')) {
        tokens.pop();
    }
    let Some((Token::Word(verb), rest)) = tokens.split_first() else {
        return Err(Problem::Unknown);
    };
    let name = |rest: &[Token]| match rest {
        [] => Ok(None),
        [Token::Word(name)] => Ok(Some(name.to_ascii_lowercase())),
        [Token::Quoted(name)] => Ok(Some(name.clone())),
        _ => Err(Problem::Unknown),
    };
    let must = |rest: &[Token]| name(rest)?.ok_or(Problem::NoDatabase);
    Ok(match verb.to_ascii_uppercase().as_str() {
        "SHOW" => Command::Show(show(rest).ok_or(Problem::Unknown)?),
        "SET" => set(rest).ok_or(Problem::Unknown)?,
        "PAUSE" => Command::Pause(name(rest)?),
        "RESUME" => Command::Resume(name(rest)?),
        "DISABLE" => Command::Disable(must(rest)?),
        "ENABLE" => Command::Enable(must(rest)?),
        "RECONNECT" => Command::Reconnect(name(rest)?),
        "KILL" => Command::Kill(must(rest)?),
        "KILL_CLIENT" => Command::KillClient(name(rest)?.ok_or(Problem::Unknown)?),
        "SUSPEND" if rest.is_empty() => Command::Suspend,
        "RELOAD" if rest.is_empty() => Command::Reload,
        "WAIT_CLOSE" => Command::WaitClose(name(rest)?),
        "SHUTDOWN" => Command::Shutdown(when(rest).ok_or(Problem::Unknown)?),
        _ => return Err(Problem::Unknown),
    })
}

fn show(rest: &[Token]) -> Option<Show> {
    let [Token::Word(word)] = rest else { return None };
    let found = Show::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
    found.map(|(_, show)| *show)
}

fn when(rest: &[Token]) -> Option<When> {
    match rest {
        [] => Some(When::Now),
        [Token::Word(word)] if word.eq_ignore_ascii_case("WAIT_FOR_SERVERS") => {
            Some(When::NoServers)
        }
        [Token::Word(word)] if word.eq_ignore_ascii_case("WAIT_FOR_CLIENTS") => {
            Some(When::NoClients)
        }
        _ => None,
    }
}

fn set(rest: &[Token]) -> Option<Command> {
    let (key, value) = match rest {
        [Token::Word(key), Token::Sign('='), value] => (key, value),
        [Token::Word(key), Token::Word(to), value] if to.eq_ignore_ascii_case("TO") => (key, value),
        _ => return None,
    };
    let (Token::Word(value) | Token::Quoted(value)) = value else { return None };
    Some(Command::Set { key: key.to_ascii_lowercase(), value: value.clone() })
}

/// The words of a text; `None` if a quote has no end.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '"' | '\'' => {
                let (word, after) = quoted(&rest[1..], first)?;
                tokens.push(Token::Quoted(word));
                after
            }
            ';' | '=' => {
                tokens.push(Token::Sign(first));
                &rest[1..]
            }
            _ => {
                let is_end =
                    |sign: char| sign.is_whitespace() || matches!(sign, ';' | '=' | '"' | '\'');
                let end = rest.find(is_end).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
        };
        rest = rest.trim_start();
    }
    Some(tokens)
}

/// What stands before a quote, in which it is doubled, and what comes after it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let (mut word, mut rest) = (String::new(), text);
    loop {
        let end = rest.find(quote)?;
        word.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(after) => {
                word.push(quote);
                rest = after;
            }
            None => return Some((word, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_with_quotes_where_there_may_be_some() {
        let some = |name: &str| Some(name.to_owned());
        for (text, expected) in [
            ("show pools", Command::Show(Show::Pools)),
            ("SHOW Stats_Totals;", Command::Show(Show::StatsTotals)),
            (" pause ", Command::Pause(None)),
            ("PAUSE Shop", Command::Pause(some("shop"))),
            ("resume \"Sh\"\"op\" ;", Command::Resume(some("Sh\"op"))),
            ("kill 'shop'", Command::Kill("shop".to_owned())),
            ("shutdown wait_for_clients", Command::Shutdown(When::NoClients)),
            ("RELOAD", Command::Reload),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        let set = Command::Set { key: "pool_size".to_owned(), value: "20".to_owned() };
        for text in ["set pool_size=20", "SET Pool_Size = '20';", "set pool_size to 20"] {
            assert_eq!(parse(text), Ok(set.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_none_and_a_missing_database_is_told_apart() {
        for text in [
            "",
            ";",
            "select 1",
            "show",
            "show nothing",
            "show \"pools\"",
            "show version; show version",
            "pause a b",
            "set a",
            "set a = ",
            "reload now",
            "pause \"a",
            "\"pause\"",
            "show pools;;",
        ] {
            assert_eq!(parse(text), Err(Problem::Unknown), "{text}");
        }
        assert_eq!(parse("kill"), Err(Problem::NoDatabase));
        assert_eq!(parse("disable;"), Err(Problem::NoDatabase));
    }
}
