//! The files that a run writes beside the target: none may be another file that the run reads or writes.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf};

use serde_json::json;

use crate::{
    scene::{CACHE, Scene, value},
    support::{records::key, terminal::Terminal},
};

/// A scene with an archive and a cache file, each under several names, and job files that name the archive.
fn scene() -> Scene {
    let scene = Scene::new();
    scene
        .run("--source ./rag_storage --target s.jsonl.zst --all-workspaces --yes")
        .expect(0);
    fs::hard_link(scene.path("s.jsonl.zst"), scene.path("hard")).unwrap();
    symlink("s.jsonl.zst", scene.path("link")).unwrap();
    symlink("later.jsonl", scene.path("dangling.jsonl")).unwrap();
    fs::create_dir_all(scene.path("made/w")).unwrap();
    let cache = json!({key("extract", 1): value("x"), key("extract", 2): null}).to_string();
    scene
        .file("c.json", &cache)
        .file("c.lock", &cache)
        .file("m0.json", "{}")
        .file("m1.json", "{}")
        .file("x.yaml", "source: s.jsonl.zst\ntarget: ./o\nyes: true\n")
        .file("unknown.yaml", "source: s.jsonl.zst\ntarget: ./o\noops: 1\n")
        .file(
            "wrong.yaml",
            "source: { kind: archive, file: s.jsonl.zst, levl: 3 }\ntarget: ./o\n",
        );
    scene
}

/// Every path in the directory, with the bytes of each file and the target of each link.
fn contents(scene: &Scene) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let mut paths = vec![scene.path("")];
    while let Some(path) = paths.pop() {
        let content = if path.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        contents.insert(path, content);
    }
    contents
}

/// Each line is refused with code 10 and names both flags, and not a byte changes.
fn assert_refused(cases: &[(&str, &str, &str)]) {
    let scene = scene();
    let before = contents(&scene);
    for (line, both, path) in cases {
        let line = line.replace("CACHE", CACHE);
        let path = path.replace("CACHE", CACHE);
        let run = scene.run(&line).expect(10);
        assert_eq!(
            run.message(),
            format!("{both} use the same file: {path}"),
            "{line}"
        );
        assert!(contents(&scene) == before, "a file changed: {line}");
    }
}

#[test]
fn a_file_of_the_run_that_is_the_source_is_refused() {
    const MOVE: &str = "--source s.jsonl.zst --target ./o --all-workspaces";
    let dry_run = format!("{MOVE} --dry-run --report");
    let real_run = format!("{MOVE} --yes --metrics");
    assert_refused(&[
        (
            &format!("{dry_run} s.jsonl.zst"),
            "--report and --source",
            "s.jsonl.zst",
        ),
        (
            &format!("{real_run} s.jsonl.zst"),
            "--metrics and --source",
            "s.jsonl.zst",
        ),
        (
            &format!("{dry_run} made/../s.jsonl.zst"),
            "--report and --source",
            "made/../s.jsonl.zst",
        ),
        (&format!("{dry_run} hard"), "--report and --source", "hard"),
        (&format!("{real_run} link"), "--metrics and --source", "link"),
        (
            "--source c.json --target ./o --dry-run --report c.json",
            "--report and --source",
            "c.json",
        ),
        (
            "--source c.lock --target ./o --yes --checkpoint c",
            "the lock of --checkpoint and --source",
            "c.lock",
        ),
        // Also the cache of a workspace that is not moved.
        (
            "--source ./rag_storage --target ./o --workspace space1 --yes --report rag_storage/space2/CACHE",
            "--report and --source",
            "rag_storage/space2/CACHE",
        ),
    ]);
}

#[test]
fn a_file_of_the_run_that_is_the_target_is_refused_before_it_exists_too() {
    const SOURCE: &str = "--source ./rag_storage --all-workspaces";
    assert_refused(&[
        (
            &format!("{SOURCE} --target new.jsonl.zst --types all --yes --report new.jsonl.zst"),
            "--report and --target",
            "new.jsonl.zst",
        ),
        (
            &format!("{SOURCE} --target t.jsonl --yes --checkpoint t.jsonl"),
            "--checkpoint and --target",
            "t.jsonl",
        ),
        (
            "--source c.json --target t.jsonl --yes --rejects ./t.jsonl",
            "--rejects and --target",
            "./t.jsonl",
        ),
        (
            &format!("{SOURCE} --target t.jsonl --verify-only --differences t.jsonl"),
            "--differences and --target",
            "t.jsonl",
        ),
        (
            &format!("{SOURCE} --target later.jsonl --yes --rejects dangling.jsonl"),
            "--rejects and --target",
            "dangling.jsonl",
        ),
        (
            "--source c.json --target ./made --target-workspace w --yes --rejects made/w/CACHE",
            "--rejects and --target",
            "made/w/CACHE",
        ),
        (
            "--source c.json --target ./o --yes --checkpoint o",
            "--checkpoint and --target",
            "o",
        ),
    ]);
}

