//! What a run says of files that are damaged, no caches, or not there, and of what it leaves out.

use std::{
    os::unix::{ffi::OsStrExt, fs::symlink},
    process::Command,
};

use serde_json::{Map, Value, json};

use crate::{
    scene::{CACHE, Scene, value},
    support::{
        records::key,
        tool::{Run, Tool},
    },
};

fn warnings(run: &Run) -> String {
    run.report()["warnings"].to_string()
}

/// Runs the program under a limit of the shell.
fn under(limit: &str, tool: Tool) -> Run {
    let command = tool.into_command();
    let mut words = vec![command.get_program().to_str().unwrap().to_owned()];
    words.extend(command.get_args().map(|word| word.to_str().unwrap().to_owned()));
    let line = format!("{limit}; exec {}", words.join(" "));
    let output = Command::new("sh")
        .args(["-c", &line])
        .env_clear()
        .current_dir(command.get_current_dir().unwrap())
        .output()
        .unwrap();
    Run::of(output).checked()
}

#[test]
fn every_type_of_the_default_mode_moves_and_the_rest_is_counted() {
    let scene = Scene::new();
    let md5 = "0cc175b9c0f1b6a831c399e269772661";
    let entries = json!({
        key("extract", 1): value("a"), key("smartheading", 2): value("b"), key("of_tomorrow", 3): value("c"),
        "mix:query:4": value("d"), "mix:query:5": value("e"), "rag:extract:6": value("f"),
        md5: value("g"), format!("multimodal_query:{md5}"): value("h"),
    });
    scene.cache("old", &entries);
    let run = scene.run("--source ./old --target ./new --yes").expect(0);
    let report = run.report();
    assert_eq!(run.total("written"), 3);
    let types: Vec<&String> = report["by_cache_type"].as_object().unwrap().keys().collect();
    assert_eq!(types, ["extract", "smartheading", "of_tomorrow"]);
    let expected = json!([
        {"mode": null, "type": "(unrecognized)", "form": "md5", "records": 1},
        {"mode": null, "type": "(unrecognized)", "form": "multimodal_query:", "records": 1},
        {"mode": "mix", "type": "query", "form": null, "records": 2},
        {"mode": "rag", "type": "extract", "form": null, "records": 1},
    ]);
    assert_eq!(report["left_out"], expected);
    assert_eq!(report["workspaces"][0]["left_out"], expected);
    let count = run.events_of("count").next().unwrap();
    assert_eq!(count["left_out"], expected);

    let all = scene
        .run("--source ./old --target ./all --types all --yes")
        .expect(0);
    assert_eq!(all.total("written"), 8);
    assert_eq!(scene.read(&format!("all/{CACHE}")).as_object().unwrap().len(), 8);
    assert_eq!(all.report()["left_out"], json!([]));

    let some = scene
        .run("--source ./old --target ./some --types of_tomorrow,query --yes")
        .expect(0);
    assert_eq!(some.total("written"), 3);
}

#[test]
fn where_nothing_is_selected_the_types_that_are_there_are_named() {
    let scene = Scene::new();
    scene.cache(
        "old",
        &json!({key("extract", 1): value("a"), key("extract", 2): value("b")}),
    );
    let run = scene
        .run("--source ./old --target ./new --types query --yes")
        .expect(0);
    let told = warnings(&run);
    assert!(
        told.contains("has 2 records of other types: default:extract 2"),
        "{told}"
    );
    assert!(!told.contains("did you mean"), "{told}");

    let md5 = "0cc175b9c0f1b6a831c399e269772661";
    scene.cache("flat", &json!({md5: value("a")}));
    let told = warnings(&scene.run("--source ./flat --target ./new --yes").expect(0));
    assert!(
        told.contains("keys of an unrecognized form (md5) 1") && told.contains("--types all"),
        "{told}"
    );
}

#[test]
fn a_workspace_that_is_not_there_ends_the_run_unless_that_is_allowed() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --workspace spcae1 --yes";
    let run = scene.run(line).expect(9);
    assert!(run.stderr.contains("did you mean space1?"), "{}", run.stderr);
    scene.run(&format!("{line} --allow-missing")).expect(0);
    // One that is there and has nothing is nothing to do.
    scene.cache("old/empty", &json!({}));
    scene
        .run("--source ./old --target ./new --workspace empty --yes")
        .expect(0);
    // A directory that is none of LightRAG's.
    std::fs::create_dir(scene.path("other")).unwrap();
    let run = scene.run("--source ./other --target ./new --yes").expect(9);
    assert!(run.stderr.contains("no cache in any workspace"), "{}", run.stderr);
}

