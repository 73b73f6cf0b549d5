//! The likeliest mistakes of a newcomer, and what each is told.

use crate::scene::{CACHE, Scene};

/// What a mistake at a terminal is told.
macro_rules! mistakes {
    ($($(#[$attribute:meta])* $name:ident: $line:expr;)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                let scene = Scene::new();
                snapshot!(scene, scene.run(&format!("{} --output human", $line)));
                assert!(!scene.path("new").exists());
            }
        )*
    };
}

mistakes! {
    no_arguments_at_all: "";
    an_unknown_kind: "--source jsn --target ./new";
    a_misspelt_scheme: "--source ./rag_storage --target postgre://localhost/rag";
    words_of_another_program: "--from ./rag_storage --to ./new";
    a_wish_to_overwrite: "--source ./rag_storage --target ./new --force";
    two_places_without_flags: "./rag_storage ./new";
    a_server_without_a_scheme: "--source ./rag_storage --target localhost:6379";
    a_kind_that_holds_no_cache: "--source ./rag_storage --target Neo4JStorage";
    types_without_a_comma: "--source ./rag_storage --target ./new --types extract;summary";
    a_misspelt_workspace: "--source ./rag_storage --target ./new --workspace Space1";
    two_workspaces_in_one_flag: "--source ./rag_storage --target ./new --workspace space1,space2 --dry-run";
    no_target: "--source ./rag_storage";
    a_source_that_is_not_there: "--source ./rag_strage --target ./new --yes";
    a_source_that_is_another_file: "--source ./rag_storage/notes.txt --target ./new --yes";
    a_workspace_with_a_slash: "--source ./rag_storage --target ./new --workspace a/b";
    a_workspace_that_leaves_the_folder: "--source ./rag_storage --target ./new --workspace ..";
    a_forgotten_yes: "--source ./rag_storage --target ./new";
    a_misspelt_flag: "--source ./rag_storage --taget ./new";
    a_flag_without_its_value: "--source ./rag_storage --target";
    an_unknown_policy: "--source ./rag_storage --target ./new --on-conflict replace";
    an_unknown_type: "--source ./rag_storage --target ./new --types extrct";
    a_batch_of_nothing: "--source ./rag_storage --target ./new --batch-size 0";
    a_size_without_a_number: "--source ./rag_storage --target ./new --batch-bytes big";
    a_timeout_without_a_unit: "--source ./rag_storage --target ./new --timeout 30";
    half_a_workspace_map: "--source ./rag_storage --target ./new --workspace-map space1";
    two_ways_to_name_workspaces: "--source ./rag_storage --target ./new --workspace space1 --all-workspaces";
    two_workspaces_into_one:
        "--source ./rag_storage --target ./new --workspace-map space1=a --workspace-map space2=a --yes";
    a_workspace_twice:
        "--source ./rag_storage --target ./new --workspace-map space1=a --workspace-map space1=b --yes";
    an_unknown_log_level: "--source ./rag_storage --target ./new --log-level warnn";
    a_log_filter_that_cannot_be_read: "--source ./rag_storage --target ./new --log-level loud=x=y";
    a_report_in_a_folder_that_is_not_there: "--source ./rag_storage --target ./new --yes --report ./no/report.json";
    metrics_in_a_folder_that_is_not_there: "--source ./rag_storage --target ./new --yes --metrics ./no/cache.prom";
    rejects_in_a_folder_that_is_not_there: "--source ./rag_storage --target ./new --yes --rejects ./no/rejects.jsonl";
    a_checkpoint_in_a_folder_that_is_not_there: "--source ./rag_storage --target ./new --yes --checkpoint ./no/ckpt";
    a_report_that_is_a_folder: "--source ./rag_storage --target ./new --yes --report ./rag_storage";
    a_report_that_is_a_device: "--source ./rag_storage --target ./new --yes --report /dev/null";
    a_job_file_that_is_not_there: "--job nightly.yaml";
}

/// What a mistake in a job file is told.
macro_rules! job_mistakes {
    ($($name:ident: $text:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let scene = Scene::new();
                scene.file("job.yaml", $text);
                snapshot!(scene, scene.run("--job job.yaml --output human"));
                assert!(!scene.path("new").exists());
            }
        )*
    };
}

