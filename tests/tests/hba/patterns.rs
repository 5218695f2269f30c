//! Regular expressions as PostgreSQL matches them and as we do, made up from a seed.

use anyhow::{Context, ensure};
use pgx_hba::{Connection, Files, ReadError, Rules};
use pgx_tests::database::Database;
use tokio_postgres::{Client, Config, NoTls};

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

const NAMES: &[&str] = &[
    "", "a", "b", "ab", "ba", "aa", "aab", "abab", "1", "a1", "11", "_", "a_b", "-", "a-b", "ä",
    "äb", ".", "a.b", "^", "$", "]", "[", "&", "a&b", "~", "/", "<", "\\", "{", "a{", "a b", "A",
    "a\n", "\nb",
];

/// Wherever we take a pattern it matches the same names, or PostgreSQL refuses it.
pub(crate) fn same_matches() -> anyhow::Result<()> {
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

async fn compare(client: &Client) -> anyhow::Result<()> {
    let query = "select array_agg(name ~ ($1::text collate \"C\") order by number) \
                 from unnest($2::text[]) with ordinality as names (name, number)";
    let statement = client.prepare(query).await?;
    let (mut random, mut taken, mut matches) = (Random(1), 0, 0);
    for _ in 0..COUNT {
        let length = random.below(7) + 1;
        let pattern: String = (0..length).map(|_| PARTS[random.below(PARTS.len())]).collect();
        let Some(ours) = ours(&pattern)? else { continue };
        let Ok(row) = client.query_one(&statement, &[&pattern, &NAMES]).await else { continue };
        let theirs: Vec<bool> = row.get(0);
        for ((name, ours), theirs) in NAMES.iter().zip(&ours).zip(&theirs) {
            ensure!(ours == theirs, "{pattern:?} matches {name:?}: {theirs} by PostgreSQL");
        }
        taken += 1;
        matches += usize::from(ours.contains(&true) && ours.contains(&false));
    }
    println!("{taken} patterns are taken by both, {matches} match some names and not all");
    ensure!(taken > 400 && matches > 100, "too few: {taken} are taken, {matches} tell names apart");
    Ok(())
}

/// Which names match; `None` if the pattern is refused.
fn ours(pattern: &str) -> anyhow::Result<Option<Vec<bool>>> {
    let mut files = Line(format!("local all \"/{pattern}\" trust"));
    let Ok(rules) = Rules::read("hba", &mut files) else { return Ok(None) };
    let matches = |name: &&str| {
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
    rules.as_slice().first().context("no rule")?;
    Ok(Some(NAMES.iter().map(matches).collect()))
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
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or_default()
    }
}
