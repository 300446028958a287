//! Everything that may be wrong around the program: it says in one line what, ends
//! with 1, and leaves what was there as it was.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot be set up fails"
)]

mod site;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::image::read_image;
use litestream_testkit::program::Output;
use litestream_testkit::s3_server::{self, Kind};
use litestream_testkit::scenario;
use site::application::Application;
use site::{Site, files_below, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs our binary in the site's directory; returns what it printed and how long
/// it took.
fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> (Output, Duration) {
    let started = Instant::now();
    let output = ours().run(args).unwrap();
    (output, started.elapsed())
}

/// Exit code 1, one line `Error: …`, and each of `parts` in it or, where several
/// mistakes are listed, below it. Returns the line.
#[track_caller]
fn assert_fails(output: &Output, parts: &[&str]) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!output.stderr.contains("panicked") && !output.stdout.contains("panicked"), "{output:?}");
    let errors: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("Error: ")).collect();
    assert_eq!(errors.len(), 1, "{output:?}");
    assert!(errors[0].len() < 500, "too long to read: {}", errors[0]);
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?} is missing in: {}", output.stderr);
    }
    println!("{}", errors[0]);
    errors[0].to_owned()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A site whose replica holds a small database.
fn replicated() -> Site {
    let site = Site::new();
    site.config("");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 20).unwrap();
    site.once(&ours());
    site
}

#[test]
fn what_is_no_database_is_named_and_left_alone() {
    let site = Site::new();
    let cases: [(&str, Option<&[u8]>); 4] = [
        ("missing.db", None),
        ("text.db", Some(b"Dear diary, this is no database, but long enough to look like one. ".as_slice())),
        ("short.db", Some(b"SQLite format 3\0")),
        ("directory.db", None),
    ];
    fs::create_dir(site.path("directory.db")).unwrap();
    fs::write(site.path("directory.db").join("inside"), "kept").unwrap();
    for (name, content) in cases {
        let path = site.path(name);
        let content = content.map(|bytes| bytes.repeat(20));
        if let Some(content) = &content {
            fs::write(&path, content).unwrap();
        }
        let (output, elapsed) = run(["replicate", "-once", &text(&path), &site.url()]);
        assert_fails(&output, &[&text(&path)]);
        assert!(elapsed < Duration::from_secs(10), "{name} took {elapsed:?}");
        match content {
            Some(content) => assert!(fs::read(&path).unwrap() == content, "{name} was changed"),
            None => assert_eq!(path.exists(), name == "directory.db", "{name}"),
        }
    }
    assert_eq!(files_below(&site.path("directory.db")).len(), 1);
    assert!(files_below(&site.replica()).is_empty(), "nothing was uploaded");
}

/// One bit or the end of a file of the replica is wrong, all over the file: the
/// restore fails, and neither leaves anything nor touches what is there.
#[test]
fn damage_anywhere_in_a_replica_fails_the_restore_and_nothing_else() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let site = replicated();
    let file = files_below(&site.replica().join("ltx/9")).pop().unwrap();
    let intact = fs::read(&file).unwrap();
    let out = site.path("out");
    fs::create_dir(&out).unwrap();
    let (kept, new) = (out.join("kept.db"), out.join("new.db"));
    fs::write(&kept, "precious").unwrap();
    let mut messages = std::collections::BTreeSet::new();
    for round in 0..40 {
        let mut bytes = intact.clone();
        let at = rng.usize(0..bytes.len());
        let what = if round % 2 == 0 {
            bytes[at] ^= 1 << rng.u8(0..8);
            format!("seed {seed}: one bit of byte {at} of {}", bytes.len())
        } else {
            bytes.truncate(at);
            format!("seed {seed}: cut to {at} bytes of {}", intact.len())
        };
        fs::write(&file, &bytes).unwrap();
        for (path, args) in [(&kept, &["restore", "-force"][..]), (&new, &["restore"])] {
            let (output, _) = run(args.iter().copied().chain(["-o", &text(path), &site.url()]));
            assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
            messages.insert(assert_fails(&output, &[]));
            assert_eq!(fs::read(&kept).unwrap(), b"precious", "{what}");
            assert_eq!(files_below(&out), std::slice::from_ref(&kept), "{what}: left behind");
        }
    }
    println!("seed {seed}: {} different messages", messages.len());
    fs::write(&file, &intact).unwrap();
    assert!(run(["restore", "-force", "-o", &text(&kept), &site.url()]).0.status.success());
}

