//! A kill between any two steps of publishing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;

/// Stops a publication at one of its steps.
#[derive(Clone, Debug)]
pub(super) struct Kill {
    steps_left: Arc<AtomicUsize>,
    step: Arc<OnceLock<&'static str>>,
}

impl Default for Kill {
    fn default() -> Self {
        Self { steps_left: Arc::new(AtomicUsize::new(usize::MAX)), step: Arc::default() }
    }
}

impl Kill {
    pub(super) fn reached(&self, step: &'static str) -> Result<()> {
        match self.steps_left.fetch_sub(1, Ordering::SeqCst) {
            0 => {
                self.step.set(step).unwrap();
                Err(Error::new(ErrorKind::Cancelled, "killed"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has_come(&self) -> bool {
        self.step.get().is_some()
    }
}

/// Publishes `new` over the database `old` with these side files, and is killed
/// at step `at`. Gives the step, or `None` where there are fewer.
fn killed_at(at: usize, sidecars: &[(&str, &[u8])]) -> (TempDir, Option<&'static str>) {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("db");
    fs::write(&output, "old").unwrap();
    for (name, content) in sidecars {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let temp = TempFile::create(&output, false).unwrap();
    temp.file().write_all_at(b"new", 0).unwrap();
    let kill = temp.kill.clone();
    kill.steps_left.store(at, Ordering::SeqCst);
    let published = temp.publish(OutputPolicy::Force);
    let step = kill.step.get().copied();
    assert_eq!(published.is_err(), step.is_some());
    (dir, step)
}

fn content(dir: &TempDir, name: &str) -> Option<String> {
    fs::read_to_string(dir.path().join(name)).ok()
}

/// The usual case: whatever stands beside the old database holds nothing.
#[test]
fn a_kill_while_publishing_leaves_the_old_database_or_the_new_one() {
    let spent: [&[(&str, &[u8])]; 4] = [
        &[],
        &[("db-shm", b"index")],
        &[("db-wal", b""), ("db-shm", b"index")],
        &[("db-wal", &[7; 32]), ("db-shm", b"index"), ("db-journal", &[0; 600])],
    ];
    for sidecars in spent {
        let (mut at, mut steps) = (0, Vec::new());
        loop {
            let (dir, step) = killed_at(at, sidecars);
            let found = content(&dir, "db");
            let Some(step) = step else {
                assert_eq!(found.as_deref(), Some("new"));
                assert!(sidecars.iter().all(|(name, _)| !dir.path().join(name).exists()));
                assert!(content(&dir, "db.tmp").is_none());
                break;
            };
            let expected = if step == "renamed" { "new" } else { "old" };
            assert_eq!(found.as_deref(), Some(expected), "{sidecars:?} killed at {step}");
            steps.push(step);
            at += 1;
        }
        assert_eq!(steps.len(), 2 + sidecars.len(), "{steps:?}");
    }
}

/// A WAL or journal that belongs to the old database: there is a moment without a
/// database at the output, and then the new one stands complete under its
/// temporary name. Never does either stand beside what does not belong to it.
#[test]
fn a_kill_between_a_database_and_its_log_leaves_no_mixture() {
    let wal: &[(&str, &[u8])] = &[("db-wal", &[7; 5000]), ("db-shm", b"index")];
    let journal: &[(&str, &[u8])] = &[("db-journal", &[0xd9; 600])];
    for sidecars in [wal, journal] {
        let mut at = 0;
        while let (dir, Some(step)) = killed_at(at, sidecars) {
            let log_is_there = dir.path().join(sidecars[0].0).exists();
            match content(&dir, "db").as_deref() {
                Some("old") => assert!(log_is_there, "the old database lost its log: {step}"),
                Some("new") => assert!(!log_is_there, "the new database has an old log: {step}"),
                _ => assert_eq!(content(&dir, "db.tmp").as_deref(), Some("new"), "{step}"),
            }
            at += 1;
        }
        assert_eq!(at, 4 + sidecars.len());
    }
}

#[test]
fn only_side_files_that_hold_nothing_are_spent() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], bool); 8] = [
        ("a-wal", b"", true),
        ("b-wal", &[1; 32], true),
        ("c-wal", &[1; 33], false),
        ("d-shm", &[1; 32768], true),
        ("e-journal", b"", true),
        ("f-journal", &[0; 8], true),
        ("g-journal", &[0; 7], false),
        ("h-journal", &[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7], false),
    ];
    for (name, bytes, expected) in cases {
        fs::write(dir.path().join(name), bytes).unwrap();
        assert_eq!(sidecar::is_spent(&dir.path().join(name)), expected, "{name}");
    }
    assert!(!sidecar::is_spent(&dir.path().join("absent-wal")));
}

#[test]
fn a_leftover_is_resumed_only_where_nobody_else_could_have_touched_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("db");
    let leave = |mode: u32| {
        fs::write(dir.path().join("db.tmp"), "half").unwrap();
        fs::set_permissions(dir.path().join("db.tmp"), Permissions::from_mode(mode)).unwrap();
        fs::write(dir.path().join("db.tmp-resume"), "").unwrap();
    };
    let taken = |resume: bool| TempFile::create(&output, resume).unwrap().is_leftover;
    leave(0o644);
    assert!(!taken(false));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "the journal goes with its file");
    leave(0o644);
    assert!(taken(true));
    leave(0o666);
    assert!(!taken(true), "others may write it");
    leave(0o644);
    fs::hard_link(dir.path().join("db.tmp"), dir.path().join("other")).unwrap();
    assert!(!taken(true), "it has another name");
    leave(0o644);
    fs::remove_file(dir.path().join("db.tmp-resume")).unwrap();
    assert!(!taken(true), "nothing says what is done");
}
