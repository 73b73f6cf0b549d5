//! A server of a test's own that speaks MongoDB's protocol.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use mongodb::bson::{Document, doc};

/// The code of a message with a command or an answer.
const OP_MSG: i32 = 2013;

/// The bytes of a message's length, its number, the number of the message that it answers, and its code.
const HEADER: usize = 16;

/// What a server is to its replica set.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// It has none.
    Standalone,
    /// A secondary of a set whose primary is gone.
    Secondary,
}

/// A server that ends with the process.
pub struct MongoServer {
    port: u16,
    role: Role,
    commands: Arc<Mutex<Vec<Document>>>,
}

impl MongoServer {
    /// One that has a function answer every command but the driver's greeting. A command without an answer succeeds.
    pub fn new(role: Role, answer: impl Fn(&Document) -> Option<Document> + Send + Sync + 'static) -> Self {
        Self::that_greets_after(Duration::ZERO, role, answer)
    }

    /// The same, but the greeting comes after this time.
    pub fn that_greets_after(
        delay: Duration,
        role: Role,
        answer: impl Fn(&Document) -> Option<Document> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&commands), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some((number, command)) = read(&mut stream) {
                        let reply = match name(&command) {
                            "hello" | "isMaster" => {
                                thread::sleep(delay);
                                greeting(role, port)
                            }
                            _ => {
                                log.lock().unwrap().push(command.clone());
                                answer(&command).unwrap_or_else(|| doc! { "ok": 1.0 })
                            }
                        };
                        if write(&mut stream, number, &reply).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, role, commands }
    }

    pub fn address(&self) -> String {
        let set = match self.role {
            Role::Standalone => "",
            Role::Secondary => "&replicaSet=rs",
        };
        let port = self.port;
        format!("mongodb://127.0.0.1:{port}/LightRAG?serverSelectionTimeoutMS=500{set}")
    }

    /// The commands of this name so far.
    pub fn commands(&self, named: &str) -> Vec<Document> {
        let commands = self.commands.lock().unwrap();
        let named = commands.iter().filter(|command| name(command) == named);
        named.cloned().collect()
    }
}

/// The name of a command.
pub fn name(command: &Document) -> &str {
    command.keys().next().map_or("", String::as_str)
}

/// The answer of a server that refuses a command with this code.
pub fn refusal(code: i32) -> Document {
    doc! { "ok": 0.0, "code": code, "errmsg": "refused" }
}

/// The answer of a server that finds these documents in a collection.
pub fn found(documents: &[Document]) -> Document {
    let cursor = doc! { "id": 0_i64, "ns": "LightRAG.c", "firstBatch": documents.to_vec() };
    doc! { "ok": 1.0, "cursor": cursor }
}

fn greeting(role: Role, port: u16) -> Document {
    let limits = doc! {
        "ok": 1.0, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 21,
        "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    };
    let me = format!("127.0.0.1:{port}");
    let role = match role {
        Role::Standalone => doc! { "isWritablePrimary": true },
        Role::Secondary => doc! {
            "isWritablePrimary": false, "secondary": true, "setName": "rs", "hosts": [me.clone()], "me": me,
        },
    };
    limits.into_iter().chain(role).collect()
}

/// The next message's number and command, to which documents that are sent beside it are added under their name; `None`
/// at the end.
fn read(stream: &mut TcpStream) -> Option<(i32, Document)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).ok()?;
    assert_eq!(integer(&header[12..]), OP_MSG);
    let mut message = vec![0; integer(&header) as usize - HEADER];
    stream.read_exact(&mut message).ok()?;
    let mut command = Document::new();
    // After the flags there are sections, each of which begins with its kind.
    let mut sections = &message[4..];
    while let Some((kind, mut section)) = sections.split_first() {
        if *kind == 0 {
            command.extend(Document::from_reader(&mut section).unwrap());
        } else {
            let (list, others) = section.split_at(integer(section) as usize);
            let end = 4 + list[4..].iter().position(|byte| *byte == 0).unwrap();
            let mut rest = &list[end + 1..];
            let mut documents = Vec::new();
            while !rest.is_empty() {
                documents.push(Document::from_reader(&mut rest).unwrap());
            }
            command.insert(std::str::from_utf8(&list[4..end]).unwrap(), documents);
            section = others;
        }
        sections = section;
    }
    Some((integer(&header[4..]), command))
}

fn write(stream: &mut TcpStream, answered: i32, reply: &Document) -> std::io::Result<()> {
    let reply = reply.to_vec().unwrap();
    let length = (HEADER + 4 + 1 + reply.len()) as i32;
    let mut message = Vec::new();
    // The header and the flags, and then the kind of the only section.
    for number in [length, 0, answered, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(reply);
    stream.write_all(&message)
}

fn integer(bytes: &[u8]) -> i32 {
    i32::from_le_bytes(bytes[..4].try_into().unwrap())
}
