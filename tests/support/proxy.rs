//! A wire between the program and a server, which can be cut.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
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

struct State {
    fault: Fault,
    left: AtomicI64,
    cuts_left: AtomicU32,
    cuts: AtomicU32,
    closed: AtomicBool,
}

impl Proxy {
    /// A proxy in front of a server on this machine.
    pub fn new(server: String, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            fault,
            left: AtomicI64::new(fault.bytes()),
            cuts_left: AtomicU32::new(fault.times),
            cuts: AtomicU32::new(0),
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
                for way in [Way::ToServer, Way::ToProgram] {
                    let (from, to) = match way {
                        Way::ToServer => (&program, &server),
                        Way::ToProgram => (&server, &program),
                    };
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = Arc::clone(&shared);
                    thread::spawn(move || state.carry(from, to, way));
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

    /// How often it cut.
    pub fn cuts(&self) -> u32 {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
        // The listener looks up only when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

impl Fault {
    fn bytes(&self) -> i64 {
        match self.when {
            When::After(bytes) => bytes as i64,
            When::Before(_) => 0,
        }
    }
}

impl State {
    /// How many bytes of a piece go on before the cut that falls into it.
    fn cut_in(&self, piece: &[u8]) -> Option<usize> {
        match self.fault.when {
            When::After(_) => {
                let read = piece.len() as i64;
                let left = self.left.fetch_sub(read, Ordering::Relaxed);
                (left <= read).then(|| usize::try_from(left).unwrap_or(0))
            }
            When::Before(text) => {
                let mut windows = piece.windows(text.len());
                windows.any(|window| window == text.as_bytes()).then_some(0)
            }
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            thread::sleep(self.fault.delay);
            let mut keep = read;
            let mut cut = false;
            if way == self.fault.way
                && self.cuts_left.load(Ordering::Relaxed) > 0
                && let Some(whole) = self.cut_in(&piece[..read])
            {
                keep = whole;
                cut = true;
                self.cuts_left.fetch_sub(1, Ordering::Relaxed);
                self.cuts.fetch_add(1, Ordering::Relaxed);
                self.left.store(self.fault.bytes(), Ordering::Relaxed);
            }
            if to.write_all(&piece[..keep]).is_err() || cut {
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
