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

/// Paths that need care in a log line.
const ODD_NAMES: [&str; 38] = [
    "plain",
    "a b",
    "a=b",
    "q\"x",
    "b\\s",
    "t\tx",
    "n\nx",
    "r\rx",
    "ü",
    "nb\u{a0}x",
    "zw\u{200b}x",
    "rl\u{202e}x",
    "em\u{1F600}",
    "del\u{7f}x",
    "del \u{7f}x",
    "<&>",
    "ls\u{2028}x",
    "ps\u{2029}x",
    "c\u{1}x",
    "esc\u{1b}[1m",
    "bel\u{7}x",
    "bs\u{8}x",
    "ff\u{c}x",
    "vt\u{b}x",
    "soft\u{ad}x",
    "bom\u{feff}x",
    "pua\u{e000}x",
    "rep\u{fffd}x",
    "comb\u{301}x",
    "nel\u{85}x",
    "tag\u{e0001}x",
    "'single'",
    "`tick`",
    "comma,x",
    "{x}",
    "a:b",
    "c1\u{90}x",
    "ideo\u{3000}x",
];

/// A line without its time and without where in the program it comes from.
fn without_moment(line: &str, form: &str, source: bool) -> String {
    let cut = |line: &str, from: &str, to: &str| match line.split_once(from) {
        Some((before, rest)) => format!("{before}{from}{}", &rest[rest.find(to).unwrap()..]),
        None => panic!("{from:?} is missing in {line}"),
    };
    match form {
        "text" => {
            let line = cut(line, "time=", " level");
            if source { cut(&line, "source=", " msg") } else { line }
        }
        "json" => {
            let line = cut(line, "\"time\":\"", "\",\"level");
            if source { cut(&line, "\"source\":{", "},\"msg") } else { line }
        }
        _ => {
            let line = &line[8..];
            if source { cut(line, " INF ", " initialized") } else { line.to_owned() }
        }
    }
}

/// The same lines from both programs, byte for byte but for the time, in each form,
/// with and without the place in the program.
#[test]
fn lines_are_upstreams_byte_for_byte() {
    let sandbox = Sandbox::new();
    let escape = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') {
                    c.to_string()
                } else {
                    format!("\\U{:08x}", u32::from(c))
                }
            })
            .collect()
    };
    for form in ["text", "json", "pretty"] {
        for source in [false, true] {
            let mut config = format!("logging: {{type: {form}, source: {source}}}\nshutdown-sync-timeout: 0\ndbs:\n");
            for (index, name) in ODD_NAMES.iter().enumerate() {
                // The original lets these through to a terminal.
                if form == "pretty" && matches!(*name, "esc\u{1b}[1m" | "rep\u{fffd}x") {
                    continue;
                }
                let path = escape(&sandbox.text(name));
                config.push_str(&format!(
                    "- {{path: \"{path}\", replica: {{type: file, path: \"/nowhere/{index}\"}}}}\n"
                ));
            }
            let config = sandbox.write("c.yml", &config);
            let upstream = litestream_testkit::upstream::litestream();
            let ours = std::path::Path::new(env!("CARGO_BIN_EXE_litestream"));
            let [theirs, ours] = [upstream.path(), ours].map(|program| {
                let arguments = ["replicate", "-once", "-no-expand-env", "-config", &config];
                let outcome = crate::Outcome::of(&mut sandbox.command_of(program, &arguments));
                let lines = outcome.stdout.split('\n').filter(|line| line.contains("initialized db"));
                lines.map(|line| without_moment(line, form, source)).collect::<Vec<_>>()
            });
            assert!(theirs.len() >= 36, "{theirs:?}");
            assert_eq!(ours, theirs, "{form}, source: {source}");
        }
    }
}
