//! What `scripts/bench` compares with, on this machine and in the same run: nothing of ours is in here.
//!
//! `peers spawn JOBS SLOTS` starts and waits for processes as fast as one program can; `peers copy BYTES FILE`
//! sends bytes over plain TCP on loopback to a reader that hashes and writes in line. Each prints one number:
//! seconds.

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Bytes per read and write; the measured copies of `reference` use the same.
const BLOCK: usize = 256 << 10;

fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let took = match words.as_slice() {
        ["spawn", jobs, slots] => number(jobs).and_then(|jobs| spawn(jobs, number(slots)?.max(1))),
        ["copy", bytes, file] => number(bytes).and_then(|bytes| copy(bytes, Path::new(file))),
        _ => Err("usage: peers spawn JOBS SLOTS | peers copy BYTES FILE".into()),
    };
    match took {
        Ok(took) => {
            println!("{:.6}", took.as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<u64, Box<dyn Error>> {
    word.parse().map_err(|_| format!("\"{word}\" is not a number").into())
}

/// One thread per slot, each starting `true` and waiting for it.
fn spawn(jobs: u64, slots: u64) -> Result<Duration, Box<dyn Error>> {
    let share = |slot: u64| jobs / slots + u64::from(slot < jobs % slots);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..slots).map(|slot| scope.spawn(move || spawn_in_turn(share(slot)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?.map_err(Box::from))
    })
    .map_err(|error: Box<dyn Error + Send + Sync>| error as Box<dyn Error>)?;
    Ok(began.elapsed())
}

fn spawn_in_turn(jobs: u64) -> std::io::Result<()> {
    for _ in 0..jobs {
        let mut command = Command::new("/bin/true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()?.wait()?;
    }
    Ok(())
}

/// The sender has its bytes in memory; the clock runs from the first byte to the file's hash.
fn copy(bytes: u64, path: &Path) -> Result<Duration, Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let block = vec![0x5a_u8; BLOCK];
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            stream.write_all(&block[..part])?;
            left -= part as u64;
        }
        Ok::<(), std::io::Error>(())
    });
    let (mut stream, _) = listener.accept()?;
    let began = Instant::now();
    let mut file = File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    loop {
        let count = stream.read(&mut block)?;
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
        file.write_all(&block[..count])?;
        total += count as u64;
    }
    std::hint::black_box(hasher.finalize());
    let took = began.elapsed();
    sender.join().map_err(|_| "the sender panicked")??;
    if total == bytes { Ok(took) } else { Err(format!("{total} of {bytes} bytes arrived").into()) }
}
