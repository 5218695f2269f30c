//! What PostgreSQL makes of a file, by its view `pg_hba_file_rules`.

use anyhow::{Context, ensure};
use pgx_hba::{Address, Database as Named, Origin, Rule, User};
use pgx_tests::database::Database;
use tokio_postgres::{Config, NoTls};

use crate::{lines, problems, rules, write};

const QUERY: &str = "select line_number, type, database, user_name, address, netmask, auth_method, \
                     options, error from pg_hba_file_rules order by line_number";

/// A row of the view.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    line: i32,
    kind: Option<String>,
    databases: Option<Vec<String>>,
    users: Option<Vec<String>>,
    address: Option<String>,
    mask: Option<String>,
    method: Option<String>,
    options: Option<Vec<String>>,
}

/// The rows, and what PostgreSQL says is wrong with each.
fn view(database: &Database) -> anyhow::Result<Vec<(Row, Option<String>)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut config = Config::new();
        config.host_path(database.socket_folder()).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        let rows = client.query(QUERY, &[]).await?;
        let row = |row: &tokio_postgres::Row| {
            let read = Row {
                line: row.get(0),
                kind: row.get(1),
                databases: row.get(2),
                users: row.get(3),
                address: row.get(4),
                mask: row.get(5),
                method: row.get(6),
                options: row.get(7),
            };
            let problem: Option<String> = row.get(8);
            // This one has no TLS; the line is read all the same.
            (read, problem.filter(|text| !text.starts_with("hostssl record cannot match")))
        };
        Ok(rows.iter().map(row).collect())
    })
}

/// A rule as the view has it.
fn row(rule: &Rule) -> anyhow::Result<Row> {
    let (address, mask) = match rule.origin {
        Origin::Local => (None, None),
        Origin::Host(_, Address::Range(network)) => {
            (Some(network.address().to_string()), Some(network.mask().to_string()))
        }
        Origin::Host(_, keyword) => (Some(keyword.to_string()), None),
    };
    let database = |database: &Named| match database {
        Named::Name(name) => name.clone(),
        other => other.to_string(),
    };
    let user = |user: &User| match user {
        User::Name(name) => name.clone(),
        other => other.to_string(),
    };
    let options: Vec<_> = rule.options();
    // PostgreSQL 15 leaves it out.
    let options: Vec<_> =
        options.into_iter().filter(|option| !option.starts_with("clientname=")).collect();
    Ok(Row {
        line: i32::try_from(rule.source.line)?,
        kind: Some(rule.kind().to_owned()),
        databases: Some(rule.databases.iter().map(database).collect()),
        users: Some(rule.users.iter().map(user).collect()),
        address,
        mask,
        method: Some(rule.method.name().to_owned()),
        options: (!options.is_empty()).then_some(options),
    })
}

const SAME: &str = r##"# A comment, and a tab behind	it
local all all trust
local   all	postgres   peer   map=m
local all all ident "map=a b"
local all,"all",sameuser,"sameuser",replication,"replication" all,"all",bob trust

host all all 127.0.0.1/32 trust # behind a rule
host all all ::1/128 scram-sha-256#at once
host all all 10.1.2.3 255.255.0.0 md5
host all all 10.1.2.3 255.0.255.0 password
host all all fe80::1 ffff:: reject
host all all 0.0.0.0/0 md5
host all all ::/0 md5
host all all 192.168.7.9/0016 md5
host all all ::ffff:10.0.0.1/100 md5
host all all 2001:db8::8000/113 md5
host all all all reject
host all all samehost trust
host all all samenet trust
hostssl all all all cert map=x clientname=DN
hostssl all all all trust clientcert=verify-ca
hostssl all all all md5 clientcert=verify-full,clientname=CN
hostnossl all all all reject
hostgssenc all all all trust
hostnogssenc all all all trust
"host" "a b","c,d","e#f" "g""h",i"j k"l,"" all "trust"
host a, b,c d all trust
host a ,b all trust
,,host a,,b c all trust
host \
  all all \
  127.0.0.1/32 \
  md5 # all of this is a comment \
  too
host @names,x @"more names","@names" all trust
local @ "+bob" trust
local all all trust
local all all "trust
local all all trust \
"##;

/// Every line is read as the same rule, of the file that `initdb` writes and of the one above.
pub(crate) fn same_rules() -> anyhow::Result<()> {
    let database = Database::start()?;
    ensure!(same(&database)? == 6, "initdb has written something else");

    write(&database, "names", "ann \"all\"\n# nobody\nbob,eve # two\n@nested\n")?;
    write(&database, "nested", "dan\n")?;
    write(&database, "more names", "fay")?;
    write(&database, "pg_hba.conf", SAME)?;
    let count = same(&database)?;
    ensure!(count > 30, "only {count} lines are compared");
    Ok(())
}

