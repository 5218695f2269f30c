//! Appenders: each inserts numbers that are never used again, in all ways of saying so.

use pgx_wire::backend::Status;
use pgx_wire::frontend::write;

use super::client::{Client, Request};
use super::fate::{Fate, of_commit};
use super::record::{Appender, Span};
use super::session::Answer;

const INSERTED: &str = "INSERT 0 1";

/// How an insert is said.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A simple query by itself.
    Autocommit,
    /// BEGIN, INSERT, COMMIT, each after the answer to the one before.
    Block,
    /// The same three in one simple query.
    Batch,
    /// Parse, Bind, Execute, Sync at once.
    Pipeline,
    /// The same, with a statement that is prepared once for the session.
    Prepared,
}

impl Form {
    const ALL: [Self; 5] =
        [Self::Autocommit, Self::Block, Self::Batch, Self::Pipeline, Self::Prepared];

    /// What is written into the row.
    fn name(self) -> &'static str {
        match self {
            Self::Autocommit => "autocommit",
            Self::Block => "block",
            Self::Batch => "batch",
            Self::Pipeline => "pipeline",
            Self::Prepared => "prepared",
        }
    }
}

/// Appends until the clients are to end.
pub(super) async fn run(mut client: Client, id: i32, index: usize) {
    let mut number = 0;
    while client.turn().await {
        number += 1;
        let (form, address) = (Form::ALL[client.random.below(Form::ALL.len())], client.address());
        // In doubt from before the first byte is sent.
        client.shared.record().appenders[index].sent = number;
        let sent_us = client.shared.now_us();
        let (fate, is_repeated) = append(&mut client, form, id, number).await;
        client.settle(fate, address, |record, at_us| {
            let Appender { acknowledged, refused, .. } = &mut record.appenders[index];
            match fate {
                Fate::Acknowledged => {
                    acknowledged.insert(number, Span { sent_us, at_us });
                }
                Fate::Refused => drop(refused.insert(number)),
                Fate::InDoubt => {}
            }
            if is_repeated {
                record.repeated.push((id, number));
            }
        });
    }
}

/// Inserts one number. Says also whether a server had it already.
async fn append(client: &mut Client, form: Form, id: i32, number: i64) -> (Fate, bool) {
    let (answer, tag) = match form {
        Form::Block => return block(client, id, number).await,
        Form::Batch => {
            let text = format!("begin; {}; commit", insert(client, form, id, number));
            (client.ask(&Request::simple(text, "COMMIT", Status::Idle)).await, "COMMIT")
        }
        Form::Autocommit => {
            let text = insert(client, form, id, number);
            (client.ask(&Request::simple(text, INSERTED, Status::Idle)).await, INSERTED)
        }
        Form::Pipeline | Form::Prepared => (pipeline(client, form, id, number).await, INSERTED),
    };
    let fate = (of_commit(&answer, tag), is_repeated(&answer));
    client.roll_back_after(&answer).await;
    fate
}

async fn block(client: &mut Client, id: i32, number: i64) -> (Fate, bool) {
    let begin = Request::simple("begin", "BEGIN", Status::Block);
    let insert = Request::simple(insert(client, Form::Block, id, number), INSERTED, Status::Block);
    let mut is_repeat = false;
    for request in [begin, insert] {
        let answer = client.ask(&request).await;
        is_repeat |= is_repeated(&answer);
        // Whatever was answered: nobody was asked to commit.
        if client.is_stopping() || !answer.is(request.tag, request.status) {
            client.roll_back().await;
            return (Fate::Refused, is_repeat);
        }
    }
    let answer = client.ask(&Request::simple("commit", "COMMIT", Status::Idle)).await;
    let fate = of_commit(&answer, "COMMIT");
    (fate, is_repeat)
}

async fn pipeline(client: &mut Client, form: Form, id: i32, number: i64) -> Answer {
    let known = match form {
        Form::Prepared => client.prepared().and_then(|prepared| prepared.clone()),
        _ => None,
    };
    let name = match (form, &known) {
        (_, Some(name)) => name.clone(),
        // A name of its own for each try, as it may exist after one that failed.
        (Form::Prepared, None) => format!("append_{number}"),
        _ => String::new(),
    };
    let insert = format!("insert into {} values ($1, $2, $3)", client.shared.plan.table);
    let mut bytes = Vec::new();
    if known.is_none() {
        write::parse(&mut bytes, name.as_bytes(), insert.as_bytes(), &[]);
    }
    let values = [id.to_string(), number.to_string(), form.name().to_owned()];
    bind(&mut bytes, &name, &values);
    write::execute(&mut bytes, b"", 0);
    write::sync(&mut bytes);
    let text = format!("{} of {insert} with {values:?}", form.name());
    let request = Request { text, bytes, tag: INSERTED, status: Status::Idle };
    let answer = client.ask(&request).await;
    if let (Form::Prepared, Answer::Done { .. }) = (form, &answer)
        && let Some(prepared) = client.prepared()
    {
        *prepared = Some(name);
    }
    answer
}

/// `Bind` of a statement with a name, all values as texts.
fn bind(out: &mut Vec<u8>, name: &str, values: &[String; 3]) {
    let mut rest = vec![0, 0, 0, 3];
    for value in values {
        rest.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        rest.extend_from_slice(value.as_bytes());
    }
    rest.extend_from_slice(&[0, 0]);
    write::bind_head(out, b"", name.as_bytes(), rest.len());
    out.extend_from_slice(&rest);
}

fn insert(client: &Client, form: Form, id: i32, number: i64) -> String {
    let table = &client.shared.plan.table;
    format!("insert into {table} values ({id}, {number}, '{}')", form.name())
}

/// A row with a number that was sent once can be there only if the statement ran twice.
fn is_repeated(answer: &Answer) -> bool {
    matches!(answer, Answer::Error { state, .. } if state == "23505")
}
