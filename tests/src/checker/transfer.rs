//! Movers and the reader: money goes from account to account, and nobody may see some missing.

use pgx_wire::backend::Status;
use pgx_wire::frontend::write;

use super::client::{Client, Request};
use super::fate::{Fate, of_commit};
use super::record::{Origin, Served, Span, WrongSum};
use super::session::Answer;
use super::verdict::{SERVER, TIMELINE};

/// The most that one transfer moves.
const AMOUNT_MAX: usize = 100;
/// The tag of a query of one row.
const ONE_ROW: &str = "SELECT 1";

/// Moves money until the clients are to end.
pub(super) async fn run(mut client: Client) {
    while client.turn().await {
        let address = client.address();
        client.shared.record().transfers.sent += 1;
        let fate = transfer(&mut client).await;
        client.settle(fate, address, |record, _| match fate {
            Fate::Acknowledged => record.transfers.acknowledged += 1,
            Fate::Refused => record.transfers.refused += 1,
            Fate::InDoubt => {}
        });
    }
}

async fn transfer(client: &mut Client) -> Fate {
    let accounts = client.shared.plan.accounts;
    let from = client.random.below(accounts);
    let to = (from + 1 + client.random.below(accounts - 1)) % accounts;
    let amount = i64::try_from(1 + client.random.below(AMOUNT_MAX)).unwrap_or(1);
    let mut changes = [(from, -amount), (to, amount)];
    // All movers lock in the same order, so that none waits for another in a circle.
    changes.sort_unstable();
    let updates = changes.map(|(id, change)| {
        format!("update accounts set balance = balance + {change} where id = {id}")
    });
    if client.random.below(2) == 0 {
        return pipeline(client, &updates).await;
    }
    let [first, second] = updates.map(|text| Request::simple(text, "UPDATE 1", Status::Block));
    for request in [Request::simple("begin", "BEGIN", Status::Block), first, second] {
        let answer = client.ask(&request).await;
        // Whatever was answered: nobody was asked to commit.
        if client.is_stopping() || !answer.is(request.tag, request.status) {
            client.roll_back().await;
            return Fate::Refused;
        }
    }
    let answer = client.ask(&Request::simple("commit", "COMMIT", Status::Idle)).await;
    of_commit(&answer, "COMMIT")
}

/// The whole block in one pipeline with one Sync.
async fn pipeline(client: &mut Client, updates: &[String; 2]) -> Fate {
    let mut bytes = Vec::new();
    let texts = ["begin", &updates[0], &updates[1], "commit"];
    for text in texts {
        write::parse(&mut bytes, b"", text.as_bytes(), &[]);
        write::bind(&mut bytes, &[]);
        write::execute(&mut bytes, b"", 0);
    }
    write::sync(&mut bytes);
    let text = format!("pipeline of {}", texts.join("; "));
    let request = Request { text, bytes, tag: "COMMIT", status: Status::Idle };
    let answer = client.ask(&request).await;
    client.roll_back_after(&answer).await;
    of_commit(&answer, "COMMIT")
}

/// Reads the sum, and who has it, until the clients are to end.
pub(super) async fn read(mut client: Client) {
    let query = format!(
        "select concat_ws(' ', coalesce(sum(balance), 0), {TIMELINE}, {SERVER}) from accounts"
    );
    while client.turn().await {
        let address = client.address();
        let sent_us = client.shared.now_us();
        let answer = client.ask(&Request::simple(query.as_str(), ONE_ROW, Status::Idle)).await;
        let Answer::Done { value: Some(value), .. } = answer else { continue };
        let span = Span { sent_us, at_us: client.shared.now_us() };
        let mut record = client.shared.record();
        record.sums_read += 1;
        let (sum, origin) = parse(&value);
        if sum != record.sum.to_string() {
            record.wrong_sums.push(WrongSum { at_us: span.at_us, address, sum: sum.to_owned() });
        }
        record.reads.extend(origin.map(|origin| Served { span, origin }));
    }
}

/// The sum, and which server has it.
fn parse(value: &str) -> (&str, Option<Origin>) {
    let mut words = value.split(' ');
    let sum = words.next().unwrap_or_default();
    let timeline = words.next().and_then(|word| word.parse().ok());
    let server = words.next().map(str::to_owned);
    (sum, timeline.zip(server).map(|(timeline, server)| Origin { timeline, server }))
}
