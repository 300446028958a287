//! Directories: what is in them, making them, and removing them.
//!
//! A listing is complete or an error. A directory that is not there is empty.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use super::packet::{self, Attributes, Reply, Request};
use super::session::{Session, Status};
use crate::file::is_temporary_name;
use crate::listing::Pages;
use crate::{Error, ErrorKind, ObjectInfo, Result};

/// A row of a directory.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) is_directory: bool,
    pub(super) is_file: bool,
    pub(super) size: u64,
    pub(super) modified: Timestamp,
}

/// The rows of one directory, in no order.
pub(super) async fn members(session: &Arc<Session>, path: &str) -> Result<Vec<Member>> {
    let what = format!("sftp: list {}", shown(path));
    let open = Request::new(packet::OPENDIR).text(shown(path));
    let handle = match session.ask(&open).handle().await.map_err(|e| e.context(&what))? {
        Ok(handle) => handle,
        Err(status) if status.code == packet::NO_SUCH_FILE => return Ok(Vec::new()),
        Err(status) => return Err(status.error(&what)),
    };
    let mut found = Vec::new();
    let mut asked = VecDeque::new();
    let mut pages = Pages::default();
    loop {
        while asked.len() < PAGES_IN_FLIGHT {
            asked.push_back(handle.ask(packet::READDIR, |request| request));
        }
        let Some(question) = asked.pop_front() else { return Ok(found) };
        match question.reply().await.map_err(|e| e.context(&what))? {
            Reply::Names(entries) => {
                pages.add(entries.len(), || what.clone())?;
                for entry in entries {
                    // What is no text cannot be a name that any layout gives.
                    let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
                    if matches!(name, "." | "..") {
                        continue;
                    }
                    found.extend(member(session, path, name, entry.attributes).await?);
                }
            }
            Reply::Status(packet::END, _) => return Ok(found),
            Reply::Status(code, text) => return Err(Status::new(code, text).error(&what)),
            _ => return Err(Error::new(ErrorKind::Transient, format!("{what}: odd answer"))),
        }
    }
}

/// A row with its facts, asking for those that the listing left out; `None` when
/// it is gone meanwhile.
async fn member(session: &Arc<Session>, dir: &str, name: &str, listed: Attributes) -> Result<Option<Member>> {
    let mut facts = listed;
    if !facts.is_directory() && (facts.size.is_none() || facts.modified.is_none()) {
        match stat(session, &format!("{dir}{name}")).await? {
            Some(asked) => facts = asked,
            None => return Ok(None),
        }
    }
    Ok(Some(Member {
        name: name.to_owned(),
        is_directory: facts.is_directory(),
        is_file: facts.is_file(),
        size: facts.size.unwrap_or_default(),
        modified: Timestamp::from_second(facts.modified.unwrap_or_default().into()).unwrap_or(Timestamp::UNIX_EPOCH),
    }))
}

/// Facts of what is at `path`, if anything is.
pub(super) async fn stat(session: &Arc<Session>, path: &str) -> Result<Option<Attributes>> {
    let what = || format!("sftp: look at {}", shown(path));
    let question = session.ask(&Request::new(packet::STAT).text(shown(path)));
    match question.attributes().await.map_err(|e| e.context(what()))? {
        Ok(attributes) => Ok(Some(attributes)),
        Err(status) if status.code == packet::NO_SUCH_FILE => Ok(None),
        Err(status) => Err(status.error(&what())),
    }
}

/// Every file below `root` + `prefix`, keys relative to `root`, in order.
pub(super) async fn files_below(session: &Arc<Session>, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let (mut found, _) = walk(session, root, prefix).await?;
    found.retain(|object| !is_temporary(object.key.rsplit('/').next().unwrap_or_default()));
    found.sort_unstable();
    Ok(found)
}

/// Every file below, whatever its name, and every directory, those above others
/// first; both relative to `root`.
async fn walk(session: &Arc<Session>, root: &str, prefix: &str) -> Result<(Vec<ObjectInfo>, Vec<String>)> {
    let (mut files, mut directories) = (Vec::new(), vec![(prefix.to_owned(), 0)]);
    let mut pages = Pages::default();
    let mut next = 0;
    while let Some((directory, depth)) = directories.get(next).cloned() {
        next += 1;
        let path = format!("{root}{directory}");
        if depth > DEEPEST {
            let message = format!("sftp: list {path}: directories are nested too deeply, perhaps in a circle");
            return Err(Error::new(ErrorKind::Setup, message));
        }
        let members = members(session, &path).await?;
        pages.add(members.len(), || format!("sftp: list {root}{prefix}"))?;
        for member in members {
            let key = format!("{directory}{}", member.name);
            if member.is_directory {
                directories.push((format!("{key}/"), depth + 1));
            } else {
                files.push(ObjectInfo { key, size: member.size, modified: member.modified });
            }
        }
    }
    Ok((files, directories.into_iter().map(|(directory, _)| directory).collect()))
}

