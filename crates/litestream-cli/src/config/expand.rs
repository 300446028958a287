//! Environment variables in the raw text of a configuration file, by the rules
//! of Go's `os.Expand`.
//!
//! Values go in verbatim before YAML is parsed, so a value may bring YAML of its
//! own. Two deviations, neither of which changes a file that worked: lines that
//! are nothing but a comment are left alone, and variables that are not set are
//! reported.
//!
//! Spec: docs/configuration.md, "Variables".

use crate::config::yaml::Warning;

/// A file's text with its variables replaced.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// Line of the file that each line of `text` comes from: a value may bring
    /// lines of its own, and a person looks at the file.
    pub(crate) origin: Vec<usize>,
    /// Variables whose values went in, by line of the file.
    pub(crate) variables: Vec<(usize, String)>,
    pub(crate) warnings: Vec<Warning>,
}

impl Expanded {
    /// Appends what stands at, or was inserted at, a line of the file.
    fn push(&mut self, inserted: &str, line: usize) {
        self.text.push_str(inserted);
        self.origin.extend(std::iter::repeat_n(line, inserted.matches('\n').count()));
    }

    /// Ends a line of the file; what follows is on `next`.
    fn end_line(&mut self, next: usize) {
        self.text.push('\n');
        self.origin.push(next);
    }
}

/// Replaces `$NAME` and `${NAME}` by what `value` gives, nothing where it gives
/// nothing.
pub(crate) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> Expanded {
    let mut expanded = Expanded { text: String::with_capacity(text.len()), origin: vec![1], ..Expanded::default() };
    let mut line = 1;
    let mut rest = text;
    let mut line_starts = true;
    while !rest.is_empty() {
        if line_starts && rest.trim_start_matches([' ', '\t']).starts_with('#') {
            let (comment, after) = rest.split_at(rest.find('\n').unwrap_or(rest.len()));
            expanded.push(comment, line);
            line_starts = false;
            rest = after;
            continue;
        }
        let stop = rest.find(['$', '\n']).unwrap_or(rest.len());
        let (literal, after) = rest.split_at(stop);
        expanded.push(literal, line);
        line_starts = after.starts_with('\n');
        if line_starts {
            line += 1;
            expanded.end_line(line);
        }
        rest = after.get(1..).unwrap_or_default();
        if !after.starts_with('$') {
            continue;
        }
        let (reference, after) = reference(rest);
        match reference {
            Reference::None => expanded.push("$", line),
            Reference::Swallowed => {
                expanded.warnings.push(Warning { line, message: "${ without a name is dropped".to_owned() });
            }
            Reference::Name(name) => {
                match value(name) {
                    Some(replacement) => {
                        expanded.push(&replacement, line);
                        expanded.variables.push((line, name.to_owned()));
                    }
                    None => expanded.warnings.push(unset(line, name)),
                }
                line += name.matches('\n').count();
            }
        }
        rest = after;
    }
    expanded
}

/// What follows a `$`.
enum Reference<'a> {
    /// No reference: the `$` stays.
    None,
    /// Braces around nothing, or never closed: dropped.
    Swallowed,
    /// The variable of this name.
    Name(&'a str),
}

/// The reference at the start of `text`, and what comes after it.
fn reference(text: &str) -> (Reference<'_>, &str) {
    if let Some(inside) = text.strip_prefix('{') {
        return match inside.split_once('}') {
            Some(("", after)) => (Reference::Swallowed, after),
            Some((name, after)) => (Reference::Name(name), after),
            // Only the brace itself goes; what follows is text again.
            None => (Reference::Swallowed, inside),
        };
    }
    let special = text.chars().next().is_some_and(|c| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9'));
    let name_len =
        if special { 1 } else { text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len()) };
    match text.split_at(name_len) {
        ("", after) => (Reference::None, after),
        (name, after) => (Reference::Name(name), after),
    }
}

fn unset(line: usize, name: &str) -> Warning {
    let name: String = name.chars().take(40).collect();
    let message = if name == "$" {
        "$$ is dropped: a literal $ before a name needs -no-expand-env".to_owned()
    } else if name.contains('\n') {
        format!("everything from \"${{\" to the next \"}}\" is dropped, beginning with {name:?}")
    } else {
        format!("environment variable {name} is not set; nothing is inserted")
    };
    Warning { line, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_foo(text: &str) -> String {
        expand(text, |name| match name {
            "FOO" => Some("foo".to_owned()),
            "MULTI" => Some("a: 1\nb: 2".to_owned()),
            "PID" => Some("30965".to_owned()),
            _ => None,
        })
        .text
    }

    #[test]
    fn references_are_replaced_as_go_replaces_them() {
        for (text, expected) in [
            ("$FOO", "foo"),
            ("${FOO}", "foo"),
            ("${FOO}BAR", "fooBAR"),
            ("$FOOBAR", ""),
            ("$NOPE-x", "-x"),
            ("${FOO:-d}", ""),
            ("$$FOO", "FOO"),
            ("$$", ""),
            ("a$", "a$"),
            ("a$,b", "a$,b"),
            ("a$/b", "a$/b"),
            ("$(date)", "$(date)"),
            ("a$-b", "ab"),
            ("a$*b", "ab"),
            ("a$1b", "ab"),
            ("a$12b", "a2b"),
            ("\"\\$FOO\"", "\"\\foo\""),
            ("p$PID", "p30965"),
            ("${}x", "x"),
            ("${FOO", "FOO"),
            ("a: ${FOO}\nb: $FOO\n", "a: foo\nb: foo\n"),
            ("x\n$MULTI\n", "x\na: 1\nb: 2\n"),
            ("é$FOO€", "éfoo€"),
        ] {
            assert_eq!(expand_foo(text), expected, "{text}");
        }
    }

    #[test]
    fn comment_lines_are_left_alone() {
        let text = "# see ${UNCLOSED\n  # $FOO\ndbs: []\nx: {a: 1}\n";
        assert_eq!(expand_foo(text), text);
        assert_eq!(expand_foo("a: \"b # $FOO\""), "a: \"b # foo\"", "a # inside a value is no comment");
    }

    #[test]
    fn unset_variables_are_reported_with_their_line() {
        let Expanded { warnings, .. } = expand("a: 1\nb: $NOPE\nc: ${ALSO}\n", |_| None);
        let lines: Vec<_> = warnings.iter().map(|warning| warning.line).collect();
        assert_eq!(lines, [2, 3]);
        assert!(warnings[0].message.contains("NOPE"));
    }

    #[test]
    fn lines_are_those_of_the_file_whatever_was_inserted() {
        let text = "# $X\na: $TWO\nb: ${MULTI\nLINE}\nc: $TWO";
        let expanded = expand(text, |name| (name == "TWO").then(|| "1\nx: 2".to_owned()));
        assert_eq!(expanded.text, "# $X\na: 1\nx: 2\nb: \nc: 1\nx: 2");
        assert_eq!(expanded.origin, [1, 2, 2, 3, 5, 5]);
        assert_eq!(expanded.variables, [(2, "TWO".to_owned()), (5, "TWO".to_owned())]);
    }
}
