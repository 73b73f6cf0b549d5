//! `--metrics-push`: what a Pushgateway gets, and that a run does not depend on it.

use std::{net::TcpListener, sync::Mutex};

use serde_json::{Value, json};

use crate::{
    scene::Scene,
    support::{
        http::{HttpServer, Request, answer},
        tool::{Run, Tool},
    },
};

/// A server that answers like a Pushgateway: GET with a listing, PUT with one status after the other, the last of them for all
/// others.
struct Pushgateway(HttpServer);

impl Pushgateway {
    fn new(listing: &Value, statuses: &[&str]) -> Self {
        let listing = listing.to_string();
        let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
        let puts = Mutex::new(0);
        Self(HttpServer::new(move |request, stream| {
            let (status, body) = match request.line.starts_with("GET ") {
                true => ("200 OK", listing.as_str()),
                false => {
                    let mut puts = puts.lock().unwrap();
                    *puts += 1;
                    let status = statuses.get(*puts - 1).or(statuses.last()).unwrap();
                    (status.as_str(), "pushed metrics are invalid")
                }
            };
            answer(stream, status, "", body);
        }))
    }

    /// One without groups that accepts everything.
    fn empty() -> Self {
        Self::new(&json!({"status": "success", "data": []}), &["200 OK"])
    }

    fn url(&self) -> String {
        self.0.url()
    }

    /// The requests since the last call.
    fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// The one PUT since the last call.
    fn put(&self) -> Request {
        let mut puts = self.requests();
        puts.retain(|request| request.line.starts_with("PUT "));
        assert_eq!(puts.len(), 1, "{puts:?}");
        puts.remove(0)
    }
}

const MOVE: &str = "--source ./rag_storage --target ./new --all-workspaces --yes";

/// The only warning about the push in the report, which is also an event and in the log.
fn warning(run: &Run) -> String {
    let texts = run.report()["warnings"].as_array().unwrap();
    let of_push = |text: &&str| text.starts_with("--metrics-push: ");
    let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).filter(of_push).collect();
    assert_eq!(texts.len(), 1, "{}", run.report());
    let events: Vec<_> = run
        .events_of("warning")
        .filter(|event| event["kind"] == "metrics_push")
        .collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["message"], texts[0]);
    assert!(
        run.stderr.contains("WARN") && run.stderr.contains(texts[0]),
        "{}",
        run.stderr
    );
    texts[0].to_owned()
}

#[test]
fn the_text_of_the_metrics_replaces_the_group_of_the_job_on_every_way_out() {
    let scene = Scene::new();
    let gateway = Pushgateway::empty();
    let url = gateway.url();
    for (line, code) in [
        (MOVE, 0),
        ("--source ./rag_storage --target ./new --dry-run", 0),
        ("--source ./rag_storage --target ./new", 2),
        ("--sorce x", 2),
        ("--source ./none --target ./new --yes", 4),
    ] {
        scene
            .run(&format!("{line} --metrics cache.prom --metrics-push {url}"))
            .expect(code);
        let put = gateway.put();
        assert_eq!(put.line, "PUT /metrics/job/migrate-llm-cache", "{line}");
        assert!(put.has("Content-Type: text/plain; version=0.0.4"), "{put:?}");
        let file = std::fs::read_to_string(scene.path("cache.prom")).unwrap();
        assert_eq!(put.body, file, "{line}");
    }
    let flag = format!("--metrics-push={url}");
    scene
        .run(&format!("{MOVE} --metrics cache.prom {flag}"))
        .expect(0);
    assert!(gateway.put().body.contains("mode=\"migrate\",status=\"ok\"} 2\n"));
}

#[test]
fn the_address_can_name_a_group_and_a_login_and_a_share_has_its_own_group() {
    let scene = Scene::new();
    let gateway = Pushgateway::empty();
    let host = format!("127.0.0.1:{}", gateway.0.port);
    scene.file(
        "job.yaml",
        &format!(
            "source: ./rag_storage\ntarget: ./new\nshard: 1/2\nyes: true\n\
             metrics_push: \"http://me:${{PASSWORD}}@{host}/push/metrics/job/nightly/team/a%2Fb\"\n"
        ),
    );
    let run = scene
        .tool("--job job.yaml")
        .env("PASSWORD", "hunter2")
        .secret("hunter2")
        .run();
    // Shards of one file are refused.
    run.expect(10);
    let requests = gateway.requests();
    let lines: Vec<_> = requests.iter().map(|request| request.line.as_str()).collect();
    let group = "PUT /push/metrics/job/nightly/team/a%2Fb/shard/1-2";
    assert_eq!(lines, ["GET /push/api/v1/metrics", group]);
    // printf me:hunter2 | base64
    assert!(
        requests
            .iter()
            .all(|request| request.has("Authorization: Basic bWU6aHVudGVyMg=="))
    );
    let body = &requests[1].body;
    assert!(
        body.contains("{migration=\"nightly\",") && body.contains("shard=\"1/2\""),
        "{body}"
    );
}

