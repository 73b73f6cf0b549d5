//! A server of the test's own that is killed while a run goes on, and started again.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{RECORDS, cache, check_account, support::tool::Tool, verify};

/// A Redis that keeps on disk what it has said it keeps.
struct Redis {
    port: u16,
    folder: PathBuf,
    process: Child,
}

impl Redis {
    fn start(folder: &Path, port: u16) -> Self {
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts; scripts/services.sh up installs it");
        let redis = Self {
            port,
            folder: folder.to_owned(),
            process,
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "redis-server does not listen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        *self = Self::start(&self.folder.clone(), self.port);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Runs the program, kills the server when the first batch is done, and starts it again half a second later.
fn run_across_a_kill(arguments: &[&str], redis: &mut Redis) -> crate::Run {
    let child = Tool::new(arguments)
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(120));
    redis.kill();
    std::thread::sleep(Duration::from_millis(500));
    redis.start_again();
    let output = child.wait_with_output().unwrap();
    let run = crate::Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        events: Vec::new(),
    };
    run.checked()
}

const SLOWLY: [&str; 7] = [
    "--yes",
    "--batch-size",
    "1",
    "--concurrency",
    "1",
    "--retries",
    "20",
];

#[test]
fn a_target_that_is_killed_and_comes_back_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    let data = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(data.path(), free_port());
    let address = redis.address();
    let arguments = [
        &["--source", &source, "--target", &address, "--on-conflict", "skip"][..],
        &SLOWLY,
    ]
    .concat();
    let run = run_across_a_kill(&arguments, &mut redis).expect(3);
    assert!(run.events_of("retry").count() > 0, "the server was not missed");
    check_account(&run, 1);
    verify(&source, &address, ("", ""));
}

#[test]
fn a_source_that_is_killed_and_comes_back_gives_everything() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let data = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(data.path(), free_port());
    let address = redis.address();
    let filled = Tool::new(&["--source", &cache, "--target", &address, "--yes"])
        .run()
        .expect(3);
    assert_eq!(filled.total("written"), RECORDS);
    let target = folder.path().join("out").to_str().unwrap().to_owned();
    let arguments = [&["--source", &address, "--target", &target][..], &SLOWLY].concat();
    let run = run_across_a_kill(&arguments, &mut redis).expect(0);
    check_account(&run, 0);
    verify(&address, &target, ("", ""));
}
