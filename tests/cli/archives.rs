//! Archives: kept, read back, damaged, and not written by a run that ends early.

use std::{fs, io::Write, process::Stdio, thread, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    scene::{CACHE, Scene, value},
    signals::{during, stop, until_first_batch},
    support::{records::key, tool::Run},
};

/// The lines of an archive.
fn lines(scene: &Scene, name: &str) -> Vec<Value> {
    let content = fs::read(scene.path(name)).unwrap();
    let text = match name.ends_with(".zst") {
        true => zstd::stream::decode_all(&content[..]).unwrap(),
        false => content,
    };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn footer(scene: &Scene, name: &str) -> Value {
    lines(scene, name).pop().unwrap()["footer"].take()
}

/// A scene with the sample cache in an archive.
fn with_archive(name: &str) -> Scene {
    let scene = Scene::new();
    let line = format!("--source ./rag_storage --target {name} --all-workspaces --yes");
    scene.run(&line).expect(0);
    scene
}

#[test]
fn a_cache_comes_back_from_an_archive_and_its_digest_stays_the_same_on_the_way() {
    let scene = with_archive("a.jsonl.zst");
    for (from, to) in [
        ("a.jsonl.zst", "b.jsonl"),
        ("b.jsonl", "c.jsonl.zst"),
        ("c.jsonl.zst", "./back"),
    ] {
        let line = format!("--source {from} --target {to} --all-workspaces --yes --verify full");
        assert_eq!(scene.run(&line).expect(0).total("written"), 67);
    }
    assert_eq!(footer(&scene, "a.jsonl.zst"), footer(&scene, "b.jsonl"));
    assert_eq!(footer(&scene, "a.jsonl.zst"), footer(&scene, "c.jsonl.zst"));
    assert_eq!(
        footer(&scene, "b.jsonl")["workspaces"]["space2"]["by_cache_type"],
        json!({"extract": 7, "summary": 2})
    );
    let header = lines(&scene, "a.jsonl.zst").remove(0);
    assert_eq!(
        header["header"]["source"],
        json!({"kind": "json", "location": "./rag_storage"})
    );
    let line = "--source ./rag_storage --target ./back --all-workspaces --verify-only --verify full";
    scene.run(line).expect(0);
    scene
        .run("--source ./rag_storage --target a.jsonl.zst --all-workspaces --verify-only --verify full")
        .expect(0);
}

#[test]
fn workspaces_are_taken_out_of_an_archive_and_added_to_one() {
    let scene = with_archive("a.jsonl.zst");
    scene
        .run("--source a.jsonl.zst --target ./one --workspace-map space1=production --yes")
        .expect(0);
    assert!(
        scene
            .path("one/production/kv_store_llm_response_cache.json")
            .exists()
    );
    let listed = scene
        .run("--source a.jsonl.zst --target ./one --workspace spice1 --yes")
        .expect(9);
    assert!(
        listed.message().contains("space1, space2"),
        "{}",
        listed.message()
    );
    // What was in it stays, and a key that comes again is replaced.
    let cache = json!({"default:extract:x": {"return": "new", "cache_type": "extract"}});
    scene.cache("more/space1", &cache).cache("more/space9", &cache);
    scene
        .run("--source ./more --target a.jsonl.zst --all-workspaces --yes")
        .expect(0);
    assert_eq!(footer(&scene, "a.jsonl.zst")["records"], 69);
    let cache = json!({"default:extract:x": {"return": "newer", "cache_type": "extract"}});
    scene.cache("more/space1", &cache);
    let skipped = scene
        .run("--source ./more --target a.jsonl.zst --all-workspaces --yes --on-conflict skip")
        .expect(0);
    assert_eq!(skipped.total("skipped"), 2);
    scene
        .run("--source ./more --target a.jsonl.zst --all-workspaces --yes")
        .expect(0);
    let records = lines(&scene, "a.jsonl.zst");
    let ours: Vec<&Value> = records
        .iter()
        .filter(|line| line["key"] == "default:extract:x")
        .collect();
    assert_eq!(ours.len(), 2);
    assert_eq!(
        ours.iter()
            .filter(|line| line["record"]["return"] == "newer")
            .count(),
        1
    );
}

#[test]
fn a_run_that_ends_early_leaves_the_archive_as_it_was_and_counts_nothing_as_written() {
    let scene = with_archive("a.jsonl.zst");
    let before = fs::read(scene.path("a.jsonl.zst")).unwrap();
    let cache = json!({
        "default:extract:a": {"return": "x", "cache_type": "extract"},
        "default:extract:b": "no record",
    });
    scene
        .cache("bad/a", &json!({"default:extract:a": {"return": "x"}}))
        .cache("bad/b", &cache);
    let line = "--source ./bad --target a.jsonl.zst --all-workspaces --yes --max-errors 0";
    let run = scene.run(line).expect(7);
    assert_eq!((run.total("written"), run.total("not_attempted")), (0, 2));
    assert!(fs::read(scene.path("a.jsonl.zst")).unwrap() == before);
    let names: Vec<_> = fs::read_dir(scene.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|name| name.to_string_lossy().contains(".tmp.")),
        "{names:?}"
    );
    // Without the limit it is written, but for that one.
    let run = scene
        .run("--source ./bad --target a.jsonl.zst --all-workspaces --yes")
        .expect(3);
    assert_eq!((run.total("written"), run.total("rejected")), (2, 1));
    assert_eq!(footer(&scene, "a.jsonl.zst")["records"], 69);
}

