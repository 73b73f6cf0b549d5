//! A name server, for addresses whose hosts are looked up.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    thread,
};

/// An address of the loopback interface that nothing else listens to. A resolver asks port 53 only.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 26, 11, 53);
const TYPE_A: u16 = 1;
const TYPE_SRV: u16 = 33;

/// Answers until the process ends: every host has the address 127.0.0.1, and every service of MongoDB is on this port of
/// `db.DOMAIN`.
pub fn start(domain: &str, port: u16) {
    let socket = UdpSocket::bind((ADDRESS, 53)).expect("a test of a name server needs root, for port 53");
    let host = encoded(&format!("db.{domain}"));
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            let answer = answer(&buffer[..length], &host, port);
            socket.send_to(&answer, asker).expect("the asker is there");
        }
    });
}

/// A file for the place of `/etc/resolv.conf`.
pub fn write_configuration(path: &Path) {
    std::fs::write(path, format!("nameserver {ADDRESS}\n")).expect("a writable folder");
}

/// A name as the protocol has it (RFC 1035, 3.1).
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The answer to a query of one question, with one record or none.
fn answer(query: &[u8], host: &[u8], port: u16) -> Vec<u8> {
    const HEADER: usize = 12;
    let name_end = HEADER
        + 1
        + query[HEADER..]
            .iter()
            .position(|byte| *byte == 0)
            .expect("a name");
    let question = &query[HEADER..name_end + 4];
    let kind = u16::from_be_bytes([query[name_end], query[name_end + 1]]);
    let is_of_mongo = question[1..].starts_with(b"_mongodb");
    let data = match kind {
        TYPE_A => Some(vec![127, 0, 0, 1]),
        // Priority, weight, port, host.
        TYPE_SRV if is_of_mongo => Some([&[0; 4], port.to_be_bytes().as_slice(), host].concat()),
        _ => None,
    };
    let mut answer = query[..2].to_vec();
    // A response, recursion available; one question, the records, nothing else.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(data) = data {
        // The name of the question, class IN, a minute.
        answer.extend([0xc0, HEADER as u8]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len()).expect("a short record").to_be_bytes());
        answer.extend(data);
    }
    answer
}
