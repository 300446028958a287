//! `litestream man`: manual pages, made from the command table.
//!
//! For packagers; not listed. Spec: docs/commands.md, "man".

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::commands::version::VERSION;
use crate::commands::{COMMANDS, CommandSpec, Invocation};
use crate::config::defaults::CONFIG_PATH;
use crate::failure::{Failure, fail};
use crate::output;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "man",
    summary: "write manual pages",
    about: "The man command writes the manual pages litestream.1 and litestream-COMMAND.1\ninto a directory, or prints litestream.1.",
    positionals: &["[DIR]"],
    flags: &[],
    notes: "",
    examples: &[("", "litestream man | man -l -"), ("", "litestream man /usr/local/share/man/man1")],
    hidden: true,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    match invocation.arguments.positionals.as_slice() {
        [] => output::print(&overview())?,
        [dir] => write_pages(Path::new(dir))?,
        _ => return fail("too many arguments"),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(dir: &Path) -> anyhow::Result<()> {
    let pages = listed().map(|command| (format!("litestream-{}.1", command.name), page(command)));
    for (name, text) in std::iter::once(("litestream.1".to_owned(), overview())).chain(pages) {
        let path = dir.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

fn listed() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.into_iter().filter(|command| !command.hidden)
}

/// `litestream(1)`.
fn overview() -> String {
    let mut page = heading("LITESTREAM");
    page += ".SH NAME\nlitestream \\- replicate SQLite databases\n";
    page += ".SH SYNOPSIS\n.B litestream\n.I command\n[\\fIflags\\fR] [\\fIarguments\\fR]\n.SH COMMANDS\n";
    for command in listed() {
        let _ = writeln!(page, ".TP\n.BR litestream\\-{} (1)\n{}", escaped(command.name), text(command.summary));
    }
    page += ".SH FLAGS\nFlags stand before arguments. \\fB\\-flag\\fR and \\fB\\-\\-flag\\fR are the same; a value follows as\n";
    page += "\\fB\\-flag value\\fR or \\fB\\-flag=value\\fR. \\fB\\-h\\fR behind a command prints its help.\n";
    let _ = writeln!(
        page,
        ".SH FILES\n.TP\n.I {}\nConfiguration, unless \\fBLITESTREAM_CONFIG\\fR names another file.",
        escaped(CONFIG_PATH)
    );
    page += ".SH EXIT STATUS\n0 for success, 1 for an error, 130 and 143 where SIGINT or SIGTERM ended a restore.\n";
    page
}

/// `litestream-COMMAND(1)`.
fn page(command: &CommandSpec) -> String {
    let mut page = heading(&format!("LITESTREAM-{}", command.name.to_uppercase()));
    let name = escaped(command.name);
    let _ = writeln!(page, ".SH NAME\nlitestream\\-{name} \\- {}\n.SH SYNOPSIS", text(command.summary));
    for (index, form) in command.positionals.iter().enumerate() {
        if index > 0 {
            page.push_str(".br\n");
        }
        let flags = if command.flags.is_empty() { "" } else { " [\\fIflags\\fR]" };
        let form = if form.is_empty() { String::new() } else { format!(" \\fI{}\\fR", escaped(form)) };
        let _ = writeln!(page, "\\fBlitestream {name}\\fR{flags}{form}");
    }
    let _ = writeln!(page, ".SH DESCRIPTION\n{}", text(command.about));
    if !command.notes.is_empty() {
        // Notes are laid out by hand.
        let _ = writeln!(page, ".PP\n.nf\n{}\n.fi", text(command.notes));
    }
    if !command.flags.is_empty() {
        page.push_str(".SH FLAGS\n");
    }
    for flag in command.flags {
        let value = if flag.value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", escaped(flag.value)) };
        let _ = writeln!(page, ".TP\n\\fB\\-{}\\fR{value}\n{}", escaped(flag.name), text(flag.help));
        if !flag.default.is_empty() {
            let _ = writeln!(page, ".br\nDefaults to {}.", escaped(&flag.default.replace("{config}", CONFIG_PATH)));
        }
    }
    page.push_str(".SH EXAMPLES\n");
    for (comment, line) in command.examples {
        if !comment.is_empty() {
            let _ = writeln!(page, "{}", text(comment));
        }
        let _ = writeln!(page, ".PP\n.RS\n.nf\n{}\n.fi\n.RE\n.PP", text(line));
    }
    page.push_str(".SH SEE ALSO\n.BR litestream (1)\n");
    page
}

fn heading(title: &str) -> String {
    format!(".TH {} 1 \"\" \"litestream {VERSION}\"\n", escaped(title))
}

/// Text in the middle of a line.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// Whole lines: none may look like a request.
fn text(text: &str) -> String {
    let guarded = |line: &str| match line.starts_with(['.', '\'']) {
        true => format!("\\&{}", escaped(line)),
        false => escaped(line),
    };
    text.lines().map(guarded).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_a_request() {
        assert_eq!(text(".SH x\n'a'\nb\\c - d"), "\\&.SH x\n\\&'a'\nb\\ec \\- d");
    }
}
