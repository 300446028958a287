//! Watched directories against the real daemon: databases come, go, move and come
//! back, and every replica holds what its database held last.
//!
//! Spec: docs/configuration.md, "Watching".

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;
use litestream_testkit::program::Program;
use litestream_testkit::{scenario, upstream};
use rusqlite::Connection;

const LIMIT: Duration = Duration::from_secs(60);

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(watch: bool) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(site.path("data")).unwrap();
        let config = format!(
            "dbs:\n  - dir: {}\n    pattern: '*.db'\n    recursive: true\n    watch: {watch}\n    replica:\n      type: file\n      path: {}\n",
            site.path("data").display(),
            site.path("replica").display()
        );
        fs::write(site.path("litestream.yml"), config).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn start(&self) -> Daemon {
        let config = self.path("litestream.yml");
        let args = ["replicate", "-log-level", "debug", "-config"].map(OsStr::new);
        ours().daemon(args.into_iter().chain([config.as_os_str()]), &self.path("log")).unwrap()
    }

    /// Rows of a database of [`write`] in its replica; `None` while there is none.
    fn rows(&self, name: &str) -> Option<i64> {
        let restored = self.path("restored.db");
        // Missing is fine.
        let _ = fs::remove_file(&restored);
        let url = format!("file://{}", self.path("replica").join(name).display());
        ours().restore(&url, &restored).ok()?;
        let rows = Connection::open(&restored).unwrap().query_row("SELECT count(*) FROM event", [], |row| row.get(0));
        Some(rows.unwrap())
    }

    fn wait_for_rows(&self, name: &str, rows: i64, daemon: &Daemon) {
        wait_until(&format!("{name} with {rows} rows"), daemon, || self.rows(name) == Some(rows));
    }

    /// Databases that have a replica, below the replica's path.
    fn replicas(&self) -> BTreeSet<PathBuf> {
        fn walk(dir: &Path, root: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
                if entry.file_name() == "ltx" {
                    found.insert(dir.strip_prefix(root).unwrap().to_owned());
                } else {
                    walk(&entry.path(), root, found);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.path("replica"), &self.path("replica"), &mut found);
        found
    }
}

fn ours() -> Program {
    Program::new(env!("CARGO_BIN_EXE_litestream"))
}