#[test]
fn a_rejects_file_is_read_as_an_archive_and_never_written() {
    let scene = Scene::new();
    let cache = json!({"default:extract:a": 1, "default:extract:b": {"return": "x"}});
    scene.cache("bad", &cache);
    scene
        .run("--source ./bad --target ./new --yes --rejects r.jsonl")
        .expect(3);
    // Corrected by hand, it can be moved.
    let text = fs::read_to_string(scene.path("r.jsonl")).unwrap();
    scene.file(
        "r.jsonl",
        &text.replace("\"record\":1", "\"record\":{\"return\": \"y\"}"),
    );
    assert_eq!(
        scene
            .run("--source r.jsonl --target ./new --yes")
            .expect(0)
            .total("written"),
        1
    );
    let run = scene.run("--source ./bad --target r.jsonl --yes").expect(10);
    assert!(run.message().contains("is a rejects file"), "{}", run.message());
    // What editors leave before the first line.
    let text = fs::read_to_string(scene.path("r.jsonl")).unwrap();
    for before in ["\n \n", "\u{feff}"] {
        scene.file("edited.jsonl", &format!("{before}{text}"));
        let run = scene
            .run("--source edited.jsonl --target ./edited --yes")
            .expect(0);
        assert_eq!(run.total("written"), 1);
    }
    // An archive after it, as `cat` makes it, is still an archive.
    scene
        .run("--source ./rag_storage --target a.jsonl --all-workspaces --yes")
        .expect(0);
    let archive = fs::read_to_string(scene.path("a.jsonl")).unwrap();
    let cut: String = archive.split_inclusive('\n').take(20).collect();
    for (archive, what) in [
        (cut, "it has no footer: it was cut off"),
        (archive, "its footer says 67 records, and it has 68"),
    ] {
        scene.file("both.jsonl", &format!("{text}{archive}"));
        let run = scene
            .run("--source both.jsonl --target ./both --all-workspaces --yes")
            .expect(4);
        assert!(run.message().contains(what), "{}", run.message());
    }
}

