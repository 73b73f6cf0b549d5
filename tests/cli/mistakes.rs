//! The most likely mistakes of a new user, and the message for each.

use crate::scene::{CACHE, Scene};

/// Snapshots of the message for a mistake on the command line.
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
    a_misspelt_flag_without_a_value: "--source ./rag_storage --target ./new --ys";
    a_field_of_the_job_file_as_a_flag: "--source ./rag_storage --target ./new --batch-records 5";
    a_target_with_the_ending_of_another_file: "--source ./rag_storage --target ./cache.txt --yes";
    a_flag_that_resembles_no_other: "--source ./rag_storage --target ./new --frobnicate";
    a_home_directory_that_the_shell_did_not_expand: "--source ~/rag_storage --target ./new --yes";
    types_separated_by_spaces: "--source ./rag_storage --target ./new --types extract summary --yes";
    a_negative_batch_size: "--source ./rag_storage --target ./new --batch-size -5";
    a_negative_number_of_retries: "--source ./rag_storage --target ./new --retries -1";
    a_batch_of_a_few_bytes: "--source ./rag_storage --target ./new --batch-bytes 10";
    a_batch_of_many_gigabytes: "--source ./rag_storage --target ./new --batch-bytes 10GB";
    types_that_the_workspace_does_not_have:
        "--source ./rag_storage --target ./new --workspace space2 --types smartheading --fail-on-empty --yes";
    a_redis_database_with_a_name: "--source ./rag_storage --target redis://127.0.0.1:1/cache --retries 0";
    a_checkpoint_to_resume_from_that_is_not_named: "--source ./rag_storage --target ./new --resume --yes";
    a_switch_with_a_value: "--source ./rag_storage --target ./new --dry-run=true";
    a_workspace_flag_for_each_workspace: "--source ./rag_storage --target ./new --workspace space1 --workspace space2";
    a_misspelt_choice: "--source ./rag_storage --target ./new --verify ful";
    something_to_generate_that_is_unknown: "--generate jobs";
    an_archive_compressed_by_another_program: "--source ./rag_storage --target ./new/cache.jsonl.gz --yes";
    a_job_file_that_is_a_folder: "--job ./rag_storage --yes";
    a_database_that_is_not_supported: "--source ./rag_storage --target mysql://root:hunter2@localhost/rag --yes";
    a_port_that_is_not_a_number: "--source ./rag_storage --target postgres://localhost:543x/rag --yes";
    a_variable_s_name_as_a_storage: "--source LIGHTRAG_KV_STORAGE --target ./new --yes";
    a_shard_counted_from_1: "--source ./rag_storage --target ./new --shard 2/2 --yes";
    a_workspace_map_with_a_colon: "--source ./rag_storage --target ./new --workspace-map space1:space2 --yes";
    a_limit_of_time_without_a_unit: "--source ./rag_storage --target ./new --max-duration 2 --yes";
    a_workspace_map_with_an_arrow: "--source ./rag_storage --target ./new --workspace-map space1->space2 --yes";
    a_storage_in_quotes: "--source ./rag_storage --target './new' --yes";
    a_path_of_windows: "--source C:\\rag\\rag_storage --target ./new --yes";
    a_host_without_a_port: "--source ./rag_storage --target localhost --yes";
    an_address_of_the_network: "--source ./rag_storage --target 10.0.0.7 --yes";
    a_storage_from_an_unset_variable: "--source ./rag_storage --target= --yes";
    a_report_to_merge_that_is_not_there: "--merge-reports nope.json";
    a_flag_without_its_value: "--source ./rag_storage --target";
    an_unknown_policy: "--source ./rag_storage --target ./new --on-conflict replace";
    an_unknown_type: "--source ./rag_storage --target ./new --types extrct";
    a_batch_of_nothing: "--source ./rag_storage --target ./new --batch-size 0";
    a_size_without_a_number: "--source ./rag_storage --target ./new --batch-bytes big";
    a_timeout_without_a_unit: "--source ./rag_storage --target ./new --timeout 30";
    half_a_workspace_map: "--source ./rag_storage --target ./new --workspace-map space1";
    two_ways_to_name_workspaces: "--source ./rag_storage --target ./new --workspace space1 --all-workspaces";
    a_flag_twice: "--source ./rag_storage --source ./other --target ./new";
    a_dry_run_that_only_verifies: "--source ./rag_storage --target ./new --dry-run --verify-only";
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

/// Snapshots of the message for a mistake in a job file.
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
    a_job_field_that_is_defined_twice: "source: ./rag_storage\ntarget: ./new\ntarget: json\n";
    a_job_file_that_is_a_list: "- source: ./rag_storage\n- target: ./new\n";
    a_job_file_with_a_byte_order_mark: "\u{feff}source: ./rag_storage\ntarget: ./new\n";
    a_flag_as_a_job_field: "source: ./rag_storage\ntarget: ./new\nbatch_size: 500\n";
    a_flag_with_a_hyphen_as_a_job_field: "source: ./rag_storage\ntarget: ./new\non-conflict: skip\n";
    a_flag_without_a_value_as_a_job_field: "source: ./rag_storage\ntarget: ./new\nall_workspaces: true\n";
    a_job_field_that_resembles_no_other: "source: ./rag_storage\ntarget: ./new\nfrobnicate: true\n";
    a_home_directory_in_the_job_file: "source: ~/rag_storage\ntarget: ./new\n";
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
    a_job_file_that_is_not_yaml: "source: ./rag_storage\ntarget: [\n";
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
fn a_variable_without_braces_in_the_job_file() {
    let scene = Scene::new();
    scene.file(
        "job.yaml",
        "source: ./rag_storage\ntarget:\n  kind: postgres\n  password: $PGPW\n",
    );
    let run = scene
        .tool("--job job.yaml --output human")
        .env("PGPW", "hunter2")
        .secret("hunter2")
        .run();
    snapshot!(scene, run.expect(2));
}

#[test]
fn a_job_file_in_utf_16() {
    let scene = Scene::new();
    let text: Vec<u8> = "\u{feff}source: ./rag_storage\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    std::fs::write(scene.path("job.yaml"), text).unwrap();
    snapshot!(scene, scene.run("--job job.yaml --output human").expect(2));
}

#[test]
fn a_working_dir_of_a_container_in_dot_env() {
    let scene = Scene::new();
    scene.file(".env", "WORKING_DIR=/app/data/rag_storage\n");
    snapshot!(
        scene,
        scene
            .run("--source json --target ./new --yes --output human")
            .expect(4)
    );
}

#[test]
fn a_port_in_the_host_of_dot_env() {
    let scene = Scene::new();
    scene.file(".env", "POSTGRES_HOST=127.0.0.1:5432\n");
    let run = scene.run("--source ./rag_storage --target postgres --retries 0 --output human");
    snapshot!(scene, run);
}

#[test]
fn a_cache_without_records() {
    let scene = Scene::new();
    scene.cache("empty", &serde_json::json!({}));
    let run = scene.run("--source ./empty --target ./new --fail-on-empty --yes --output human");
    snapshot!(scene, run.expect(9));
}

#[test]
fn a_checkpoint_to_resume_from_that_does_not_exist_yet() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --workspace space2 --checkpoint ./ckpt --resume --yes";
    snapshot!(scene, scene.run(&format!("{line} --output human")).expect(0));
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
