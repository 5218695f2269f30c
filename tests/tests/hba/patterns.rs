//! Regular expressions as PostgreSQL matches them and as we do, made up from a seed.

use anyhow::{Context, ensure};
use pgx_hba::{Connection, Files, Ident, ReadError, Rules};
use pgx_tests::database::Database;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

/// How many are made up: some seconds' worth.
const COUNT: u32 = 4_000;

/// What they are made of. Blanks, commas and quotes would end the word that they stand in.
const PARTS: &[&str] = &[
    "a",
    "b",
    "1",
    "_",
    "-",
    "ä",
    "^",
    "$",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "(?:",
    "[",
    "[^",
    "]",
    "{2}",
    "{1,2}",
    "{",
    "\\d",
    "\\w",
    "\\s",
    "\\W",
    "\\.",
    "\\-",
    "\\<",
    "\\b",
    "\\1",
    "[:alpha:]",
    "[[:digit:]]",
    "a-b",
    "&",
    "&&",
    "~",
    "\\]",
    "\\[",
    "/",
    "<",
    "=",
    "!",
];

/// The same for groups, of parts that match often and in many ways.
const GROUP_PARTS: &[&str] = &[
    "a", "b", ".", "a*", "b?", ".*", ".+", ".?", "[ab]", "[^b]*", "[ab]+", "(a)", "(a*b?)",
    "(?:a?b*)", "a{1,2}", "b{0,2}", "(b)?", "(a|ab)", ".*?", "a+?", "|", "\\w*", "^", "$",
];

const NAMES: &[&str] = &[
    "", "a", "b", "ab", "ba", "aa", "aab", "abab", "1", "a1", "11", "_", "a_b", "-", "a-b", "ä",
    "äb", ".", "a.b", "^", "$", "]", "[", "&", "a&b", "~", "/", "<", "\\", "{", "a{", "a b", "A",
    "a\n", "\nb", "abb", "bab", "aba", "aaab", "abba", "baab", "bbbb", "abbab", "aabbaa",
];

/// Wherever we take a pattern it matches the same names, or PostgreSQL refuses it.
pub(crate) fn same_matches() -> anyhow::Result<()> {
    with_postgresql(async |client| {
        let query = "select array_agg(name ~ ($1::text collate \"C\") order by number) \
                     from unnest($2::text[]) with ordinality as names (name, number)";
        let statement = client.prepare(query).await?;
        let (mut random, mut taken, mut telling) = (Random(1), 0, 0);
        for _ in 0..COUNT {
            let pattern = random.parts(PARTS, 7);
            let Some(ours) = matches(&pattern) else { continue };
            let Some(row) = theirs(client, &statement, &pattern).await? else { continue };
            let theirs: Vec<bool> = row.get(0);
            for ((name, ours), theirs) in NAMES.iter().zip(&ours).zip(&theirs) {
                ensure!(ours == theirs, "{pattern:?} matches {name:?}: {theirs} by PostgreSQL");
            }
            taken += 1;
            telling += usize::from(ours.contains(&true) && ours.contains(&false));
        }
        ensure!(taken > 400 && telling > 100, "too few: {taken}, {telling} tell names apart");
        Ok(())
    })
}

/// Wherever we take a pattern with a group for a map, `\1` is the same part of a name.
pub(crate) fn same_groups() -> anyhow::Result<()> {
    with_postgresql(async |client| {
        let query = "select array_agg((regexp_match(name, $1::text collate \"C\"))[1] \
                     order by number) \
                     from unnest($2::text[]) with ordinality as names (name, number)";
        let statement = client.prepare(query).await?;
        let (mut random, mut taken, mut groups) = (Random(2), 0, 0);
        for _ in 0..COUNT {
            let mut part = || random.parts(GROUP_PARTS, 3);
            let pattern = format!("^{}({}){}$", part(), part(), part());
            let mut files = Line(format!("map \"/{pattern}\" \\1"));
            let Ok(ident) = Ident::read("ident", &mut files) else { continue };
            let Some(row) = theirs(client, &statement, &pattern).await? else { continue };
            let theirs: Vec<Option<String>> = row.get(0);
            for (name, theirs) in NAMES.iter().zip(&theirs) {
                let allows =
                    |user: &str| ident.allows(Some("map"), name.as_bytes(), user.as_bytes());
                let is_same = match theirs {
                    Some(group) => allows(group),
                    None => !NAMES.iter().any(|user| allows(user)),
                };
                ensure!(is_same, "{pattern:?} takes {theirs:?} out of {name:?} in PostgreSQL");
                groups += usize::from(theirs.as_ref().is_some_and(|group| group != name));
            }
            taken += 1;
        }
        ensure!(taken > 200 && groups > 1_000, "too few: {taken}, with {groups} groups");
        Ok(())
    })
}

fn with_postgresql(compare: impl AsyncFnOnce(&Client) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let words = ["--auth=trust", "--encoding=UTF8", "--locale=C"];
    let database = Database::start_with(&words, "")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut config = Config::new();
        config.host_path(database.socket_folder()).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        compare(&client).await
    })
}

/// What PostgreSQL makes of the names; `None` if it refuses the pattern.
async fn theirs(
    client: &Client,
    statement: &Statement,
    pattern: &str,
) -> anyhow::Result<Option<Row>> {
    match client.query_one(statement, &[&pattern, &NAMES]).await {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.code() == Some(&SqlState::INVALID_REGULAR_EXPRESSION) => Ok(None),
        Err(error) => Err(error).context(pattern.to_owned()),
    }
}

/// Which names match; `None` if the pattern is refused.
fn matches(pattern: &str) -> Option<Vec<bool>> {
    let mut files = Line(format!("local all \"/{pattern}\" trust"));
    let rules = Rules::read("hba", &mut files).ok()?;
    let is_match = |name: &&str| {
        let connection = Connection {
            address: None,
            is_tls: false,
            database: b"postgres",
            user: name.as_bytes(),
            is_replication: false,
            interfaces: &[],
        };
        rules.find(&connection).is_some()
    };
    Some(NAMES.iter().map(is_match).collect())
}

/// A file of one line.
struct Line(String);

impl Files for Line {
    fn read(&mut self, _: &str, _: usize) -> Result<Vec<u8>, ReadError> {
        Ok(self.0.clone().into_bytes())
    }

    fn list(&mut self, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}

/// SplitMix64: the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn parts(&mut self, of: &[&str], count_max: usize) -> String {
        (0..=self.below(count_max)).map(|_| of[self.below(of.len())]).collect()
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or_default()
    }
}