#[test]
fn runs_and_the_last_success_are_carried_over_from_the_group_alone() {
    let group = |labels: Value, runs: &str| {
        let of = |mode: &str, status: &str, value: &str| json!({"labels": {"instance": "", "job": "migrate-llm-cache", "migration": "migrate-llm-cache", "mode": mode, "status": status}, "value": value});
        json!({
            "labels": labels,
            "migrate_llm_cache_runs_total": {"type": "COUNTER", "metrics": [of("migrate", "failed", runs)]},
            "migrate_llm_cache_last_success_timestamp_seconds": {"type": "GAUGE", "metrics": [
                {"labels": {"instance": "", "migration": "migrate-llm-cache", "mode": "migrate"}, "value": "1.7e+09"},
            ]},
            "push_time_seconds": {"type": "GAUGE", "metrics": [{"labels": {}, "value": "1"}]},
        })
    };
    let data = json!([
        group(json!({"job": "migrate-llm-cache", "shard": "0-2"}), "70"),
        group(json!({"job": "migrate-llm-cache"}), "3"),
        group(json!({"job": "other"}), "80"),
    ]);
    let gateway = Pushgateway::new(&json!({"status": "success", "data": data}), &["200 OK"]);
    let scene = Scene::new();
    scene
        .run(&format!(
            "--source ./none --target ./new --yes --metrics-push {}",
            gateway.url()
        ))
        .expect(4);
    let body = gateway.put().body;
    for line in [
        "migrate_llm_cache_runs_total{migration=\"migrate-llm-cache\",mode=\"migrate\",status=\"failed\"} 4\n",
        "migrate_llm_cache_last_success_timestamp_seconds{migration=\"migrate-llm-cache\",mode=\"migrate\"} 1700000000\n",
    ] {
        assert!(body.contains(line), "{body}");
    }
}

#[test]
fn a_push_that_is_refused_is_a_warning_and_the_exit_code_stays() {
    let scene = Scene::new();
    for (status, remedy) in [
        ("400 Bad Request", "another job may push the same metrics"),
        ("401 Unauthorized", "put user and password into the address"),
        ("404 Not Found", "check that the address is a Pushgateway's"),
        ("302 Found", "give the address that it redirects to"),
    ] {
        let gateway = Pushgateway::new(&json!({}), &[status]);
        let url = format!("http://me:hunter2@127.0.0.1:{}", gateway.0.port);
        for (line, code) in [(MOVE, 0), ("--source ./none --target ./new --yes", 4)] {
            let run = scene
                .tool(&format!("{line} --metrics-push {url}"))
                .secret("hunter2")
                .run()
                .expect(code);
            let warning = warning(&run);
            let shown = format!(
                "cannot push the metrics to http://me:***@127.0.0.1:{}/metrics/job/migrate-llm-cache: status {status}: \
                 pushed metrics are invalid; {remedy}",
                gateway.0.port
            );
            assert!(warning.contains(&shown), "{warning}");
            gateway.put();
        }
    }
}

#[test]
fn a_pushgateway_that_does_not_answer_is_a_warning_after_the_retries() {
    let scene = Scene::new();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}");
    let line = format!("{MOVE} --metrics cache.prom --metrics-push {url} --retries");
    for (retries, tried) in [("0", ""), ("1", " (tried 2 times)")] {
        let run = scene.run(&format!("{line} {retries}")).expect(0);
        let warning = warning(&run);
        assert!(
            warning.contains(&format!("{url}/metrics/job/migrate-llm-cache: ")),
            "{warning}"
        );
        assert!(warning.contains("Connection refused"), "{warning}");
        let end = format!("{tried}; check that the server is running, and check host and port");
        assert!(warning.ends_with(&end), "{warning}");
    }
}

#[test]
fn a_temporary_failure_is_retried() {
    let scene = Scene::new();
    let gateway = Pushgateway::new(
        &json!({}),
        &["503 Service Unavailable", "429 Too Many Requests", "202 Accepted"],
    );
    let run = scene
        .run(&format!("{MOVE} --metrics-push {}", gateway.url()))
        .expect(0);
    assert_eq!(run.report()["warnings"], json!([]));
    let puts = gateway.requests();
    let puts: Vec<_> = puts
        .iter()
        .filter(|request| request.line.starts_with("PUT "))
        .collect();
    assert_eq!(puts.len(), 3, "{puts:?}");
    assert!(puts.iter().all(|put| put.body == puts[0].body));
}

#[test]
fn an_address_that_is_none_is_refused_before_the_run() {
    let scene = Scene::new();
    let run = scene
        .run(&format!("{MOVE} --metrics-push localhost:9091"))
        .expect(2);
    assert_eq!(
        run.message(),
        "--metrics-push: expected the http:// or https:// address of a Pushgateway, without a query, found `localhost:9091`"
    );
    assert!(
        run.stderr.contains("write http://localhost:9091"),
        "{}",
        run.stderr
    );
    scene.file(
        "job.yaml",
        "source: ./rag_storage\ntarget: ./new\nyes: true\nmetrics_push: ftp://me:hunter2@h\n",
    );
    let run: Run = Tool::new(&["--job", "job.yaml"])
        .in_directory(&scene.path("."))
        .secret("hunter2")
        .run()
        .expect(2);
    assert!(
        run.message()
            .starts_with("job.yaml line 4: metrics_push: expected the http://"),
        "{}",
        run.message()
    );
    assert!(
        run.stderr
            .contains("http://host:9091/metrics/job/NAME/LABEL/VALUE"),
        "{}",
        run.stderr
    );
    assert!(!scene.path("new").exists());
}

#[test]
fn the_metrics_of_merged_reports_are_pushed_too() {
    let scene = Scene::new();
    scene
        .run(&format!("{MOVE} --report one.json --shard 0/1"))
        .expect(0);
    let gateway = Pushgateway::new(&json!({}), &["200 OK", "400 Bad Request"]);
    let line = format!("--merge-reports one.json --metrics-push {}", gateway.url());
    scene.run(&line).expect(0);
    assert!(gateway.put().body.contains("migrate_llm_cache_last_run_records{"));
    let run = scene.run(&line).expect(0);
    assert!(warning(&run).contains("status 400"));
}
