//! What may stand at the output path, and when it is replaced.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use litestream_replica::restore::Attributes;
use litestream_replica::{Error, ErrorKind, OutputPolicy, RestoreOptions, Result, Target};
use ltx::Txid;
use rustix::fs::{FlockOperation, flock};

use crate::store::Store;
use crate::world::{World, assert_same_image, id, names, restore_to};

fn world() -> World {
    let mut world = World::new(512, 41);
    world.commit(4, []);
    world.commit(5, [2]);
    world
}

fn store() -> Arc<Store> {
    world().store(&[(9, 1, 1), (0, 2, 2)])
}

fn force(options: &mut RestoreOptions) {
    options.policy = OutputPolicy::Force;
}

fn assert_restored(dir: &Path) {
    let world = world();
    assert_same_image(&fs::read(dir.join("db")).unwrap(), world.image(2), world.page_size);
}

async fn refusal(dir: &Path, set: impl FnOnce(&mut RestoreOptions)) -> (ErrorKind, String) {
    let before = names(dir);
    let error = restore_to(store(), dir, set).await.unwrap_err();
    assert_eq!(names(dir), before);
    (error.kind(), error.to_string().replace(&format!("{}/", dir.display()), ""))
}

#[tokio::test]
async fn a_database_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"old").unwrap();
    assert_eq!(
        refusal(dir.path(), |_| {}).await,
        (
            ErrorKind::Conflict,
            "cannot restore, output path already exists and is not empty: db. Use -force to overwrite".to_owned()
        )
    );
    assert_eq!(fs::read(dir.path().join("db")).unwrap(), b"old");
}

#[tokio::test]
async fn an_empty_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"").unwrap();
    restore_to(store(), dir.path(), |_| {}).await.unwrap();
    assert_restored(dir.path());
}

/// SQLite would replay the log onto the restored database: upstream restores
/// beside it, and the next open undoes the restore.
#[tokio::test]
async fn side_files_without_a_database_are_refused() {
    for sidecar in ["db-wal", "db-shm", "db-journal"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(sidecar), b"").unwrap();
        assert_eq!(
            refusal(dir.path(), |_| {}).await,
            (
                ErrorKind::Conflict,
                format!("cannot restore, SQLite sidecar path already exists: {sidecar}. Use -force to overwrite")
            )
        );
    }
}

#[tokio::test]
async fn side_files_of_an_empty_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"").unwrap();
    fs::write(dir.path().join("db-wal"), b"x").unwrap();
    assert_eq!(refusal(dir.path(), |_| {}).await.0, ErrorKind::Conflict);
}

#[tokio::test]
async fn force_replaces_database_and_side_files() {
    for with_database in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        if with_database {
            fs::write(dir.path().join("db"), b"old").unwrap();
        }
        for sidecar in ["db-wal", "db-shm", "db-journal"] {
            fs::write(dir.path().join(sidecar), b"x").unwrap();
        }
        restore_to(store(), dir.path(), force).await.unwrap();
        assert_restored(dir.path());
        assert_eq!(names(dir.path()), ["db"]);
    }
}

/// Upstream removes the old database first and then finds out that it cannot
/// restore: missing replica, unreachable TXID, damaged file.
#[tokio::test]
async fn force_keeps_the_old_database_until_the_new_one_is_proven() {
    let corrupt = store();
    let mut bytes = corrupt.get(id(9, 1, 1));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    corrupt.put(id(9, 1, 1), bytes);
    type Case = (Arc<Store>, fn(&mut RestoreOptions), &'static str);
    let beyond: fn(&mut RestoreOptions) = |o| o.target = Target::Txid(Txid::new(77));
    let failing: fn(&mut RestoreOptions) = |o| {
        o.verify = Some(Box::new(|_: &Path| Err(Error::new(ErrorKind::Corrupt, "integrity check failed: no"))));
    };
    let cases: [Case; 4] = [
        (Store::new([]), |_| {}, "no matching backup files available"),
        (store(), beyond, "no matching backup files available"),
        (corrupt, |_| {}, "decode database: ltx file 9/0000000000000001-0000000000000001.ltx: file checksum mismatch"),
        (store(), failing, "integrity check failed: no"),
    ];
    for (store, set, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("db"), b"old").unwrap();
        fs::write(dir.path().join("db-wal"), b"old wal").unwrap();
        let both = |options: &mut RestoreOptions| {
            force(options);
            set(options);
        };
        let error = restore_to(store, dir.path(), both).await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(names(dir.path()), ["db", "db-wal"]);
        assert_eq!(fs::read(dir.path().join("db")).unwrap(), b"old");
        assert_eq!(fs::read(dir.path().join("db-wal")).unwrap(), b"old wal");
    }
}

