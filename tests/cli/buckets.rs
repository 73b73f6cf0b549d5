//! Archives in a bucket.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use serde_json::{Map, Value, json};

use crate::{
    scene::Scene,
    support::{
        place::service,
        tool::{Run, Tool},
    },
};

/// A bucket of the test's own prefix, and the login to it.
struct Bucket {
    server: url::Url,
    prefix: String,
}

impl Bucket {
    fn new(name: &str) -> Self {
        Self {
            server: service("s3").parse().unwrap(),
            prefix: format!("{name}-{}", std::process::id()),
        }
    }

    fn address(&self, name: &str) -> String {
        format!("s3:/{}/{}/{name}", self.server.path(), self.prefix)
    }

    /// The program with this login.
    fn tool(&self, scene: &Scene, line: &str, password: &str) -> Tool {
        let host = format!(
            "http://{}:{}",
            self.server.host_str().unwrap(),
            self.server.port().unwrap()
        );
        scene
            .tool(line)
            .secret(password)
            .env("AWS_ENDPOINT_URL", &host)
            .env("AWS_ACCESS_KEY_ID", self.server.username())
            .env("AWS_SECRET_ACCESS_KEY", password)
            .env("AWS_REGION", "us-east-1")
    }

    fn run(&self, scene: &Scene, line: &str) -> Run {
        self.tool(scene, line, self.server.password().unwrap()).run()
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_cache_goes_through_a_bucket_and_is_the_same() {
    let scene = Scene::new();
    let bucket = Bucket::new("through");
    // More than one part of an upload.
    let text = |n: usize| format!("{n:05}").repeat(1200);
    let cache: Map<String, Value> = (0..2000)
        .map(|n| {
            (
                format!("default:extract:{n:032}"),
                json!({"return": text(n), "cache_type": "extract"}),
            )
        })
        .collect();
    scene.cache("rag_storage/large", &Value::Object(cache));
    let there = bucket.address("a.jsonl");
    let line = format!("--source ./rag_storage --target {there} --all-workspaces --yes");
    let run = bucket.run(&scene, &line).expect(0);
    assert_eq!(run.total("written"), 2067);
    assert_eq!(run.report()["read_back"]["missing"], 0);
    assert_eq!(run.report()["target"]["location"], there);
    bucket
        .run(
            &scene,
            &format!("--source {there} --target copy.jsonl.zst --all-workspaces --yes"),
        )
        .expect(0);
    scene
        .run("--source ./rag_storage --target own.jsonl.zst --all-workspaces --yes")
        .expect(0);
    let digest = |name: &str| {
        let text = zstd::stream::decode_all(&std::fs::read(scene.path(name)).unwrap()[..]).unwrap();
        let footer = text
            .trim_ascii_end()
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap();
        serde_json::from_slice::<Value>(footer).unwrap()["footer"].take()
    };
    assert_eq!(digest("copy.jsonl.zst"), digest("own.jsonl.zst"));
    let line =
        format!("--source ./rag_storage --target {there} --all-workspaces --verify-only --verify full");
    bucket.run(&scene, &line).expect(0);
    // What is there stays beside what comes.
    scene.cache("more/other", &json!({"default:extract:x": {"return": "x"}}));
    bucket
        .run(
            &scene,
            &format!("--source ./more --target {there} --all-workspaces --yes"),
        )
        .expect(0);
    let line = format!("--source {there} --target ./back --all-workspaces --yes");
    assert_eq!(bucket.run(&scene, &line).expect(0).total("written"), 2068);
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_run_that_fails_leaves_nothing_in_the_bucket() {
    let scene = Scene::new();
    let bucket = Bucket::new("fails");
    scene.cache(
        "bad",
        &json!({"default:extract:a": {"return": "x"}, "default:extract:b": 1}),
    );
    let there = bucket.address("a.jsonl.zst");
    let line = format!("--source ./bad --target {there} --yes --max-errors 0");
    assert_eq!(bucket.run(&scene, &line).expect(7).total("written"), 0);
    let run = bucket
        .run(&scene, &format!("--source {there} --target ./new --yes"))
        .expect(4);
    assert!(
        run.message().contains(&format!("there is no archive {there}")),
        "{}",
        run.message()
    );
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_bucket_that_refuses_is_an_error_that_says_why() {
    let scene = Scene::new();
    let bucket = Bucket::new("refuses");
    let there = bucket.address("a.jsonl.zst");
    let line = format!("--source ./rag_storage --target {there} --yes");
    let run = bucket.tool(&scene, &line, "a-wrong-secret").run().expect(5);
    assert!(run.message().contains(&there), "{}", run.message());
}

/// The server of the tests creates buckets, so this is one of our own.
#[test]
fn a_bucket_that_does_not_exist_is_reported_before_a_record_is_read() {
    const BODY: &str = "<?xml version=\"1.0\"?>\n<Error>\n  <Code>NoSuchBucket</Code>\n  <Message>There is no such \
                        bucket.\nRequestId:1</Message>\n</Error>";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(&stream).lines();
            while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let answer = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{BODY}",
                BODY.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let scene = Scene::new();
    let run = scene
        .tool("--source ./rag_storage --target s3://none/a.jsonl.zst --yes")
        .env("AWS_ENDPOINT_URL", &endpoint)
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("AWS_REGION", "us-east-1")
        .run()
        .expect(5);
    let message = run.message();
    assert!(
        message.starts_with("target: cannot read s3://none/a.jsonl.zst: "),
        "{message}"
    );
    assert!(
        message.contains("404 Not Found: NoSuchBucket: There is no such bucket."),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(run.events_of("batch").count(), 0);
    assert_eq!(
        run.report()["next"],
        "Check the name of the bucket; it is not created."
    );
}

#[test]
fn an_address_of_a_bucket_names_an_archive() {
    let scene = Scene::new();
    let run = scene
        .run("--source ./rag_storage --target s3://bucket/folder/ --yes")
        .expect(2);
    assert!(
        run.message()
            .contains("expected an address that ends in .jsonl or .jsonl.zst"),
        "{}",
        run.message()
    );
}
