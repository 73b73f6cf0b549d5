//! Archives in a bucket.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::{
    archives::{MANY, many},
    scene::Scene,
    signals::{during, send},
    support::{
        http::{HttpServer, Request, answer},
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

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn runs_at_the_same_time_add_to_one_archive_in_a_real_bucket() {
    let scene = Scene::new();
    let bucket = Bucket::new("both");
    many(&scene);
    large_cache(&scene);
    // The second time, it is uploaded in parts.
    for (source, name) in [("./rag_storage", "a.jsonl"), ("./large", "b.jsonl")] {
        let there = bucket.address(name);
        let password = bucket.server.password().unwrap();
        let line = format!("{MANY} --target {there}");
        let run = during(bucket.tool(&scene, &line, password), |_| {
            let line = format!("--source {source} --target {there} --all-workspaces --yes");
            bucket.run(&scene, &line).expect(0);
        });
        run.expect(0);
        for source in [source, "./many"] {
            let line =
                format!("--source {source} --target {there} --all-workspaces --verify-only --verify full");
            bucket.run(&scene, &line).expect(0);
        }
    }
}

/// A server of the test's own with one object, which can be as slow and as broken as the test wants.
struct ObjectServer {
    server: HttpServer,
    object: Arc<Mutex<Option<String>>>,
}

const UPLOAD: &str =
    "<InitiateMultipartUploadResult><UploadId>upload-1</UploadId></InitiateMultipartUploadResult>";

impl ObjectServer {
    /// One with a function that may answer a request in place of the server, given the object; false leaves it to the server.
    fn new(
        object: Option<String>,
        special: impl Fn(&Request, &str, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::over(Arc::new(Mutex::new(object)), special)
    }

    /// The same with an object that the test may change.
    fn over(
        object: Arc<Mutex<Option<String>>>,
        special: impl Fn(&Request, &str, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let parts = Mutex::new(BTreeMap::new());
        let kept = Arc::clone(&object);
        let version = AtomicU32::new(1);
        let server = HttpServer::new(move |request, stream| {
            let content = kept.lock().unwrap().clone();
            if special(request, content.as_deref().unwrap_or_default(), stream) {
                return;
            }
            let (method, path) = request.line.split_once(' ').unwrap();
            let query = path.split_once('?').map_or("", |(_, query)| query);
            let tag = || format!("\"{}\"", version.load(Ordering::SeqCst));
            let tag_header = || format!("ETag: {}\r\n", tag());
            match (method, query, content) {
                ("HEAD", _, Some(content)) => {
                    let head = head_of(&tag(), content.len(), "200 OK", "");
                    let _ = stream.write_all(head.as_bytes());
                }
                ("HEAD" | "GET", _, None) => answer(stream, "404 Not Found", "", ""),
                ("GET", _, Some(content)) => answer(stream, "200 OK", &tag_header(), &content),
                ("POST", _, _) if query.starts_with("uploads") => answer(stream, "200 OK", "", UPLOAD),
                ("PUT", _, _) if query.contains("partNumber=") => {
                    let number = query.split(['=', '&']).find_map(|word| word.parse::<u32>().ok());
                    parts
                        .lock()
                        .unwrap()
                        .insert(number.unwrap(), request.body.clone());
                    answer(stream, "200 OK", "ETag: \"1\"\r\n", "");
                }
                ("PUT", _, content) => {
                    let is_refused = match request.header("if-match") {
                        Some(expected) => content.is_none() || expected != tag(),
                        None => content.is_some() && request.has("If-None-Match: *"),
                    };
                    if is_refused {
                        return answer(stream, "412 Precondition Failed", "", "");
                    }
                    version.fetch_add(1, Ordering::SeqCst);
                    *kept.lock().unwrap() = Some(request.body.clone());
                    answer(stream, "200 OK", &tag_header(), "");
                }
                ("POST", ..) => {
                    let parts = std::mem::take(&mut *parts.lock().unwrap());
                    version.fetch_add(1, Ordering::SeqCst);
                    *kept.lock().unwrap() = Some(parts.into_values().collect());
                    let done =
                        "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>";
                    answer(stream, "200 OK", "", done);
                }
                ("DELETE", ..) => answer(stream, "204 No Content", "", ""),
                _ => panic!("{}", request.line),
            }
        });
        Self { server, object }
    }

    /// The program with this server as S3.
    fn tool(&self, scene: &Scene, line: &str) -> Tool {
        with_keys(scene.tool(line)).env("AWS_ENDPOINT_URL", &self.server.url())
    }

    /// The lines of the requests since the last call, without those of this method.
    fn requests_except(&self, method: &str) -> Vec<String> {
        let lines = self.server.requests().into_iter().map(|request| request.line);
        lines.filter(|line| !line.starts_with(method)).collect()
    }
}

fn with_keys(tool: Tool) -> Tool {
    tool.env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("AWS_REGION", "us-east-1")
}

/// The head of an answer with the first version of an object.
fn head(length: usize, status: &str, headers: &str) -> String {
    head_of("\"1\"", length, status, headers)
}

fn head_of(tag: &str, length: usize, status: &str, headers: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: {tag}\r\nConnection: close\r\n{headers}\r\n"
    )
}

/// The sample cache as an archive.
fn archive(scene: &Scene) -> String {
    scene
        .run("--source ./rag_storage --target own.jsonl --all-workspaces --yes")
        .expect(0);
    fs::read_to_string(scene.path("own.jsonl")).unwrap()
}

/// A cache of more than two parts of an upload.
fn large_cache(scene: &Scene) {
    let text = |n: usize| format!("{n:05}").repeat(1200);
    let cache: Map<String, Value> = (0..3000)
        .map(|n| (format!("default:extract:{n:032}"), json!({"return": text(n)})))
        .collect();
    scene.cache("large", &Value::Object(cache));
}

const RESTORE: &str = "--source s3://b/a.jsonl --target ./back --all-workspaces --yes";

#[test]
fn a_download_may_take_longer_than_a_request() {
    let scene = Scene::new();
    let server = ObjectServer::new(Some(archive(&scene)), |request, content, stream| {
        let is_get = request.line.starts_with("GET ");
        if is_get {
            stream
                .write_all(head(content.len(), "200 OK", "").as_bytes())
                .unwrap();
            for piece in content.as_bytes().chunks(content.len() / 11) {
                thread::sleep(Duration::from_millis(250));
                stream.write_all(piece).unwrap();
            }
        }
        is_get
    });
    let run = server
        .tool(&scene, &format!("{RESTORE} --timeout 1s --retries 0"))
        .run()
        .expect(0);
    assert_eq!(run.total("written"), 67);
    assert!(run.report()["duration_ms"].as_u64().unwrap() > 2500);
    assert_eq!(server.requests_except("HEAD ").len(), 1);
}

#[test]
fn a_download_that_falls_silent_ends_the_run() {
    let scene = Scene::new();
    let server = ObjectServer::new(Some(archive(&scene)), |request, content, stream| {
        let is_get = request.line.starts_with("GET ");
        if is_get {
            let text = head(content.len(), "200 OK", "") + &content[..content.len() / 2];
            stream.write_all(text.as_bytes()).unwrap();
            thread::sleep(Duration::from_secs(600));
        }
        is_get
    });
    let line = format!("{RESTORE} --timeout 1s --retries 0");
    let run = server.tool(&scene, &line).run().expect(4);
    assert_eq!(
        run.message(),
        "source: cannot read s3://b/a.jsonl: no answer within 1s"
    );
    assert_eq!(run.report()["retryable"], true);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_ended() {
    let scene = Scene::new();
    let server = ObjectServer::new(Some(archive(&scene)), |request, content, stream| {
        if !request.line.starts_with("GET ") {
            return false;
        }
        let (total, half) = (content.len(), content.len() / 2);
        let text = match request.header("range") {
            None => head(total, "200 OK", "") + &content[..half],
            Some(range) => {
                assert_eq!(range, format!("bytes={half}-"));
                assert!(request.has("If-Match: \"1\""), "{request:?}");
                let range = format!("Content-Range: bytes {half}-{}/{total}\r\n", total - 1);
                head(total - half, "206 Partial Content", &range) + &content[half..]
            }
        };
        stream.write_all(text.as_bytes()).unwrap();
        true
    });
    let run = server.tool(&scene, RESTORE).run().expect(0);
    assert_eq!(run.total("written"), 67);
    let retries: Vec<_> = run.events_of("retry").collect();
    assert_eq!(retries.len(), 1, "{retries:?}");
    assert_eq!(retries[0]["operation"], "downloading the archive");
    assert_eq!(retries[0]["kind"], "connection_lost");
}

#[test]
fn an_archive_that_is_replaced_during_a_download_is_downloaded_again() {
    let scene = Scene::new();
    let gets = Mutex::new(0);
    let server = ObjectServer::new(Some(archive(&scene)), move |request, content, stream| {
        if !request.line.starts_with("GET ") {
            return false;
        }
        let mut gets = gets.lock().unwrap();
        *gets += 1;
        match *gets {
            1 => {
                let text = head(content.len(), "200 OK", "") + &content[..content.len() / 2];
                stream.write_all(text.as_bytes()).unwrap();
            }
            2 => answer(stream, "412 Precondition Failed", "", ""),
            _ => return false,
        }
        true
    });
    let run = server.tool(&scene, RESTORE).run().expect(0);
    assert_eq!(run.total("written"), 67);
    let retries: Vec<_> = run
        .events_of("retry")
        .map(|retry| (&retry["operation"], &retry["kind"]))
        .collect();
    assert_eq!(retries.len(), 2, "{retries:?}");
    assert_eq!(retries[0].0, "downloading the archive");
    assert_eq!(
        (retries[1].0, retries[1].1),
        (&json!("listing workspaces"), &json!("busy"))
    );
}

/// The kind of the first error.
fn kind(run: &Run) -> &str {
    run.report()["errors"]["first"][0]["kind"].as_str().unwrap()
}

/// Refuses every request with this status.
fn refusing(status: &'static str) -> ObjectServer {
    ObjectServer::new(None, move |_, _, stream| {
        answer(stream, status, "", "");
        true
    })
}

#[test]
fn a_bucket_that_may_answer_later_is_asked_again() {
    let scene = Scene::new();
    for (status, retries, expected) in [
        ("503 Service Unavailable", 1, "busy"),
        ("429 Too Many Requests", 1, "busy"),
        ("400 Bad Request", 0, "server"),
    ] {
        let run = refusing(status)
            .tool(&scene, &format!("{RESTORE} --retries 1"))
            .run()
            .expect(4);
        assert_eq!(run.events_of("retry").count(), retries, "{status}");
        assert_eq!(run.report()["retryable"], retries > 0, "{status}");
        assert_eq!(kind(&run), expected);
        assert!(run.message().contains(status), "{}", run.message());
    }
}

#[test]
fn errors_of_the_connection_to_a_bucket_have_their_kind() {
    let scene = Scene::new();
    let closed = with_keys(scene.tool(&format!("{RESTORE} --retries 0")))
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .run()
        .expect(4);
    assert_eq!(kind(&closed), "unreachable");
    assert!(
        closed.message().contains("Connection refused"),
        "{}",
        closed.message()
    );
    let without_tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", without_tls.local_addr().unwrap());
    thread::spawn(move || {
        for stream in without_tls.incoming() {
            let mut stream = stream.unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            answer(&mut stream, "400 Bad Request", "", "");
        }
    });
    let secure = with_keys(scene.tool(&format!("{RESTORE} --retries 0")))
        .env("AWS_ENDPOINT_URL", &endpoint)
        .run()
        .expect(4);
    assert_eq!(kind(&secure), "tls", "{}", secure.message());
    let silent = ObjectServer::new(None, |_, _, _| {
        thread::sleep(Duration::from_secs(600));
        true
    });
    let line = format!("{RESTORE} --retries 0 --timeout 1s");
    let silent = silent.tool(&scene, &line).run().expect(4);
    assert_eq!(kind(&silent), "timeout");
    assert_eq!(silent.report()["retryable"], true);
}

const LARGE: &str = "--source ./large --target s3://b/a.jsonl --yes";

#[test]
fn a_part_of_an_upload_is_sent_again() {
    let scene = Scene::new();
    large_cache(&scene);
    let failures = Mutex::new(0);
    let server = ObjectServer::new(None, move |request, _, stream| {
        let mut failures = failures.lock().unwrap();
        let fails = *failures < 2 && request.line.contains("partNumber=1&");
        if fails {
            *failures += 1;
            answer(stream, "503 Service Unavailable", "", "");
        }
        fails
    });
    let run = server.tool(&scene, LARGE).run().expect(0);
    assert_eq!(run.total("written"), 3000);
    let retries: Vec<_> = run.events_of("retry").collect();
    assert_eq!(retries.len(), 2, "{retries:?}");
    assert_eq!(retries[1]["operation"], "uploading the archive");
    fs::write(
        scene.path("kept.jsonl"),
        server.object.lock().unwrap().as_deref().unwrap(),
    )
    .unwrap();
    let line = "--source ./large --target kept.jsonl --verify-only --verify full";
    scene.run(line).expect(0);
}

#[test]
fn an_upload_that_is_stopped_leaves_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let scene = Scene::new();
        large_cache(&scene);
        let server = ObjectServer::new(None, |request, _, _| {
            let is_part = request.line.contains("partNumber=");
            if is_part {
                thread::sleep(Duration::from_secs(600));
            }
            is_part
        });
        let child = server
            .tool(&scene, &format!("{LARGE} --timeout 5s"))
            .into_command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.server.wait_for("partNumber=");
        server.server.requests();
        let sent = Instant::now();
        send(signal, child.id());
        let run = Run::of(child.wait_with_output().unwrap()).checked().expect(code);
        // Long before the request would have taken too long.
        assert!(sent.elapsed() < Duration::from_secs(15));
        assert_eq!((run.total("written"), run.total("not_attempted")), (0, 3000));
        let mut requests = server.server.requests();
        requests.retain(|request| !request.line.contains("partNumber="));
        let lines: Vec<_> = requests.iter().map(|request| request.line.as_str()).collect();
        assert_eq!(lines, ["DELETE /b/a.jsonl?uploadId=upload-1"]);
    }
}

#[test]
fn a_bucket_that_cannot_be_written_to_is_found_before_a_record_is_read() {
    const BODY: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let scene = Scene::new();
    let refusing = ObjectServer::new(None, |request, _, stream| {
        let is_write = !request.line.starts_with("GET ") && !request.line.starts_with("HEAD ");
        if is_write {
            answer(stream, "403 Forbidden", "", BODY);
        }
        is_write
    });
    for mode in ["--dry-run", "--yes"] {
        let line = format!("--source ./rag_storage --target s3://b/a.jsonl --all-workspaces {mode}");
        let run = refusing.tool(&scene, &line).run().expect(5);
        let message = run.message();
        assert!(
            message.starts_with("target: cannot write s3://b/a.jsonl: ") && message.contains("AccessDenied"),
            "{message}"
        );
        assert_eq!(kind(&run), "permission");
        assert_eq!(run.events_of("batch").count(), 0);
        let mut requests = refusing.requests_except("GET ");
        requests.dedup();
        assert_eq!(requests, ["POST /b/a.jsonl?uploads="]);

        // What was begun only to ask is dropped.
        let accepting = ObjectServer::new(None, |_, _, _| false);
        accepting.tool(&scene, &line).run().expect(0);
        let requests = accepting.requests_except("GET ");
        let asked = ["POST /b/a.jsonl?uploads=", "DELETE /b/a.jsonl?uploadId=upload-1"];
        assert_eq!(requests[..2], asked);
        // The version that is replaced, the new one, its size.
        let written = if mode == "--yes" { 3 } else { 0 };
        assert_eq!(requests.len(), 2 + written, "{requests:?}");
    }
}

#[test]
fn runs_that_write_to_one_archive_in_a_bucket_at_the_same_time_keep_the_records_of_each() {
    let scene = Scene::new();
    let records = many(&scene);
    for (before, object) in [(0, None), (67, Some(archive(&scene)))] {
        let server = ObjectServer::new(object, |_, _, _| false);
        let line = format!("{MANY} --target s3://b/a.jsonl");
        let run = during(server.tool(&scene, &line), |_| {
            let line =
                "--source ./rag_storage --workspace-map space2=meanwhile --target s3://b/a.jsonl --yes";
            server.tool(&scene, line).run().expect(0);
        });
        assert_eq!(run.expect(0).total("written"), records);
        let object = server.object.lock().unwrap().take().unwrap();
        let footer: Value = serde_json::from_str(object.lines().last().unwrap()).unwrap();
        assert_eq!(footer["footer"]["records"], before + records + 9);
    }
}

const SMALL: &str = "--source ./rag_storage --target s3://b/a.jsonl --all-workspaces --yes";

#[test]
fn an_archive_that_is_replaced_during_an_upload_is_not_replaced_again() {
    let scene = Scene::new();
    large_cache(&scene);
    // A service compares the version itself; before the parts of a large one are put together, it is asked for it.
    let small = ObjectServer::new(None, |request, _, stream| {
        let is_put = request.line.starts_with("PUT ");
        if is_put {
            assert!(request.has("If-None-Match: *"), "{request:?}");
            answer(stream, "412 Precondition Failed", "", "");
        }
        is_put
    });
    let object = Arc::new(Mutex::new(None));
    let theirs = Arc::clone(&object);
    let large = ObjectServer::over(object, move |request, _, _| {
        if request.line.contains("partNumber=") {
            *theirs.lock().unwrap() = Some("theirs".to_owned());
        }
        false
    });
    for (server, line) in [(&small, SMALL), (&large, LARGE)] {
        let run = server.tool(&scene, line).run().expect(5);
        let message = run.message();
        assert!(
            message.contains("s3://b/a.jsonl was replaced while the new archive was written"),
            "{message}"
        );
        assert_eq!((kind(&run), run.total("written")), ("busy", 0));
        assert_eq!(run.report()["retryable"], true);
    }
    assert_eq!(large.object.lock().unwrap().as_deref(), Some("theirs"));
    let requests = large.requests_except("PUT ");
    assert_eq!(requests.last().unwrap(), "DELETE /b/a.jsonl?uploadId=upload-1");
}

#[test]
fn an_upload_whose_answer_was_lost_is_found_to_be_done() {
    let scene = Scene::new();
    let object = Arc::new(Mutex::new(None));
    let written = Arc::clone(&object);
    let server = ObjectServer::over(object, move |request, _, stream| {
        let mut written = written.lock().unwrap();
        let is_first = request.line.starts_with("PUT ") && written.is_none();
        if is_first {
            *written = Some(request.body.clone());
            answer(stream, "503 Service Unavailable", "", "");
        }
        is_first
    });
    let run = server.tool(&scene, SMALL).run().expect(0);
    assert_eq!(run.total("written"), 67);
    assert_eq!(run.events_of("retry").count(), 1);
}

#[test]
fn a_service_that_cannot_compare_versions_is_asked_for_the_version() {
    let scene = Scene::new();
    let server = ObjectServer::new(None, |request, _, stream| {
        let is_conditional = request.header("if-none-match").is_some();
        if is_conditional {
            answer(stream, "501 Not Implemented", "", "");
        }
        is_conditional
    });
    let run = server.tool(&scene, SMALL).run().expect(0);
    assert_eq!(run.total("written"), 67);
    assert_eq!(run.events_of("retry").count(), 0);
    let requests = server.requests_except("GET ");
    let methods: Vec<&str> = requests
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(methods, ["POST", "DELETE", "HEAD", "PUT", "HEAD", "PUT", "HEAD"]);
}

#[test]
fn what_is_missing_for_a_service_is_named() {
    let scene = Scene::new();
    let next = |tool: Tool, code: i32| {
        tool.run().expect(code).report()["next"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let line = |place: &str| format!("--source {place} --target ./new --yes --retries 0");
    let azure = scene.tool(&line("az://container/a.jsonl"));
    assert_eq!(
        next(azure, 2),
        "Check the credentials: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY."
    );
    let google = scene
        .tool(&line("gs://bucket/a.jsonl"))
        .env("GOOGLE_APPLICATION_CREDENTIALS", "/none.json");
    assert_eq!(
        next(google, 2),
        "Check the credentials: GOOGLE_APPLICATION_CREDENTIALS."
    );
    let address = scene.tool(&line("gs:///a.jsonl"));
    assert_eq!(next(address, 2), "Write gs://bucket/key.jsonl.zst.");
    let amazon = scene
        .tool(&line("s3://bucket/a.jsonl"))
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    assert_eq!(
        next(amazon, 4),
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    );
}

/// The server of the tests creates buckets.
#[test]
fn a_bucket_that_does_not_exist_is_reported_before_a_record_is_read() {
    let server = ObjectServer::new(None, |_, _, stream| {
        let body = "<?xml version=\"1.0\"?>\n<Error>\n  <Code>NoSuchBucket</Code>\n  <Message>There is no such \
                    bucket.\nRequestId:1</Message>\n</Error>";
        answer(stream, "404 Not Found", "", body);
        true
    });
    let scene = Scene::new();
    let there = "s3://none/a.jsonl.zst";
    for (line, side, code) in [
        (
            format!("--source ./rag_storage --target {there} --yes"),
            "target",
            5,
        ),
        (format!("--source {there} --target ./new --yes"), "source", 4),
    ] {
        let run = server.tool(&scene, &line).run().expect(code);
        let message = run.message();
        assert!(
            message.starts_with(&format!("{side}: cannot read {there}: ")),
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
