//! Addresses as the clients of LightRAG take them: PyMongo and redis-py are asked about the same list.

use std::{io::Write, process::Stdio};

use migrate_llm_cache::storage;

use crate::support::place::variable;

/// Asks Python about each address: whether `check` takes it.
fn accepted(check: &str, addresses: &[&str]) -> Vec<bool> {
    let script = format!(
        "import json, sys, warnings\nwarnings.simplefilter('ignore')\n{check}\n\
         def takes(address):\n    try:\n        check(address)\n    except Exception:\n        return False\n    return True\n\
         print(json.dumps([takes(address) for address in json.load(sys.stdin)]))"
    );
    let mut python = std::process::Command::new(variable("TEST_LIGHTRAG_PYTHON"))
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asks = python.stdin.take().unwrap();
    asks.write_all(&serde_json::to_vec(addresses).unwrap()).unwrap();
    drop(asks);
    let answer = python.wait_with_output().unwrap();
    let taken: Vec<bool> = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(taken.len(), addresses.len());
    taken
}

fn assert_taken_alike(kind: &str, check: &str, addresses: &[&str]) {
    let judged = accepted(check, addresses);
    assert!(judged.contains(&true) && judged.contains(&false), "{judged:?}");
    let connector = storage::find(kind).unwrap();
    for (address, taken) in addresses.iter().zip(judged) {
        let ours = connector.parse_uri(address);
        assert_eq!(ours.is_ok(), taken, "{address}: {:?}", ours.err());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn addresses_of_mongodb_are_taken_and_refused_as_pymongo_does() {
    let check = "import pymongo\ndef check(address): pymongo.MongoClient(address, connect=False)";
    assert_taken_alike(
        "mongo",
        check,
        &[
            "mongodb://h",
            "mongodb://h/",
            "mongodb://h:1,i:2/db",
            "mongodb://[::1]:1/",
            "mongodb://me:p%40%2F@h/db?authSource=admin",
            "mongodb://me:a+b@h/",
            "mongodb://h/db.collection",
            // Options that the driver here does not have, or reads another way.
            "mongodb://h/?socketTimeoutMS=30000",
            "mongodb://h/?uuidRepresentation=standard",
            "mongodb://h/?compressors=zlib,snappy",
            "mongodb://h/?compressors=nonsense",
            "mongodb://h/?timeoutMS=5000",
            "mongodb://h/?maxPoolSize=0",
            "mongodb://h/?connect=false",
            "mongodb://h/?tz_aware=true",
            "mongodb://h/?fsync=true",
            "mongodb://h/?foo=bar",
            "mongodb://h/?wtimeout=5",
            "mongodb://h/?APPNAME=x",
            "mongodb://h/?appName=a&appName=b",
            "mongodb://h/?w=majority;journal=true",
            "mongodb://h/?tls=true&ssl=true",
            "mongodb://h/?tlsDisableOCSPEndpointCheck=true",
            "mongodb://h/?zlibCompressionLevel=9",
            "mongodb://h/?serverMonitoringMode=poll",
            // Values that cannot be read.
            "mongodb://h/?tls=perhaps",
            "mongodb://h/?connectTimeoutMS=soon",
            "mongodb://h/?connectTimeoutMS=0",
            "mongodb://h/?serverSelectionTimeoutMS=1500.5",
            "mongodb://h/?maxPoolSize=-1",
            "mongodb://h/?retryWrites=yes",
            "mongodb://h/?w=-1",
            "mongodb://h/?readPreference=Secondary",
            "mongodb://h/?maxStalenessSeconds=-1",
            "mongodb://h/?authMechanismProperties=nonsense",
            "mongodb://me:p@h/?authMechanism=nonsense",
            // What no driver takes.
            "mongodb://",
            "mongodb://h:port/",
            "mongodb://h:0/",
            "mongodb://h:65536/",
            "mongodb://me:p@w@h/",
            "mongodb://me:p:w@h/",
            "mongodb://me:p/w@h/",
            "mongodb://me:p%w@h/",
            "mongodb://me:12?34@h/",
            "mongodb://h,/",
            "mongodb://h/a b",
            "mongodb://h/?tls",
            "mongodb://h/?tls=true&",
            "mongodb://h/?a=1&b=2;c=3",
            "mongodb://h/?tls=true&ssl=false",
            "mongodb://h/?authSource=",
            "mongodb://h/?tlsInsecure=true&tlsAllowInvalidCertificates=true",
            "mongodb://h/?readPreferenceTags=a:b",
            "http://h/",
        ],
    );
}

#[test]
fn addresses_of_redis_are_taken_and_refused_as_redis_py_does() {
    let check = "import redis\n\
        def check(address): redis.ConnectionPool.from_url(address, decode_responses=True, socket_timeout=30.0)";
    assert_taken_alike(
        "redis",
        check,
        &[
            "redis://h",
            "redis://h:1/3",
            "redis://h/name",
            "redis://h/3/name",
            "redis://h/0?db=4",
            "redis://:p%40@h:1/2",
            "redis://me:p@w@h:1/2",
            "redis://[::1]:1/1",
            "redis://my_redis:6379",
            "redis:///2",
            "rediss://h:1/1?ssl_cert_reqs=none",
            "redis://h?socket_keepalive=true&health_check_interval=30&max_connections=5",
            "redis://h?protocol=3",
            "redis://h?socket_timeout=1.5",
            "redis://h?retry_on_timeout=perhaps",
            "unix:///run/redis.sock?db=2",
            "redis://h?db=name",
            "redis://h?socket_timeout=soon",
            "redis://h?max_connections=many",
            "redis://h?health_check_interval=1.5",
            "redis://h:port",
            "redis://:p/w@h:1/0",
            "redis://:p#w@h:1/0",
            "http://h",
            "h:6379",
        ],
    );
}
