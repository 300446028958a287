//! The process environment: the only place that reads it.
//!
//! Everything else asks an [`Environment`], which is a snapshot taken once at
//! start with the documented copies applied. Libraries get a lookup closure.
//!
//! Spec: cli §2.

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
}

/// Credentials under our own names stand in for the AWS ones that are unset.
const CREDENTIAL_COPIES: [(&str, &str); 2] =
    [("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")];

impl Environment {
    /// The environment of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn from_process() -> Self {
        Self::new(std::env::vars_os())
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
        Self { variables: Arc::new(variables), added }
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

    /// The user's home directory, when known.
    pub(crate) fn home(&self) -> Option<&str> {
        self.non_empty("HOME")
    }

    /// False where colour and moving output would disturb: `NO_COLOR` set to
    /// anything, or a dumb terminal.
    pub(crate) fn allows_decoration(&self) -> bool {
        self.non_empty("NO_COLOR").is_none() && self.get("TERM") != Some("dumb")
    }
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
    fn decoration_is_off_on_dumb_terminals_and_on_request() {
        assert!(environment(&[("TERM", "xterm"), ("NO_COLOR", "")]).allows_decoration());
        assert!(!environment(&[("TERM", "dumb")]).allows_decoration());
        assert!(!environment(&[("NO_COLOR", "1")]).allows_decoration());
    }
}
