//! Peers fence as well: what a host does with a backend that the cluster has fenced.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use pgx_bpf::{Counters, KeepError, Keeper, Pins, Plane, Reason, Stale};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::hosts::{Host, switch};
use crate::space::Space;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 5432;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![trial("fenced_backends_flows_are_reset_until_a_newer_list_leaves_it_out", needs, lists)]
}

/// A backend that repeats what it hears.
fn backend(number: u8) -> anyhow::Result<Host> {
    let host = Host::plug(&format!("b{number}"), number, "")?;
    host.run(|| {
        let listener = TcpListener::bind(("::", PORT))?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        Ok(())
    })?;
    Ok(host)
}

fn connect(proxy: &Host, to: IpAddr) -> anyhow::Result<std::io::Result<TcpStream>> {
    let to = SocketAddr::new(to, PORT);
    proxy.run(move || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE);
        if let Ok(stream) = &stream {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(stream)
    })
}

fn repeats(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn lists() -> anyhow::Result<()> {
    Space::run(|space| {
        switch()?;
        let _backends = [backend(1)?, backend(2)?];
        let proxy = Host::plug("proxy", 3, "")?;
        space.pins()?;
        let pins = Pins::open(&space.mount, "proxy")?;
        let own = pins.clone();
        proxy.run(move || {
            let mut plane = Plane::load(&objects()?, own)?;
            plane.guard()?;
            plane.attach("eth0")?;
            Ok(plane.guard_out("eth0")?)
        })?;
        let mut keeper = Keeper::open(&pins)?;
        let counters = Counters::open(&pins)?;
        for (first, second, epoch) in [("10.77.0.1", "10.77.0.2", 10), ("fd77::1", "fd77::2", 20)] {
            let (first, second): (IpAddr, IpAddr) = (first.parse()?, second.parse()?);
            let reach = |to| connect(&proxy, to);
            let refused = |to| -> anyhow::Result<()> {
                let error = reach(to)?.err().context("it let somebody in")?;
                ensure!(error.kind() == ErrorKind::ConnectionRefused, "{to}: {error}");
                Ok(())
            };
            let old = reach(first)?.context("nothing is fenced")?;
            repeats(&old)?;
            let before = counters.get(Reason::FencedReset)?.packets;

            keeper.set_fenced(&BTreeSet::from([first]), epoch)?;
            let told = repeats(&old).expect_err("it is fenced");
            ensure!(told.kind() == ErrorKind::ConnectionReset, "{first}: {told}");
            refused(first)?;
            repeats(&reach(second)?.context("it is not fenced")?)?;
            ensure!(counters.get(Reason::FencedReset)?.packets >= before + 2, "reset by others");

            let late = keeper.set_fenced(&BTreeSet::new(), epoch - 1);
            ensure!(matches!(late, Err(KeepError::Stale(Stale::Older { .. }))), "{late:?}");
            keeper.set_fenced(&BTreeSet::new(), epoch)?;
            refused(first).context("only a newer list takes it off")?;
            keeper.set_fenced(&BTreeSet::from([second]), epoch + 1)?;
            repeats(&reach(first)?.context("it is fenced no more")?)?;
            refused(second)?;
        }
        Ok(())
    })
}
