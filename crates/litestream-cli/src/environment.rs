//! The process environment: the only place that reads it.
//!
//! Everything else asks an [`Environment`], which is a snapshot taken once at
//! start with the documented copies applied. Libraries get a lookup closure.
//!
//! Spec: docs/commands.md, "Environment".

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;

use litestream_replica::url::EnvLookup;

/// Variables as the program sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: Arc<HashMap<String, String>>,
    /// Variables added to those inherited, in the order they were added; a child
    /// process gets them as well.
    added: Vec<(&'static str, String)>,
    /// The user's home by the system's list of users.
    listed_home: Option<String>,
}

/// Credentials under our own names stand in for the AWS ones that are unset.
const CREDENTIAL_COPIES: [(&str, &str); 2] =
    [("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")];

impl Environment {
    /// The environment of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn from_process() -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let listed_home = listed_home(&users, rustix::process::getuid().as_raw());
        Self { listed_home, ..Self::new(std::env::vars_os()) }
    }

    /// An environment of given variables. Names or values that are not UTF-8
    /// are left out: nothing this program reads has such a value.
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut variables: HashMap<String, String> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut added = Vec::new();
        for (from, to) in CREDENTIAL_COPIES {
            // Set but empty counts as set.
            if !variables.contains_key(to)
                && let Some(value) = variables.get(from).cloned()
            {
                variables.insert(to.to_owned(), value.clone());
                added.push((to, value));
            }
        }
        Self { variables: Arc::new(variables), added, listed_home: None }
    }

    /// The value of a variable, if it is set (possibly to nothing).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The value of a variable, if it is set to something.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// A lookup that libraries may keep.
    pub(crate) fn lookup(&self) -> EnvLookup {
        let variables = Arc::clone(&self.variables);
        Arc::new(move |name| variables.get(name).cloned())
    }

    /// What a child process must be given on top of what it inherits.
    pub(crate) fn added(&self) -> &[(&'static str, String)] {
        &self.added
    }

    /// The user's home directory: by the list of users, as `~` has always been
    /// read, else by `HOME`.
    pub(crate) fn home(&self) -> Option<&str> {
        self.listed_home.as_deref().or_else(|| self.non_empty("HOME"))
    }

    /// False where colour and moving output would disturb: `NO_COLOR` set to
    /// anything, or a dumb terminal.
    pub(crate) fn allows_decoration(&self) -> bool {
        self.non_empty("NO_COLOR").is_none() && self.get("TERM") != Some("dumb")
    }
}

/// The home directory of a user in the form of `/etc/passwd`.
fn listed_home(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is_user = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (is_user && home.starts_with('/')).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    #[test]
    fn own_credentials_stand_in_for_unset_aws_ones() {
        let env = environment(&[("LITESTREAM_ACCESS_KEY_ID", "id"), ("LITESTREAM_SECRET_ACCESS_KEY", "key")]);
        assert_eq!(env.get("AWS_ACCESS_KEY_ID"), Some("id"));
        assert_eq!(env.get("AWS_SECRET_ACCESS_KEY"), Some("key"));
        assert_eq!(env.added().len(), 2, "a child gets the copies too");
    }

    #[test]
    fn aws_credentials_that_are_set_even_to_nothing_stay() {
        let env = environment(&[("LITESTREAM_ACCESS_KEY_ID", "id"), ("AWS_ACCESS_KEY_ID", "")]);
        assert_eq!(env.get("AWS_ACCESS_KEY_ID"), Some(""));
        assert!(env.added().is_empty());
    }

    #[test]
    fn homes_are_found_by_user() {
        let users = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nme:x:1000:1000::/home/me:/bin/sh\nno:x:7:7::nowhere:\n";
        assert_eq!(listed_home(users, 1000).as_deref(), Some("/home/me"));
        assert_eq!(listed_home(users, 0).as_deref(), Some("/root"));
        assert_eq!(listed_home(users, 7), None);
        assert_eq!(listed_home(users, 8), None);
    }

    #[test]
    fn decoration_is_off_on_dumb_terminals_and_on_request() {
        assert!(environment(&[("TERM", "xterm"), ("NO_COLOR", "")]).allows_decoration());
        assert!(!environment(&[("TERM", "dumb")]).allows_decoration());
        assert!(!environment(&[("NO_COLOR", "1")]).allows_decoration());
    }
}