/// A configuration for a database at `site` with this replica.
fn with_replica(site: &Site, replica: &str) -> PathBuf {
    let replica: String = replica.lines().map(|line| format!("      {line}\n")).collect();
    let config = site.path("bad.yml");
    let text = format!("shutdown-sync-timeout: 1s\ndbs:\n  - path: {}\n    replica:\n{replica}", site.db().display());
    fs::write(&config, text).unwrap();
    config
}

/// Works with a replica that cannot be reached, and says how long it took.
fn unreachable(name: &str, replica: &str, commands: &[&str], parts: &[&str]) {
    let site = Site::new();
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 20).unwrap();
    let config = text(&with_replica(&site, replica));
    let (database, out) = (text(&site.db()), text(&site.path("out.db")));
    for command in commands {
        let args = match *command {
            "restore" => vec!["restore", "-config", &config, "-o", &out, &database],
            "replicate" => vec!["replicate", "-once", "-config", &config],
            _ => vec![command, "-config", &config, &database],
        };
        let (output, elapsed) = run(args);
        println!("{name}: {command} took {elapsed:?}");
        assert_fails(&output, parts);
        assert!(elapsed < Duration::from_secs(60), "{name}: {command} took {elapsed:?}");
    }
    assert_eq!(site.temporary_files(), Vec::<PathBuf>::new());
    assert!(!site.path("out.db").exists());
}

const ALL: [&str; 3] = ["restore", "replicate", "ltx"];

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    let bucket = s3_server::fresh_bucket(Kind::Moto).unwrap();
    let replica = bucket.config("replica").replace(&bucket.bucket, "no-such-bucket");
    unreachable("wrong bucket", &replica, &ALL, &["no-such-bucket"]);
}

#[test]
fn wrong_credentials_are_told_apart_from_a_missing_bucket() {
    let bucket = s3_server::fresh_bucket(Kind::SeaweedFs).unwrap();
    let replica = bucket.config("replica").replace(&bucket.secret_key, "wrongSecretKey");
    unreachable("wrong secret", &replica, &ALL, &["SignatureDoesNotMatch"]);
    let replica = bucket.config("replica").replace(&bucket.access_key, "WRONGACCESSKEY");
    unreachable("wrong key id", &replica, &ALL, &["InvalidAccessKeyId"]);
}

#[test]
fn a_refused_connection_ends_within_a_minute() {
    let replica = "type: s3\nbucket: b\npath: p\nendpoint: http://127.0.0.1:9\nregion: us-east-1\naccess-key-id: k\nsecret-access-key: s\n";
    unreachable("refused", replica, &["restore"], &["127.0.0.1:9"]);
}

#[test]
fn a_host_without_an_address_ends_within_a_minute() {
    let replica = "type: s3\nbucket: b\npath: p\nendpoint: http://nowhere.invalid\nregion: us-east-1\naccess-key-id: k\nsecret-access-key: s\n";
    unreachable("no such host", replica, &["replicate"], &["nowhere.invalid"]);
}

