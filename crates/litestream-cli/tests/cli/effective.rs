//! `config`: what takes effect, and where it came from.

use crate::Sandbox;

const FILE: &str = "\
region: eu-west-1
secret-access-key: $SECRET
snapshot:
  retention: 72h
levels: [{interval: 1m}]
dbs:
  - path: a.db
    snapshot: {interval: 6h}
    replica:
      url: s3://bucket/app?endpoint=localhost:9000
      part-size: 8MiB
  - dir: tenants
    pattern: '*.db'
    recursive: true
    replica:
      path: replicas
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new().with("SECRET", "hunter2").with("LITESTREAM_ACCESS_KEY_ID", "AKIA");
    std::fs::create_dir_all(sandbox.path("tenants/acme")).unwrap();
    sandbox.database("tenants/acme/t.db", 1);
    sandbox.write("c.yml", FILE);
    sandbox
}

#[test]
fn every_value_stands_with_its_source() {
    let sandbox = sandbox();
    let outcome = sandbox.run(&["config", "-config", "c.yml"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert!(outcome.stdout.starts_with(&format!("# {}\n", sandbox.text("c.yml"))), "{outcome:?}");
    let line = |start: &str| {
        let found = outcome.stdout.lines().find(|line| line.trim_start().starts_with(start));
        let found = found.unwrap_or_else(|| panic!("no {start} in {}", outcome.stdout));
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (start, expected) in [
        ("addr:", "addr: \"\" # default"),
        ("- interval:", "- interval: 1m0s # line 5"),
        ("retention: 72h", "retention: 72h0m0s # line 4"),
        ("interval: 6h", "interval: 6h0m0s # line 8"),
        ("monitor-interval:", "monitor-interval: 1s # default"),
        ("permissions:", "permissions: 0600 # default"),
        ("type: s3", "type: s3 # line 10"),
        ("type: file", "type: file # default"),
        ("part-size:", "part-size: 8388608 # line 11"),
        ("region:", "region: eu-west-1 # line 1"),
        ("secret-access-key:", "secret-access-key: \"***\" # line 2, $SECRET"),
        ("access-key-id:", "access-key-id: AKIA # environment AWS_ACCESS_KEY_ID"),
        ("# bucket:", "# bucket: bucket"),
        (
            "# database:",
            &format!(
                "# database: {0}/tenants/acme/t.db -> {0}/replicas/acme/t.db",
                sandbox.text("").trim_end_matches('/')
            ),
        ),
    ] {
        assert_eq!(line(start), expected);
    }
    assert!(!outcome.stdout.contains("hunter2"), "{outcome:?}");
}

/// What is printed is itself a configuration that means the same.
#[test]
fn the_printed_configuration_means_the_same() {
    let sandbox = sandbox();
    let first = sandbox.run(&["config", "-config", "c.yml"]).stdout;
    sandbox.write("c2.yml", &first);
    let second = sandbox.run(&["config", "-config", "c2.yml"]);
    assert_eq!((second.code, second.stderr.as_str()), (0, ""), "{second:?}");
    let values = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.map(|line| line.split("  # ").next().unwrap().trim_end().to_owned()).collect()
    };
    assert_eq!(values(&second.stdout), values(&first));
}

#[test]
fn json_gives_each_value_as_an_object() {
    let sandbox = sandbox();
    let outcome = sandbox.run(&["config", "-json", "-config", "c.yml"]);
    let document: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(document["file"], sandbox.text("c.yml"));
    assert_eq!(document["warnings"], serde_json::json!([]));
    let config = &document["config"];
    assert_eq!(config["addr"], serde_json::json!({"value": "", "source": "default"}));
    assert_eq!(config["snapshot"]["retention"], serde_json::json!({"value": "72h0m0s", "source": "file", "line": 4}));
    let replica = &config["dbs"][0]["replica"];
    assert_eq!(
        replica["secret-access-key"],
        serde_json::json!({"value": "***", "source": "file", "line": 2, "variables": ["SECRET"]})
    );
    assert_eq!(replica["resolved"][0], serde_json::json!({"name": "type", "value": "s3"}));
    assert!(!outcome.stdout.contains("hunter2"), "{outcome:?}");
}

#[test]
fn a_file_that_replicate_would_refuse_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("c.yml", "dbs:\n  - path: /a\n    replica: {type: file}\n  - path: /b\n");
    sandbox.run(&["config", "-config", "c.yml"]).fails_with(&[
        "Error: file replica path required (/a, line 2)",
        "Error: must specify replica for database (/b, line 4)",
    ]);
    sandbox.write("c.yml", "socket:\n  enabled: maybe\n");
    sandbox.run(&["config", "-json", "-config", "c.yml"]).fails_with(&[
        "Error: yaml: unmarshal errors:",
        &format!("  line 2: cannot unmarshal !!str `maybe` into bool ({file}:2)"),
    ]);
    sandbox.write("c.yml", "dbs: [{path: /x, replica: {path: /r}}, {path: /y, replica: {path: /r}}]");
    let outcome = sandbox.run(&["config", "-config", "c.yml"]);
    assert!(outcome.stderr.starts_with("Error: /x and /y share one replica"), "{outcome:?}");
    sandbox.write("c.yml", "exec: a && b\n");
    assert_eq!(sandbox.run(&["config", "-config", "c.yml"]).code, 1);
}

#[test]
fn strict_makes_every_warning_an_error() {
    let sandbox = Sandbox::new();
    let file = sandbox
        .write("c.yml", "dbs:\n  - path: /a\n    monitor-intreval: 1s\n    replica: {path: /r, url: ''}\nfoo: 1\n");
    let lenient = sandbox.run(&["config", "-config", "c.yml"]);
    assert_eq!(lenient.code, 0, "{lenient:?}");
    assert_eq!(lenient.stderr.lines().count(), 2, "{lenient:?}");
    for arguments in [&["config"][..], &["replicate", "-once"]] {
        let arguments: Vec<&str> = arguments.iter().chain(&["-strict", "-config", "c.yml"]).copied().collect();
        sandbox.run(&arguments).fails_with(&[
            &format!("Error: unknown key \"monitor-intreval\" in dbs[0] is ignored, did you mean \"monitor-interval\"? ({file}:3)"),
            &format!("unknown key \"foo\" is ignored ({file}:5)"),
        ]);
    }
}

#[test]
fn keys_of_older_versions_say_where_they_went() {
    let sandbox = Sandbox::new();
    sandbox.write("c.yml", "dbs:\n  - path: /a\n    replica: {path: /r, retention: 72h}\n");
    let outcome = sandbox.run(&["config", "-config", "c.yml"]);
    assert!(outcome.stderr.contains("\\\"snapshot.retention\\\" at the top of the file"), "{outcome:?}");
    assert_eq!(outcome.code, 0);
}
