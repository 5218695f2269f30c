//! A bare forwarder of TCP connections, on the engine that is named: what an engine costs before
//! anything is done with the bytes. It must not know PostgreSQL.
//!
//! `forwarder ENGINE LISTEN_PORT BACKEND_PORT THREADS`, with ENGINE one of full, reduced, epoll,
//! tokio and tokio-uring. It says `ready` when it listens, and runs until it is killed. All engines
//! have one loop per thread, each with its own listening socket on the port, and no Nagle.

mod on_tokio;
mod on_tokio_uring;
mod ours;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};
use socket2::{Domain, Socket, Type};

/// Bytes of one read, on every engine.
const READ_BYTES: usize = 16 * 1024;

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [engine, listen, backend, threads] = &words[..] else {
        bail!("usage: forwarder ENGINE LISTEN_PORT BACKEND_PORT THREADS");
    };
    let local = |port: &str| -> anyhow::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, port.parse().context("a port")?).into())
    };
    let (listen, backend) = (local(listen)?, local(backend)?);
    let threads: usize = threads.parse().context("the number of threads")?;
    let run: fn(TcpListener, SocketAddr, &str) -> anyhow::Result<()> = match &**engine {
        "tokio" => |listener, backend, _| on_tokio::run(listener, backend),
        "tokio-uring" => |listener, backend, _| on_tokio_uring::run(listener, backend),
        _ => ours::run,
    };
    let mut loops = Vec::new();
    for _ in 0..threads {
        let listener = shared_listener(listen)?;
        let engine = engine.clone();
        loops.push(std::thread::spawn(move || run(listener, backend, &engine)));
    }
    println!("ready");
    for each in loops {
        each.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??;
    }
    Ok(())
}

/// One of several listening sockets on a port, among which the kernel spreads connections.
fn shared_listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address}"))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