/// A small filesystem of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said loudly, where mounting is not allowed.
    fn new(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status().unwrap();
        if !done.success() {
            eprintln!("NOT TESTED: this user may not mount a tmpfs, which a full or read-only disk needs");
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_restore_onto_a_full_disk_leaves_the_old_database() {
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), 1, 1_000, Duration::from_millis(10));
    application.pause();
    site.once(&ours());
    let Some(disk) = Mount::new(site.path("disk"), "size=2m") else { return };
    let kept = disk.0.join("kept.db");
    fs::write(&kept, "precious").unwrap();
    for (path, args) in [(&kept, &["restore", "-force"][..]), (&disk.0.join("new.db"), &["restore"])] {
        let (output, _) = run(args.iter().copied().chain(["-o", &text(path), &site.url()]));
        assert_fails(&output, &["o space left on device"]);
        assert_eq!(fs::read(&kept).unwrap(), b"precious");
        assert_eq!(files_below(&disk.0), std::slice::from_ref(&kept), "left behind");
    }
}

/// The local state's disk is full: the daemon says so and stays; when there is
/// space again it catches up, and nothing is missing.
#[test]
fn a_full_disk_stops_capture_until_there_is_space_again() {
    let site = Site::new();
    let Some(disk) = Mount::new(site.path("disk"), "size=3m") else { return };
    let config = site.config("");
    let meta = format!("    meta-path: {}\n    replica:\n", disk.0.join("meta").display());
    let content = fs::read_to_string(&config).unwrap().replace("    replica:\n", &meta);
    fs::write(&config, content).unwrap();
    let application = Application::start(&site.db(), 1, 100, Duration::from_millis(1));
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    application.pause();
    site.wait_until_replicated(LIMIT, "before");
    let filler = disk.0.join("filler");
    // Fills what is left; that it ends in an error is the point.
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", text(&filler))).output().unwrap();
    application.commit(300);
    let line = daemon.wait_for_log("o space left on device", LIMIT).unwrap();
    println!("{line}");
    application.commit(300);
    assert_eq!(daemon.status().unwrap(), None, "still running");
    fs::remove_file(&filler).unwrap();
    let freed = Instant::now();
    site.wait_until_replicated(LIMIT, "after space was freed");
    println!("caught up {:?} after space was freed", freed.elapsed());
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores("at the end");
    site.assert_no_panic();
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let site = replicated();
    let file = site.path("file");
    fs::write(&file, "no directory").unwrap();
    let below_file = text(&file.join("out.db"));
    let (output, _) = run(["restore", "-o", &below_file, &site.url()]);
    assert_fails(&output, &[&text(&file)]);
    let directory = site.path("directory");
    fs::create_dir(&directory).unwrap();
    for args in [&["restore"][..], &["restore", "-force"]] {
        let (output, _) = run(args.iter().copied().chain(["-o", &text(&directory), &site.url()]));
        assert_fails(&output, &[&text(&directory)]);
    }
    let Some(disk) = Mount::new(site.path("disk"), "size=1m,ro") else { return };
    let read_only = text(&disk.0.join("out.db"));
    let (output, _) = run(["restore", "-o", &read_only, &site.url()]);
    assert_fails(&output, &[&text(&disk.0), "ead-only"]);
    assert_eq!(fs::read(&file).unwrap(), b"no directory");
    assert_eq!(site.temporary_files(), Vec::<PathBuf>::new());
}

#[test]
fn local_state_on_a_read_only_disk_is_named() {
    let site = Site::new();
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 20).unwrap();
    let Some(disk) = Mount::new(site.path("disk"), "size=1m,ro") else { return };
    let config = site.path("bad.yml");
    let meta = disk.0.join("meta");
    let content = format!(
        "shutdown-sync-timeout: 1s\ndbs:\n  - path: {}\n    meta-path: {}\n    replica: {{path: {}}}\n",
        text(&site.db()),
        text(&meta),
        text(&site.replica())
    );
    fs::write(&config, content).unwrap();
    let (output, elapsed) = run(["replicate", "-once", "-config", &text(&config)]);
    assert_fails(&output, &[&text(&site.db()), &text(&meta), "ead-only"]);
    assert!(elapsed < Duration::from_secs(10), "took {elapsed:?}");
}

