//! JSON results: indented by two spaces, keys in declaration order, one newline
//! at the end.
//!
//! Spec: docs/commands.md, "Writing a command line".

use serde::Serialize;

/// The document as text.
///
/// # Errors
/// Never for the plain structures the commands print.
pub(crate) fn format<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_not_null() {
        assert_eq!(format(&Vec::<String>::new()).unwrap(), "[]\n");
    }

    #[test]
    fn objects_are_indented_by_two() {
        #[derive(Serialize)]
        struct Row {
            path: &'static str,
        }
        assert_eq!(format(&[Row { path: "/a" }]).unwrap(), "[\n  {\n    \"path\": \"/a\"\n  }\n]\n");
    }
}
