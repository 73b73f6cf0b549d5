//! JSON files that somebody else uses too.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use serde_json::json;

use crate::{
    scene::{CACHE, Scene, value},
    support::records::key,
};

#[test]
fn a_target_keeps_its_other_records_and_its_mode() {
    let scene = Scene::new();
    let query = "mix:query:00000000000000000000000000000007";
    scene
        .cache(
            "old",
            &json!({key("extract", 1): value("new"), key("summary", 2): value("new")}),
        )
        .cache(
            "new",
            &json!({query: value("asked"), key("extract", 1): value("old"), key("extract", 9): value("kept"),
                    "no key of ours": [1, 2]}),
        );
    let file: PathBuf = scene.path("new").join(CACHE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let inode = file.metadata().unwrap().ino();

    scene.run("--source ./old --target ./new --yes").expect(0);

    let found = scene.read(&format!("new/{CACHE}"));
    assert_eq!(found[query], value("asked"));
    assert_eq!(found["no key of ours"], json!([1, 2]));
    assert_eq!(found[key("extract", 9)], value("kept"));
    assert_eq!(found[key("extract", 1)]["return"], "new");
    assert_eq!(found[key("summary", 2)]["return"], "new");
    assert_eq!(found.as_object().unwrap().len(), 5);
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert_ne!(metadata.ino(), inode, "replaced, not written over");
    assert_eq!(std::fs::read_dir(scene.path("new")).unwrap().count(), 1);
}

#[test]
fn a_target_stays_whole_where_the_source_breaks_off() {
    let scene = Scene::new();
    scene.cache("new", &json!({key("extract", 1): value("kept")}));
    let before = std::fs::read(scene.path("new").join(CACHE)).unwrap();
    let entries: String = (0..500)
        .map(|n| format!("{}: {},\n", json!(key("extract", n)), value("x")))
        .collect();
    // The damage stands far behind the first batches.
    scene.file(
        &format!("old/{CACHE}"),
        &format!("{{{entries} \"default:extract:9\": {{\"return\": "),
    );
    let run = scene
        .run("--source ./old --target ./new --yes --batch-size 10")
        .expect(4);
    let by_kind = &run.report()["errors"]["by_kind"];
    assert_eq!(by_kind, &json!({"damaged": 1}));
    assert_eq!(std::fs::read(scene.path("new").join(CACHE)).unwrap(), before);
    assert_eq!(std::fs::read_dir(scene.path("new")).unwrap().count(), 1);
}

#[test]
fn a_damaged_target_is_left_as_it_is() {
    let scene = Scene::new();
    scene.file(&format!("new/{CACHE}"), "{\"default:extract:1\": {\"return\": ");
    let run = scene.run("--source ./rag_storage --target ./new --yes").expect(5);
    assert_eq!(run.total("written"), 0);
    let left = std::fs::read_to_string(scene.path("new").join(CACHE)).unwrap();
    assert_eq!(left, "{\"default:extract:1\": {\"return\": ");
}

#[test]
fn a_cache_file_can_be_named_itself() {
    let scene = Scene::new();
    let line = "--source ./rag_storage/space1/kv_store_llm_response_cache.json --target ./copy.json --yes";
    let run = scene.run(line).expect(0);
    let found = scene.read("copy.json");
    assert_eq!(found.as_object().unwrap().len() as u64, run.total("written"));
}

#[test]
fn a_link_is_followed_and_stays_a_link() {
    let scene = Scene::new();
    scene.cache("real", &json!({key("extract", 1): value("kept")}));
    std::fs::create_dir(scene.path("new")).unwrap();
    let link = scene.path("new").join(CACHE);
    std::os::unix::fs::symlink(scene.path("real").join(CACHE), &link).unwrap();
    scene.run("--source ./rag_storage --target ./new --yes").expect(0);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(
        scene.read(&format!("real/{CACHE}"))[key("extract", 1)],
        value("kept")
    );
    scene.run("--source ./real --target ./new --yes").expect(10);
}

#[test]
fn rejects_are_moved_when_they_are_mended_and_never_lost() {
    let scene = Scene::new();
    scene.cache(
        "odd",
        &json!({key("extract", 1): null, key("extract", 2): value("x")}),
    );
    scene
        .run("--source ./odd --target ./new --yes --rejects rejects.jsonl")
        .expect(3);
    let line = std::fs::read_to_string(scene.path("rejects.jsonl")).unwrap();
    let mended = line.replace("\"record\":null", &format!("\"record\":{}", value("mended")));
    scene.file("rejects.jsonl", &mended);

    // The same command again, its source changed, would begin with an empty rejects file.
    scene
        .run("--source ./rejects.jsonl --target ./new --yes --rejects rejects.jsonl")
        .expect(10);
    assert_eq!(
        std::fs::read_to_string(scene.path("rejects.jsonl")).unwrap(),
        mended
    );

    scene
        .run("--source ./rejects.jsonl --target ./new --yes")
        .expect(0);
    assert_eq!(
        scene.read(&format!("new/{CACHE}"))[key("extract", 1)]["return"],
        "mended"
    );
}

#[test]
fn what_stands_before_damage_can_be_salvaged() {
    let scene = Scene::new();
    let whole = json!({key("extract", 1): value("whole")}).to_string();
    let (whole, _) = whole.rsplit_once('}').unwrap();
    scene.file(
        &format!("odd/{CACHE}"),
        &format!("{whole}, \"default:extract:2\": {{\"return"),
    );
    scene.run("--source ./odd --target ./new --yes").expect(4);
    assert!(!scene.path("new").exists());
    let run = scene.run("--source ./odd --target ./new --yes --salvage");
    assert_eq!(run.total("written"), 1, "{}", run.stderr);
    assert_eq!(
        scene.read(&format!("new/{CACHE}"))[key("extract", 1)]["return"],
        "whole"
    );
}

/// LightRAG reads a cache file as `load_json(…) or {}`.
#[test]
fn a_file_of_null_or_of_an_empty_list_is_an_empty_cache() {
    for text in ["null", "[]\n"] {
        let scene = Scene::new();
        scene.file(&format!("odd/{CACHE}"), text);
        let run = scene.run("--source ./odd --target ./new --yes").expect(0);
        assert_eq!(run.total("selected"), 0);
        // As a target it is replaced by what was written.
        scene.run("--source ./rag_storage --target ./odd --yes").expect(0);
        assert!(scene.read(&format!("odd/{CACHE}")).is_object());
    }
}
