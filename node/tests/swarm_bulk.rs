//! The bulk plane: no stream is lost, a busy node says so, a gigabyte does not take all day.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod swarm_peer;

use std::time::Instant;

use node::net::{BulkError, BulkProtocol, Identity, InboundBulk};
use swarm_peer::{pair, peer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Sends back what comes in, on every stream.
async fn echo(mut bulk: mpsc::Receiver<InboundBulk>) {
    while let Some(inbound) = bulk.recv().await {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(inbound.stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_streams_opened_at_once_none_is_lost() {
    let (one, two) = pair().await;
    let to = two.id();
    tokio::spawn(echo(two.net.bulk));
    let mut opens = JoinSet::new();
    for number in 0..200_u32 {
        let handle = one.handle();
        opens.spawn(async move {
            let mut stream = handle.open_bulk(to, BulkProtocol::Blobs).await.unwrap();
            stream.write_all(&number.to_le_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(stream.read_u32_le().await.unwrap(), number);
        });
    }
    assert_eq!(opens.join_all().await.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_says_who_opened_it_and_what_for() {
    let (one, mut two) = pair().await;
    for protocol in [BulkProtocol::Blobs, BulkProtocol::Tail, BulkProtocol::Tunnel] {
        let handle = one.handle();
        let to = two.id();
        let opened = tokio::spawn(async move { handle.open_bulk(to, protocol).await });
        let inbound = two.net.bulk.recv().await.unwrap();
        assert_eq!((inbound.from, inbound.protocol), (one.id(), protocol));
        opened.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_no_room_says_busy_and_recovers() {
    let (one, mut two) = pair().await;
    // The application takes nothing, until what may wait is full.
    let mut open = Vec::new();
    let refused = loop {
        match one.handle().open_bulk(two.id(), BulkProtocol::Tail).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
        assert!(open.len() < 1_000);
    };
    assert_eq!(refused, BulkError::Busy);
    assert_eq!(open.len(), 256);
    two.net.bulk.recv().await.unwrap();
    one.handle().open_bulk(two.id(), BulkProtocol::Tail).await.unwrap();
}

#[tokio::test]
async fn without_an_address_or_a_listener_the_error_says_which() {
    let (mut one, two) = pair().await;
    let nobody = Identity::generate().node_id();
    assert_eq!(one.handle().open_bulk(nobody, BulkProtocol::Blobs).await.err(), Some(BulkError::Unknown));
    let gone = two.id();
    two.handle().shutdown().await;
    one.event(node::net::NetEvent::Disconnected(gone)).await;
    assert_eq!(one.handle().open_bulk(gone, BulkProtocol::Blobs).await.err(), Some(BulkError::Unreachable));
    let three = peer().await;
    three.handle().shutdown().await;
    assert_eq!(three.handle().open_bulk(gone, BulkProtocol::Blobs).await.err(), Some(BulkError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_bytes_arrive_whole_and_leave_frames_alone() {
    const TOTAL: usize = 64 << 20;
    let (one, mut two) = pair().await;
    let to = two.id();
    let mut bulk = std::mem::replace(&mut two.net.bulk, mpsc::channel(1).1);
    let received = tokio::spawn(async move {
        let mut stream = bulk.recv().await.unwrap().stream;
        let mut buffer = vec![0; 256 << 10];
        let mut hasher = blake3::Hasher::new();
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return hasher.finalize(),
                len => hasher.update(&buffer[..len]),
            };
        }
    });
    let handle = one.handle();
    let since = Instant::now();
    let sent = tokio::spawn(async move {
        let mut stream = handle.open_bulk(to, BulkProtocol::Blobs).await.unwrap();
        let chunk: Vec<u8> = (0..=255).cycle().take(256 << 10).collect();
        let mut hasher = blake3::Hasher::new();
        for _ in 0..TOTAL / chunk.len() {
            hasher.update(&chunk);
            stream.write_all(&chunk).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        hasher.finalize()
    });
    for number in 0..50_u8 {
        one.send(to, vec![number]);
        assert_eq!(two.frame().await.1, [number][..]);
    }
    assert_eq!(sent.await.unwrap(), received.await.unwrap());
    println!("{:.0} MiB/s", 64.0 / since.elapsed().as_secs_f64());
}
