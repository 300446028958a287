//! Paths as configuration files and arguments spell them.
//!
//! Spec: docs/configuration.md, "The file".

use std::path::{Component, Path, PathBuf};

use crate::environment::Environment;

/// An absolute, cleaned path: `sqlite://` is stripped, `~` is the home
/// directory, anything else relative is taken from `cwd`. `~user` is a name
/// like any other.
pub(crate) fn absolute(path: &str, environment: &Environment, cwd: &Path) -> Result<PathBuf, String> {
    let path = path.strip_prefix("sqlite3://").or_else(|| path.strip_prefix("sqlite://")).unwrap_or(path);
    let rest = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    Ok(match rest {
        Some(rest) => {
            let home = environment.home().ok_or("cannot determine user home directory")?;
            clean(&Path::new(home).join(rest.trim_start_matches('/')))
        }
        None => clean(&cwd.join(path)),
    })
}

/// Removes `.`, resolves `..` by name and drops doubled and trailing slashes.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(cleaned.components().next_back(), Some(Component::Normal(_))) => {
                cleaned.pop();
            }
            Component::ParentDir if cleaned.has_root() => {}
            other => cleaned.push(other),
        }
    }
    if cleaned.as_os_str().is_empty() { PathBuf::from(".") } else { cleaned }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_clean() {
        let environment = Environment::new([("HOME".into(), "/home/me".into())]);
        for (path, expected) in [
            ("/data/x.db", "/data/x.db"),
            ("sqlite:///data/x.db", "/data/x.db"),
            ("sqlite3://x.db", "/cwd/x.db"),
            ("T/../T//a.db", "/cwd/T/a.db"),
            ("./a.db", "/cwd/a.db"),
            ("../../../a.db", "/a.db"),
            ("~", "/home/me"),
            ("~/a.db", "/home/me/a.db"),
            ("~you/a.db", "/cwd/~you/a.db"),
            ("/data/x.db?mode=ro", "/data/x.db?mode=ro"),
        ] {
            assert_eq!(absolute(path, &environment, Path::new("/cwd")), Ok(PathBuf::from(expected)), "{path}");
        }
    }

    #[test]
    fn a_home_that_is_not_known_is_an_error() {
        assert!(absolute("~/a", &Environment::default(), Path::new("/cwd")).is_err());
    }
}
