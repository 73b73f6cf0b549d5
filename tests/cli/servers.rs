//! Mistakes with servers, and what each is told. The snapshots are of the servers that scripts/services.sh starts.

use opensearch::http::Method;
use serde_json::{Value, json};
use url::Url;

use crate::{
    scene::Scene,
    support::{
        name_server,
        place::{Place, service, variable},
        state,
    },
};

/// The address of a test server, changed.
fn changed(name: &str, change: impl Fn(&mut Url)) -> String {
    let mut url = Url::parse(&service(name)).unwrap();
    change(&mut url);
    url.into()
}

fn with_password(name: &str) -> String {
    changed(name, |url| url.set_password(Some("no such password")).unwrap())
}

/// The same server, spoken to by another scheme: what a login has to do with it is left out.
fn with_scheme(name: &str, scheme: &str, rest: &str) -> String {
    let url = Url::parse(&service(name)).unwrap();
    let port = url.port().unwrap();
    format!("{scheme}://{}:{port}{rest}", url.host_str().unwrap())
}

/// What a mistake with the target is told. None may take long: nobody waits for a server that is not there.
macro_rules! mistakes {
    ($($(#[$attribute:meta])* $name:ident: $address:expr;)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                let scene = Scene::new();
                let line = "--source ./rag_storage --yes --output human --timeout 2s --retries 0 --target";
                let address: String = $address.into();
                let run = snapshot!(scene, scene.run(&format!("{line} {address}")));
                assert_ne!(run.code, 0);
            }
        )*
    };
}