/// Removes `root` with all that is in it.
pub(super) async fn remove_tree(session: &Arc<Session>, root: &str) -> Result<()> {
    let (files, directories) = walk(session, root, "").await?;
    for files in files.chunks(REMOVALS_IN_FLIGHT) {
        let paths: Vec<String> = files.iter().map(|file| format!("{root}{}", file.key)).collect();
        for (_, result) in remove_all(session, &paths).await {
            result?;
        }
    }
    for directory in directories.into_iter().rev() {
        let path = format!("{root}{directory}");
        let status = session.ask(&Request::new(packet::RMDIR).text(shown(&path))).status().await?;
        if status.code != packet::NO_SUCH_FILE {
            status.check(&format!("sftp: remove {}", shown(&path)))?;
        }
    }
    Ok(())
}

/// Removes files, a few at once; those that are gone count as removed.
pub(super) async fn remove_all(session: &Arc<Session>, paths: &[String]) -> Vec<(String, Result<()>)> {
    let mut results = Vec::with_capacity(paths.len());
    for paths in paths.chunks(REMOVALS_IN_FLIGHT) {
        let asked: Vec<_> =
            paths.iter().map(|path| (path, session.ask(&Request::new(packet::REMOVE).text(path)))).collect();
        for (path, question) in asked {
            let what = format!("sftp: delete {path}");
            let result = match question.status().await {
                Ok(status) if status.code == packet::NO_SUCH_FILE => Ok(()),
                Ok(status) => status.check(&what),
                Err(error) => Err(error.context(what)),
            };
            results.push((path.clone(), result));
        }
    }
    results
}

/// Makes a directory and those above it, as far as they are missing.
pub(super) async fn make_directories(session: &Arc<Session>, path: &str) -> Result<()> {
    let path = shown(path);
    let mut missing = vec![path];
    let mut results = Vec::new();
    while let Some(&current) = missing.last() {
        let what = format!("sftp: make directory {current}");
        let make = Request::new(packet::MKDIR).text(current).number(0);
        let status = session.ask(&make).status().await.map_err(|e| e.context(&what))?;
        let above = current.rsplit_once('/').map(|(above, _)| above).filter(|above| !above.is_empty());
        match (status.code, above) {
            (packet::OK, _) => drop(missing.pop()),
            // Once the one above is made, its absence is no longer the reason.
            (packet::NO_SUCH_FILE, Some(above)) if !results.contains(&above) => {
                results.push(above);
                missing.push(above);
            }
            _ => match stat(session, current).await? {
                Some(facts) if facts.is_directory() => drop(missing.pop()),
                Some(_) => {
                    let message = format!("{what}: there is a file of this name; correct path");
                    return Err(Error::new(ErrorKind::Setup, message));
                }
                // Not to be taken for an object that is absent.
                None if status.code == packet::NO_SUCH_FILE => {
                    return Err(Error::new(
                        ErrorKind::Setup,
                        format!("{what}: there is nothing above it; correct path"),
                    ));
                }
                None => return Err(status.error(&what)),
            },
        }
    }
    Ok(())
}

/// Names of files that are still written, ours or upstream's
/// (`<file>.<process>.<nanoseconds>.tmp`).
pub(super) fn is_temporary(name: &str) -> bool {
    is_temporary_name(name) || begun_at(name).is_some()
}

/// When the writer of a temporary file began, by its name.
pub(super) fn begun_at(name: &str) -> Option<Timestamp> {
    let (rest, nanoseconds) = name.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (file, _) = rest.rsplit_once('.')?;
    ltx::FileName::parse(file)?;
    Timestamp::from_nanosecond(nanoseconds.parse().ok()?).ok()
}

/// A directory as servers want it: without its final slash, and never empty.
fn shown(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        path => path,
    }
}

const PAGES_IN_FLIGHT: usize = 4;
const REMOVALS_IN_FLIGHT: usize = 32;
/// Directories below one another that a listing enters; no layout has as many.
const DEEPEST: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_tell_when_they_were_made() {
        let file = "0000000000000001-0000000000000001.ltx";
        let upstream = format!("{file}.4711.1763806812000000000.tmp");
        assert_eq!(begun_at(&upstream), Some(Timestamp::from_second(1_763_806_812).unwrap()));
        for name in [format!("{file}.tmp"), file.to_owned(), "x.1.2.tmp".into(), format!("{file}.1.x.tmp")] {
            assert!(!is_temporary(&name), "{name}");
        }
    }

    #[test]
    fn directories_are_named_without_their_slash() {
        assert_eq!([shown(""), shown("/"), shown("a/b/"), shown("/a/")], [".", "/", "a/b", "/a"]);
    }
}
