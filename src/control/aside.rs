//! Work that may block, on a thread of its own. Where no thread can be had that is an error; a runtime's
//! own threads for such work panic then, which would end a process that serves well.

use std::io;
use std::net::SocketAddr;

use tokio::sync::oneshot;

/// Does it; whoever stops waiting leaves the thread to itself.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("aside".to_owned())
        .spawn(move || drop(sender.send(work())))?;
    receiver.await.map_err(io::Error::other)
}

/// Looks up the addresses of a name.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    use std::net::ToSocketAddrs as _;
    let host = host.to_owned();
    aside(move || {
        (host.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect)
    })
    .await?
}