/// The archive as it is after something happened to it.
fn damaged(scene: &Scene, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(scene.path(name)).unwrap();
    change(&mut content);
    fs::write(scene.path(name), content).unwrap();
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_damaged_archive_is_found_before_the_first_write_and_what_is_whole_can_be_moved() {
    let replace = |content: &mut Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(std::mem::take(content)).unwrap();
        assert!(text.contains(from));
        *content = text.replacen(from, to, 1).into_bytes();
    };
    type Change = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: Vec<(&str, Change, &str, u64)> = vec![
        (
            "a.jsonl",
            Box::new(|content| content.truncate(content.len() / 2)),
            "EOF while parsing",
            1,
        ),
        (
            "a.jsonl",
            Box::new(|content| {
                let end = content
                    .windows(9)
                    .rposition(|text| text == b"{\"footer\"")
                    .unwrap();
                content.truncate(end);
            }),
            "it has no footer: it was cut off",
            67,
        ),
        (
            "a.jsonl",
            Box::new(move |content| replace(content, "entity", "entitY")),
            "the digest differs",
            67,
        ),
        (
            "a.jsonl",
            Box::new(|content| {
                let second = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let third = second + content[second..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
                content.drain(second..third);
            }),
            "its footer says 67 records, and it has 66",
            66,
        ),
        (
            "a.jsonl",
            Box::new(|content| {
                let copy = content.clone();
                content.extend_from_slice(&copy);
            }),
            "another header",
            67,
        ),
        (
            "a.jsonl",
            Box::new(|content| {
                let end = content
                    .windows(9)
                    .rposition(|text| text == b"{\"footer\"")
                    .unwrap();
                content.extend_from_within(end..);
            }),
            "another footer",
            67,
        ),
        (
            "a.jsonl.zst",
            Box::new(|content| content.truncate(content.len() / 2)),
            "it is cut off",
            0,
        ),
        (
            "a.jsonl.zst",
            Box::new(|content| {
                let middle = content.len() / 2;
                content[middle] ^= 0x40;
            }),
            "is damaged in the block at byte",
            0,
        ),
        (
            "a.jsonl.zst",
            Box::new(|content| content[0] ^= 1),
            "is damaged in the block at byte 0: ",
            67,
        ),
    ];
    for (name, change, what, least) in cases {
        let scene = with_archive(name);
        damaged(&scene, name, change);
        let line = format!("--source {name} --target ./new --all-workspaces --yes");
        let run = scene.run(&line).expect(4);
        assert!(run.message().contains(what), "{what}: {}", run.message());
        let next = run.report()["next"].as_str().unwrap();
        assert!(next.starts_with("--salvage moves"), "{what}: {next}");
        assert!(!scene.path("new").exists(), "{what}");
        let written = scene
            .run(&format!("--source ./rag_storage --target {name} --yes"))
            .expect(5);
        assert!(
            written.report()["next"]
                .as_str()
                .unwrap()
                .starts_with("Remove it"),
            "{what}"
        );
        let run = scene.run(&format!("{line} --salvage")).expect(3);
        assert!(run.total("written") >= least, "{what}: {}", run.total("written"));
    }
}

#[test]
fn an_archive_of_which_nothing_can_be_read_is_no_empty_one() {
    let scene = with_archive("a.jsonl");
    scene
        .run("--source ./rag_storage --target a.jsonl.zst --all-workspaces --yes")
        .expect(0);
    let plain = fs::read(scene.path("a.jsonl")).unwrap();
    let packed = fs::read(scene.path("a.jsonl.zst")).unwrap();
    let header = plain.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let cases = [
        ("header.jsonl", &plain[..header], "no record in it can be read"),
        (
            "half.jsonl",
            &plain[..header / 2],
            "is not an archive: nothing in it",
        ),
        (
            "half.jsonl.zst",
            &packed[..50],
            "is not an archive: nothing in it",
        ),
        ("zeros.jsonl", &[0; 3000][..], "is not an archive: nothing in it"),
        (
            "text.jsonl",
            b"hello\nworld\n",
            "is not an archive: nothing in it",
        ),
        (
            "other.jsonl",
            b"{\"a\": 1}\n{\"a\": 2}\n",
            "is not an archive: nothing in it",
        ),
    ];
    for (name, content, what) in cases {
        fs::write(scene.path(name), content).unwrap();
        for mode in ["--yes", "--dry-run", "--verify-only"] {
            let line = format!("--source {name} --target ./new --all-workspaces --salvage {mode}");
            let run = scene.run(&line).expect(4);
            assert!(run.message().contains(what), "{name}: {}", run.message());
        }
    }
    // A workspace that is named may have been in what is lost.
    for more in ["", " --allow-missing"] {
        let line = format!("--source header.jsonl --target ./new --workspace space2 --salvage --yes{more}");
        let run = scene.run(&line).expect(3);
        let warnings = run.report()["warnings"].to_string();
        assert!(
            warnings.contains("workspace space2: ") && warnings.contains("it has no footer"),
            "{warnings}"
        );
    }
    assert!(!scene.path("new").exists());
}

#[test]
fn a_workspace_whose_records_are_all_lost_is_named_if_the_footer_is_not() {
    let scene = with_archive("a.jsonl");
    let text = fs::read_to_string(scene.path("a.jsonl")).unwrap();
    let rest: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("{\"workspace\": \"space2\""))
        .collect();
    assert_eq!(rest.len(), 67 - 9 + 2);
    scene.file("a.jsonl", &rest.join("\n"));
    let run = scene
        .run("--source a.jsonl --target ./new --all-workspaces --salvage --yes")
        .expect(3);
    assert_eq!(run.total("written"), 67 - 9);
    let warnings = run.report()["warnings"].to_string();
    let warning = "workspace space2: ";
    assert!(
        warnings.contains(warning) && warnings.contains("its footer says 67 records, and it has 58"),
        "{warnings}"
    );
}