#[test]
fn workspaces_that_cannot_be_read_are_told_and_end_with_3() {
    let scene = Scene::new();
    let name = std::ffi::OsStr::from_bytes(b"d\xff");
    for folder in ["a".as_ref(), "dangling".as_ref(), "pipe".as_ref(), name] {
        std::fs::create_dir_all(scene.path("w").join(folder)).unwrap();
    }
    let cache = json!({key("extract", 1): value("a")}).to_string();
    std::fs::write(scene.path("w/a").join(CACHE), &cache).unwrap();
    std::fs::write(scene.path("w").join(name).join(CACHE), &cache).unwrap();
    symlink("/nowhere/kv.json", scene.path("w/dangling").join(CACHE)).unwrap();
    let pipe = scene.path("w/pipe").join(CACHE);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = scene
        .run("--source ./w --target ./new --all-workspaces --yes")
        .expect(3);
    assert_eq!(run.total("written"), 1);
    let told = warnings(&run);
    for what in [
        "dangling link to /nowhere/kv.json",
        "not valid UTF-8",
        "not a regular file",
    ] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[test]
fn files_of_other_kinds_are_told_by_what_they_are() {
    let scene = Scene::new();
    for (name, content, what) in [
        ("a.json", &b"\x1f\x8b\x08\0\0\0"[..], "it is gzip"),
        ("b.json", b"\xff\xfe{\0}\0", "it is UTF-16 text"),
        ("c.json", b"<?xml version='1.0'?><graphml/>", "it is GraphML"),
        ("d.json", b"{\"a\": 1}\n{\"b\": 2}\n", "JSON lines"),
        ("kv_store_full_docs.json", b"{}", "LightRAG's store `full_docs`"),
    ] {
        std::fs::write(scene.path(name), content).unwrap();
        for more in ["", " --salvage"] {
            if name == "d.json" && !more.is_empty() {
                continue;
            }
            let run = scene
                .run(&format!("--source ./{name} --target ./new --yes{more}"))
                .expect(4);
            assert!(run.stderr.contains(what), "{name}: {}", run.stderr);
        }
    }
    scene
        .run("--source ./rag_storage --target ./kv_store_full_docs.json --yes")
        .expect(5);
}

#[test]
fn a_pipe_is_no_cache_file_and_nobody_waits_for_it() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("p")).unwrap();
    let pipe = scene.path("p").join(CACHE);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let line = format!("--source ./p/{CACHE} --target ./new --yes");
    for line in [
        line.as_str(),
        "--source ./p --target ./new --yes",
        "--source /dev/null --target ./new --yes",
    ] {
        let run = scene.run(line).expect(4);
        assert!(run.stderr.contains("not a regular file"), "{}", run.stderr);
    }
    let run = scene.run("--source ./rag_storage --target ./p --yes").expect(5);
    assert!(run.stderr.contains("is a pipe"), "{}", run.stderr);
}

#[test]
fn a_link_that_leads_nowhere_is_no_target_and_no_source() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("new")).unwrap();
    symlink("/nowhere/kv.json", scene.path("new").join(CACHE)).unwrap();
    let run = scene.run("--source ./rag_storage --target ./new --yes").expect(5);
    assert!(
        run.stderr.contains("/nowhere/kv.json, which does not exist"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read_dir(scene.path("new")).unwrap().count(), 1);
    scene.run("--source ./new --target ./other --yes").expect(4);
}

#[test]
fn a_record_with_a_number_that_only_python_knows_is_rejected_alone() {
    let scene = Scene::new();
    let whole = json!({key("extract", 1): value("whole")}).to_string();
    let (whole, _) = whole.rsplit_once('}').unwrap();
    let text = format!(
        "{whole}, \"default:extract:2\": {{\"score\": NaN, \"low\": -Infinity, \"return\": \"NaN\"}}}}"
    );
    scene.file(&format!("odd/{CACHE}"), &text);
    let run = scene.run("--source ./odd --target ./new --yes").expect(3);
    assert_eq!((run.total("written"), run.total("rejected")), (1, 1));
    assert_eq!(run.report()["errors"]["by_kind"], json!({"invalid_json": 1}));
}