#[tokio::test]
async fn a_directory_is_refused_even_with_force() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    for set in [force, |_: &mut RestoreOptions| {}] {
        assert_eq!(
            refusal(dir.path(), set).await,
            (ErrorKind::Setup, "cannot restore, output path is a directory: db".to_owned())
        );
    }
}

#[tokio::test]
async fn a_side_file_that_cannot_be_removed_is_refused_in_time() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"old").unwrap();
    fs::create_dir(dir.path().join("db-wal")).unwrap();
    assert_eq!(
        refusal(dir.path(), force).await,
        (ErrorKind::Setup, "cannot restore, SQLite sidecar path is a directory: db-wal".to_owned())
    );
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/dev/null", dir.path().join("db")).unwrap();
    assert_eq!(refusal(dir.path(), force).await.0, ErrorKind::Setup);
}

#[tokio::test]
async fn a_link_without_target_is_replaced_by_a_file() {
    let dir = tempfile::tempdir().unwrap();
    symlink(dir.path().join("nowhere"), dir.path().join("db")).unwrap();
    restore_to(store(), dir.path(), |_| {}).await.unwrap();
    assert!(fs::symlink_metadata(dir.path().join("db")).unwrap().is_file());
    assert_restored(dir.path());
}

#[tokio::test]
async fn an_empty_path_is_refused() {
    let error = restore_to(store(), Path::new("."), |o| o.output = "".into()).await.unwrap_err();
    assert_eq!(error.to_string(), "output path required");
}

#[tokio::test]
async fn missing_directories_are_made_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("a/b");
    restore_to(store(), &below, |_| {}).await.unwrap();
    assert_restored(&below);
    for made in ["a", "a/b"] {
        assert_eq!(fs::metadata(dir.path().join(made)).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}

#[tokio::test]
async fn directories_made_for_nothing_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let set = |o: &mut RestoreOptions| {
        o.verify = Some(Box::new(|_: &Path| Err(Error::new(ErrorKind::Corrupt, "no"))));
    };
    restore_to(store(), &dir.path().join("a/b"), set).await.unwrap_err();
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn a_new_database_has_the_mode_of_any_new_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("other"), b"").unwrap();
    restore_to(store(), dir.path(), |_| {}).await.unwrap();
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("db"), mode("other"));
}

#[tokio::test]
async fn a_replaced_database_hands_its_mode_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"old").unwrap();
    fs::set_permissions(dir.path().join("db"), fs::Permissions::from_mode(0o640)).unwrap();
    let seen = Arc::new(std::sync::Mutex::new(0));
    let set = |o: &mut RestoreOptions| {
        force(o);
        let seen = Arc::clone(&seen);
        o.verify = Some(Box::new(move |path: &Path| {
            *seen.lock().unwrap() = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            Ok(())
        }));
    };
    restore_to(store(), dir.path(), set).await.unwrap();
    assert_eq!(fs::metadata(dir.path().join("db")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(*seen.lock().unwrap() & 0o027, 0, "nobody may read the temporary file who may not read the database");
}

/// A restore that was killed leaves its file; it must not be in the way, nor
/// show through.
#[tokio::test]
async fn the_leftover_of_a_killed_restore_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db.tmp"), vec![7; 1 << 20]).unwrap();
    restore_to(store(), dir.path(), |_| {}).await.unwrap();
    assert_restored(dir.path());
    assert_eq!(names(dir.path()), ["db"]);
}

#[tokio::test]
async fn a_restore_that_runs_is_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    let other = fs::File::create(dir.path().join("db.tmp")).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    assert_eq!(
        refusal(dir.path(), |_| {}).await,
        (ErrorKind::Conflict, "another restore is writing db.tmp".to_owned())
    );
}

