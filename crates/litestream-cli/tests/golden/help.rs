//! The help of every command, as it is printed.

use std::path::Path;

use crate::Site;

/// Commands that work and are not listed.
const HIDDEN: [&str; 2] = ["wal", "man"];

#[test]
fn the_help_of_every_command_is_the_golden_one() {
    let site = Site::empty();
    let overview = site.ours(&["help"]);
    assert_eq!((overview.code, overview.stderr.as_str()), (0, ""));
    let listed = overview.stdout.lines().filter_map(|line| line.strip_prefix('\t')?.split_whitespace().next());
    let commands: Vec<&str> = listed.filter(|word| *word != "litestream").chain(HIDDEN).collect();
    assert!(commands.len() > 8, "{commands:?}");
    let mut wrong = Vec::new();
    compare("help", &overview.stdout, &mut wrong);
    for command in &commands {
        let outcome = site.ours(&[command, "-h"]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{command}");
        let body = outcome.stdout.as_str();
        assert!(body.contains(&format!("\nUsage:\n\n\tlitestream {command}")), "{command}: {body}");
        assert!(body.contains("\nExamples:\n"), "{command}: {body}");
        compare(command, body, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong:?} differ; if that is meant, run this test once with UPDATE_GOLDEN=1 and commit");
}

fn compare(name: &str, text: &str, wrong: &mut Vec<String>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help").join(format!("{name}.txt"));
    #[allow(clippy::disallowed_methods, reason = "asked for by whoever runs the test")]
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    if std::fs::read_to_string(&file).unwrap_or_default() != text {
        wrong.push(name.to_owned());
    }
}

/// Whoever pipes help into a terminal of 80 columns reads whole lines.
#[test]
fn help_fits_eighty_columns() {
    let site = Site::empty();
    for command in ["replicate", "restore", "config", "points", "completion", "databases", "ltx"] {
        for line in site.ours(&[command, "-h"]).stdout.lines() {
            let width = line.chars().map(|c| if c == '\t' { 8 } else { 1 }).sum::<usize>();
            // Command lines to copy are not broken.
            assert!(width <= 92 || line.starts_with("\t$ "), "{command}: {width}: {line}");
        }
    }
}
