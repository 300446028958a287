//! Log lines of a real run, byte for byte but for the time.

use crate::Sandbox;

/// Log lines of a one-shot run without databases.
fn log(sandbox: &Sandbox, logging: &str, arguments: &[&str]) -> crate::Outcome {
    let config = sandbox.write("c.yml", &format!("logging: {{{logging}}}\ndbs: []\n"));
    let arguments: Vec<&str> = ["replicate", "-once", "-config", &config].iter().chain(arguments).copied().collect();
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome
}

/// A line with its digits masked.
fn masked(line: &str, until: usize) -> String {
    let (time, rest) = line.split_at(until);
    let time: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    format!("{time}{rest}")
}

#[test]
fn text_is_the_default_form() {
    let outcome = log(&Sandbox::new(), "", &[]);
    let lines: Vec<_> = outcome.stdout.lines().map(|line| masked(line, 29)).collect();
    assert_eq!(
        lines,
        [
            "time=0000-00-00T00:00:00.000Z level=INFO msg=litestream version=0.5.17 level=\"\"",
            "time=0000-00-00T00:00:00.000Z level=ERROR msg=\"no databases specified in configuration\"",
            "time=0000-00-00T00:00:00.000Z level=INFO msg=\"one-shot replication complete\"",
            "time=0000-00-00T00:00:00.000Z level=INFO msg=\"replication complete, litestream shutting down\"",
            "time=0000-00-00T00:00:00.000Z level=INFO msg=\"litestream shut down\"",
        ]
    );
    assert_eq!(outcome.stderr, "");
}

#[test]
fn local_time_has_its_offset() {
    let outcome = log(&Sandbox::new().with("TZ", "XYZ+5"), "", &[]);
    let first = outcome.stdout.lines().next().unwrap();
    assert_eq!(&first[28..34], "-05:00", "{first}");
}

#[test]
fn json_lines_are_objects_in_the_known_order() {
    let outcome = log(&Sandbox::new(), "type: json", &[]);
    for line in outcome.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
        assert!(line.starts_with("{\"time\":\"20"), "{line}");
    }
    let last = outcome.stdout.lines().last().unwrap();
    assert!(last.ends_with("Z\",\"level\":\"INFO\",\"msg\":\"litestream shut down\"}"), "{last}");
}

#[test]
fn pretty_lines_are_plain_away_from_a_terminal() {
    let outcome = log(&Sandbox::new(), "type: pretty", &[]);
    let lines: Vec<_> = outcome.stdout.lines().map(|line| masked(line, 8)).collect();
    assert_eq!(lines[0], "00:00:00 INF litestream version=0.5.17 level=\"\"");
    assert_eq!(lines[1], "00:00:00 ERR no databases specified in configuration");
}

#[test]
fn lines_go_where_they_are_told() {
    let outcome = log(&Sandbox::new(), "stderr: yes", &[]);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("msg=litestream "));
}

#[test]
fn the_source_is_shown_when_asked() {
    let outcome = log(&Sandbox::new(), "source: true", &[]);
    assert!(outcome.stdout.lines().next().unwrap().contains(" level=INFO source=replicate.rs:"), "{outcome:?}");
}

#[test]
fn levels_are_taken_from_flag_then_variable_then_file() {
    let sandbox = Sandbox::new().with("LOG_LEVEL", "error");
    let outcome = log(&sandbox, "level: debug", &[]);
    assert_eq!(outcome.stdout.lines().count(), 1, "only the error: {outcome:?}");
    let outcome = log(&sandbox, "level: debug", &["-log-level", "info"]);
    assert!(outcome.stdout.lines().next().unwrap().ends_with(" level=info"), "{outcome:?}");
    let outcome = log(&Sandbox::new(), "level: WARN", &[]);
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
}
