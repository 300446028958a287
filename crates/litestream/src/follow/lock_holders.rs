//! Who keeps a database locked, for messages to people.
//!
//! Linux lists all locks in `/proc/locks`; elsewhere nothing can be said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processes that hold locks on the file, as `pid 12 (sqlite3)`; `unknown`
/// where the system does not tell.
pub(super) fn of(path: &Path) -> String {
    let found = fs::metadata(path).ok().zip(fs::read_to_string("/proc/locks").ok()).map(|(file, locks)| {
        let mut pids = pids(&locks, file.ino());
        pids.retain(|pid| *pid != std::process::id());
        pids
    });
    match found.as_deref() {
        None | Some([]) => "unknown".to_owned(),
        Some(pids) => pids.iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join(", "),
    }
}

/// `1: POSIX  ADVISORY  READ 815 fe:00:9175067 1073741826 1073742335`
///
/// The device is left out of the comparison: some filesystems show one number
/// here and another to stat.
fn pids(locks: &str, inode: u64) -> Vec<u32> {
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| !matches!(*word, "READ" | "WRITE")).skip(1);
            let pid = words.next()?.parse().ok()?;
            let place = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
            (place == inode).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn describe(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("pid {pid} ({})", name.trim()),
        Err(_) => format!("pid {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_inode() {
        let locks = "1: POSIX  ADVISORY  READ 815 fe:00:77 1073741826 1073742335\n\
                     2: FLOCK  ADVISORY  WRITE 9 fe:00:78 0 EOF\n\
                     2: -> POSIX  ADVISORY  WRITE 4 fe:00:77 0 EOF\n";
        assert_eq!(pids(locks, 77), [4, 815]);
        assert_eq!(pids(locks, 79), [] as [u32; 0]);
    }
}
