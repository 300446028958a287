//! From the settings of a replica to its client.

use super::*;

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
