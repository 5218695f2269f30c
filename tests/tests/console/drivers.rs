//! Drivers speak the extended protocol to the console as to any server.

use anyhow::ensure;
use tokio_postgres::NoTls;

use crate::place::Place;

pub(crate) fn extended() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words = format!("host=127.0.0.1 port={} user=root dbname=pgx", place.port()?);
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&words, NoTls).await?;
        tokio::spawn(connection);
        let statement = client.prepare("SHOW STATE").await?;
        for _ in 0..2 {
            let rows = client.query(&statement, &[]).await?;
            ensure!(rows[0].get::<_, &str>("key") == "active");
            ensure!(rows[0].get::<_, &str>("value") == "yes");
        }
        // Numbers come in their binary form.
        let rows = client.query("SHOW LISTS", &[]).await?;
        let used = rows.iter().find(|row| row.get::<_, &str>("list") == "used_clients");
        ensure!(used.map(|row| row.get::<_, i64>("items")) == Some(1));
        // An error is one, and nothing more: what is sent with it is answered.
        let both = tokio::join!(client.query("SHOW NOTHING", &[]), client.query("SHOW STATE", &[]));
        ensure!(both.0.is_err() && both.1.is_ok_and(|rows| rows.len() == 3));
        ensure!(client.execute("RELOAD", &[]).await? == 0);
        let wrong = client.query("SHOW STATE", &[&1_i32]).await;
        ensure!(wrong.is_err());
        ensure!(client.simple_query("SHOW VERSION").await?.len() >= 2);
        Ok(())
    })
}
