//! The same bytes to PostgreSQL and through a pool get the same answers, wherever they are cut.

use anyhow::ensure;
use pgx_wire::backend::tag;
use pgx_wire::frontend::{self, PORTAL, STATEMENT};

use crate::session::{Message, Session, query};
use crate::{Place, Test, pool};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("answers_are_those_of_postgresql_in_transaction_mode", transaction),
    ("answers_are_those_of_postgresql_in_session_mode", session),
];

fn transaction(place: &Place) -> anyhow::Result<()> {
    all_alike(place, "transaction")
}

fn session(place: &Place) -> anyhow::Result<()> {
    all_alike(place, "session")
}

/// What a client sends, and how many `ReadyForQuery` it waits for then.
struct Case {
    name: &'static str,
    steps: Vec<(Vec<u8>, usize)>,
}

fn all_alike(place: &Place, mode: &str) -> anyhow::Result<()> {
    let node = pool(place, mode, 2)?;
    let at = node.address()?;
    for case in cases() {
        let expected = play(&mut place.direct()?, &case, &[])?;
        let longest = case.steps.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(0);
        for places in cuts(longest) {
            let seen = play(&mut Session::through(at, &[])?, &case, &places)?;
            ensure!(
                seen == expected,
                "{} cut after {places:?} bytes, in {mode} mode\nseen     {seen:?}\n\
                 expected {expected:?}\n{}",
                case.name,
                node.log()
            );
        }
    }
    Ok(())
}

/// Where a case is cut, a session for each: at every byte alone, at all of them, and where that
/// would be too many, at those at both ends, where the headers are, and some between.
fn cuts(length: usize) -> Vec<Vec<usize>> {
    const ALONE_MAX: usize = 600;
    let is_near_an_end = |at: &usize| *at <= ALONE_MAX / 4 || length - at <= ALONE_MAX / 4;
    let step = 1 + length / ALONE_MAX;
    let alone = (0..length).filter(|at| is_near_an_end(at) || at % step == 0);
    let mut all: Vec<_> = alone.map(|at| vec![at]).collect();
    if length <= ALONE_MAX {
        all.push((1..length).collect());
    }
    all
}

fn play(session: &mut Session, case: &Case, places: &[usize]) -> anyhow::Result<Vec<Message>> {
    let mut messages = Vec::new();
    for (bytes, readies) in &case.steps {
        let mut sent = 0;
        for place in places.iter().filter(|place| **place < bytes.len()) {
            session.send(&bytes[sent..*place])?;
            sent = *place;
        }
        session.send(&bytes[sent..])?;
        messages.extend(session.answers(*readies)?.into_iter().map(without_source));
    }
    Ok(messages)
}

/// Without the fields that say where in PostgreSQL's source an error comes from: a few errors are
/// the proxy's own.
fn without_source(message: Message) -> Message {
    if message.tag != tag::ERROR {
        return message;
    }
    let fields = message.body.split(|byte| *byte == 0);
    let kept = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    Message { tag: message.tag, body: kept.collect::<Vec<_>>().join(&0) }
}

/// Messages of the extended protocol, one behind the other.
#[derive(Default)]
struct Batch(Vec<u8>);

impl Batch {
    fn parse(mut self, name: &str, text: &str) -> Self {
        frontend::write::parse(&mut self.0, name.as_bytes(), text.as_bytes(), &[]);
        self
    }

    fn bind(mut self, portal: &str, name: &str, values: &[&str]) -> Self {
        let mut rest = vec![0, 0];
        rest.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
        for value in values {
            rest.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
            rest.extend_from_slice(value.as_bytes());
        }
        rest.extend_from_slice(&[0, 0]);
        frontend::write::bind_head(&mut self.0, portal.as_bytes(), name.as_bytes(), rest.len());
        self.0.extend_from_slice(&rest);
        self
    }

    fn describe(mut self, kind: u8, name: &str) -> Self {
        frontend::write::describe(&mut self.0, kind, name.as_bytes());
        self
    }

    fn execute(mut self, portal: &str, rows: i32) -> Self {
        frontend::write::execute(&mut self.0, portal.as_bytes(), rows);
        self
    }

    fn close(mut self, kind: u8, name: &str) -> Self {
        frontend::write::close(&mut self.0, kind, name.as_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn flush(mut self) -> Self {
        frontend::write::flush(&mut self.0);
        self
    }

    fn sync(mut self) -> Vec<u8> {
        frontend::write::sync(&mut self.0);
        self.0
    }
}

/// A function call by object id: `int4abs(-7)`.
fn function_call() -> Vec<u8> {
    let mut body = 1397_u32.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 2]);
    body.extend_from_slice(b"-7");
    body.extend_from_slice(&[0, 0]);
    let length = u32::try_from(body.len() + 4).unwrap_or(0);
    [b"F", &length.to_be_bytes()[..], &body].concat()
}

fn copy_data(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 4).unwrap_or(0);
    [b"d", &length.to_be_bytes()[..], text.as_bytes()].concat()
}

const COPY_DONE: &[u8] = b"c\0\0\0\x04";
const COPY_FAIL: &[u8] = b"f\0\0\0\x08why\0";

