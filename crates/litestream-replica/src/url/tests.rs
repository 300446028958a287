//! Addresses as people write them, odd and damaged ones included.

use super::*;

fn path_of(text: &str) -> String {
    match ReplicaUrl::parse(text).unwrap() {
        ReplicaUrl::File(options) => options.path.display().to_string(),
        #[allow(unreachable_patterns, reason = "without features there is nothing else")]
        _ => panic!("{text} is not a file replica"),
    }
}

#[test]
fn file_urls_name_directories() {
    for (url, path) in [
        ("file:///abs/dir", "/abs/dir"),
        ("FILE:///abs/dir", "/abs/dir"),
        ("file:///abs//dir/../x/", "/abs/x"),
        ("file://rel/path", "/rel/path"),
        ("file://~/x", "/~/x"),
        ("file:x/y", "x/y"),
        ("file:~/x", "~/x"),
        ("file:///a/b?x=1", "/a/b"),
        ("file:///a#frag", "/a#frag"),
        ("file:///srv/sp ace", "/srv/sp%20ace"),
        ("file:///a%20b", "/a%20b"),
        ("/var/backups/db", "/var/backups/db"),
        ("/var/backups/../db/", "/var/db"),
    ] {
        assert_eq!(path_of(url), path, "{url}");
    }
}

#[test]
fn wrong_urls_are_named() {
    for (url, message) in [
        ("mybucket/path", "replica url scheme required: mybucket/path"),
        ("localhost:9000/x", "replica url scheme required: localhost:9000/x"),
        ("", "replica url scheme required: "),
        ("me:secret@host/x", "replica url scheme required: …@host/x"),
        ("sftp:/user:hunter2@host/db", "replica url scheme required: …@host/db"),
        ("user:hunter2@host/db", "replica url scheme required: …@host/db"),
        ("http://x/y", "unknown replica type in config: \"http\""),
        ("gcs://b/p", "unknown replica type in config: \"gcs\""),
        ("file:", "file replica path required"),
        ("file:///a%zz", "parse \"file:///a%zz\": invalid URL escape \"%zz\""),
    ] {
        let error = ReplicaUrl::parse(url).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Setup, message), "{url}");
    }
}

#[test]
fn signs_that_cut_a_password_are_explained_and_not_quoted() {
    for url in ["sftp://me:hun/ter@h/x", "webdav://me:hun#ter@h/x", "nats://me:hun?ter@h/b"] {
        let error = ReplicaUrl::parse(url).unwrap_err().to_string();
        assert!(error.contains("must be percent-encoded") && !error.contains("hun"), "{url}: {error}");
    }
    for url in ["sftp://me@[::1]/a@b", "s3://b/a@b", "webdav://h:80/a@b", "s3://arn:aws:s3:eu:1:accesspoint/n/a@b"] {
        assert!(ReplicaUrl::parse(url).is_ok(), "{url}");
    }
}

#[test]
fn messages_do_not_show_user_information() {
    let error = SplitUrl::parse("s3://user:hunter2@bucket/%zz").unwrap().path().unwrap_err();
    assert_eq!(error.to_string(), "parse \"s3://bucket/%zz\": invalid URL escape \"%zz\"");
}

#[test]
fn replica_urls_are_told_from_paths() {
    for text in ["s3://b/p", "file:///x", "unknown://x"] {
        assert!(is_replica_url(text), "{text}");
    }
    for text in ["/var/db", "db.sqlite", "file:x", "://x", "a b://x", "./s3://b"] {
        assert!(!is_replica_url(text), "{text}");
    }
}

#[test]
fn query_values_are_decoded_and_the_first_one_counts() {
    let url = SplitUrl::parse("s3://b/p?a=1%2F2+3&a=9&bad=%zz&empty").unwrap();
    assert_eq!(url.query(&["a"]), Some("1/2 3"));
    assert_eq!(url.query(&["bad"]), None);
    assert_eq!(url.query(&["missing", "empty"]), Some(""));
}

#[test]
fn passwords_that_were_not_escaped_are_not_taken_for_a_host() {
    for url in ["sftp://user:hun/ter2@host/db", "nats://user:hun?ter2@h/b", "webdavs://user:hun#ter2@h/db"] {
        let error = ReplicaUrl::parse(url).unwrap_err().to_string();
        assert!(error.contains("percent-encoded") && !error.contains("hun"), "{error}");
    }
    for url in ["sftp://u@host:22/a@b", "s3://bucket/a@b", "webdav://[::1]:80/a@b", "gs://bucket/x:y@z"] {
        ReplicaUrl::parse(url).unwrap();
    }
}

/// A URL may hold a password anywhere; whatever is wrong with it, the message
/// does not repeat what stands before the `@`.
#[test]
fn no_url_crashes_and_no_error_repeats_the_password() {
    let urls = [
        "s3://bucket.s3.eu-west-1.amazonaws.com/db?endpoint=http://h:9000&region=eu&forcePathStyle=true",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/ap/db",
        "abs://account@container/db?x=1",
        "gs://bucket/db",
        "oss://bucket.oss-cn-hangzhou.aliyuncs.com/db",
        "nats://user:hunter2@host:4222/bucket",
        "sftp://user:hunter2@host:22/db?key-path=/k",
        "webdavs://user:hunter2@host:443/db",
        "file:///var/db",
    ];
    let words = ["://", "@", ":", "?", "&", "=", "%", "%00", "%zz", "..", "[::1]", "#", "host:99999", "\\", "é", "//"];
    let target = litestream_fuzz::Target::new("replica url", urls).words(&words).cases(1000);
    target.run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let bound = litestream_fuzz::Bound { base: 64 << 10, per_byte: 64 };
        let parsed = litestream_fuzz::bounded(input.len(), bound, || ReplicaUrl::parse(text));
        // In a path or a parameter it is no password.
        let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
        let user_info = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
        // A second copy behind it is a name, and names are shown.
        let is_alone = text.matches("hunter2").count() == 1;
        let is_password = is_alone && user_info.is_some_and(|user| user.contains(":hunter2"));
        match parsed {
            Err(error) if is_password => assert!(!error.to_string().contains("hunter2"), "{error}"),
            Err(_) => {}
            // A path on the local disk has no password.
            Ok(url) if is_password && url.kind() != "file" => {
                assert!(!format!("{url:?}").contains("hunter2"), "{url:?}")
            }
            Ok(url) => assert_eq!(ReplicaUrl::parse(text).unwrap().kind(), url.kind()),
        }
    });
}
