//! Replicas that consist of names, sizes and times alone: enough for every
//! command that only plans.

use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use crate::Sandbox;

/// Puts a file of `level` with transactions `min` to `max` into `replica`, made
/// `millis` after [`epoch`].
pub(crate) fn put(sandbox: &Sandbox, replica: &str, level: u8, min: u64, max: u64, millis: u64) {
    let dir = sandbox.path(&format!("{replica}/ltx/{level}"));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{min:016x}-{max:016x}.ltx"));
    std::fs::write(&path, vec![0; 200]).unwrap();
    let time = epoch() + Duration::from_millis(millis);
    File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// 2026-11-22T09:50:00Z.
pub(crate) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_000)
}

/// The moment `millis` after [`epoch`], as a flag's value.
pub(crate) fn moment(millis: u64) -> String {
    let at = jiff::Timestamp::try_from(epoch() + Duration::from_millis(millis)).unwrap();
    at.to_string()
}