#[test]
fn a_second_daemon_on_one_database_is_refused_and_the_first_goes_on() {
    let site = Site::new();
    site.config("shutdown-sync-timeout: 1s");
    let application = Application::start(&site.db(), 1, 100, Duration::from_millis(1));
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    site.wait_for_level(9, LIMIT);
    let (output, elapsed) = run(["replicate", "-once", "-config", &text(&site.path("litestream.yml"))]);
    assert_fails(&output, &[&text(&site.db()), "another litestream"]);
    assert!(elapsed < Duration::from_secs(10), "took {elapsed:?}");
    application.pause();
    site.wait_until_replicated(LIMIT, "the first daemon");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores("the first daemon's replica");
}

/// The application runs as another user than the daemon: it can write before,
/// while and after the database is replicated.
#[test]
fn a_database_of_another_user_stays_writable_for_it() {
    let site = Site::new();
    let Some(disk) = Mount::new(site.path("home"), "size=32m") else { return };
    let db = disk.0.join("app.db");
    Command::new("chown").arg("1234:1234").arg(&disk.0).status().unwrap();
    // The way to the mount, not the mount itself, is the daemon's.
    Command::new("chmod").arg("a+rx").arg(site.path("")).status().unwrap();
    let write = |count: u32| {
        let script = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10)
db.execute('PRAGMA journal_mode = wal')
db.execute('CREATE TABLE IF NOT EXISTS t (x)')
for i in range(int(sys.argv[2])):
    with db: db.execute('INSERT INTO t VALUES (randomblob(500))')
db.close()";
        let output = Command::new("setpriv")
            .args(["--reuid=1234", "--regid=1234", "--clear-groups", "/usr/bin/python3", "-c", script])
            .args([text(&db), count.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let restored_is_source = |what: &str| {
        let out = site.path("out.db");
        ours().restore(&site.url(), &out).unwrap();
        let restored = litestream_testkit::image::Image::of_closed_file(&out).unwrap();
        fs::remove_file(&out).unwrap();
        read_image(&db).unwrap().assert_same(&restored, what);
    };
    write(50);
    for round in 0..2 {
        let url = site.url();
        let mut daemon = ours().daemon(["replicate", &text(&db), &url], &site.log()).unwrap();
        daemon.wait_for_log("replicating to", LIMIT).unwrap();
        site.wait_for_level(9, LIMIT);
        write(50);
        thread::sleep(Duration::from_millis(100));
        write(50);
        assert!(daemon.terminate(LIMIT).unwrap().success());
        restored_is_source(&format!("round {round}"));
        write(50);
    }
    let foreign: Vec<_> = files_below(&disk.0)
        .into_iter()
        .filter(|path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap()) != 1234)
        .collect();
    assert_eq!(foreign, Vec::<PathBuf>::new(), "files that are not the application's");
}

#[test]
fn mistakes_in_a_configuration_are_placed() {
    let site = Site::new();
    let config = site.path("bad.yml");
    let cases = [
        ("dbs:\n  - path: [", "line "),
        ("dbs:\n  - path: /a.db\n   replica: x\n", "line "),
        ("dbs: 7\n", "line 1"),
        ("dbs: [null]\n", "database config #1"),
        ("dbs:\n  - path: /a.db\n", "/a.db"),
        ("dbs:\n  - path: /a.db\n    monitor-interval: soon\n    replica: {path: /r}\n", "soon"),
        ("dbs:\n  - path: /a.db\n    replica: {type: carrier-pigeon, path: /r}\n", "carrier-pigeon"),
    ];
    for (content, part) in cases {
        fs::write(&config, content).unwrap();
        for command in ["databases", "replicate"] {
            let (output, _) = run([command, "-config", &text(&config)]);
            assert_fails(&output, &[part]);
        }
    }
    let (output, _) = run(["restore", "-frobnicate"]);
    assert_fails(&output, &["-frobnicate"]);
    let (output, _) = run(["frobnicate"]);
    assert_fails(&output, &["frobnicate"]);
}
