//! Whole files, as people write them.

use std::path::PathBuf;

use super::*;
use crate::units::GoDuration;

mod replicas;

fn load_with(variables: &[(&str, &str)], text: &str) -> Result<(Config, Vec<Warning>), String> {
    let environment = Environment::new(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    let meaning = from_text(text, true, &Surroundings::new(&environment, PathBuf::from("/cwd")));
    meaning.map(|meaning| (meaning.config, meaning.warnings)).map_err(|invalid| invalid.to_string())
}

fn load(text: &str) -> Result<Config, String> {
    load_with(&[("HOME", "/home/me")], text).map(|(config, _)| config)
}

fn warnings(text: &str) -> Vec<String> {
    load_with(&[], text)
        .unwrap()
        .1
        .into_iter()
        .map(|warning| format!("{}: {}", warning.line, warning.message))
        .collect()
}

#[test]
fn an_empty_file_has_every_default() {
    for text in ["", "# only a comment\n", "dbs: []", "dbs:", "{}", "~"] {
        let config = load(text).unwrap();
        assert!(config.dbs.is_empty(), "{text:?}");
        assert_eq!(config.levels.iter().map(ToString::to_string).collect::<Vec<_>>(), ["30s", "5m0s", "1h0m0s"]);
        assert_eq!(config.snapshot.interval.to_string(), "24h0m0s");
        assert_eq!(config.snapshot.retention.to_string(), "24h0m0s");
        assert_eq!(config.l0_retention.to_string(), "5m0s");
        assert_eq!(config.l0_retention_check_interval.to_string(), "15s");
        assert_eq!(config.shutdown_sync_timeout.to_string(), "30s");
        assert_eq!(config.shutdown_sync_interval.to_string(), "500ms");
        assert_eq!(config.heartbeat_interval.to_string(), "5m0s");
        assert_eq!(config.socket.path, "/var/run/litestream.sock");
        assert_eq!(config.socket.permissions, 0o600);
        assert!(!config.socket.enabled && config.retention_enabled && !config.verify_compaction);
        assert!(config.inactive_keys.is_empty());
    }
}

/// L1: a default stands in two places, and they agree.
#[test]
fn the_library_has_the_same_defaults() {
    let config = load("dbs: [{path: /data/a.db, replica: {url: 'file:///r'}}]").unwrap();
    for config in [&config, &Config::default()] {
        let options = crate::daemon::store_options(config).unwrap();
        assert_eq!(format!("{options:?}"), format!("{:?}", litestream::StoreOptions::default()));
    }
    let options = config.dbs[0].options().unwrap();
    assert_eq!(format!("{options:?}"), format!("{:?}", litestream::DbOptions::new("/data/a.db")));
}

#[test]
fn the_example_with_every_level_is_read() {
    let config = load(
        "
sync-interval: 2s
addr: \":9090\"
levels: [{interval: 30s}, {interval: 5m}]
snapshot: {interval: 12h, retention: 72h}
dbs:
  - path: /data/app.db
    replica:
      url: s3://bucket/app
  - dir: /data/tenants
    pattern: \"*.db\"
    recursive: true
    watch: true
    replica: {url: s3://bucket/tenants, sync-interval: 5s}
",
    )
    .unwrap();
    assert_eq!(config.levels.len(), 2);
    assert!(config.inactive_keys.is_empty());
    let sync = |index: usize| config.dbs[index].replica.as_ref().unwrap().sync_interval;
    assert_eq!(sync(0), Some(GoDuration::from_secs(2)), "the global value fills in");
    assert_eq!(sync(1), Some(GoDuration::from_secs(5)), "an own value stays");
    assert!(config.dbs[1].recursive && config.dbs[1].watch);
}

#[test]
fn every_documented_key_is_known() {
    let text = "
addr: a:1
mcp-addr: a:2
exec: x
socket: {enabled: no, path: /s, permissions: 0660}
logging: {level: debug, type: json, stderr: yes, source: on}
levels: [{interval: 1m}]
snapshot: {interval: 1h, retention: 2h}
l0-retention: 0
l0-retention-check-interval: 1s
retention: {enabled: false}
validation: {interval: 1h}
verify-compaction: true
shutdown-sync-timeout: 0
shutdown-sync-interval: 1s
heartbeat-url: https://x
heartbeat-interval: 1m
validation-interval: 1h
auto-recover: true
dbs:
  - path: /a
    meta-path: /m
    monitor-interval: 2s
    checkpoint-interval: 3s
    busy-timeout: 4s
    min-checkpoint-page-count: 10
    truncate-page-n: 20
    max-sync-wal-bytes: 30
    restore-if-db-not-exists: true
    replica:
      type: s3
      name: old
      path: p
      bucket: b
      region: r
      endpoint: e
      access-key-id: 0123
      secret-access-key: s
      force-path-style: true
      skip-verify: false
      sign-payload: true
      require-content-md5: true
      sign-accept-encoding: false
      storage-class: STANDARD_IA
      part-size: 5Mi
      concurrency: 3
      sse-customer-algorithm: AES256
      sse-customer-key: k
      sse-customer-key-path: /k
      sse-kms-key-id: id
      max-sync-ltx-files: 0
      age: {identities: [], recipients: []}
  - dir: /d
    pattern: '*.db'
    recursive: true
    watch: true
    meta-dir: /md
    replica: {type: nats, url: 'nats://h/b', jwt: j, seed: s, creds: c, nkey: n, username: u, password: p, token: t,
      tls: true, root-cas: [a], client-cert: c, client-key: k, max-reconnects: -1, reconnect-wait: 2s, timeout: 10s}
  - path: /c
    replicas: [{type: sftp, host: h, user: u, key-path: /k, host-key: hk, concurrent-writes: false}]
  - path: /e
    replica: {type: webdav, webdav-url: w, webdav-username: u, webdav-password: p, account-name: a, account-key: k, sas-token: s}
";
    let about: Vec<String> = warnings(text).into_iter().filter(|warning| !warning.contains("lifecycle rule")).collect();
    assert_eq!(about, Vec::<String>::new());
    let config = load(text).unwrap();
    assert_eq!(config.socket.permissions, 0o660);
    let replica = config.dbs[0].replica.as_ref().unwrap();
    assert_eq!(replica.access_key_id.as_deref(), Some("0123"));
    assert_eq!(replica.part_size, Some(5 << 20));
    assert_eq!(replica.skip_verify, Some(false));
    assert_eq!(replica.auto_recover, Some(true));
}

#[test]
fn unknown_keys_are_pointed_out_and_ignored() {
    assert_eq!(
        warnings("Path: /x\ndbs:\n  - path: /a\n    replica:\n      url: file:///r\n      retention: 24h\n"),
        [
            "1: unknown key \"Path\" is ignored",
            "6: unknown key \"retention\" in dbs[0].replica is ignored; since 0.5 \"snapshot.retention\" at the top of \
             the file says how long backups are kept"
        ]
    );
    assert_eq!(
        warnings("dbs:\n  - path: /a\n    monitor-intervall: 1s\n")[0].matches("monitor-interval\"?").count(),
        1
    );
}

#[test]
fn sections_with_nothing_in_them_keep_their_defaults() {
    let config = load("snapshot:\nsocket:\nlogging:\nretention:\nvalidation:\nl0-retention:\n").unwrap();
    assert_eq!(config.snapshot.interval.to_string(), "24h0m0s");
    assert!(config.retention_enabled);
    assert!(load("levels:\n").unwrap().levels.is_empty(), "no levels is a choice");
    assert!(load("levels: []\n").unwrap().levels.is_empty());
}

#[test]
fn paths_become_absolute() {
    let config = load("dbs: [{path: a/../b.db, meta-path: m}, {path: ~/c.db}, {path: 'sqlite:///x.db'}]").unwrap();
    let paths: Vec<_> = config.dbs.iter().map(DbConfig::place).collect();
    assert_eq!(paths, ["/cwd/b.db", "/home/me/c.db", "/x.db"]);
    assert_eq!(config.dbs[0].meta_path, Some(PathBuf::from("/cwd/m")));
}

#[test]
fn violations_are_reported_in_the_known_words() {
    for (text, message) in [
        ("snapshot: {interval: 0}", "snapshot.interval: snapshot interval must be greater than 0 (got 0s)"),
        ("snapshot: {retention: -1h}", "snapshot.retention: snapshot retention must be greater than 0 (got -1h0m0s)"),
        ("l0-retention: -1s", "l0-retention: l0 retention must not be negative (got -1s)"),
        (
            "l0-retention-check-interval: 0s",
            "l0-retention-check-interval: l0 retention check interval must be greater than 0 (got 0s)",
        ),
        ("shutdown-sync-timeout: -1s", "shutdown-sync-timeout: shutdown-sync-timeout must be >= 0 (got -1s)"),
        ("heartbeat-url: foo", "heartbeat-url: heartbeat URL must be a valid HTTP or HTTPS URL (got foo)"),
        ("heartbeat-interval: 30s", "heartbeat-interval: heartbeat interval must be at least 1 minute (got 30s)"),
        ("levels: [{interval: 0s}]", "levels[0].interval: compaction interval must be greater than 0 (got 0s)"),
        ("levels: [null]", "levels[0].interval: compaction interval must be greater than 0 (got 0s)"),
        ("dbs: [{path: /a, dir: /b}]", "database config #1: cannot specify both 'path' and 'dir'"),
        ("dbs: [{}]", "database config #1: must specify either 'path' or 'dir'"),
        ("dbs: [null]", "database config #1: must specify either 'path' or 'dir'"),
        (
            "dbs: [{path: /x}, {path: /y/../x}]",
            "database config #2: duplicate path \"/x\" (already used by database config #1); each database can be listed only once",
        ),
        ("dbs: [{dir: /d}]", "database config #1: 'pattern' is required when using 'dir'"),
        ("dbs: [{path: /d, watch: true}]", "database config #1: 'watch' can only be enabled with a directory"),
        ("dbs: [{path: /d, meta-dir: /m}]", "database config #1: 'meta-dir' can only be used with a directory"),
        (
            "dbs: [{dir: /d, pattern: x, meta-dir: /m, meta-path: /p}]",
            "database config #1: cannot specify both 'meta-path' and 'meta-dir'",
        ),
        (
            "dbs: [{path: /x, snapshot: {retention: -1h}}]\nsnapshot: {retention: 1h}",
            "dbs[/x].snapshot.retention: snapshot retention must be greater than 0 (got -1h0m0s)",
        ),
        (
            "dbs: [{path: /data/a.db, replica: {sync-interval: 0}}]",
            "dbs[/data/a.db].replica.sync-interval: sync interval must be greater than 0 (got 0s)",
        ),
        (
            "dbs: [{path: /x, replicas: [{sync-interval: -1s}]}]",
            "dbs[/x].replicas[0].sync-interval: sync interval must be greater than 0 (got -1s)",
        ),
        (
            "dbs: [{path: /x, snapshot: {interval: 1h}}, {path: /y, snapshot: {interval: 2h}}]",
            "conflicting database snapshot intervals: /x has 1h0m0s, /y has 2h0m0s",
        ),
        ("dbs: [{path: /x, replica: {part-size: 5XB}}]", "invalid size format: unhandled size name: xb (part-size)"),
        ("logging: {type: xml}", "logging.type: must be text, json or pretty (got xml)"),
    ] {
        assert_eq!(load(text).unwrap_err(), message, "{text}");
    }
    let nine = format!("levels: [{}]", ["{interval: 1s}"; 9].join(", "));
    assert_eq!(load(&nine).unwrap_err(), "compaction level cannot exceed 8");
}

#[test]
fn wrong_types_name_every_line() {
    let error = load("socket:\n  enabled: \"true\"\nretention: 24h\nlevels: x\n").unwrap_err();
    assert_eq!(
        error,
        "yaml: unmarshal errors:\n  line 2: cannot unmarshal !!str `true` into bool; remove the quotes\n  line 3: cannot unmarshal !!str `24h` into mapping\n  line 4: cannot unmarshal !!str `x` into list"
    );
    for text in [
        "dbs: [{path: /a, replica: 'file:///r'}]",
        "logging: info",
        "- a",
        "just text",
        "dbs: {a: 1}",
        "dbs: [{path: [1]}]",
    ] {
        assert!(load(text).unwrap_err().starts_with("yaml: unmarshal errors:\n  line 1: "), "{text}");
    }
}

#[test]
fn a_databases_snapshot_settings_become_global_unless_the_file_says_otherwise() {
    let config = load("dbs: [{path: /x, snapshot: {interval: 1h, retention: 48h}}]").unwrap();
    assert_eq!(config.snapshot.interval.to_string(), "1h0m0s");
    assert_eq!(config.snapshot.retention.to_string(), "48h0m0s");
    let config = load("snapshot: {interval: 2h}\ndbs: [{path: /x, snapshot: {interval: 1h, retention: 48h}}]").unwrap();
    assert_eq!(config.snapshot.interval.to_string(), "2h0m0s");
    assert_eq!(config.snapshot.retention.to_string(), "48h0m0s");
}

#[test]
fn global_replica_settings_fill_what_a_replica_leaves_out() {
    let config = load(
        "
access-key-id: global
region: eu
part-size: 10MB
skip-verify: true
dbs:
  - path: /a
    replica: {bucket: b, region: us, access-key-id: '', skip-verify: false}
  - path: /b
    replicas: [{bucket: b}]
",
    )
    .unwrap();
    let own = config.dbs[0].replica.as_ref().unwrap();
    assert_eq!(own.region.as_deref(), Some("us"));
    assert_eq!(own.access_key_id.as_deref(), Some("global"), "an empty text cannot override");
    assert_eq!(own.skip_verify, Some(false), "certificates are checked where the replica says so");
    let old = &config.dbs[1].replicas[0];
    assert_eq!(old.region.as_deref(), Some("eu"));
    assert_eq!(old.part_size, Some(10_000_000));
}

#[test]
fn a_global_bucket_does_not_compete_with_a_url() {
    let config =
        load("bucket: g\nhost: h\ndbs: [{path: /a, replica: {url: 's3://b/p'}}, {path: /b, replica: {type: s3}}]")
            .unwrap();
    assert_eq!(config.dbs[0].replica.as_ref().unwrap().bucket, None);
    assert_eq!(config.dbs[1].replica.as_ref().unwrap().bucket.as_deref(), Some("g"));
}

#[test]
fn variables_may_bring_yaml() {
    let (config, _) =
        load_with(&[("ENTRY", "{path: /a}"), ("ON", "yes")], "dbs: [$ENTRY]\nsocket: {enabled: ${ON}}").unwrap();
    assert_eq!(config.dbs[0].place(), "/a");
    assert!(config.socket.enabled);
}

/// A key that is added to the file and forgotten in `litestream config` would be
/// taken for one without effect.
#[test]
fn every_key_that_is_read_is_shown_by_the_config_command() {
    fn places(tree: &effective::Tree, place: &str, found: &mut Vec<String>) {
        match tree {
            effective::Tree::Setting(..) => found.push(place.to_owned()),
            effective::Tree::Section(entries) => {
                let dot = if place.is_empty() { "" } else { "." };
                entries.iter().for_each(|(key, inner)| places(inner, &format!("{place}{dot}{key}"), found));
            }
            effective::Tree::List(elements) => {
                let numbered = elements.iter().enumerate();
                numbered.for_each(|(index, inner)| places(inner, &format!("{place}[{index}]"), found));
            }
            effective::Tree::Facts(_) => {}
        }
    }
    let text = "
levels: [{interval: 1m}]
socket: {}
logging: {}
snapshot: {}
retention: {}
validation: {}
dbs:
  - {path: /a, snapshot: {interval: 1h, retention: 1h}, replica: {path: /r}}
  - {dir: /d, pattern: x, meta-dir: /m, replica: {url: 'file:///q'}}
";
    let environment = Environment::default();
    let surroundings = Surroundings::new(&environment, PathBuf::from("/cwd"));
    let meaning = from_text(text, true, &surroundings).unwrap();
    let mut problems = Problems::default();
    Config::default().read(meaning.document.root.as_ref().unwrap(), &mut problems);
    let mut shown = Vec::new();
    places(&effective::tree(&meaning.config, &meaning.document, &surroundings).unwrap(), "", &mut shown);
    // A replica shows what is set; these are the keys it knows.
    let settings = meaning.config.dbs[0].replica.as_ref().unwrap().settings();
    shown.extend(settings.iter().flat_map(|(key, _)| [(*key).to_owned(), format!("dbs[0].replica.{key}")]));
    let without_own_line = [
        "name",
        "age",
        "lease",
        "replicas",
        "levels",
        "socket",
        "logging",
        "snapshot",
        "retention",
        "validation",
        "dbs",
    ];
    for known in problems.known_keys {
        let key = known.rsplit('.').next().unwrap();
        let of_other_kind =
            known.starts_with("dbs[1]") || ["dir", "pattern", "recursive", "watch", "meta-dir"].contains(&key);
        let is_place = known == "dbs[0].replica"
            || known == "dbs[0].replica.url"
            || key.starts_with("age")
            || known.contains("age.");
        assert!(
            shown.contains(&known) || without_own_line.contains(&key) || of_other_kind || is_place,
            "{known} is read and not shown: {shown:?}"
        );
    }
    for key in ["dir", "pattern", "recursive", "watch", "meta-dir"] {
        assert!(shown.contains(&format!("dbs[1].{key}")), "{key}");
    }
}

/// CFG-1: zero has one documented meaning for each key.
#[test]
fn zero_is_accepted_where_it_means_something() {
    for text in [
        "l0-retention: 0",
        "shutdown-sync-timeout: 0",
        "validation: {interval: 0}",
        "dbs: [{path: /a, checkpoint-interval: 0, max-sync-wal-bytes: 0, truncate-page-n: 0, busy-timeout: 0}]",
        "dbs: [{path: /a, replica: {path: /r, max-sync-ltx-files: 0, concurrency: 0, part-size: 0}}]",
    ] {
        assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    }
    let warned = warnings("dbs: [{path: /a, monitor-interval: 0}]");
    assert_eq!(warned, ["1: monitor-interval: 0 switches replication off"]);
}

/// CFG-13: a rule of the bucket knows ages and not which snapshot is the last.
#[test]
fn retention_that_is_left_to_the_bucket_is_warned_about() {
    let warned = warnings("retention:\n  enabled: false\n");
    assert!(warned.len() == 1 && warned[0].starts_with("2: retention.enabled: nothing is ever deleted"), "{warned:?}");
    assert_eq!(warnings("retention: {enabled: true}"), Vec::<String>::new());
}

#[test]
fn permissions_that_are_not_octal_are_warned_about() {
    assert_eq!(
        warnings("socket: {permissions: 660}"),
        ["1: socket.permissions: 660 is decimal and means mode 0o1224; write 0660"]
    );
    for text in ["0660", "0o660", "432", "0"] {
        let warned = warnings(&format!("socket: {{permissions: {text}}}"));
        assert_eq!(warned.len(), usize::from(text == "432"), "{text}: {warned:?}");
    }
}

#[test]
fn sizes_have_units_wherever_bytes_are_counted() {
    let bytes = |text: &str| {
        load(&format!("dbs: [{{path: /a, max-sync-wal-bytes: {text}}}]")).map(|config| config.dbs[0].max_sync_wal_bytes)
    };
    assert_eq!(bytes("64MiB"), Ok(Some(64 << 20)));
    assert_eq!(bytes("1_000"), Ok(Some(1000)));
    assert_eq!(bytes("-1"), Ok(Some(-1)));
    assert!(bytes("'5'").is_err() && bytes("5XB").is_err());
}

/// Every complaint about a file says where in the file.
#[test]
fn complaints_name_file_and_line() {
    let environment = Environment::new([("TWO".into(), "1\nx: 2".into())]);
    let surroundings = Surroundings::new(&environment, PathBuf::from("/cwd"));
    let complaint = |text: &str| from_text(text, true, &surroundings).unwrap_err().in_file(Path::new("/c.yml"));
    for (text, message) in [
        ("a: 1\nb: *nope\n", "(/c.yml:2)"),
        ("x: $TWO\nsnapshot:\n  interval: 0\n", "must be greater than 0 (got 0s) (/c.yml:3)"),
        ("dbs:\n  - path: /a\n  - path: /b\n    watch: true\n", "can only be enabled with a directory (/c.yml:4)"),
        ("dbs:\n  - path: /a\n  - path: /a\n", "can be listed only once (/c.yml:3)"),
        ("dbs:\n  - path: /a\n    replica:\n      part-size: 5XB\n", "size name: xb (part-size) (/c.yml:4)"),
        (
            "retention: 24h\naddr: [1]\n",
            "into mapping (/c.yml:1)\n  line 2: cannot unmarshal !!seq into string (/c.yml:2)",
        ),
    ] {
        let complaint = complaint(text);
        assert!(complaint.ends_with(message), "{text:?}: {complaint}");
    }
}