mistakes! {
    #[ignore = "needs the test servers: scripts/services.sh"]
    a_wrong_password_for_redis: with_password("redis");
    #[ignore = "needs the test servers: scripts/services.sh"]
    a_wrong_password_for_postgres: with_password("postgres");
    #[ignore = "needs the test servers: scripts/services.sh"]
    a_wrong_password_for_mongo: with_password("mongo");
    #[ignore = "needs the test servers: scripts/services.sh"]
    a_wrong_password_for_opensearch: with_password("opensearch_tls");
    #[ignore = "needs the test servers: scripts/services.sh"]
    no_password_for_redis: with_scheme("redis", "redis", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    no_password_for_mongo: with_scheme("mongo", "mongodb", "");

    a_wrong_port_for_redis: "redis://127.0.0.1:1";
    a_wrong_port_for_postgres: "postgres://me@127.0.0.1:1/rag";
    a_wrong_port_for_mongo: "mongodb://127.0.0.1:1";
    a_wrong_port_for_opensearch: "http://127.0.0.1:1";

    a_wrong_host_for_redis: "redis://no-such-host.invalid";
    a_wrong_host_for_postgres: "postgres://me@no-such-host.invalid/rag";
    a_wrong_host_for_mongo: "mongodb://no-such-host.invalid";
    a_wrong_host_for_opensearch: "http://no-such-host.invalid";

    #[ignore = "needs the test servers: scripts/services.sh"]
    tls_where_redis_has_none: with_scheme("redis", "rediss", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    tls_where_mongo_has_none: with_scheme("mongo", "mongodb", "/?tls=true");
    #[ignore = "needs the test servers: scripts/services.sh"]
    tls_where_opensearch_has_none: with_scheme("opensearch", "https", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    no_tls_where_redis_wants_it: with_scheme("redis_tls", "redis", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    no_tls_where_mongo_wants_it: with_scheme("mongo_tls", "mongodb", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    no_tls_where_opensearch_wants_it: with_scheme("opensearch_tls", "http", "");

    #[ignore = "needs the test servers: scripts/services.sh"]
    an_unknown_authority_of_redis: service("redis_tls");
    #[ignore = "needs the test servers: scripts/services.sh"]
    an_unknown_authority_of_postgres: changed("postgres", |url| url.set_query(Some("sslmode=verify-full")));
    #[ignore = "needs the test servers: scripts/services.sh"]
    an_unknown_authority_of_mongo: changed("mongo_tls", |url| url.set_query(Some("authSource=admin&tls=true")));

    #[ignore = "needs the test servers: scripts/services.sh"]
    another_server_behind_the_port_of_redis: with_scheme("postgres", "redis", "");
    #[ignore = "needs the test servers: scripts/services.sh"]
    another_server_behind_the_port_of_postgres: with_scheme("opensearch", "postgres", "/rag?user=me");
    #[ignore = "needs the test servers: scripts/services.sh"]
    another_server_behind_the_port_of_mongo: with_scheme("redis", "mongodb", "/");
    #[ignore = "needs the test servers: scripts/services.sh"]
    another_server_behind_the_port_of_opensearch: with_scheme("redis", "http", "");

    #[ignore = "needs the test servers: scripts/services.sh"]
    a_database_that_postgres_does_not_have: changed("postgres", |url| url.set_path("no_such_database"));
    #[ignore = "needs the test servers: scripts/services.sh"]
    a_database_that_redis_does_not_have: changed("redis", |url| url.set_path("99"));
    an_address_of_postgres_without_a_database: "postgres://me@127.0.0.1:1";
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_name_where_the_number_of_a_redis_database_belongs_is_database_0_and_a_warning() {
    let scene = Scene::new();
    let address = changed("redis", |url| url.set_path("space1"));
    let run = scene
        .run(&format!(
            "--source ./rag_storage --target {address} --workspace space1 --dry-run"
        ))
        .expect(0);
    let warning = run.report()["warnings"][0].as_str().unwrap();
    assert!(warning.contains("database 0 is used"), "{warning}");
}

#[test]
fn a_password_that_was_not_encoded_is_no_host() {
    for address in [
        "redis://me:12/hunter2@127.0.0.1",
        "redis://me:12#hunter2@127.0.0.1",
        "mongodb://me:12?hunter2@127.0.0.1/",
        "mongodb://me:12/hunter2@127.0.0.1/",
        "mongodb://me:1@hunter2@127.0.0.1/",
    ] {
        let scene = Scene::new();
        let tool = scene.tool(&format!(
            "--source ./rag_storage --yes --output human --target {address}"
        ));
        let run = tool.secret("hunter2").run().expect(2);
        assert!(
            run.stderr.contains("encoded") || run.stderr.contains("%40"),
            "{}",
            run.stderr
        );
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn options_that_only_pymongo_knows_are_passed_over_with_a_warning() {
    let scene = Scene::new();
    let options = "socketTimeoutMS=30000&uuidRepresentation=standard&compressors=zlib&timeoutMS=5000&maxPoolSize=0&\
                   connect=false&tz_aware=true&fsync=true&foo=bar&authSource=admin";
    let address = changed("mongo", |url| url.set_query(Some(options)));
    let run = scene
        .run(&format!(
            "--source ./rag_storage --target {address} --workspace space1 --dry-run"
        ))
        .expect(0);
    let warnings = run.report()["warnings"].to_string();
    for name in ["socketTimeoutMS", "fsync", "foo"] {
        assert!(warnings.contains(name), "{warnings}");
    }
    for name in ["maxPoolSize", "compressors"] {
        assert!(!warnings.contains(name), "{warnings}");
    }
}

#[test]
fn a_server_that_does_not_answer_as_source_is_code_4() {
    let scene = Scene::new();
    scene
        .run("--source redis://127.0.0.1:1 --target ./new --yes --retries 0")
        .expect(4);
    assert!(!scene.path("new").exists());
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn two_workspaces_that_meet_in_one_index_are_refused() {
    let scene = Scene::new();
    let place = Place::new("opensearch");
    let names = ["A-B", "a_b"].map(|name| place.workspace(name).replace('-', "."));
    let line = format!(
        "--source ./rag_storage --target {} --yes --output human",
        place.address
    );
    let run = scene.run(&format!(
        "{line} --workspace-map space1={} --workspace-map space2={}",
        names[0], names[1]
    ));
    let mut settings = scene.settings();
    settings.add_filter(&place.prefix, "");
    settings.bind(|| insta::assert_snapshot!(crate::scene::told(&run)));
    assert_eq!(run.code, 10);
    assert!(state::of(&place).is_empty());
}

/// A closed index and a data stream may be caches, but cannot be read as such: moving all workspaces is not whole then.
#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn all_workspaces_of_opensearch_without_those_that_cannot_be_read_are_code_3() {
    let scene = Scene::new();
    let place = Place::new("opensearch");
    let [open, closed, stream] = ["open", "closed", "stream"].map(|name| place.workspace(name));
    for workspace in [&open, &closed] {
        let line = format!(
            "--source ./rag_storage --target {} --workspace-map space1={workspace} --yes",
            place.address
        );
        scene.run(&line).expect(0);
    }
    let index = |workspace: &str| format!("{workspace}_llm_response_cache");
    let (template, data_stream) = (
        format!("/_index_template/{}", index(&stream)),
        format!("/_data_stream/{}", index(&stream)),
    );
    let body = json!({"index_patterns": [index(&stream)], "data_stream": {}, "priority": 500});
    let ask = |method, path: &str, body| state::on_thread(state::ask_opensearch(&place, method, path, body));
    ask(Method::Post, &format!("/{}/_close", index(&closed)), None);
    ask(Method::Put, &template, Some(body));
    ask(Method::Put, &data_stream, None);
    let runs = [" --dry-run", ""].map(|mode| {
        let line = format!(
            "--source {} --target ./new --all-workspaces --yes{mode}",
            place.address
        );
        scene.run(&line)
    });
    ask(Method::Delete, &data_stream, None);
    ask(Method::Delete, &template, None);
    for run in runs {
        assert_eq!(run.code, 3, "{}", run.stderr);
        for (workspace, why) in [(&closed, "closed"), (&stream, "data stream")] {
            let is_of = |event: &&Value| {
                let message = event["message"].as_str().unwrap();
                event["kind"] == "unreadable" && message.contains(workspace.as_str()) && message.contains(why)
            };
            assert_eq!(run.events.iter().filter(is_of).count(), 1, "{workspace}");
        }
    }
    assert!(scene.path("new").join(&open).is_dir());
    for workspace in [&closed, &stream] {
        assert!(!scene.path("new").join(workspace).exists());
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn one_place_by_two_names_is_refused() {
    for kind in ["redis", "postgres", "mongo", "opensearch"] {
        let place = Place::new(kind);
        let mut other = Url::parse(&place.address).unwrap();
        other.set_host(Some("localhost")).unwrap();
        let scene = Scene::new();
        let workspace = place.workspace("w");
        let line = format!(
            "--source {} --target {other} --workspace {workspace} --yes",
            place.address
        );
        scene.run(&line).expect(10);
        assert!(state::of(&place).is_empty(), "{kind}");
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn tls_works_where_the_authority_is_named() {
    let authority = variable("TEST_CA_CERT");
    let settings = [
        ("redis", service("redis_tls"), "ca_cert"),
        (
            "mongo",
            changed("mongo_tls", |url| url.set_query(Some("authSource=admin"))),
            "tls_ca_file",
        ),
        ("opensearch", service("opensearch_tls"), "ca_cert"),
        (
            "postgres",
            changed("postgres", |url| url.set_query(Some("sslmode=verify-full"))),
            "ssl_root_cert",
        ),
    ];
    for (kind, uri, field) in settings {
        let scene = Scene::new();
        let job = format!(
            "source: ./rag_storage\ntarget: {{ kind: {kind}, uri: \"{uri}\", {field}: \"{authority}\" }}\n\
             dry_run: true\n"
        );
        scene.file("job.yaml", &job);
        let run = scene.run("--job job.yaml").expect(0);
        assert_eq!(run.stderr, "", "{kind}: no word of an unchecked certificate");
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn tls_works_where_the_system_trusts_the_authority() {
    let authority = variable("TEST_CA_CERT");
    for (kind, uri, field) in [
        ("redis", service("redis_tls"), ""),
        (
            "mongo",
            changed("mongo_tls", |url| {
                url.set_query(Some("authSource=admin&tls=true"))
            }),
            "",
        ),
        ("opensearch", service("opensearch_tls"), ", verify_certs: true"),
        (
            "postgres",
            changed("postgres", |url| url.set_query(Some("sslmode=verify-full"))),
            "",
        ),
    ] {
        let scene = Scene::new();
        scene.file(
            "job.yaml",
            &format!(
                "source: ./rag_storage\ntarget: {{ kind: {kind}, uri: \"{uri}\"{field} }}\ndry_run: true\n"
            ),
        );
        let run = |authority: &str| {
            scene
                .tool("--job job.yaml --retries 0")
                .env("SSL_CERT_FILE", authority)
                .run()
        };
        let trusted = run(&authority).expect(0);
        assert_eq!(trusted.events_of("warning").count(), 0, "{kind}");
        // Neither the file of this system nor what a driver may bring along knows the authority.
        let stranger = run("/etc/ssl/certs/ca-certificates.crt").expect(5);
        assert!(
            stranger.stderr.to_lowercase().contains("certificate"),
            "{kind}: {}",
            stranger.stderr
        );
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_certificate_that_nobody_checks_is_a_warning() {
    for (kind, uri, field) in [
        ("redis", service("redis_tls"), ", verify_certs: false"),
        (
            "mongo",
            changed("mongo_tls", |url| {
                url.set_query(Some("authSource=admin&tls=true"))
            }),
            ", tls_allow_invalid_certificates: true",
        ),
        ("opensearch", service("opensearch_tls"), ""),
    ] {
        let scene = Scene::new();
        scene.file(
            "job.yaml",
            &format!(
                "source: ./rag_storage\ntarget: {{ kind: {kind}, uri: \"{uri}\"{field} }}\ndry_run: true\n"
            ),
        );
        let run = scene.run("--job job.yaml").expect(0);
        let warnings: Vec<_> = run
            .events_of("warning")
            .map(|warning| &warning["message"])
            .collect();
        assert_eq!(warnings.len(), 1, "{kind}: {warnings:?}");
        assert!(
            warnings[0]
                .as_str()
                .unwrap()
                .contains("certificate is not checked"),
            "{kind}: {warnings:?}"
        );
        assert_eq!(run.report()["warnings"][0], *warnings[0]);
    }
}

/// What Atlas gives its users: the name of a cluster, whose servers the name service knows.
#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_cluster_of_mongodb_is_found_by_its_name() {
    let server = Url::parse(&service("mongo_tls")).unwrap();
    name_server::start("rag.test", server.port().unwrap());
    let scene = Scene::new();
    name_server::write_configuration(&scene.path("resolv.conf"));
    let login = format!("{}:{}", server.username(), server.password().unwrap());
    let options = "authSource=admin&tlsAllowInvalidCertificates=true";
    scene.file(
        "job.yaml",
        &format!(
            "source: ./rag_storage\ntarget: mongodb+srv://{login}@cluster.rag.test/?{options}\ndry_run: true\n"
        ),
    );
    let with_name_server = "mount --bind resolv.conf /etc/resolv.conf && exec \"$0\" \"$@\"";
    let run = scene
        .tool("--job job.yaml")
        .env("PATH", "/usr/bin:/bin")
        .by(&["unshare", "--mount", "sh", "-c", with_name_server])
        .run()
        .expect(0);
    let target = &run.report()["target"]["location"];
    assert_eq!(target, "mongodb+srv://rag:***@cluster.rag.test/LightRAG");
    assert!(run.report()["to_move"].as_u64() > Some(0));
}
