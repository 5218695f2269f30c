//! The forwarder on tokio: a runtime of one thread for each loop, and tokio's own copying.

use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpStream;

use crate::READ_BYTES;

/// One loop.
///
/// # Errors
/// When the runtime cannot be made, or accepting fails.
pub(crate) fn run(listener: TcpListener, backend: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = forward(client, backend).await {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn forward(mut client: TcpStream, backend: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (a, b) = (&mut client, &mut server);
    tokio::io::copy_bidirectional_with_sizes(a, b, READ_BYTES, READ_BYTES).await?;
    Ok(())
}
