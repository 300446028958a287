//! Databases of `dir` entries: finding them, and what each one's own entry is.
//!
//! Two databases never share a replica or a state directory: both get the
//! database's path below the directory.
//!
//! Spec: docs/configuration.md, "Database".

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::glob::Pattern;
use crate::config::{Config, DbConfig};

/// What a SQLite database begins with.
pub(crate) const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Directories nested deeper than this are a mistake or a trap.
pub(crate) const DEPTH_MAX: usize = 128;

/// The databases of one directory, in lexical order.
pub(crate) struct Found {
    pub(crate) dir: PathBuf,
    pub(crate) databases: Vec<DbConfig>,
}

impl DbConfig {
    /// Looks for the databases of a `dir` entry.
    ///
    /// # Errors
    /// The directory cannot be read, holds none (unless it is watched), or the
    /// pattern cannot be read.
    pub(crate) fn find_databases(&self) -> Result<Found, String> {
        let dir = self.dir.clone().unwrap_or_default();
        let failed = |why: String| format!("failed to scan directory {}: {why}", dir.display());
        let pattern = Pattern::parse(&self.pattern).map_err(|_| failed("syntax error in pattern".to_owned()))?;
        let mut files = Vec::new();
        walk(&dir, &pattern, self.recursive, 0, &mut files)
            .map_err(|(path, error)| failed(format!("{}: {error}", path.display())))?;
        if files.is_empty() && !self.watch {
            return Err(format!(
                "no SQLite databases found in directory {} with pattern {}",
                dir.display(),
                self.pattern
            ));
        }
        let databases: Vec<_> = files.iter().filter_map(|file| self.derive(file)).collect();
        check_state_directories(&databases)?;
        Ok(Found { dir, databases })
    }

    /// The entry of one database of a `dir` entry; `None` if the path cannot be
    /// one. The file need not exist.
    pub(crate) fn derive(&self, file: &Path) -> Option<DbConfig> {
        let relative = self.below(file)?;
        let name = relative.file_name()?;
        let mut db = DbConfig {
            path: Some(file.to_owned()),
            dir: None,
            pattern: String::new(),
            recursive: false,
            watch: false,
            meta_dir: None,
            restore_if_db_not_exists: false,
            ..self.clone()
        };
        let name = name.to_str()?;
        db.meta_path = match (&self.meta_dir, &self.meta_path) {
            (Some(base), _) => Some(base.join(relative.with_file_name(format!("{name}-litestream")))),
            (None, Some(base)) => Some(base.join(relative.with_file_name(format!(".{name}-litestream")))),
            (None, None) => None,
        };
        let below = relative.to_str()?.to_owned();
        for replica in db.replica_mut() {
            replica.below = Some(below.clone());
        }
        Some(db)
    }

    /// True for a path that may be one of this `dir` entry's databases by its name.
    pub(crate) fn covers(&self, file: &Path) -> bool {
        self.below(file).is_some()
    }

    /// The path below the directory, if it matches.
    fn below<'a>(&self, file: &'a Path) -> Option<&'a Path> {
        let relative = file.strip_prefix(self.dir.as_ref()?).ok()?;
        let name = relative.file_name()?.to_str()?;
        let nested = relative.components().count() > 1;
        let matches = Pattern::parse(&self.pattern).ok()?.matches(name);
        (matches && (self.recursive || !nested)).then_some(relative)
    }
}

impl Config {
    /// The entry of a database by its absolute path. A `dir` entry answers for
    /// every file it would find.
    pub(crate) fn find(&self, path: &Path) -> Option<DbConfig> {
        let own = self.dbs.iter().find(|db| db.path.as_deref() == Some(path)).cloned();
        own.or_else(|| self.dbs.iter().find_map(|db| db.derive(path)))
    }

    /// Every database there is now: `path` entries, and what `dir` entries find.
    ///
    /// # Errors
    /// As [`DbConfig::find_databases`].
    pub(crate) fn databases(&self) -> Result<Vec<DbConfig>, String> {
        let mut databases = Vec::new();
        for db in &self.dbs {
            match &db.dir {
                Some(_) => databases.extend(db.find_databases()?.databases),
                None => databases.push(db.clone()),
            }
        }
        Ok(databases)
    }
}

/// Collects databases in lexical order. Symbolic links to directories are not
/// entered.
fn walk(
    dir: &Path,
    pattern: &Pattern,
    recursive: bool,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let at = |error| (dir.to_owned(), error);
    let mut entries = std::fs::read_dir(dir).map_err(at)?.collect::<Result<Vec<_>, _>>().map_err(at)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(at)?;
        if kind.is_dir() {
            if recursive && depth < DEPTH_MAX && !is_state_directory(&path) {
                walk(&path, pattern, recursive, depth + 1, files)?;
            }
        } else if pattern.matches(&entry.file_name().to_string_lossy()) {
            if !is_database(&path) {
                tracing::debug!(path = %path.display(), reason = "no SQLite database", "file passed over");
                continue;
            }
            // Passing over it in silence would leave it without a backup.
            if path.to_str().is_none() {
                let error = std::io::Error::other("name is not valid UTF-8, the database cannot be replicated");
                return Err((path, error));
            }
            files.push(path);
        }
    }
    Ok(())
}