#[test]
fn a_file_of_the_run_that_it_uses_twice_is_refused() {
    const MOVE: &str = "--source c.json --target ./o --yes";
    assert_refused(&[
        (
            &format!("{MOVE} --rejects x.jsonl --report x.jsonl"),
            "--report and --rejects",
            "x.jsonl",
        ),
        (
            &format!("{MOVE} --metrics ./made/../x --report x"),
            "--report and --metrics",
            "x",
        ),
        (
            &format!("{MOVE} --checkpoint x --differences x"),
            "--checkpoint and --differences",
            "x",
        ),
        (
            &format!("{MOVE} --checkpoint x --metrics x.lock"),
            "--metrics and the lock of --checkpoint",
            "x.lock",
        ),
        ("--job x.yaml --report x.yaml", "--report and --job", "x.yaml"),
        (
            "--merge-reports m0.json m1.json --report m1.json",
            "--report and --merge-reports",
            "m1.json",
        ),
        (
            &format!("{MOVE} --report .env"),
            "--report and LightRAG's configuration",
            ".env",
        ),
    ]);
}

/// Such a run writes a report too.
#[test]
fn a_run_that_cannot_be_understood_spares_what_it_may_have_meant() {
    assert_refused(&[
        (
            "--source s.jsonl.zst --target jsn --report s.jsonl.zst",
            "--report and --source",
            "s.jsonl.zst",
        ),
        (
            "--sorce s.jsonl.zst --target ./o --report s.jsonl.zst",
            "--report and another setting",
            "s.jsonl.zst",
        ),
        (
            "--source=s.jsonl.zst --target ./o --ys --metrics=s.jsonl.zst",
            "--metrics and another setting",
            "s.jsonl.zst",
        ),
        (
            "--source ./rag_storage --target ./o --ys --report rag_storage/CACHE",
            "--report and another setting",
            "rag_storage/CACHE",
        ),
        (
            "--job unknown.yaml --report s.jsonl.zst",
            "--report and another setting",
            "s.jsonl.zst",
        ),
        (
            "--job unknown.yaml --report unknown.yaml",
            "--report and --job",
            "unknown.yaml",
        ),
        (
            "--job wrong.yaml --metrics s.jsonl.zst",
            "--metrics and --source",
            "s.jsonl.zst",
        ),
    ]);
}

#[test]
fn of_report_and_metrics_only_the_one_that_would_replace_a_file_is_withheld() {
    let scene = scene();
    let before = fs::read(scene.path("c.json")).unwrap();
    let line = "--source c.json --target ./o --yes";
    let run = scene
        .run(&format!("{line} --report c.json --metrics run.prom"))
        .expect(10);
    assert_eq!(run.report()["next"], "Name another file with --report.");
    let metrics = fs::read_to_string(scene.path("run.prom")).unwrap();
    assert!(
        metrics.contains("last_run_exit_code{migration=\"run\"} 10"),
        "{metrics}"
    );
    let run = scene
        .run(&format!("{line} --report report.json --metrics c.json"))
        .expect(10);
    assert_eq!(&scene.read("report.json"), run.report());
    assert!(fs::read(scene.path("c.json")).unwrap() == before);
}

#[test]
fn devices_and_other_files_of_a_working_directory_are_no_collision() {
    let scene = scene();
    let line = "--source ./rag_storage --target ./made --dry-run";
    scene
        .run(&format!("{line} --rejects /dev/null --differences /dev/null"))
        .expect(0);
    scene
        .run(&format!(
            "{line} --report rag_storage/report.json --metrics made/w/run.prom"
        ))
        .expect(0);
    assert_eq!(scene.read("rag_storage/report.json")["exit_code"], 0);
    assert!(scene.path("made/w/run.prom").exists());
}

#[test]
fn an_answer_that_is_a_file_of_the_run_ends_it_without_a_report() {
    let scene = scene();
    let before = contents(&scene);
    let tool = scene.tool("--interactive --target ./o --report s.jsonl.zst");
    let mut terminal = Terminal::start(tool, "");
    terminal
        .wait_for("Select the source storage type")
        .enter("archive");
    terminal
        .wait_for("Path of the source (archive):")
        .enter("s.jsonl.zst");
    let screen = terminal.end().expect(10);
    let message = "--report and --source use the same file: s.jsonl.zst";
    assert!(screen.text().contains(message), "{}", screen.text());
    assert!(contents(&scene) == before);
}

#[test]
fn a_job_file_is_not_saved_where_the_report_will_be() {
    let scene = scene();
    let tool = scene.tool("--interactive --source c.json --target ./o --report report.json");
    let mut terminal = Terminal::start(tool, "");
    terminal.wait_for("Continue?").enter("s");
    terminal
        .wait_for("Path of the job file")
        .enter("report.json")
        .wait_for("report.json is the file of --report")
        .enter("")
        .wait_for("Continue?");
    terminal.enter("n").end().expect(2);
    assert_eq!(scene.read("report.json")["exit_code"], 2);
}