/// The files beside others that runs have not removed.
fn leftovers(scene: &Scene, folder: &str) -> usize {
    let entries = fs::read_dir(scene.path(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".tmp.")).count()
}

/// So many small records that a run with a batch for each cannot end before its output is read.
pub fn many(scene: &Scene) -> u64 {
    const RECORDS: u64 = 500;
    let cache: Map<String, Value> = (0..RECORDS).map(|n| (key("extract", n), value("x"))).collect();
    scene.cache("many/other", &cache.into());
    RECORDS
}

pub const MANY: &str = "--source ./many --workspace other --yes --batch-size 1 --concurrency 1";

#[test]
fn runs_that_write_to_one_archive_at_the_same_time_keep_the_records_of_each() {
    let scene = with_archive("old.jsonl.zst");
    let records = many(&scene);
    for (name, before) in [("new.jsonl", 0), ("old.jsonl.zst", 67)] {
        let line = "--source ./rag_storage --workspace-map space2=meanwhile --yes";
        let run = during(scene.tool(&format!("{MANY} --target {name}")), |_| {
            scene.run(&format!("{line} --target {name}")).expect(0);
        });
        assert_eq!(run.expect(0).total("written"), records);
        let footer = footer(&scene, name);
        assert_eq!(footer["records"], before + records + 9);
        assert_eq!(footer["workspaces"]["meanwhile"]["records"], 9);
        let line = format!("--source {name} --target ./back --all-workspaces --dry-run");
        scene.run(&line).expect(0);
    }
}

#[test]
fn a_run_waits_for_another_one_that_replaces_the_same_file() {
    let scene = with_archive("other.jsonl");
    scene.cache("other", &json!({key("summary", 7): value("other")}));
    let cache = format!("new/mine/{CACHE}");
    fs::create_dir_all(scene.path("new/mine")).unwrap();
    for (target, file, other) in [
        ("a.jsonl", "a.jsonl", "other.jsonl".to_owned()),
        ("./new", cache.as_str(), format!("other/{CACHE}")),
    ] {
        let lock = scene.path(&format!("{file}.tmp.migrate-lock"));
        let locked = fs::File::create(&lock).unwrap();
        locked.lock().unwrap();
        let line = format!("--source ./rag_storage --workspace-map space2=mine --target {target} --yes");
        let run = during(scene.tool(&line), |_| {
            thread::sleep(Duration::from_millis(300));
            fs::copy(scene.path(&other), scene.path(file)).unwrap();
            fs::remove_file(&lock).unwrap();
            drop(locked);
        });
        assert_eq!(run.expect(0).total("written"), 9);
    }
    assert_eq!(footer(&scene, "a.jsonl")["records"], 67 + 9);
    let new = scene.read(&cache);
    assert_eq!(new[key("summary", 7)], value("other"));
    assert_eq!(new.as_object().unwrap().len(), 1 + 9);
    assert_eq!(leftovers(&scene, "") + leftovers(&scene, "new/mine"), 0);
}

#[test]
fn what_a_killed_run_leaves_is_removed_by_the_next_one() {
    let scene = Scene::new();
    many(&scene);
    for (target, folder) in [("a.jsonl.zst", ""), ("./new", "new/other")] {
        let line = format!("{MANY} --target {target}");
        let (mut child, _lines, _) = until_first_batch(scene.tool(&line));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(leftovers(&scene, folder), 1);
        scene.run(&line).expect(0);
        assert_eq!(leftovers(&scene, folder), 0);
    }
}

/// A cache of so many records, each of them of some kilobytes.
fn large_cache(scene: &Scene, records: u64) {
    let cache: Map<String, Value> = (0..records)
        .map(|n| (key("extract", n), value(&format!("{n:05}").repeat(800))))
        .collect();
    scene.cache("large", &cache.into());
}

