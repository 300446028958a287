//! Fuzz bodies of what people and other programs hand to the command: the
//! configuration, words of the command line, requests on the control socket.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use litestream_fuzz::{Bound, Target, bounded};

use crate::config::{self, Surroundings};
use crate::control::routes;
use crate::environment::Environment;
use crate::observe::Address;
use crate::units::{GoDuration, parse_integer, parse_size};

const CONFIG: &str = "\
addr: ':9090'
access-key-id: AKID
socket: {enabled: true, path: /run/ls.sock, permissions: 0600}
logging: {level: debug, type: json}
levels: [{interval: 30s}, {interval: 5m}]
snapshot: &s {interval: 24h, retention: 1h30m}
defaults: &d {sync-interval: 1s}
dbs:
  - path: ${HOME}/a.db
    max-local-bytes: 1.5GB
    replica: {<<: *d, url: 's3://b/p?region=eu'}
  - dir: /data
    pattern: \"*.db\"
    watch: yes
    replica:
      type: file
      path: \"/r\\x41\\n\"
";

/// A document of the longest texts and of as many nodes as are allowed, each copied
/// once, and whatever its own bytes become.
const CONFIG_BOUND: Bound = Bound { base: 512 << 20, per_byte: 1024 };

fn load(text: &str) -> Result<config::Meaning, config::Invalid> {
    let environment = Environment::new([("HOME".into(), "/home/me".into())]);
    let surroundings = Surroundings::new(&environment, PathBuf::from("/cwd"));
    config::from_text(text, true, &surroundings)
}

fn config_body(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match bounded(input.len(), CONFIG_BOUND, || load(&text)) {
        Ok(meaning) => {
            let _ = crate::daemon::store_options(&meaning.config);
            let lines = text.lines().count();
            assert!(meaning.warnings.iter().all(|warning| warning.line <= lines + 1), "{:?}", meaning.warnings);
        }
        Err(invalid) => assert!(!invalid.to_string().is_empty()),
    }
}

#[test]
fn no_configuration_crashes_or_grows() {
    let words = [
        "&a ",
        "*a",
        "<<: *a",
        "<<: [*a, *a]",
        "[",
        "]",
        "{",
        "}",
        "- ",
        "? ",
        ": ",
        "|",
        ">",
        "!!str ",
        "!!binary ",
        "%YAML 1.2",
        "---",
        "...",
        "\t",
        "\u{feff}",
        "\u{85}",
        "${",
        "${HOME}",
        "$$",
        "$(x)",
        "'",
        "\"",
        "\\x00",
        "\\uD800",
        "~",
        "-1",
        "9223372036854775808",
        "1e999",
        "0o777",
        "0x",
        ".inf",
        "dbs:",
        "replica:",
        "path: /x",
        "url: ",
        "dir: /x",
    ];
    Target::new("configuration", [CONFIG]).words(&words).cases(400).run(config_body);
}

/// A few hundred kilobytes that aliases would turn into gigabytes, and nesting that
/// would use up the stack.
#[test]
fn aliases_and_nesting_are_refused_before_they_cost_anything() {
    let laughs: String = (1..10).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let alias = format!("*a{}", level - 1);
        text + &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "))
    });
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(128 << 10), "*a, ".repeat(32 << 10));
    let keys: String = (0..20_000).map(|key| format!("k{key}: 1, ")).collect();
    let merged = format!("a: &a {{{keys}}}\nb: {{<<: [{}]}}\n", "*a, ".repeat(20));
    for text in [laughs, long, merged] {
        config_body(text.as_bytes());
    }
    for open in ["[", "{a: ", "- ", "? ", "a:\n ", "[[[[{x: ["] {
        config_body(open.repeat(50_000).as_bytes());
    }
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        for depth in [1000, 100_000] {
            config_body(format!("{}1{}", open.repeat(depth), close.repeat(depth)).as_bytes());
        }
    }
}

#[test]
fn no_word_of_the_command_line_crashes() {
    let samples = [
        "1h30m0.5s",
        "-5ms",
        "1.5GB",
        "10 MiB",
        "0x1f",
        "2026-11-22T10:16:12Z",
        "5 minutes ago",
        "yesterday 10:00",
        ":9090",
        "[::1]:9090",
    ];
    let words = [
        "-",
        "+",
        ".",
        "ns",
        "h",
        "µs",
        " ago",
        "days",
        "9999999999",
        "18446744073709551616",
        "e999",
        "GB",
        ":",
        "]",
        "é",
        "0b1",
        "_",
    ];
    Target::new("word", samples).words(&words).cases(2000).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        bounded(input.len(), Bound { base: 64 << 10, per_byte: 64 }, || {
            if let Ok(duration) = text.parse::<GoDuration>() {
                assert_eq!(
                    duration.to_string().parse::<GoDuration>(),
                    Ok(duration),
                    "what is printed is read the same"
                );
            }
            let _ = (parse_size(text), parse_integer(text));
            if let Ok(address) = Address::parse(text) {
                assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
            }
            let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
            let _ = crate::timestamp::parse(text, now, &TimeZone::UTC);
        });
    });
}

/// Matching takes as many steps as pattern times name: no pattern makes it more.
#[test]
fn no_pattern_crashes() {
    let words = ["*", "**", "?", "[a-z]", "[^", "]", "\\", "[]", "-", "é"];
    Target::new("pattern", ["*.db", "[a-c]?x*"]).words(&words).cases(500).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let text: String = text.chars().take(2000).collect();
        let Ok(pattern) = config::glob::Pattern::parse(&text) else { return };
        let _ = pattern.matches("app.db");
        if text.chars().all(|c| c.is_ascii_alphanumeric()) {
            assert!(pattern.matches(&text), "a plain name matches itself");
        }
    });
}

#[test]
fn no_request_on_the_control_socket_crashes_or_grows() {
    let bodies =
        [r#"{"path":"/a.db","wait":true,"timeout":5}"#, r#"{"path":"/a","replica_url":"file:///r"} x"#, "null"];
    let words = ["{", "[", "\"path\":", "null", "1e999", "-9223372036854775809", "\\ud800", "\\u0000", "true", ","];
    Target::new("control request", bodies).words(&words).run(|input| {
        let bound = Bound { base: 64 << 10, per_byte: 80 };
        if let Ok(request) = bounded(input.len(), bound, || routes::decode(input)) {
            let again = serde_json::to_vec(&request).unwrap();
            assert_eq!(serde_json::to_vec(&routes::decode(&again).unwrap()).unwrap(), again);
        }
        let query = String::from_utf8_lossy(input);
        let path = routes::query_path(&format!("x=1&path={query}"));
        assert!(path.is_some_and(|path| path.len() <= 3 * query.len()));
    });
    for open in ["[", "{\"path\":"] {
        assert!(routes::decode(open.repeat(1 << 19).as_bytes()).is_err());
    }
}
