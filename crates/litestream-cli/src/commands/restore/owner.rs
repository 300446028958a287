//! `-owner` and `-mode`: who shall have what is restored.
//!
//! Names are looked up in the system's own files; users that only a directory
//! service knows are given by number.
//!
//! Spec: docs/commands.md, "restore".

use litestream_replica::restore::Attributes;

use crate::arguments::Arguments;
use crate::failure::{Failure, fail};

/// What the flags ask for.
///
/// # Errors
/// A user or group that does not exist, or a mode that is none.
pub(super) fn attributes(arguments: &Arguments) -> anyhow::Result<Attributes> {
    let mut attributes = match arguments.non_empty("owner") {
        Some(text) => owner(text, &read("/etc/passwd"), &read("/etc/group")).map_err(Failure::new)?,
        None => Attributes::default(),
    };
    if let Some(text) = arguments.non_empty("mode") {
        let Some(mode) = mode(text) else {
            return fail(format!("invalid -mode, must be octal permissions of a file (e.g. 0640): {text}"));
        };
        attributes.mode = Some(mode);
    }
    Ok(attributes)
}

/// A list that is not there has no entries.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `USER`, `USER:GROUP`, `:GROUP`, and `USER:` for that user's own group.
fn owner(text: &str, users: &str, groups: &str) -> Result<Attributes, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut attributes = Attributes::default();
    if !user.is_empty() {
        let id = id(user, users).ok_or_else(|| format!("invalid -owner, no such user: {user}"))?;
        attributes.user = Some(id);
    }
    attributes.group = match group {
        None => None,
        Some("") if user.is_empty() => return Err("invalid -owner, must be USER[:GROUP]".to_owned()),
        Some("") => Some(own_group(user, users).ok_or_else(|| format!("invalid -owner, group of {user} is unknown"))?),
        Some(group) => Some(id(group, groups).ok_or_else(|| format!("invalid -owner, no such group: {group}"))?),
    };
    Ok(attributes)
}

/// The number of a user or a group: the third field of both lists. A number
/// stands for itself.
fn id(name: &str, list: &str) -> Option<u32> {
    let fields = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut listed = fields.filter(|fields| fields.first() == Some(&name));
    listed.find_map(|fields| fields.get(2)?.parse().ok()).or_else(|| name.parse().ok())
}

fn own_group(user: &str, users: &str) -> Option<u32> {
    let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.find(|fields| fields.first() == Some(&user) || fields.get(2) == Some(&user))?.get(3)?.parse().ok()
}

/// Permission bits in octal, with or without a zero in front.
fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal = !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let (users, groups) = ("root:x:0:0::/root:\napp:x:900:901::/:\n", "root:x:0:\ndata:x:77:\n");
        let owner = |text: &str| owner(text, users, groups).map(|found| (found.user, found.group));
        assert_eq!(owner("app"), Ok((Some(900), None)));
        assert_eq!(owner("app:data"), Ok((Some(900), Some(77))));
        assert_eq!(owner("app:"), Ok((Some(900), Some(901))));
        assert_eq!(owner(":data"), Ok((None, Some(77))));
        assert_eq!(owner("5:6"), Ok((Some(5), Some(6))));
        assert_eq!(owner("nobody"), Err("invalid -owner, no such user: nobody".to_owned()));
        assert_eq!(owner("app:none"), Err("invalid -owner, no such group: none".to_owned()));
        assert!(owner(":").is_err());
    }

    #[test]
    fn modes_are_octal() {
        for (text, bits) in [("0640", 0o640), ("640", 0o640), ("0o600", 0o600)] {
            assert_eq!(mode(text), Some(bits), "{text}");
        }
        for text in ["", "u+r", "0888", "1777", "+640", "-1"] {
            assert_eq!(mode(text), None, "{text}");
        }
    }
}