/// Compares all lines and says how many there are.
fn same(database: &Database) -> anyhow::Result<usize> {
    let theirs = view(database)?;
    let ours = rules(database)?;
    for ((theirs, problem), ours) in theirs.iter().zip(ours.as_slice()) {
        ensure!(problem.is_none(), "PostgreSQL refuses line {}: {problem:?}", theirs.line);
        let ours = row(ours)?;
        ensure!(*theirs == ours, "PostgreSQL reads\n{theirs:?}\nand we read\n{ours:?}");
    }
    ensure!(theirs.len() == ours.as_slice().len(), "{theirs:?}\n{ours:?}");
    Ok(theirs.len())
}

/// Lines that neither takes.
const BROKEN: &[&str] = &[
    "host",
    "host all",
    "host all all",
    "host all all all",
    "host all all 127.0.0.1",
    "local all all",
    "x all all trust",
    "host,local all all all trust",
    "host all all ::1/128,::2/128 trust",
    "host all all ::1 ffff::,ffff:: trust",
    "host all all ::1 trust",
    "host all all ::1 255.0.0.0 trust",
    "host all all ::1/129 trust",
    "host all all 127.0.0.1/33 trust",
    "host all all 127.0.0.1/ trust",
    "host all all 127.0.0.1/8x trust",
    "host all all db.example.com/8 trust",
    "host all all all trust,md5",
    "host all all all crypt",
    "host all all all peer",
    "host all all all cert",
    "host all all all trust x",
    "host all all all trust x=1",
    "host all all all trust clientcert=verify-ca",
    "host all all all trust clientname=CN",
    "hostssl all all all cert clientcert=verify-ca",
    "local all \"unclosed trust",
    "host @empty all 127.0.0.1/32 trust",
];

/// Each is refused by both, and ours begins with the words that operators know.
pub(crate) fn same_problems() -> anyhow::Result<()> {
    let database = Database::start()?;
    write(&database, "empty", "# nobody\n")?;
    write(&database, "pg_hba.conf", &BROKEN.join("\n"))?;
    let theirs = view(&database)?;
    let mut ours = problems(&database)?;
    // Those that keep a line from being read come first.
    ours.sort_by_key(|problem| problem.at.line);
    ensure!(ours.len() == BROKEN.len(), "{}", lines(&ours));
    ensure!(theirs.len() == BROKEN.len(), "PostgreSQL has {theirs:?}");
    for ((line, ours), (row, theirs)) in BROKEN.iter().zip(&ours).zip(&theirs) {
        let theirs = theirs.as_ref().with_context(|| format!("PostgreSQL takes {line:?}"))?;
        ensure!(i64::from(row.line) == i64::from(ours.at.line), "{ours}\n{row:?}");
        // What getaddrinfo says goes by the C library, and of an empty list it has no words.
        let known = theirs.split(": Name or service").next().unwrap_or_default();
        let is_same = ours.what.to_string().starts_with(known) || line.contains("@empty");
        ensure!(is_same, "{line}\nPostgreSQL says {theirs:?}\nand we {:?}", ours.what.to_string());
    }
    Ok(())
}

/// Lines that PostgreSQL takes and we refuse, as only a server can decide them or as we lack the
/// method, and lines that PostgreSQL takes from 16 on.
const REFUSED: &[&str] = &[
    "host samerole all all trust",
    "host samegroup all all trust",
    "host all +admins all trust",
    "host all all db.example.com trust",
    "host all all .example.com trust",
    "host all all 127.1 255.0.0.0 trust",
    "host all all all gss include_realm=1",
    "host all all all ident",
    "host all all all pam pamservice=x",
    "host all all all ldap ldapserver=x ldapbasedn=y",
    "host all all all radius radiusservers=127.0.0.1 radiussecrets=x",
];

/// What `docs/LOGIN.md` tells of differences is so.
pub(crate) fn known_differences() -> anyhow::Result<()> {
    let database = Database::start()?;
    write(&database, "pg_hba.conf", &REFUSED.join("\n"))?;
    for (row, problem) in view(&database)? {
        ensure!(problem.is_none(), "PostgreSQL refuses {row:?}: {problem:?}");
    }
    let ours = problems(&database)?;
    ensure!(ours.len() == REFUSED.len(), "{}", lines(&ours));

    write(&database, "more", "host /^db\\d$ /^svc_ all trust\n")?;
    write(&database, "pg_hba.conf", "include more\ninclude_if_exists none\n")?;
    let rules = rules(&database)?;
    ensure!(rules.as_slice().len() == 1, "{rules:?}");
    let theirs = view(&database)?;
    ensure!(theirs.iter().all(|(_, problem)| problem.is_some()), "only from 16 on: {theirs:?}");
    Ok(())
}