/// Our state directory beside a database, which holds none itself.
pub(crate) fn is_state_directory(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix('.')?.strip_suffix("-litestream"))
        .is_some_and(|name| !name.is_empty())
}

fn is_database(path: &Path) -> bool {
    let mut header = [0; SQLITE_HEADER.len()];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_ok()
        && header == *SQLITE_HEADER
}

fn check_state_directories(databases: &[DbConfig]) -> Result<(), String> {
    let mut owners: HashMap<&Path, &DbConfig> = HashMap::new();
    for db in databases {
        let Some(meta) = &db.meta_path else { continue };
        if let Some(other) = owners.insert(meta, db) {
            return Err(format!(
                "meta-path collision: databases {} and {} would share meta-path {}, causing replication state corruption",
                other.place(),
                db.place(),
                meta.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReplicaSettings;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("team/.hidden")).unwrap();
        for name in ["b.db", "a.db", "team/c.db", "team/.hidden/d.db", "x.txt"] {
            std::fs::write(dir.path().join(name), b"SQLite format 3\0 and more").unwrap();
        }
        std::fs::write(dir.path().join("empty.db"), b"").unwrap();
        std::fs::write(dir.path().join("other.db"), b"no database at all").unwrap();
        dir
    }

    fn entry(dir: &Path) -> DbConfig {
        DbConfig {
            dir: Some(dir.to_owned()),
            pattern: "*.db".to_owned(),
            replica: Some(ReplicaSettings::from_url("file:///r")),
            ..DbConfig::default()
        }
    }

    fn found(entry: &DbConfig) -> Vec<String> {
        let found = entry.find_databases().unwrap();
        found.databases.iter().map(|db| db.replica.as_ref().unwrap().below.clone().unwrap()).collect()
    }

    #[test]
    fn databases_are_found_by_name_and_content() {
        let dir = tree();
        let mut entry = entry(dir.path());
        assert_eq!(found(&entry), ["a.db", "b.db"]);
        entry.recursive = true;
        assert_eq!(found(&entry), ["a.db", "b.db", "team/.hidden/d.db", "team/c.db"]);
    }

    #[test]
    fn nothing_found_is_an_error_unless_watched() {
        let dir = tree();
        let mut entry = entry(dir.path());
        entry.pattern = "*.xyz".to_owned();
        let error = entry.find_databases().err().unwrap();
        assert_eq!(
            error,
            format!("no SQLite databases found in directory {} with pattern *.xyz", dir.path().display())
        );
        entry.watch = true;
        assert!(entry.find_databases().unwrap().databases.is_empty());
        entry.pattern = "[".to_owned();
        assert!(entry.find_databases().err().unwrap().ends_with(": syntax error in pattern"));
        entry.dir = Some(dir.path().join("nope"));
        entry.pattern = "*".to_owned();
        assert!(entry.find_databases().err().unwrap().starts_with("failed to scan directory "));
    }

    #[test]
    fn a_database_whose_name_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tree();
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.db");
        std::fs::write(dir.path().join(name), b"SQLite format 3\0 and more").unwrap();
        let error = entry(dir.path()).find_databases().err().unwrap();
        assert!(error.contains("name is not valid UTF-8"), "{error}");
    }

    #[test]
    fn state_directories_are_derived_per_database() {
        let mut entry = entry(Path::new("/data"));
        entry.recursive = true;
        let file = Path::new("/data/team/a.db");
        assert_eq!(entry.derive(file).unwrap().meta_path, None);
        entry.meta_path = Some("/m".into());
        assert_eq!(entry.derive(file).unwrap().meta_path, Some("/m/team/.a.db-litestream".into()));
        entry.meta_path = None;
        entry.meta_dir = Some("/m".into());
        assert_eq!(entry.derive(file).unwrap().meta_path, Some("/m/team/a.db-litestream".into()));
    }

    #[test]
    fn a_directory_answers_for_files_it_would_find() {
        let config = Config { dbs: vec![entry(Path::new("/data"))], ..Config::default() };
        assert!(config.find(Path::new("/data/gone.db")).is_some());
        assert!(config.find(Path::new("/data/gone.txt")).is_none());
        assert!(config.find(Path::new("/data/team/a.db")).is_none(), "not recursive");
        assert!(config.find(Path::new("/other/a.db")).is_none());
    }
}