fn wait_until(what: &str, daemon: &Daemon, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not {what} within {LIMIT:?}; log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A database with so many rows, and its connection.
fn write(path: &Path, rows: u32) -> Connection {
    let connection = scenario::quiet_connection(path).unwrap();
    scenario::commit(&connection, rows).unwrap();
    connection
}

#[test]
fn databases_come_and_go_with_their_files() {
    let site = Site::new(true);
    let data = site.path("data");
    drop(write(&data.join("early.db"), 1));
    let mut daemon = site.start();
    site.wait_for_rows("early.db", 1, &daemon);

    // New, beside others and in a directory that is new as well.
    let late = write(&data.join("late.db"), 2);
    fs::create_dir_all(data.join("team/one")).unwrap();
    drop(write(&data.join("team/one/a.db"), 3));
    site.wait_for_rows("late.db", 2, &daemon);
    site.wait_for_rows("team/one/a.db", 3, &daemon);

    // Commits right before the file goes are not lost.
    scenario::commit(&late, 5).unwrap();
    drop(late);
    fs::remove_file(data.join("late.db")).unwrap();
    // The application's own sidecars go with it.
    for sidecar in ["late.db-wal", "late.db-shm"] {
        fs::remove_file(data.join(sidecar)).unwrap();
    }
    let gone =
        format!("removed database from replication\" dir={} path={}", data.display(), data.join("late.db").display());
    daemon.wait_for_log(&gone, LIMIT).unwrap();
    assert_eq!(site.rows("late.db"), Some(7), "{}", daemon.log());

    // The same name again: another database, continued above the old one.
    drop(write(&data.join("late.db"), 11));
    site.wait_for_rows("late.db", 11, &daemon);

    // A directory that is renamed takes its databases to new replicas.
    fs::rename(data.join("team"), data.join("group")).unwrap();
    site.wait_for_rows("group/one/a.db", 3, &daemon);
    daemon.wait_for_log(&format!("path={}", data.join("team/one/a.db").display()), LIMIT).unwrap();
    scenario::commit(&scenario::quiet_connection(&data.join("group/one/a.db")).unwrap(), 1).unwrap();
    site.wait_for_rows("group/one/a.db", 4, &daemon);
    assert_eq!(site.rows("team/one/a.db"), Some(3), "the old replica stays");

    assert!(daemon.terminate(LIMIT).unwrap().success());
}

#[test]
fn only_databases_are_taken_and_each_of_them_once() {
    let site = Site::new(true);
    let data = site.path("data");
    fs::write(data.join("text.db"), "this is a letter, not a database").unwrap();
    fs::write(data.join("slow.db"), "").unwrap();
    drop(write(&data.join("real.db"), 1));
    let mut daemon = site.start();
    site.wait_for_rows("real.db", 1, &daemon);
    daemon
        .wait_for_log(
            &format!("file passed over\" dir={} path={}", data.display(), data.join("text.db").display()),
            LIMIT,
        )
        .unwrap();

    // Under a second name it is not opened, which would drop SQLite's locks on it.
    std::os::unix::fs::symlink(data.join("real.db"), data.join("link.db")).unwrap();
    fs::hard_link(data.join("real.db"), data.join("twin.db")).unwrap();
    // Created empty before the start, written to long after.
    drop(write(&data.join("slow.db"), 2));
    site.wait_for_rows("slow.db", 2, &daemon);
    for name in ["link.db", "twin.db"] {
        let line = daemon.wait_for_log(&format!("path={}", data.join(name).display()), LIMIT).unwrap();
        assert!(line.contains("replicated under another name already"), "{line}");
    }
    let expected: BTreeSet<PathBuf> = ["real.db", "slow.db"].map(PathBuf::from).into();
    assert_eq!(site.replicas(), expected, "{}", daemon.log());
    assert!(daemon.terminate(LIMIT).unwrap().success());
}

#[test]
fn hundreds_that_arrive_at_once_are_all_replicated() {
    let site = Site::new(true);
    drop(write(&site.path("source.db"), 3));
    let daemon = site.start();
    let names: BTreeSet<PathBuf> = (0..300).map(|index| format!("d{}/t{index}.db", index % 7).into()).collect();
    for name in &names {
        let path = site.path("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(site.path("source.db"), path).unwrap();
    }
    wait_until("all replicated", &daemon, || site.replicas() == names);
    assert!(daemon.terminate(LIMIT).unwrap().success());
    for name in ["d0/t0.db", "d5/t299.db"] {
        assert_eq!(site.rows(name), Some(3), "{name}");
    }
}

#[test]
fn too_few_open_files_are_an_error_that_says_what_to_do() {
    let site = Site::new(false);
    for index in 0..40 {
        drop(write(&site.path(&format!("data/{index}.db")), 1));
    }
    let command = format!(
        "ulimit -n 100 && exec {} replicate -config {}",
        env!("CARGO_BIN_EXE_litestream"),
        site.path("litestream.yml").display()
    );
    let outcome = Program::new("/bin/sh").run(["-c", &command]).unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert_eq!(
        outcome.stderr,
        "Error: 40 databases need 119 open files, the limit is 100: raise it (LimitNOFILE= in a unit file, ulimit -Hn in a shell)\n"
    );
}

#[test]
fn replicas_lie_where_upstream_puts_them() {
    let mut found = Vec::new();
    for program in [ours(), upstream::litestream()] {
        let site = Site::new(false);
        for name in ["a.db", "b.sqlite", "team/a.db", "team/.hidden/ä b.db", "x.db/y.db"] {
            let path = site.path("data").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(write(&path, 1));
        }
        let config = site.path("litestream.yml");
        let args = ["replicate", "-once", "-config"].map(OsStr::new);
        program.run(args.into_iter().chain([config.as_os_str()])).unwrap().success().unwrap();
        found.push(site.replicas());
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].len(), 4, "{found:?}");
}