/// The frames of a compressed file, in order.
fn frames(mut content: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !content.is_empty() {
        let size = zstd::zstd_safe::find_frame_compressed_size(content).unwrap();
        let (frame, rest) = content.split_at(size);
        frames.push(frame);
        content = rest;
    }
    frames
}

#[test]
fn of_an_archive_with_a_damaged_frame_the_records_of_all_others_are_moved() {
    let scene = Scene::new();
    large_cache(&scene, 1_500);
    scene.run("--source ./large --target a.jsonl.zst --yes").expect(0);
    let content = fs::read(scene.path("a.jsonl.zst")).unwrap();
    let frames = frames(&content);
    // The header, the records, the footer.
    assert!(frames.len() > 5, "{}", frames.len());
    let begin = frames[..2].iter().map(|frame| frame.len()).sum::<usize>();
    let lost: Vec<Value> = zstd::decode_all(frames[2])
        .unwrap()
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["key"].take())
        .collect();
    assert!((1..1_500).contains(&lost.len()));
    damaged(&scene, "a.jsonl.zst", |content| {
        content[begin + frames[2].len() / 2] ^= 0x40;
    });
    let line = "--source a.jsonl.zst --target ./new --yes";
    let run = scene.run(line).expect(4);
    let place = format!("is damaged in the block at byte {begin}: ");
    assert!(run.message().contains(&place), "{}", run.message());
    let run = scene.run(&format!("{line} --salvage")).expect(3);
    let whole = 1_500 - lost.len() as u64;
    assert_eq!((run.total("selected"), run.total("written")), (whole, whole));
    let warnings = run.report()["warnings"].to_string();
    assert!(warnings.contains(&place), "{warnings}");
    let (before, after) = (
        scene.read(&format!("large/{CACHE}")),
        scene.read(&format!("new/{CACHE}")),
    );
    for (key, record) in before.as_object().unwrap() {
        let is_lost = lost.iter().any(|lost| lost == key);
        let found = after.get(key).map(|record| &record["return"]);
        assert!(found == (!is_lost).then_some(&record["return"]), "{key}");
    }
}

#[test]
fn a_run_from_an_archive_is_resumed_unless_the_archive_was_changed() {
    const RECORDS: u64 = 3_000;
    for name in ["a.jsonl", "a.jsonl.zst"] {
        let scene = Scene::new();
        large_cache(&scene, RECORDS);
        scene
            .run(&format!("--source ./large --target {name} --yes"))
            .expect(0);
        let line =
            format!("--source {name} --target ./new --yes --batch-size 1 --concurrency 1 --checkpoint c");
        let run = stop(scene.tool(&line), "INT").expect(130);
        let before = run.total("written");
        assert!((1..RECORDS).contains(&before), "{before} written");

        // Another archive in its place.
        let content = fs::read(scene.path(name)).unwrap();
        scene
            .run(&format!("--source ./rag_storage --target {name} --yes"))
            .expect(0);
        let refused = scene.run(&format!("{line} --resume")).expect(11);
        let message = "was changed since the checkpoint was written";
        assert!(refused.message().contains(message), "{}", refused.message());

        // The same records in another order, which is a complete archive too.
        if name == "a.jsonl" {
            let text = String::from_utf8(content.clone()).unwrap();
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            let end = lines.len() - 1;
            lines[1..end].reverse();
            scene.file(name, &lines.concat());
            let refused = scene.run(&format!("{line} --resume")).expect(11);
            assert!(refused.message().contains(message), "{}", refused.message());
        }

        fs::write(scene.path(name), content).unwrap();
        let resumed = scene.run(&format!("{line} --resume")).expect(0);
        assert_eq!(resumed.total("written"), RECORDS);
        let batches = resumed.events_of("batch").count() as u64;
        assert!(batches < RECORDS, "{batches} batches after {before}");
        let line = "--source ./large --target ./new --verify-only --verify full";
        scene.run(line).expect(0);
    }
}

