//! Whole files, as people write them.

use std::path::PathBuf;

use super::*;
use crate::units::GoDuration;

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

/// Resolves the replica of the first database.
fn resolve(text: &str) -> Result<litestream_replica::ReplicaUrl, String> {
    let environment = Environment::new([("HOME".into(), "/home/me".into())]);
    let surroundings = Surroundings::new(&environment, PathBuf::from("/cwd"));
    let meaning = from_text(text, true, &surroundings).map_err(|invalid| invalid.to_string())?;
    meaning.config.dbs[0].replica.as_ref().unwrap().resolve(&surroundings)
}

fn resolve_s3(text: &str) -> litestream_replica::s3::S3Options {
    match resolve(text).unwrap() {
        litestream_replica::ReplicaUrl::S3(options) => options,
        other => panic!("{other:?}"),
    }
}

fn resolve_file(text: &str) -> PathBuf {
    match resolve(text).unwrap() {
        litestream_replica::ReplicaUrl::File(options) => options.path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_scheme_beats_the_type() {
    assert_eq!(resolve_file("dbs: [{path: /a, replica: {type: s3, url: 'file:///r'}}]"), PathBuf::from("/r"));
    assert_eq!(resolve_s3("dbs: [{path: /a, replica: {url: 'S3://b/p'}}]").bucket.as_deref(), Some("b"));
}

#[test]
fn file_paths_become_absolute() {
    for (replica, path) in [
        ("path: r", "/cwd/r"),
        ("path: ~/r", "/home/me/r"),
        ("url: 'file:///srv//r/'", "/srv/r"),
        ("url: 'file://rel/x'", "/rel/x"),
        ("url: 'file:x'", "/cwd/x"),
        ("url: 'file:~/x'", "/home/me/x"),
    ] {
        let text = format!("dbs: [{{path: /a, replica: {{{replica}}}}}]");
        assert_eq!(resolve_file(&text), PathBuf::from(path), "{replica}");
    }
}

#[test]
fn s3_settings_reach_the_client_and_beat_the_url() {
    let options = resolve_s3(
        "
access-key-id: global
dbs:
  - path: /a
    replica:
      url: s3://b/p?region=url&endpoint=localhost:9000&partSize=1
      secret-access-key: s
      region: own
      part-size: 8MB
      concurrency: 0
      force-path-style: no
      storage-class: STANDARD_IA
      sse-kms-key-id: k
",
    );
    assert_eq!(options.bucket.as_deref(), Some("b"));
    assert_eq!(options.path.as_deref(), Some("p"));
    assert_eq!(options.region.as_deref(), Some("own"));
    assert_eq!(options.endpoint.as_deref(), Some("http://localhost:9000"));
    assert_eq!(options.access_key_id.as_deref(), Some("global"));
    assert_eq!(options.secret_access_key.as_deref(), Some("s"));
    assert_eq!(options.part_size, Some(8_000_000));
    assert_eq!(options.concurrency, None, "0 means the default");
    assert_eq!(options.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(options.sse_kms_key_id.as_deref(), Some("k"));
}

/// Whatever a replica may say, in the replica itself and at the top of the file; `type`
/// and the place stay in the replica.
#[test]
fn every_key_reaches_its_client_from_either_place() {
    use litestream_replica::ReplicaUrl;
    use litestream_replica::abs::AbsOptions;
    use litestream_replica::nats::NatsOptions;
    use litestream_replica::oss::OssOptions;
    use litestream_replica::s3::S3Options;
    use litestream_replica::sftp::SftpOptions;
    use litestream_replica::webdav::WebDavOptions;
    use std::time::Duration;

    let text = |text: &str| Some(text.to_owned());
    for (place, keys, wanted) in [
        (
            "type: s3, path: p",
            "bucket: b, region: r, endpoint: e, access-key-id: i, secret-access-key: s, force-path-style: false, \
             skip-verify: true, sign-payload: false, require-content-md5: false, sign-accept-encoding: false, \
             storage-class: c, part-size: 8MiB, concurrency: 3, sse-customer-algorithm: AES256, sse-customer-key: k, \
             sse-kms-key-id: m",
            ReplicaUrl::S3(S3Options {
                bucket: text("b"),
                path: text("p"),
                region: text("r"),
                endpoint: text("e"),
                access_key_id: text("i"),
                secret_access_key: text("s"),
                force_path_style: Some(false),
                skip_verify: Some(true),
                sign_payload: Some(false),
                require_content_md5: Some(false),
                sign_accept_encoding: Some(false),
                storage_class: text("c"),
                part_size: Some(8 << 20),
                concurrency: Some(3),
                sse_customer_algorithm: text("AES256"),
                sse_customer_key: text("k"),
                sse_customer_key_md5: None,
                sse_kms_key_id: text("m"),
            }),
        ),
        (
            "type: abs, path: p",
            "account-name: n, account-key: k, sas-token: t, bucket: b, endpoint: e",
            ReplicaUrl::Abs(AbsOptions {
                account_name: text("n"),
                account_key: text("k"),
                sas_token: text("t"),
                bucket: text("b"),
                path: text("p"),
                endpoint: text("e"),
            }),
        ),
        (
            "type: oss, path: p",
            "bucket: b, region: r, endpoint: e, access-key-id: i, secret-access-key: s, part-size: 1MB, concurrency: 2",
            ReplicaUrl::Oss(OssOptions {
                bucket: text("b"),
                path: text("p"),
                region: text("r"),
                endpoint: text("e"),
                access_key_id: text("i"),
                secret_access_key: text("s"),
                part_size: Some(1_000_000),
                concurrency: Some(2),
            }),
        ),
        (
            "type: webdav, path: p",
            "webdav-url: 'http://h/b', webdav-username: u, webdav-password: 0123",
            ReplicaUrl::WebDav(WebDavOptions {
                url: text("http://h/b"),
                username: text("u"),
                password: text("0123"),
                path: text("p"),
            }),
        ),
        (
            "type: sftp, path: p",
            "host: 'h:1', user: u, password: w, key-path: k, host-key: 'ssh-ed25519 AAAA', concurrent-writes: no",
            ReplicaUrl::Sftp(SftpOptions {
                host: text("h:1"),
                user: text("u"),
                password: text("w"),
                path: text("p"),
                key_path: Some("/cwd/k".into()),
                host_key: text("ssh-ed25519 AAAA"),
                concurrent_writes: Some(false),
            }),
        ),
        (
            "type: nats",
            "bucket: b, jwt: j, seed: s, creds: c, nkey: n, username: u, password: w, token: t, tls: true, \
             root-cas: [a, z], client-cert: cc, client-key: ck, max-reconnects: 4, reconnect-wait: 3s, timeout: 9s",
            ReplicaUrl::Nats(NatsOptions {
                server: None,
                bucket: text("b"),
                jwt: text("j"),
                seed: text("s"),
                creds: text("c"),
                nkey: text("n"),
                username: text("u"),
                password: text("w"),
                token: text("t"),
                tls: Some(true),
                root_cas: vec!["a".into(), "z".into()],
                client_cert: text("cc"),
                client_key: text("ck"),
                max_reconnects: Some(4),
                reconnect_wait: Some(Duration::from_secs(3)),
                timeout: Some(Duration::from_secs(9)),
            }),
        ),
    ] {
        let own = format!("dbs: [{{path: /a, replica: {{{place}, {keys}}}}}]");
        assert_eq!(resolve(&own).as_ref(), Ok(&wanted), "{own}");
        let global = format!(
            "{}\ndbs: [{{path: /a, replica: {{{place}}}}}]",
            keys.replace(", ", "\n").replace("[a\nz]", "[a, z]")
        );
        assert_eq!(resolve(&global), Ok(wanted), "{global}");
    }
}

#[test]
fn a_registered_url_may_leave_the_endpoint_to_the_environment() {
    let environment = Environment::new([("LITESTREAM_S3_ENDPOINT".into(), "localhost:9000".into())]);
    for (url, endpoint) in [
        ("s3://b/p", Some("http://localhost:9000")),
        ("s3://b/p?region=r", Some("http://localhost:9000")),
        ("s3://b/p?endpoint=https://own", Some("https://own")),
        ("s3://b.nyc3.digitaloceanspaces.com/p", Some("https://nyc3.digitaloceanspaces.com")),
    ] {
        let surroundings = Surroundings::new(&environment, PathBuf::from("/cwd"));
        let resolved = ReplicaSettings::from_registered_url(url, &environment).resolve(&surroundings).unwrap();
        let litestream_replica::ReplicaUrl::S3(options) = resolved else { panic!("{url} is not s3") };
        assert_eq!(options.endpoint.as_deref(), endpoint, "{url}");
    }
    let nats = ReplicaSettings::from_registered_url("nats://h/b", &environment);
    assert_eq!(nats.url.as_deref(), Some("nats://h/b"));
}

#[test]
fn a_customer_key_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, " c2VjcmV0\n").unwrap();
    let text = format!(
        "dbs: [{{path: /a, replica: {{type: s3, bucket: b, sse-customer-key: x, sse-customer-key-path: {}}}}}]",
        file.display()
    );
    assert_eq!(resolve_s3(&text).sse_customer_key.as_deref(), Some("c2VjcmV0"));
    let missing = "dbs: [{path: /a, replica: {type: s3, bucket: b, sse-customer-key-path: /nope}}]";
    assert!(resolve(missing).unwrap_err().starts_with("cannot read sse-customer-key-path \"/nope\": "));
}

#[test]
fn a_url_has_a_scheme() {
    for url in ["/r", "mybucket/path"] {
        let error = resolve(&format!("dbs: [{{path: /a, replica: {{url: {url}}}}}]")).unwrap_err();
        assert_eq!(error, format!("replica url scheme required: {url}"));
    }
}

#[test]
fn a_place_is_said_once() {
    for (replica, key) in [
        ("url: 's3://b/p', bucket: c", "bucket"),
        ("url: 's3://b/p', path: q", "path"),
        ("url: 'file:///r', path: /q", "path"),
    ] {
        let error = resolve(&format!("dbs: [{{path: /a, replica: {{{replica}}}}}]")).unwrap_err();
        assert!(error.starts_with(&format!("cannot specify url & {key} for ")), "{error}");
    }
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

/// CFG-4: the original took this for a file replica and wrote to the local disk.
#[test]
fn a_type_is_not_overridden_by_something_that_is_no_url() {
    for url in ["mybucket/path", "/mybucket/path"] {
        let text = format!("dbs: [{{path: /a, replica: {{type: s3, url: '{url}'}}}}]");
        assert_eq!(resolve(&text).unwrap_err(), format!("replica url scheme required: {url}"));
    }
}

/// CFG-9: configurations of 0.3 say `gcs`.
#[test]
fn the_old_name_of_google_storage_is_understood_with_a_warning() {
    for replica in ["type: gcs, bucket: b, path: p", "url: 'gcs://b/p'"] {
        let text = format!("dbs:\n  - path: /a\n    replica: {{{replica}}}\n");
        assert_eq!(warnings(&text), ["3: the replica type \"gcs\" is called \"gs\" since 0.5"]);
        match resolve(&text).unwrap() {
            litestream_replica::ReplicaUrl::Gs(options) => {
                assert_eq!((options.bucket.as_deref(), options.path.as_deref()), (Some("b"), Some("p")));
            }
            other => panic!("{other:?}"),
        }
    }
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
