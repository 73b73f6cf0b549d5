//! A distance: forwards TCP connections, and delivers every byte a fixed time later, each way.
//!
//! `distance MILLISECONDS LISTEN=TARGET…`, such as `distance 5 127.0.0.1:7000=127.0.0.1:6379` for a round trip of 10 ms,
//! the handshake of a connection included. It prints `ready` when it listens, and ends when standard input does.
//!
//! Bandwidth is not limited: about 1 GB/s on one core, in each direction. What is on its way in one direction of a
//! connection is: 16 MiB, as a receiver's window would. Built by `rustc -O`, without a package.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// The most that is on its way in one direction of a connection, in bytes.
const WINDOW: usize = 16 << 20;

/// The most that is read at once, in bytes.
const PIECE: usize = 128 << 10;

/// Some bytes, and when they arrive. None are the end.
type Piece = (Instant, Vec<u8>);

/// How many bytes are on their way.
#[derive(Default)]
struct OnTheWay {
    bytes: Mutex<usize>,
    less: Condvar,
}

impl OnTheWay {
    fn add(&self, bytes: usize) {
        let mut now = self.bytes.lock().unwrap();
        while *now >= WINDOW {
            now = self.less.wait(now).unwrap();
        }
        *now += bytes;
    }

    fn remove(&self, bytes: usize) {
        *self.bytes.lock().unwrap() -= bytes;
        self.less.notify_one();
    }
}

/// Takes what comes, and when.
fn take(mut from: TcpStream, delay: Duration, pieces: &Sender<Piece>, on_the_way: &OnTheWay) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = from.read(&mut piece).unwrap_or(0);
        piece.truncate(read);
        piece.shrink_to_fit();
        on_the_way.add(read);
        if pieces.send((Instant::now() + delay, piece)).is_err() || read == 0 {
            return;
        }
    }
}

/// Delivers it when its time has come.
fn deliver(mut to: TcpStream, pieces: &Receiver<Piece>, on_the_way: &OnTheWay) {
    for (arrives, piece) in pieces {
        thread::sleep(arrives.saturating_duration_since(Instant::now()));
        on_the_way.remove(piece.len());
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    // Make room for the sender, so that it sees the closed connection instead of waiting.
    for (_, piece) in pieces {
        on_the_way.remove(piece.len());
    }
}

fn one_way(from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, pieces) = mpsc::channel();
    let on_the_way = Arc::new(OnTheWay::default());
    let same = Arc::clone(&on_the_way);
    thread::spawn(move || take(from, delay, &sender, &same));
    thread::spawn(move || deliver(to, &pieces, &on_the_way));
}

fn connect(client: TcpStream, target: &str, delay: Duration) -> io::Result<()> {
    // The handshake takes a round trip. The client has had its own already.
    thread::sleep(2 * delay);
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    one_way(client.try_clone()?, server.try_clone()?, delay);
    one_way(server, client, delay);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let milliseconds: f64 = arguments.next().ok_or("how many milliseconds?")?.parse()?;
    let delay = Duration::from_secs_f64(milliseconds / 1e3);
    for pair in arguments {
        let (listen, target) = pair.split_once('=').ok_or("LISTEN=TARGET")?;
        let (listener, target) = (TcpListener::bind(listen)?, target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = target.clone();
                thread::spawn(move || {
                    if let Err(error) = connect(client, &target, delay) {
                        eprintln!("distance: {target}: {error}");
                    }
                });
            }
        });
    }
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
