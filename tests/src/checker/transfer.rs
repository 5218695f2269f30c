//! Movers and the reader: money goes from account to account, and nobody may see some of it missing.

use pgx_wire::backend::Status;

use super::client::{Client, Request};
use super::fate::{Fate, of_commit};
use super::record::WrongSum;
use super::session::Answer;

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
        client.settle(fate, address, |record, fate| match fate {
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
        return batch(client, &updates).await;
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

/// The whole block in one message.
async fn batch(client: &mut Client, updates: &[String; 2]) -> Fate {
    let text = format!("begin; {}; commit", updates.join("; "));
    let answer = client.ask(&Request::simple(text, "COMMIT", Status::Idle)).await;
    if let Answer::Error { status: Some(Status::Failed), .. } = answer {
        client.roll_back().await;
    }
    of_commit(&answer, "COMMIT")
}

/// Reads the sum until the clients are to end.
pub(super) async fn read(mut client: Client) {
    let query = "select coalesce(sum(balance), 0) from accounts";
    while client.turn().await {
        let address = client.address();
        let answer = client.ask(&Request::simple(query, ONE_ROW, Status::Idle)).await;
        let Answer::Done { value: Some(sum), .. } = answer else { continue };
        let at_us = client.shared.now_us();
        let mut record = client.shared.record();
        record.sums_read += 1;
        if sum != record.sum.to_string() {
            record.wrong_sums.push(WrongSum { at_us, address, sum });
        }
    }
}
