//! The dialect, case by case.

use super::*;

/// Reads one key of a document with `read`, giving the value or the first
/// error.
fn read<T>(text: &str, read: impl Fn(&Section<'_>, &mut Problems) -> Option<T>) -> Result<Option<T>, String> {
    let node = parse(text, |line| line).map_err(|(_, message)| message)?.expect("a document");
    let mut problems = Problems::default();
    let section = node.section(&mut problems).expect("a mapping");
    let value = read(&section, &mut problems);
    problems.errors.first().map_or(Ok(value), |error| Err(error.to_string()))
}

fn text(document: &str) -> Option<String> {
    read(document, |section, problems| section.text("k", problems)).unwrap()
}

#[test]
fn any_scalar_is_text_as_written() {
    for (document, value) in [
        ("k: 5", "5"),
        ("k: yes", "yes"),
        ("k: 1e3", "1e3"),
        ("k: 0x1F", "0x1F"),
        ("k: 0123", "0123"),
        ("k: \"a\\nb\"", "a\nb"),
        ("k: '~'", "~"),
        ("k: ''", ""),
    ] {
        assert_eq!(text(document).as_deref(), Some(value), "{document}");
    }
    for document in ["k:", "k: ~", "k: null", "x: 1"] {
        assert_eq!(text(document), None, "{document}");
    }
}

#[test]
fn booleans_have_many_spellings_but_no_quotes() {
    let boolean = |value: &str| read(&format!("k: {value}"), |section, problems| section.boolean("k", problems));
    for value in ["y", "Y", "yes", "On", "TRUE"] {
        assert_eq!(boolean(value), Ok(Some(true)), "{value}");
    }
    for value in ["n", "No", "off", "False"] {
        assert_eq!(boolean(value), Ok(Some(false)), "{value}");
    }
    assert_eq!(boolean("\"true\"").unwrap_err(), "line 1: cannot unmarshal !!str `true` into bool; remove the quotes");
    assert_eq!(boolean("1").unwrap_err(), "line 1: cannot unmarshal !!int `1` into bool");
}

#[test]
fn integers_come_in_all_bases_and_as_floats() {
    let integer = |value: &str| read(&format!("k: {value}"), |section, problems| section.integer("k", problems));
    for (value, expected) in [
        ("10", 10),
        ("-3", -3),
        ("0x10", 16),
        ("0b11", 3),
        ("0o10", 8),
        ("010", 8),
        ("0600", 384),
        ("1_000", 1000),
        ("1e3", 1000),
        ("1.0", 1),
        ("5.5", 5),
    ] {
        assert_eq!(integer(value), Ok(Some(expected)), "{value}");
    }
    for value in ["\"5\"", "x", "1e99", ".inf", "0.5.5", "[1]"] {
        assert!(integer(value).is_err(), "{value}");
    }
}

#[test]
fn durations_have_units_or_are_nanoseconds() {
    let duration = |value: &str| read(&format!("k: {value}"), |section, problems| section.duration("k", problems));
    for (value, nanos) in
        [("1s", 1_000_000_000), ("\"1s\"", 1_000_000_000), ("0", 0), ("24", 24), ("1e9", 1_000_000_000)]
    {
        assert_eq!(duration(value), Ok(Some(GoDuration::from_nanos(nanos))), "{value}");
    }
    assert_eq!(duration("1d").unwrap_err(), "line 1: cannot unmarshal !!str `1d` into duration");
    assert!(duration("\"5\"").is_err(), "a quoted bare number is refused");
}

#[test]
fn a_bare_duration_is_pointed_out() {
    let node = parse("interval: 24", |line| line).unwrap().unwrap();
    let mut problems = Problems::default();
    node.section(&mut problems).unwrap().duration("interval", &mut problems);
    assert_eq!(problems.warnings.len(), 1);
    assert!(problems.warnings[0].message.contains("nanoseconds"), "{problems:?}");
}

#[test]
fn the_last_of_repeated_keys_counts_and_is_reported() {
    assert_eq!(text("k: 1\nk: 2").as_deref(), Some("2"));
    let node = parse("k: 1\nk: 2", |line| line).unwrap().unwrap();
    let mut problems = Problems::default();
    let section = node.section(&mut problems).unwrap();
    section.text("k", &mut problems);
    section.report_unknown_keys("", &mut problems);
    assert_eq!(problems.warnings[0].line, 2);
}

#[test]
fn anchors_aliases_and_merges_work() {
    assert_eq!(text("a: &x hello\nk: *x").as_deref(), Some("hello"));
    let merged = "base: &b {k: base, j: 1}\nuse:\n  <<: *b\n  j: 2";
    let value = |key: &'static str| {
        read(merged, |section, problems| section.section("use", problems)?.text(key, problems)).unwrap()
    };
    assert_eq!(value("k").as_deref(), Some("base"));
    assert_eq!(value("j").as_deref(), Some("2"));
    assert!(parse("k: *nope", |line| line).unwrap_err().1.starts_with("yaml: line 1: "));
}

#[test]
fn only_the_first_document_is_read_and_a_mark_at_the_start_is_skipped() {
    assert_eq!(text("k: 1\n---\nk: 2\n").as_deref(), Some("1"));
    assert_eq!(text("---\nk: 1\n---\n: : broken").as_deref(), Some("1"));
    assert_eq!(text("\u{feff}k: 1").as_deref(), Some("1"));
    assert_eq!(text("{\"k\": \"json\"}").as_deref(), Some("json"));
}

#[test]
fn nothing_but_comments_is_no_document() {
    for text in ["", "# nothing\n", "\n\n"] {
        assert!(parse(text, |line| line).unwrap().is_none_or(|node| node.is_null()), "{text:?}");
    }
}

#[test]
fn tabs_for_indentation_are_refused_with_their_line() {
    let error = parse("a:\n\tb: 1\n", |line| line).unwrap_err().1;
    assert!(error.starts_with("yaml: line 2: "), "{error}");
}

#[test]
fn unknown_keys_are_reported_with_line_and_neighbour() {
    let node = parse("path: /a\nsync-intreval: 1s\n", |line| line).unwrap().unwrap();
    let mut problems = Problems::default();
    let section = node.section(&mut problems).unwrap();
    section.text("path", &mut problems);
    section.duration("sync-interval", &mut problems);
    section.report_unknown_keys("dbs[0]", &mut problems);
    assert_eq!(
        problems.warnings,
        [Warning {
            line: 2,
            message: "unknown key \"sync-intreval\" in dbs[0] is ignored, did you mean \"sync-interval\"?".to_owned()
        }]
    );
}

#[test]
fn aliases_cannot_make_a_small_file_huge() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..8 {
        let previous = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", ")));
    }
    assert!(parse(&text, |line| line).unwrap_err().1.contains("excessive aliasing"));
}