/// The check sees the complete database under its temporary name, and may use
/// SQLite on it: what that leaves beside it does not stay.
#[tokio::test]
async fn the_check_runs_on_the_complete_file_before_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let set = |o: &mut RestoreOptions| {
        let output = o.output.clone();
        o.verify = Some(Box::new(move |path: &Path| -> Result<()> {
            assert!(!output.exists());
            assert_eq!(fs::read(path).unwrap(), world().image(2));
            fs::write(path.with_file_name("db.tmp-wal"), b"").unwrap();
            fs::write(path.with_file_name("db.tmp-shm"), b"").unwrap();
            Ok(())
        }));
    };
    restore_to(store(), dir.path(), set).await.unwrap();
    assert_eq!(names(dir.path()), ["db"]);
}

/// An application starts while the restore runs, and makes its own database.
#[tokio::test]
async fn a_database_that_appeared_meanwhile_is_kept() {
    for appeared in ["db", "db-wal"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(appeared);
        let set = |o: &mut RestoreOptions| {
            let path = path.clone();
            o.verify = Some(Box::new(move |_: &Path| {
                fs::write(&path, b"theirs").unwrap();
                Ok(())
            }));
        };
        let error = restore_to(store(), dir.path(), set).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(names(dir.path()), [appeared]);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }
}

/// Where level 0 has expired, only higher levels know the time asked for.
#[tokio::test]
async fn a_moment_that_only_higher_levels_cover_is_restored() {
    let world = World::random(512, 42, 6);
    let store = world.store(&[(9, 1, 1), (2, 2, 3), (1, 4, 4), (0, 5, 5), (0, 6, 6)]);
    let dir = tempfile::tempdir().unwrap();
    let moment = Target::Timestamp(Store::time_of(Txid::new(4)));
    let restored = restore_to(store, dir.path(), |o| o.target = moment).await.unwrap();
    assert_eq!(restored.txid.get(), 3);
    assert_same_image(&fs::read(dir.path().join("db")).unwrap(), world.image(3), world.page_size);
}

fn attributes_of(path: &Path) -> (u32, u32, u32) {
    let file = fs::metadata(path).unwrap();
    (file.uid(), file.gid(), file.mode() & 0o7777)
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root may give files away");
    }
    is_root
}

#[tokio::test]
async fn a_mode_that_is_asked_for_beats_that_of_the_old_database() {
    let dir = tempfile::tempdir().unwrap();
    for is_replacing in [false, true] {
        if is_replacing {
            fs::set_permissions(dir.path().join("db"), fs::Permissions::from_mode(0o664)).unwrap();
        }
        let attributes = Attributes { mode: Some(0o640), ..Attributes::default() };
        restore_to(store(), dir.path(), |options| {
            options.attributes = attributes;
            options.policy = OutputPolicy::Force;
        })
        .await
        .unwrap();
        assert_eq!(attributes_of(&dir.path().join("db")).2, 0o640);
    }
    assert_restored(dir.path());
}

/// The umask of the process is not the test's to choose; what it leaves is narrowed.
#[tokio::test]
async fn a_new_database_is_for_nobody_whom_its_directory_keeps_out() {
    for (dir_mode, kept_out) in [(0o700, 0o077), (0o750, 0o027), (0o755, 0o022)] {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(dir_mode)).unwrap();
        restore_to(store(), dir.path(), |_| {}).await.unwrap();
        let mode = attributes_of(&dir.path().join("db")).2;
        assert_eq!((mode & kept_out, mode & 0o600), (0, 0o600), "{dir_mode:o}: {mode:o}");
    }
}

/// Somebody who restores as root would otherwise leave the application with a
/// database it cannot open.
#[tokio::test]
async fn a_new_database_belongs_to_the_owner_of_its_directory() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(12_345), Some(54_321)).unwrap();
    restore_to(store(), dir.path(), |options| options.output = dir.path().join("new/er/db")).await.unwrap();
    for name in ["new", "new/er", "new/er/db"] {
        let (user, group, _) = attributes_of(&dir.path().join(name));
        assert_eq!((user, group), (12_345, 54_321), "{name}");
    }
}

#[tokio::test]
async fn an_owner_that_is_asked_for_beats_every_other() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    restore_to(store(), dir.path(), |options| {
        options.attributes = Attributes { user: Some(12_345), group: None, mode: Some(0o600) };
    })
    .await
    .unwrap();
    let (user, group, mode) = attributes_of(&dir.path().join("db"));
    assert_eq!((user, group, mode), (12_345, fs::metadata(dir.path()).unwrap().gid(), 0o600));
}