job_mistakes! {
    a_job_field_that_stands_there_twice: "source: ./rag_storage\nsource: json\ntarget: ./new\n";
    a_tab_in_the_job_file: "source: ./rag_storage\n\ttarget: ./new\n";
    a_storage_as_a_name_in_the_job_file: "source: ./rag_storage\ntarget:\n  postgres:\n    host: db\n";
    a_field_of_another_storage_in_the_job_file: "source: ./rag_storage\ntarget: { kind: redis, host: db }\n";
    an_unset_variable_in_the_job_file: "source: ./rag_storage\ntarget:\n  kind: json\n  working_dir: ${NEW_DIR}\n";
    an_unknown_job_field: "source: ./rag_storage\ntarget: ./new\non_conflit: skip\n";
    an_unknown_job_field_of_a_storage: "source: ./rag_storage\ntarget:\n  kind: json\n  workingdir: ./new\n";
    an_unknown_job_field_of_the_batch: "source: ./rag_storage\ntarget: ./new\nbatch: { record: 5 }\n";
    a_wrong_type_in_the_job_file: "source: ./rag_storage\ntarget: ./new\ndry_run: sometimes\n";
    a_list_for_a_number_in_the_job_file: "source: ./rag_storage\ntarget: ./new\nbatch:\n  records: [1]\n";
    a_wrong_number_in_the_job_file: "source: ./rag_storage\ntarget: ./new\nbatch:\n  records: many\n";
    a_wrong_policy_in_the_job_file: "source: ./rag_storage\ntarget: ./new\non_conflict: newest\n";
    a_wrong_workspace_in_the_job_file: "source: ./rag_storage\ntarget: ./new\nworkspaces:\n  - space1\n  - a/b\n";
    a_storage_without_a_kind_in_the_job_file: "source: ./rag_storage\ntarget:\n  working_dir: ./new\n";
    an_unknown_kind_in_the_job_file: "source: ./rag_storage\ntarget: { kind: jason }\n";
    a_job_file_that_is_no_yaml: "source: ./rag_storage\ntarget: [\n";
}

#[test]
fn a_cache_that_breaks_off_half_way() {
    let scene = Scene::new();
    let path = scene.path("rag_storage").join(CACHE);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let run = snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./new --yes --output human")
    );
    assert_eq!(run.code, 4);
}

#[test]
fn the_rejects_file_as_source_and_as_rejects_file() {
    let scene = Scene::new();
    scene.file("rejects.jsonl", "");
    snapshot!(
        scene,
        scene.run("--source rejects.jsonl --target ./new --rejects rejects.jsonl --yes --output human")
    );
}

#[test]
fn a_broken_line_in_dot_env() {
    let scene = Scene::new();
    scene.file(".env", "WORKSPACE=space1\n=hunter2\n");
    let run = scene
        .tool("--source ./rag_storage --target ./new --dry-run --output human")
        .secret("hunter2")
        .run();
    snapshot!(scene, run.expect(0));
}

#[test]
fn a_config_ini_that_lightrag_refuses() {
    let scene = Scene::new();
    scene.file("config.ini", "[redis]\nuri = redis://:hunter2%@127.0.0.1:1\n");
    let run = scene
        .tool("--source ./rag_storage --target redis --output human")
        .secret("hunter2")
        .run();
    snapshot!(scene, run.expect(2));
}

#[test]
fn a_number_in_dot_env_that_is_none() {
    let scene = Scene::new();
    scene.file(".env", "\nPOSTGRES_PORT=543x\n");
    let run = scene.run("--source ./rag_storage --target postgres --output human");
    snapshot!(scene, run.expect(2));
}

#[test]
fn a_server_of_dot_env_that_is_not_there() {
    let scene = Scene::new();
    scene
        .file(
            ".env",
            "POSTGRES_HOST=127.0.0.1\nPOSTGRES_PORT=1\nPOSTGRES_PASSWORD='hunter2'\n",
        )
        .file("config.ini", "[postgres]\nuser = rag\n");
    let run = scene
        .tool("--source ./rag_storage --target postgres --retries 0 --output human")
        .secret("hunter2")
        .run();
    snapshot!(scene, run.expect(5));
}