fn cases() -> Vec<Case> {
    let all = [simple(), blocks(), statements(), errors(), errors_within(), portals(), copies()];
    all.into_iter().flatten().chain(state_and_size()).collect()
}

fn case(name: &'static str, steps: Vec<(Vec<u8>, usize)>) -> Case {
    Case { name, steps }
}

/// Simple queries.
fn simple() -> Vec<Case> {
    vec![
        case("a query", vec![(query("select 1, 'x', null"), 1)]),
        case("no query", vec![(query(""), 1), (query(";;"), 1)]),
        case("several in one", vec![(query("select 1; select 2; select 3"), 1)]),
        case("error in the middle of several", vec![(query("select 1; select 1/0; select 3"), 1)]),
        case("syntax error", vec![(query("selec"), 1), (query("select 1"), 1)]),
        case(
            "block with an error",
            ["begin", "select 1/0", "select 1", "commit", "select 2"].map(|q| (query(q), 1)).into(),
        ),
        case(
            "block in one query",
            vec![
                (query("begin; select 1; commit; select 2"), 1),
                (query("begin; select 1"), 1),
                (query("commit and chain"), 1),
                (query("rollback"), 1),
            ],
        ),
        case(
            "queries in a row",
            vec![([query("select 1"), query("x"), query("select 2")].concat(), 3)],
        ),
    ]
}

/// Blocks that begin and end in other words, and what ends with them.
fn blocks() -> Vec<Case> {
    let each = |texts: &[&str]| texts.iter().map(|text| (query(text), 1)).collect();
    vec![
        case(
            "blocks by other words",
            each(&[
                "/* a /* b */ */ start transaction isolation level serializable",
                "show transaction_isolation",
                "-- select\nend",
                "begin work",
                "select 1/0",
                "commit and chain",
                "abort",
                "abort",
            ]),
        ),
        case(
            "settings of a block",
            each(&[
                "begin",
                "set datestyle = 'German'",
                "set local timezone = 'Asia/Tokyo'",
                "rollback",
                "begin; set local timezone = 'Asia/Tokyo'; set datestyle = 'German'; end",
                "show datestyle",
                "show timezone",
                "select set_config('application_name', g::text, false) from generate_series(1, 3) \
                 g",
                "show application_name",
            ]),
        ),
        case(
            "what must not be within a block, and what ends one by itself",
            each(&[
                "begin",
                "discard all",
                "rollback",
                "do $$begin perform 1; commit; \
                 perform set_config('timezone', 'Asia/Tokyo', false); end$$",
                "show timezone",
                "begin",
                "prepare transaction 'x'",
                "rollback",
                "begin; declare c cursor with hold for select generate_series(1, 3)",
                "commit",
                "fetch 2 c",
                "close c",
            ]),
        ),
    ]
}

/// Statements with a name and without.
fn statements() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case(
            "unnamed statement",
            vec![(
                batch()
                    .parse("", "select $1::int + 1")
                    .bind("", "", &["41"])
                    .describe(PORTAL, "")
                    .execute("", 0)
                    .sync(),
                1,
            )],
        ),
        case(
            "unnamed statement used again",
            vec![
                (batch().parse("", "select $1::text").describe(STATEMENT, "").sync(), 1),
                (batch().bind("", "", &["a"]).execute("", 0).sync(), 1),
                (batch().bind("", "", &["b"]).execute("", 0).sync(), 1),
                (query("select 1"), 1),
                (batch().bind("", "", &["c"]).execute("", 0).sync(), 1),
            ],
        ),
        case(
            "named statement",
            vec![
                (batch().parse("s", "select $1::int").describe(STATEMENT, "s").sync(), 1),
                (
                    batch()
                        .bind("", "s", &["1"])
                        .execute("", 0)
                        .bind("", "s", &["2"])
                        .execute("", 0)
                        .sync(),
                    1,
                ),
                (batch().parse("s", "select 2").sync(), 1),
                (
                    batch()
                        .close(STATEMENT, "s")
                        .parse("s", "select 3")
                        .bind("", "s", &[])
                        .execute("", 0)
                        .sync(),
                    1,
                ),
                (batch().close(STATEMENT, "s").sync(), 1),
                (batch().bind("", "s", &[]).execute("", 0).sync(), 1),
            ],
        ),
    ]
}

/// Errors in batches, and batches of nothing.
fn errors() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case(
            "statement that fails, and its name after it",
            vec![
                (batch().parse("s", "selec").bind("", "s", &[]).execute("", 0).sync(), 1),
                (batch().parse("s", "select 1").bind("", "s", &[]).execute("", 0).sync(), 1),
            ],
        ),
        case(
            "names after an error are void",
            vec![
                (
                    batch()
                        .parse("", "select 1/0")
                        .bind("", "", &[])
                        .execute("", 0)
                        .parse("z", "select 1")
                        .sync(),
                    1,
                ),
                (batch().bind("", "z", &[]).execute("", 0).sync(), 1),
            ],
        ),
        case(
            "pipeline with an error and two Syncs",
            vec![(
                [
                    batch()
                        .parse("", "select 1/0")
                        .bind("", "", &[])
                        .execute("", 0)
                        .parse("q", "select 9")
                        .sync(),
                    batch().parse("", "select 2").bind("", "", &[]).execute("", 0).sync(),
                    query("select 3"),
                ]
                .concat(),
                3,
            )],
        ),
        case("Syncs alone", vec![([batch().sync(), batch().sync()].concat(), 2)]),
        case(
            "Flush",
            vec![(
                batch()
                    .flush()
                    .parse("", "select 1")
                    .flush()
                    .bind("", "", &[])
                    .execute("", 0)
                    .flush()
                    .sync(),
                1,
            )],
        ),
    ]
}

