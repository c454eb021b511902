//! The wire between two servers, which can be cut: a TCP relay in front of a server's federation port.

use std::sync::Arc;

use chappe_tests::{Failure, server::free_port};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub struct Link {
    /// Where other servers connect.
    pub outer_port: u16,
    /// Where the server listens.
    pub inner_port: u16,
    is_up: Arc<watch::Sender<bool>>,
}

impl Link {
    pub async fn lay() -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (outer_port, inner_port) = (listener.local_addr()?.port(), free_port()?);
        let is_up = Arc::new(watch::Sender::new(true));
        let switch = is_up.clone();
        tokio::spawn(async move {
            while let Ok((incoming, _)) = listener.accept().await {
                if *switch.borrow() {
                    tokio::spawn(relay(incoming, inner_port, switch.subscribe()));
                }
            }
        });
        Ok(Self { outer_port, inner_port, is_up })
    }

    /// Breaks all connections and takes no more, until [`Link::mend`].
    pub fn cut(&self) {
        self.is_up.send_replace(false);
    }

    pub fn mend(&self) {
        self.is_up.send_replace(true);
    }
}

async fn relay(mut incoming: TcpStream, inner_port: u16, mut is_up: watch::Receiver<bool>) {
    let Ok(mut inner) = TcpStream::connect(("127.0.0.1", inner_port)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut incoming, &mut inner) => {}
        _ = is_up.wait_for(|is_up| !is_up) => {}
    }
}