#[test]
fn what_is_no_archive_is_said() {
    let scene = with_archive("a.jsonl");
    let text = fs::read_to_string(scene.path("a.jsonl")).unwrap();
    scene.file(
        "newer.jsonl",
        &text
            .replacen("\"format_version\":1", "\"format_version\":2", 1)
            .replacen("\"created_at\"", "\"written_at\"", 1),
    );
    scene.file("other.jsonl", &text.replacen("llm-cache-archive", "another", 1));
    scene.file("empty.jsonl", "");
    scene.file("text.jsonl.zst", "hello\n");
    scene.file("lines.jsonl", "{\"a\": 1}\n{\"a\": 2}\n");
    let mut gzip = vec![0x1f, 0x8b, 8, 0];
    gzip.write_all(b"....").unwrap();
    fs::write(scene.path("packed.jsonl"), gzip).unwrap();
    fs::create_dir(scene.path("folder.jsonl")).unwrap();
    for (name, what) in [
        (
            "newer.jsonl",
            "has version 2 of the archive format; this program reads up to 1",
        ),
        ("other.jsonl", "its header is another program's"),
        ("empty.jsonl", "it is empty"),
        ("text.jsonl.zst", "is not an archive"),
        ("lines.jsonl", "it has no `workspace`"),
        ("packed.jsonl", "it is gzip"),
        ("folder.jsonl", "is a directory, not a regular file"),
        ("missing.jsonl", "missing.jsonl"),
    ] {
        let run = scene
            .run(&format!("--source {name} --target ./new --all-workspaces --yes"))
            .expect(4);
        assert!(run.message().contains(what), "{name}: {}", run.message());
        if name == "empty.jsonl" {
            let next = run.report()["next"].as_str().unwrap();
            assert!(next.contains("no record was rejected"), "{next}");
        }
    }
    // A good backup is not to be removed.
    let run = scene
        .run("--source ./rag_storage --target newer.jsonl --yes")
        .expect(5);
    assert_eq!(
        run.report()["next"],
        "Use the version of migrate-llm-cache that wrote it, or a later one."
    );
    // A file without bytes, as `mktemp` makes it, can be written.
    scene
        .run("--source ./rag_storage --target empty.jsonl --yes")
        .expect(0);
    scene.run("--source archive --target ./new --yes").expect(2);
}

#[test]
fn a_pipe_without_a_name_is_called_a_pipe() {
    let scene = Scene::new();
    let job = "source: { kind: archive, file: /dev/stdin }\ntarget: ./new\nworkspaces: all\n";
    let child = scene
        .file("job.yaml", job)
        .tool("--job job.yaml --yes")
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run = Run::of(child.wait_with_output().unwrap()).checked().expect(4);
    let message = run.message();
    assert!(message.contains("is a pipe, not a regular file"), "{message}");
}

#[test]
fn a_few_hundred_records_of_a_large_archive_are_read_back() {
    let scene = Scene::new();
    let text = |n: usize| format!("{n:05}").repeat(2000);
    let cache: serde_json::Map<String, Value> = (0..600)
        .map(|n| {
            let record = json!({"return": text(n), "cache_type": "extract"});
            (format!("default:extract:{n:032}"), record)
        })
        .collect();
    scene.cache("large", &Value::Object(cache));
    for target in ["a.jsonl", "a.jsonl.zst"] {
        let run = scene
            .run(&format!("--source ./large --target {target} --yes --verify full"))
            .expect(0);
        assert_eq!(run.report()["read_back"]["records"], 256);
        assert_eq!(run.report()["verification"]["equal"], 600);
    }
}

#[test]
fn an_archive_is_compressed_as_hard_as_is_asked() {
    let scene = Scene::new();
    for level in ["1", "19"] {
        let job = format!(
            "source: ./rag_storage\ntarget: {{ kind: archive, file: {level}.jsonl.zst, level: {level} }}\nworkspaces: all\n"
        );
        scene.file("job.yaml", &job).run("--job job.yaml --yes").expect(0);
    }
    let size = |name: &str| fs::metadata(scene.path(name)).unwrap().len();
    assert!(size("19.jsonl.zst") < size("1.jsonl.zst"));
    let job = "source: ./rag_storage\ntarget: { kind: archive, file: a.jsonl.zst, level: 30 }\n";
    let run = scene.file("job.yaml", job).run("--job job.yaml --yes").expect(2);
    assert!(
        run.message().contains("expected a number from 1 to 19"),
        "{}",
        run.message()
    );
}
