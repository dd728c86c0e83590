//! Serves an in-memory store over HTTP: `cargo run -p holdfast-s3-gateway --example memory -- IP:PORT`.
//! Credentials come from HOLDFAST_ROOT_USER and HOLDFAST_ROOT_PASSWORD, else `holdfast` twice.

use std::{env, sync::Arc, time::SystemTime};

use holdfast_s3_gateway::{GatewayConfig, RootCredentials, service, testing::MemoryStore};
use holdfast_types::seam::{Clock, Random, SeededRandom};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

struct SystemClock;

impl Clock for SystemClock {
    fn wall_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_micros() as u64)
    }

    fn monotonic_micros(&self) -> u64 {
        self.wall_micros()
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(clock.wall_micros()));
    let or_default = |name| env::var(name).unwrap_or_else(|_| "holdfast".to_owned());
    let root = RootCredentials::new(
        or_default("HOLDFAST_ROOT_USER"),
        or_default("HOLDFAST_ROOT_PASSWORD"),
    );
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock), Arc::clone(&random)));
    let gateway = service(store, GatewayConfig::new(root, clock, random));
    let listener = TcpListener::bind(&address).await?;
    println!("serving S3 from memory at http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let connection = auto::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), gateway).await;
        });
    }
}