/// Errors after which the client goes on.
fn errors_within() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case(
            "error in a block, and a savepoint after it",
            vec![
                (query("begin; savepoint s"), 1),
                (batch().parse("", "select 1/0").bind("", "", &[]).execute("", 0).sync(), 1),
                (batch().parse("", "select 1").bind("", "", &[]).execute("", 0).sync(), 1),
                (batch().parse("", "rollback to s").bind("", "", &[]).execute("", 0).sync(), 1),
                (batch().parse("", "commit").bind("", "", &[]).execute("", 0).sync(), 1),
            ],
        ),
        case(
            "many executions in one batch, of which one fails",
            vec![(
                batch()
                    .parse("m", "select 1 / $1::int")
                    .bind("", "m", &["1"])
                    .execute("", 0)
                    .bind("", "m", &["0"])
                    .execute("", 0)
                    .bind("", "m", &["2"])
                    .execute("", 0)
                    .sync(),
                1,
            )],
        ),
    ]
}

/// Portals, and the function call.
fn portals() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case(
            "portal by parts, closed, and unknown",
            vec![
                (query("begin"), 1),
                (
                    batch()
                        .parse("", "select generate_series(1, 5)")
                        .bind("p", "", &[])
                        .execute("p", 2)
                        .sync(),
                    1,
                ),
                (batch().execute("p", 2).close(PORTAL, "p").execute("p", 2).sync(), 1),
                (query("rollback"), 1),
                (batch().close(PORTAL, "none").close(STATEMENT, "none").sync(), 1),
                (batch().describe(PORTAL, "none").sync(), 1),
                (batch().describe(STATEMENT, "none").sync(), 1),
            ],
        ),
        case(
            "function call",
            vec![(function_call(), 1), ([function_call(), query("select 1")].concat(), 2)],
        ),
    ]
}

/// Copies in both directions.
fn copies() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case("copy out", vec![(query("copy (select generate_series(1, 20)) to stdout"), 1)]),
        case(
            "copy in, whole, failed by the client, and failed by the server",
            vec![
                (query("create temp table t(a int)"), 1),
                ([query("copy t from stdin"), copy_data("1\n2\n"), COPY_DONE.to_vec()].concat(), 1),
                ([query("copy t from stdin"), copy_data("1\n"), COPY_FAIL.to_vec()].concat(), 1),
                (
                    [
                        query("copy t from stdin"),
                        copy_data("x\n"),
                        copy_data("2\n"),
                        COPY_DONE.to_vec(),
                    ]
                    .concat(),
                    1,
                ),
                (query("select count(*) from t"), 1),
            ],
        ),
        case(
            "copy in by the extended protocol",
            vec![
                (query("create temp table t(a int)"), 1),
                (
                    batch()
                        .parse("", "copy t from stdin")
                        .bind("", "", &[])
                        .execute("", 0)
                        .raw(&copy_data("7\n"))
                        .raw(COPY_DONE)
                        .sync(),
                    1,
                ),
                (
                    batch()
                        .parse("", "copy t from stdin")
                        .bind("", "", &[])
                        .execute("", 0)
                        .raw(&copy_data("x\n"))
                        .raw(COPY_DONE)
                        .sync(),
                    1,
                ),
                (query("select count(*) from t"), 1),
            ],
        ),
    ]
}

/// What stays on a server, and what fits into no buffer.
fn state_and_size() -> Vec<Case> {
    let batch = Batch::default;
    vec![
        case(
            "SQL's own statements, settings and state",
            [
                "set client_encoding = 'latin1'",
                "select 'ä'",
                "set client_encoding = 'utf-8'",
                "set application_name = 'é'",
                "prepare p as select 1",
                "execute p",
                "deallocate p",
                "set datestyle = 'German, DMY'",
                "show datestyle",
                "set work_mem = '3MB'",
                "show work_mem",
                "create temp table x()",
                "select * from x",
                "discard all",
                "select * from x",
                "show work_mem",
                "show datestyle",
            ]
            .map(|text| (query(text), 1))
            .into(),
        ),
        case("large rows", vec![(query("select repeat('x', 300000), generate_series(1, 3)"), 1)]),
        case("large query", vec![(query(&format!("select length('{}')", "y".repeat(200_000))), 1)]),
        case(
            "large value",
            vec![(
                batch()
                    .parse("l", "select length($1::text)")
                    .bind("", "l", &[&"z".repeat(200_000)])
                    .execute("", 0)
                    .sync(),
                1,
            )],
        ),
    ]
}
