//! Completions and manual pages, judged by the programs that read them.

use std::process::Command;

use crate::{Outcome, Sandbox};

/// What bash completes for a line that ends in `last`.
fn bash_completes(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source ./completion.bash; COMP_WORDS=(litestream {}); COMP_CWORD={}; _litestream 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len()
    );
    let outcome = Outcome::of(&mut sandbox.command_of("bash".as_ref(), &["-c", &script]));
    assert_eq!(outcome.stderr, "");
    outcome.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_choices() {
    let sandbox = Sandbox::new();
    let script = sandbox.run(&["completion", "bash"]);
    assert_eq!((script.code, script.stderr.as_str()), (0, ""));
    sandbox.write("completion.bash", &script.stdout);
    assert_eq!(bash_completes(&sandbox, &["rest"]), ["restore"]);
    assert!(bash_completes(&sandbox, &[""]).contains(&"replicate".to_owned()));
    assert!(!bash_completes(&sandbox, &[""]).contains(&"wal".to_owned()), "aliases are not offered");
    assert_eq!(bash_completes(&sandbox, &["restore", "-ti"]), ["-timestamp"]);
    assert_eq!(bash_completes(&sandbox, &["restore", "-integrity-check", "q"]), ["quick"]);
    assert_eq!(bash_completes(&sandbox, &["ltx", "--level", "a"]), ["all"]);
    assert_eq!(bash_completes(&sandbox, &["completion", "f"]), ["fish"]);
    assert!(bash_completes(&sandbox, &["restore", ""]).is_empty(), "the shell's own completion of files");
}

#[test]
fn other_shells_accept_their_script_where_they_are_installed() {
    let sandbox = Sandbox::new();
    for (shell, flag) in [("zsh", "-n"), ("fish", "--no-execute"), ("bash", "-n")] {
        let script = sandbox.run(&["completion", shell]).stdout;
        assert!(script.contains("restore") && script.contains("follow-interval"), "{shell}");
        let file = sandbox.write("script", &script);
        match Command::new(shell).args([flag, &file]).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("skipped: {shell} is not installed ({error})"),
        }
    }
}

#[test]
fn completion_asks_for_a_shell_it_knows() {
    let sandbox = Sandbox::new();
    sandbox.run(&["completion"]).fails_with(&["Error: shell required", "Try: litestream completion bash"]);
    sandbox.run(&["completion", "tcsh"]).fails_with(&["Error: unknown shell: tcsh (known are bash, zsh and fish)"]);
}

#[test]
fn every_command_has_a_manual_page_that_reads_without_complaint() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("man1")).unwrap();
    let outcome = sandbox.run(&["man", "man1"]);
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "", ""));
    assert_eq!(sandbox.run(&["man"]).stdout, std::fs::read_to_string(sandbox.path("man1/litestream.1")).unwrap());
    let pages: Vec<_> = std::fs::read_dir(sandbox.path("man1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 8, "{pages:?}");
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.starts_with(".TH LITESTREAM") && text.contains("\n.SH SYNOPSIS\n"), "{page:?}");
        let arguments = ["-man", "-Tutf8", "-ww", page.to_str().unwrap()];
        match Command::new("groff").args(arguments).output() {
            Ok(output) => {
                assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page:?}");
                assert!(output.status.success() && !output.stdout.is_empty(), "{page:?}");
            }
            Err(error) => eprintln!("skipped: groff is not installed ({error})"),
        }
    }
    let outcome = sandbox.run(&["man", "nowhere"]);
    assert!(outcome.stderr.starts_with("Error: cannot write nowhere/litestream.1: "), "{outcome:?}");
}
