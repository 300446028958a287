//! Which states a set of files can rebuild, found by trying everything. Shares
//! nothing with the planner.

use jiff::Timestamp;
use litestream_replica::{FileInfo, Level};

/// TXIDs, by index, that some chain of admitted files ends at.
pub fn reachable(files: &[FileInfo], admits: impl Fn(&FileInfo) -> bool) -> Vec<bool> {
    let newest = files.iter().map(|file| file.id.max.get()).max().unwrap_or(0);
    let mut ends = vec![false; newest as usize + 1];
    loop {
        let mut found = false;
        for file in files {
            let (min, max) = (file.id.min.get() as usize, file.id.max.get() as usize);
            if ends[max] || !admits(file) {
                continue;
            }
            // An image needs nothing before it; an increment needs a state that it
            // continues, or that lies within it.
            let starts = min == 1;
            let continues = file.id.level != Level::SNAPSHOT && min > 1 && ends[min - 1..max].contains(&true);
            if starts || continues {
                ends[max] = true;
                found = true;
            }
        }
        if !found {
            return ends;
        }
    }
}

/// The newest state strictly before a moment; 0 for none.
pub fn newest_before(files: &[FileInfo], moment: Timestamp) -> u64 {
    newest(&reachable(files, |file| file.created_at < moment))
}

/// The newest of these states; 0 for none.
pub fn newest(reachable: &[bool]) -> u64 {
    reachable.iter().rposition(|is_reachable| *is_reachable).unwrap_or(0) as u64
}
