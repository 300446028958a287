//! Completions and manual pages, judged by the programs that read them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use litestream_testkit::debian;

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

/// Where zsh and fish are, and their libraries.
fn shells() -> (PathBuf, String) {
    let packages = ["zsh", "zsh-common", "fish", "fish-common", "libpcre2-32-0"];
    let root = debian::unpacked("shells", &packages, &["usr/bin/fish"]);
    let libraries = debian::library_path(&root);
    (root, libraries)
}

/// Lines as a person types them, each up to the key that completes.
const TYPED: [&str; 6] = [
    "litestream rest",
    "litestream restore -ti",
    "litestream restore -integrity-check q",
    "litestream ltx -level al",
    "litestream completion fi",
    "litestream ltx app.d",
];

#[test]
fn fish_completes_commands_flags_choices_and_files() {
    let sandbox = Sandbox::new();
    let (root, libraries) = shells();
    sandbox.write("app.db", "");
    sandbox.write("litestream.fish", &sandbox.run(&["completion", "fish"]).stdout);
    let asked: String = TYPED.iter().map(|line| format!("complete -C '{line}'; echo .;")).collect();
    let functions = root.join("usr/share/fish/functions");
    let script = format!("set fish_function_path {}; source litestream.fish; {asked}", functions.display());
    let mut fish = sandbox.command_of(&root.join("usr/bin/fish"), &["--no-config", "-c", &script]);
    let outcome = Outcome::of(fish.env("LD_LIBRARY_PATH", libraries).env("HOME", sandbox.path("")));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    // Candidates stand before a tab and their description.
    let found: Vec<String> = outcome
        .stdout
        .split("\n.\n")
        .map(|part| part.lines().map(|line| line.split('\t').next().unwrap()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(found, ["restore", "-timestamp", "quick", "all", "fish", "app.db", ""], "{outcome:?}");
}

/// zsh completes nothing without its line editor, so a terminal is driven.
#[test]
fn zsh_completes_commands_flags_choices_and_files() {
    let sandbox = Sandbox::new();
    let (root, libraries) = shells();
    sandbox.write("app.db", "");
    sandbox.write("_litestream", &sandbox.run(&["completion", "zsh"]).stdout);
    let zsh = ["bin/zsh", "usr/bin/zsh"].map(|path| root.join(path)).into_iter().find(|path| path.exists()).unwrap();
    let modules = "module_path=($ROOT/usr/lib/*-linux-gnu/zsh/*(/))\n";
    // What a person has in `.zshrc`, and a key that tells what stands on the line.
    sandbox.write(
        "setup.zsh",
        &format!(
            "{modules}fpath=($PWD $ROOT/usr/share/zsh/functions/**/*(/N))\nautoload -Uz compinit\ncompinit -u -D\n\
             show() {{ print -r -- \"$BUFFER\" >> completed; BUFFER= }}\nzle -N show\n\
             bindkey '^I' complete-word\nbindkey '^X' show\nprint > ready\n"
        ),
    );
    // The terminal must be read, or the shell in it stops.
    let drive = format!(
        "{modules}zmodload zsh/zpty zsh/zselect\nzpty z $ZSH -f -i\nzpty -w z 'source ./setup.zsh'\n\
         wait_for() {{ repeat 2000; do eval $1 && return; zpty -r -t z line; zselect -t 1; done; print \"no $1\" }}\n\
         wait_for '[[ -e ready ]]'\nfor line; do\n  zpty -w -n z \"$line\"$'\\t'$'\\x18'\n  (( lines += 1 ))\n  \
         wait_for '[[ -e completed && $(wc -l < completed) -ge $lines ]]'\ndone\nzpty -d z\n"
    );
    let file = sandbox.write("drive.zsh", &drive);
    let mut driver = sandbox.command_of(&zsh, &[&["-f", &file][..], &TYPED].concat());
    driver.env("LD_LIBRARY_PATH", libraries).env("ROOT", &root).env("ZSH", &zsh).env("HOME", sandbox.path(""));
    let outcome = Outcome::of(driver.env("TERM", "xterm"));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    let completed = std::fs::read_to_string(sandbox.path("completed")).unwrap();
    let completed: Vec<&str> = completed.lines().map(str::trim_end).collect();
    let wanted = [
        "litestream restore",
        "litestream restore -timestamp",
        "litestream restore -integrity-check quick",
        "litestream ltx -level all",
        "litestream completion fish",
        "litestream ltx app.db",
    ];
    assert_eq!(completed, wanted);
}

#[test]
fn completion_asks_for_a_shell_it_knows() {
    let sandbox = Sandbox::new();
    sandbox.run(&["completion"]).fails_with(&["Error: shell required", "Try: litestream completion bash"]);
    sandbox.run(&["completion", "tcsh"]).fails_with(&["Error: unknown shell: tcsh (known are bash, zsh and fish)"]);
}

/// A page as `man` shows it.
fn groff(page: &Path) -> Output {
    let root = debian::unpacked("groff", &["groff-base", "libuchardet0"], &["usr/bin/groff"]);
    let share = std::fs::read_dir(root.join("usr/share/groff")).unwrap().map(|entry| entry.unwrap().path());
    let share = share.into_iter().find(|path| path.join("font").exists()).unwrap();
    let programs = root.join("usr/bin");
    let path = std::env::join_paths([programs.clone(), "/usr/bin".into(), "/bin".into()]).unwrap();
    Command::new(programs.join("groff"))
        .args(["-man", "-Tutf8", "-ww"])
        .arg(page)
        .env("LD_LIBRARY_PATH", debian::library_path(&root))
        .env("PATH", path)
        .env("GROFF_FONT_PATH", share.join("font"))
        .env("GROFF_TMAC_PATH", share.join("tmac"))
        .output()
        .unwrap()
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
        let output = groff(page);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page:?}");
        assert!(output.status.success() && !output.stdout.is_empty(), "{page:?}");
    }
    let outcome = sandbox.run(&["man", "nowhere"]);
    assert!(outcome.stderr.starts_with("Error: cannot write nowhere/litestream.1: "), "{outcome:?}");
}
