//! File-name patterns by the rules of Go's `filepath.Match`.
//!
//! `*` any run, `?` any one character, `[a-z]` one of a set, `[^x]` one not of
//! it, `\` takes the next character literally. No `{a,b}` and no `**`.
//!
//! Spec: docs/configuration.md, "Database".

/// The pattern cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPattern;

/// One step of a pattern.
enum Step {
    Any,
    One,
    Literal(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// A pattern, checked.
pub(crate) struct Pattern(Vec<Step>);

impl Pattern {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, BadPattern> {
        let mut steps = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            steps.push(match c {
                '*' => Step::Any,
                '?' => Step::One,
                '\\' => Step::Literal(chars.next().ok_or(BadPattern)?),
                '[' => set(&mut chars)?,
                c => Step::Literal(c),
            });
        }
        Ok(Self(steps))
    }

    /// True when the whole name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // Where in the name the steps so far may end.
        let mut reachable = vec![false; name.len() + 1];
        if let Some(first) = reachable.first_mut() {
            *first = true;
        }
        for step in &self.0 {
            let mut next = vec![false; name.len() + 1];
            let mut seen = false;
            for (index, slot) in next.iter_mut().enumerate() {
                let here = reachable.get(index).copied().unwrap_or(false);
                let before = index > 0 && reachable.get(index - 1).copied().unwrap_or(false);
                seen |= here;
                let c = index.checked_sub(1).and_then(|index| name.get(index)).copied();
                *slot = match (step, c) {
                    (Step::Any, _) => seen,
                    (_, None) => false,
                    (Step::One, Some(_)) => before,
                    (Step::Literal(literal), Some(c)) => before && *literal == c,
                    (Step::Set { negated, ranges }, Some(c)) => {
                        before && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
                    }
                };
            }
            reachable = next;
        }
        reachable.last().copied().unwrap_or(false)
    }
}

/// A set, its opening bracket already read.
fn set(chars: &mut std::str::Chars<'_>) -> Result<Step, BadPattern> {
    let negated = chars.as_str().starts_with('^');
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    loop {
        if chars.as_str().starts_with(']') && !ranges.is_empty() {
            chars.next();
            return Ok(Step::Set { negated, ranges });
        }
        let low = member(chars)?;
        let high = if chars.as_str().starts_with('-') {
            chars.next();
            member(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn member(chars: &mut std::str::Chars<'_>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(c) => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("*.db", "a.db", true),
            ("*.db", ".db", true),
            ("*.db", "a.db-wal", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("?.db", "é.db", true),
            ("?.db", "ab.db", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*.db", "*.db", true),
            ("\\*.db", "a.db", false),
            ("{a,b}.db", "a.db", false),
            ("sub/*.db", "a.db", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn unreadable_patterns_are_refused() {
        for pattern in ["[", "[]a]", "[a-]", "[-a]", "a\\", "[a"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
