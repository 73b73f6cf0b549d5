//! A wire between the program and a server, which can be cut.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the program to the server: a request arrives in part.
    ToServer,
    /// From the server to the program: a request arrives, and its answer does not.
    ToProgram,
}

/// When a connection is cut.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// After so many bytes, over all connections.
    After(u64),
    /// Before a piece of bytes with this text in it goes on.
    Before(&'static str),
}

/// What happens on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which way is counted.
    pub way: Way,
    /// When the connection is cut.
    pub when: When,
    /// So many times, a count of bytes beginning anew each time.
    pub times: u32,
    /// How long each piece of bytes is held back.
    pub delay: Duration,
}

/// A proxy on a port of its own, for as long as it lives.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

/// How often the server was asked and answered.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Those of all connections: the work of the server.
    pub all: u64,
    /// The longest sequence in which each began after the one before had ended, on any connection: the cost of the distance.
    pub in_turn: u64,
}

struct State {
    fault: Fault,
    progress: Mutex<Progress>,
    /// How often a connection went over from answers to requests.
    turns: AtomicU64,
    /// The length of the longest sequence of round trips that have ended.
    ended: AtomicU64,
    closed: AtomicBool,
}

/// What a connection waits for.
#[derive(Default)]
struct Asking {
    is_waiting: AtomicBool,
    /// The place of its last request in a sequence of round trips.
    round_trip: AtomicU64,
}

/// How far a proxy is. All connections count together.
#[derive(Default)]
struct Progress {
    /// Bytes since the last cut.
    passed: u64,
    cuts: u32,
}

impl Proxy {
    /// A proxy that cuts nothing and holds back every piece of bytes.
    pub fn distant(server: String, delay: Duration) -> Self {
        let never = Fault {
            way: Way::ToServer,
            when: When::After(u64::MAX),
            times: 0,
            delay,
        };
        Self::new(server, never)
    }

    /// A proxy in front of a server on this machine.
    pub fn new(server: String, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            fault,
            progress: Mutex::default(),
            turns: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for program in listener.incoming() {
                if shared.closed.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(program), Ok(server)) = (program, TcpStream::connect(&server)) else {
                    continue;
                };
                let asking = Arc::new(Asking::default());
                for way in [Way::ToServer, Way::ToProgram] {
                    let asking = Arc::clone(&asking);
                    let (from, to) = match way {
                        Way::ToServer => (&program, &server),
                        Way::ToProgram => (&server, &program),
                    };
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = Arc::clone(&shared);
                    thread::spawn(move || state.carry(from, to, way, &asking));
                }
            }
        });
        Self { address, state }
    }

    /// An address with the proxy's port in the place of the server's.
    pub fn instead_of(&self, address: &str) -> String {
        let mut url = url::Url::parse(address).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        if url.scheme() == "mongodb" {
            // Else the driver asks the server for its address, and goes there.
            url.query_pairs_mut().append_pair("directConnection", "true");
        }
        url.to_string()
    }

    /// The round trips so far. With a delay, requests that are sent without waiting for an answer are one.
    pub fn round_trips(&self) -> RoundTrips {
        RoundTrips {
            all: self.state.turns.load(Ordering::Relaxed),
            in_turn: self.state.ended.load(Ordering::Relaxed),
        }
    }

    /// How often it cut.
    pub fn cuts(&self) -> u32 {
        self.state.progress.lock().unwrap().cuts
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
        // The listener looks up only when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    /// How many bytes of a piece go on before the cut that falls into it.
    fn cut_in(&self, piece: &[u8]) -> Option<usize> {
        let mut progress = self.progress.lock().unwrap();
        if progress.cuts == self.fault.times {
            return None;
        }
        let whole = match self.fault.when {
            When::After(bytes) => {
                let left = bytes.saturating_sub(progress.passed);
                progress.passed += piece.len() as u64;
                (left <= piece.len() as u64).then_some(left as usize)
            }
            When::Before(text) => {
                let mut windows = piece.windows(text.len());
                windows.any(|window| window == text.as_bytes()).then_some(0)
            }
        };
        if whole.is_some() {
            progress.cuts += 1;
            progress.passed = 0;
        }
        whole
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, way: Way, asking: &Asking) {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            let was_waiting = asking.is_waiting.swap(way == Way::ToServer, Ordering::Relaxed);
            if way == Way::ToServer {
                self.turns.fetch_add(u64::from(!was_waiting), Ordering::Relaxed);
                let round_trip = self.ended.load(Ordering::Relaxed) + 1;
                asking.round_trip.store(round_trip, Ordering::Relaxed);
            }
            thread::sleep(self.fault.delay);
            if way == Way::ToProgram {
                let round_trip = asking.round_trip.load(Ordering::Relaxed);
                self.ended.fetch_max(round_trip, Ordering::Relaxed);
            }
            let cut = if way == self.fault.way {
                self.cut_in(&piece[..read])
            } else {
                None
            };
            if to.write_all(&piece[..cut.unwrap_or(read)]).is_err() || cut.is_some() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// The host and port of an address.
pub fn server_of(address: &str) -> String {
    let url = url::Url::parse(address).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}
