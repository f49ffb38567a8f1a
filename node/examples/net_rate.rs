//! Figures of the network on loopback: `cargo run --release -p node --example net_rate`.
#![allow(clippy::unwrap_used, reason = "a figure that cannot be taken says where")]

#[path = "../tests/swarm_peer/mod.rs"]
mod swarm_peer;

use std::time::{Duration, Instant};

use node::net::BulkProtocol;
use swarm_peer::{Peer, pair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn main() {
    // A runtime each: what one leaves behind does not run while the next is measured.
    let alone = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let two = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    alone().block_on(round_trip_of_a_small_frame());
    alone().block_on(frames_a_second_one_way());
    two().block_on(bulk_throughput_of_one_stream());
    two().block_on(opening_a_bulk_stream());
}

fn quantile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    times[(times.len() as f64 * share) as usize]
}

/// Sends back every frame, on a thread and runtime of its own, as another node would.
fn echo(mut peer: Peer) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            loop {
                let (from, bytes) = peer.frame().await;
                peer.send(from, bytes);
            }
        });
    });
}

async fn round_trip_of_a_small_frame() {
    let (mut one, two) = pair().await;
    let to = two.id();
    echo(two);
    let mut times = Vec::new();
    for round in 0..12_000 {
        let since = Instant::now();
        one.send(to, vec![1; 200]);
        one.frame().await;
        if round >= 2_000 {
            times.push(since.elapsed());
        }
    }
    println!("frame round trip p50 {:?} p99 {:?}", quantile(times.clone(), 0.5), quantile(times, 0.99));
}

async fn frames_a_second_one_way() {
    const FRAMES: u32 = 200_000;
    let (one, mut two) = pair().await;
    let to = two.id();
    let handle = one.handle();
    let sender = std::thread::spawn(move || {
        for number in 0..FRAMES {
            while handle.send(to, number.to_le_bytes().repeat(50).into()).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let since = Instant::now();
    for number in 0..FRAMES {
        assert_eq!(two.frame().await.1[..4], number.to_le_bytes());
    }
    println!("{:.0} frames of 200 B a second", f64::from(FRAMES) / since.elapsed().as_secs_f64());
    sender.join().unwrap();
}

async fn bulk_throughput_of_one_stream() {
    const TOTAL: usize = 1 << 30;
    let (one, mut two) = pair().await;
    let handle = one.handle();
    let to = two.id();
    let sender = tokio::spawn(async move {
        let mut stream = handle.open_bulk(to, BulkProtocol::Blobs).await.unwrap();
        let chunk = vec![5; 256 << 10];
        for _ in 0..TOTAL / chunk.len() {
            stream.write_all(&chunk).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        stream
    });
    let mut stream = two.net.bulk.recv().await.unwrap().stream;
    let since = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            len => total += len,
        }
    }
    assert_eq!(total, TOTAL);
    println!("bulk, both ends in one process: {:.0} MiB/s", 1024.0 / since.elapsed().as_secs_f64());
    drop(sender.await.unwrap());
}

async fn opening_a_bulk_stream() {
    let (one, mut two) = pair().await;
    let to = two.id();
    let mut bulk = std::mem::replace(&mut two.net.bulk, tokio::sync::mpsc::channel(1).1);
    tokio::spawn(async move { while bulk.recv().await.is_some() {} });
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let since = Instant::now();
        one.handle().open_bulk(to, BulkProtocol::Blobs).await.unwrap();
        times.push(since.elapsed());
    }
    println!("bulk open p50 {:?} p99 {:?}", quantile(times.clone(), 0.5), quantile(times, 0.99));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("two nodes in one process: {rss}");
}