#[test]
fn damage_anywhere_is_found_before_the_first_write() {
    let scene = Scene::new();
    let entries: String = (0..500)
        .map(|n| format!("{}: {},\n", json!(key("extract", n)), value("x")))
        .collect();
    let text = format!("{{{entries} \"default:extract:9\": {{\"return\": nope}}}}");
    scene.file(&format!("odd/{CACHE}"), &text);
    let run = scene
        .run("--source ./odd --target ./new --yes --batch-size 10")
        .expect(4);
    assert_eq!(run.events_of("batch").count(), 0);
    assert!(!scene.path("new").exists());
    let run = scene
        .run("--source ./odd --target ./new --yes --salvage")
        .expect(3);
    assert_eq!(run.total("written"), 500);
}

#[test]
fn damage_in_the_first_entry_is_no_empty_file() {
    let scene = Scene::new();
    scene.file(
        &format!("odd/{CACHE}"),
        "{\"default:extract:a\": {\"return\": \"abc",
    );
    let run = scene
        .run("--source ./odd --target ./new --yes --salvage")
        .expect(3);
    assert!(
        warnings(&run).contains("is damaged at byte"),
        "{}",
        warnings(&run)
    );
    let text = "{\"default:extract:a\": {\"return\": nope},\n \"default:extract:b\": {\"return\": \"fine\"}}";
    scene.file(&format!("odd/{CACHE}"), text);
    let run = scene
        .run("--source ./odd --target ./new --yes --salvage")
        .expect(3);
    assert_eq!(run.total("written"), 1);
    assert!(
        warnings(&run).contains("1 damaged place was skipped"),
        "{}",
        warnings(&run)
    );
}

#[test]
fn the_folder_of_a_workspace_is_recognized() {
    let scene = Scene::new();
    let run = scene
        .run("--source ./rag_storage/space1 --target ./new --yes")
        .expect(0);
    let told = warnings(&run);
    assert!(
        told.contains("--source ./rag_storage and --source-workspace space1"),
        "{told}"
    );
    let told = warnings(&scene.run("--source ./rag_storage --target ./new --yes").expect(0));
    assert!(!told.contains("is the folder of a workspace"), "{told}");
}

#[test]
fn a_limit_on_files_is_an_error_with_a_report_and_leaves_nothing() {
    let scene = Scene::new();
    let entries: Map<String, Value> = (0..2_500)
        .map(|n| (key("extract", n), value(&"r".repeat(400))))
        .collect();
    scene.cache("many", &entries.into());
    let run = under(
        "ulimit -f 200",
        scene.tool("--source ./many --target ./new --yes"),
    )
    .expect(5);
    assert!(run.stderr.contains("ulimit -f"), "{}", run.stderr);
    assert_eq!(std::fs::read_dir(scene.path("new")).unwrap().count(), 0);
}

#[test]
fn a_limit_on_open_files_is_an_error_that_names_it() {
    let scene = Scene::new();
    scene.workspaces("many", 100);
    let tool = scene.tool("--source ./many --target ./new --all-workspaces --yes");
    let run = under("ulimit -n 60", tool).expect(4);
    assert!(run.stderr.contains("ulimit -n"), "{}", run.stderr);
}

#[test]
fn an_archive_that_does_not_fit_leaves_the_old_one_as_it_was() {
    let scene = Scene::new();
    scene
        .run("--source ./rag_storage --target a.jsonl --all-workspaces --yes")
        .expect(0);
    let before = std::fs::read(scene.path("a.jsonl")).unwrap();
    let files = || std::fs::read_dir(scene.path("")).unwrap().count();
    let entries: Map<String, Value> = (0..2_500)
        .map(|n| (key("extract", n), value(&"r".repeat(400))))
        .collect();
    scene.cache("many", &entries.into());
    let files_before = files();
    for target in ["a.jsonl", "new.jsonl"] {
        let line = format!("--source ./many --target {target} --yes");
        let run = under("ulimit -f 400", scene.tool(&line)).expect(5);
        assert!(run.stderr.contains("ulimit -f"), "{}", run.stderr);
        assert_eq!(run.report()["errors"]["first"][0]["kind"], "full");
        assert_eq!((run.total("written"), run.total("not_attempted")), (0, 2_500));
        assert!(std::fs::read(scene.path("a.jsonl")).unwrap() == before);
        assert_eq!(files(), files_before, "nothing is left");
    }
}

#[test]
fn too_few_open_files_are_an_error_with_a_report() {
    let scene = Scene::new();
    let run = under(
        "ulimit -n 8",
        scene.tool("--source ./rag_storage --target ./new --yes"),
    );
    assert_eq!(run.code, 10, "{}", run.stderr);
    assert!(run.stderr.contains("ulimit -n"), "{}", run.stderr);
}
