//! The forwarder on tokio-uring: owned buffers, one read or write under way in each direction.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::rc::Rc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use crate::READ_BYTES;

/// One loop.
///
/// # Errors
/// When accepting fails.
pub(crate) fn run(listener: TcpListener, backend: SocketAddr) -> anyhow::Result<()> {
    // It waits in the ring, for which the descriptor must block.
    listener.set_nonblocking(false)?;
    tokio_uring::start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        loop {
            let (client, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                if let Err(error) = forward(client, backend).await {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn forward(client: TcpStream, backend: SocketAddr) -> std::io::Result<()> {
    let server = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client, server) = (Rc::new(client), Rc::new(server));
    let back = tokio_uring::spawn(copy(server.clone(), client.clone()));
    copy(client, server).await?;
    back.await.unwrap_or(Ok(()))
}

async fn copy(from: Rc<TcpStream>, to: Rc<TcpStream>) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (result, filled) = from.read(buffer).await;
        let length = result?;
        if length == 0 {
            // The other end may have closed already.
            let _ = to.shutdown(Shutdown::Write);
            return Ok(());
        }
        let (result, written) = to.write_all(filled.slice(..length)).await;
        result?;
        buffer = written.into_inner();
    }
}
