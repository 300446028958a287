//! Side by side with the released 0.5.17 binary: the same arguments and files
//! must give the same standard output, exit code and messages.
//!
//! Differences that are meant stand in docs/compatibility.md and are not here.

use std::path::Path;

use crate::{Outcome, Sandbox};

/// What must agree: exit code, standard output without times of log lines, and
/// the `Error:` and `Try:` lines. Help that goes with a flag error is left out on
/// both sides, and so is what ours says behind the known words about a place.
#[derive(Debug, PartialEq, Eq)]
struct Contract {
    code: i32,
    stdout: String,
    messages: Vec<String>,
}

impl Contract {
    fn of(outcome: &Outcome) -> Self {
        let messages: Vec<String> = outcome
            .stderr
            .lines()
            .filter(|line| ["Error:", "Try:", "Warning:"].iter().any(|start| line.starts_with(start)))
            .map(|line| match line.find(" (/").filter(|_| line.ends_with(')')) {
                Some(place) => line[..place].to_owned(),
                None => line.to_owned(),
            })
            .collect();
        let is_help = outcome.code != 0 && !messages.is_empty() && outcome.stdout.to_lowercase().contains("usage:");
        let stdout =
            if is_help { String::new() } else { outcome.stdout.split_inclusive('\n').map(without_time).collect() };
        Self { code: outcome.code, stdout, messages }
    }
}

fn without_time(line: &str) -> String {
    match line.strip_prefix("time=").and_then(|rest| rest.split_once(' ')) {
        Some((_, rest)) => rest.to_owned(),
        None => line.to_owned(),
    }
}

fn assert_same(sandbox: &Sandbox, arguments: &[&str], about: &str) {
    let upstream = litestream_testkit::upstream::litestream();
    let theirs = Outcome::of(&mut sandbox.command_of(upstream.path(), arguments));
    remove_outputs(sandbox);
    let ours = sandbox.run(arguments);
    remove_outputs(sandbox);
    assert_eq!(Contract::of(&ours), Contract::of(&theirs), "{arguments:?} {about}\nours: {ours:?}\ntheirs: {theirs:?}");
}

fn remove_outputs(sandbox: &Sandbox) {
    for name in ["out.db", "out.db-wal", "out.db-shm", "out.db.tmp"] {
        if Path::exists(&sandbox.path(name)) {
            std::fs::remove_file(sandbox.path(name)).unwrap();
        }
    }
}

#[test]
fn command_lines_are_understood_alike() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    sandbox.write(
        "c.yml",
        "dbs:\n- path: a.db\n  replica: {path: replica}\n- path: nope.db\n  replica: {path: nothing}\n",
    );
    sandbox.write("full.db", "x");
    sandbox.write("empty.db", "");
    std::fs::create_dir(sandbox.path("dir")).unwrap();
    for line in COMMAND_LINES.lines() {
        let line = line.replace("URL", &url);
        let arguments: Vec<&str> = line.split_whitespace().collect();
        assert_same(&sandbox, &arguments, "");
    }
}

#[test]
fn configurations_are_understood_alike() {
    let sandbox = Sandbox::new().with("NAME", "value");
    for case in CONFIGURATIONS {
        sandbox.write("c.yml", case);
        assert_same(&sandbox, &["databases", "-config", "c.yml"], case);
    }
}

const COMMAND_LINES: &str = "\
bogus
RESTORE
restore
restore x y
restore file:///r
restore -o
restore -x
restore --x=1
restore -=x
restore ---x
restore -txid zz -o out.db URL
restore -txid 00000000000000zz -o out.db URL
restore -o out.db file:///nope
restore -o out.db -if-replica-exists file:///nope
restore -o out.db -dry-run -if-replica-exists file:///nope
restore -o out.db -timestamp 2000-01-01T00:00:00Z file:///nope
restore -o out.db -integrity-check foo file:///nope
restore -integrity-check foo
restore -config c.yml -o out.db file:///nope
restore -config c.yml other.db
restore -config c.yml nope.db
restore -config /nope a.db
restore -o dir file:///nope
restore -o dir -force file:///nope
restore -o full.db -if-db-not-exists file:///nope
restore -o empty.db -if-db-not-exists file:///nope
restore -o full.db URL
restore -o out.db foo://x
restore -o out.db s3://
restore -o out.db -f -txid 0000000000000001 file:///nope
restore -o out.db -f -dry-run file:///nope
restore -o out.db -parallelism 0b11 -force URL
restore -o out.db -dry-run URL
restore -o out.db -dry-run -json URL
restore -o out.db -dry-run -txid 0000000000000001 URL
restore -o out.db -txid 00000000000000ff URL
ltx
ltx x y
ltx -level 10 file:///r
ltx -level x file:///r
ltx -level= file:///r
ltx -level 07 file:///r
ltx -level +1 file:///r
ltx -level -1 file:///r
ltx -level all URL
ltx -level 9 -json URL
ltx -config c.yml file:///r
ltx -config c.yml a.db
ltx -config c.yml other.db
ltx foo://x
ltx -json file:///nope
wal file:///nope
wal
databases -config c.yml
databases -config c.yml -json
databases -config c.yml x
databases -config=c.yml -config /nope
databases -json=maybe
databases -json=T -config c.yml
version
version x y
version -x
replicate a.db
replicate -config c.yml a.db file:///r
replicate a.db b -once
replicate -once -exec true a.db file:///r
replicate -force-snapshot a.db file:///r
replicate -enforce-retention a.db file:///r
replicate -once -config /nope
register
register a.db
register -replica file:///r
register -replica file:///r a.db b.db
register -timeout 0 -replica file:///r a.db
sync
sync a.db b.db
sync -timeout 0 a.db
sync -wait=maybe a.db
start
stop
stop -timeout x a.db
unregister
unregister -dry-run
unregister -timeout -1 a.db
list -timeout 0
list -json x
info -timeout 0
info x
reset
reset x y
reset nope.db
status -config /nope
databases -config /nope
ltx -config /nope a.db
restore -config c.yml -txid 0000000000000000 -dry-run a.db";

const CONFIGURATIONS: [&str; 77] = [
    "",
    "# nothing",
    "dbs: []",
    "dbs:",
    "dbs: [{path: a.db, replica: {path: /r}}]",
    "dbs: [{path: 5, replica: {path: /r}}]",
    "dbs: [{path: yes, replica: {path: /r}}]",
    "dbs: [{path: 0x1F, replica: {path: /r}}]",
    "dbs: [{path: 1e3, replica: {path: /r}}]",
    "dbs: [{path: ~, replica: {path: /r}}]",
    "dbs: [{path: '', replica: {path: /r}}]",
    "dbs: [{path: '~', replica: {path: /r}}]",
    "dbs: [{path: '~/a', replica: {path: /r}}]",
    "dbs: [{path: '~you/a', replica: {path: /r}}]",
    "dbs: [{path: 'x/../../../../../../../../a', replica: {path: /r}}]",
    "dbs: [{path: 'a b ü', replica: {path: /r}}]",
    "dbs: [{path: /a, restore-if-db-not-exists: yes, replica: {path: /r}}]",
    "dbs: [{path: /a, restore-if-db-not-exists: 'yes', replica: {path: /r}}]",
    "dbs: [{path: /a, restore-if-db-not-exists: 1, replica: {path: /r}}]",
    "dbs: [{path: /a, monitor-interval: 5, replica: {path: /r}}]",
    "dbs: [{path: /a, monitor-interval: '0', replica: {path: /r}}]",
    "dbs: [{path: /a, monitor-interval: 1e9, replica: {path: /r}}]",
    "dbs: [{path: /a, truncate-page-n: 010, replica: {path: /r}}]",
    "dbs: [{path: /a, truncate-page-n: 5.5, replica: {path: /r}}]",
    "dbs: [{path: /a, truncate-page-n: 1_000, replica: {path: /r}}]",
    "dbs: [{path: /a, busy-timeout: , replica: {path: /r}}]",
    "dbs: [{path: /a, path: /b, replica: {path: /r}}]",
    "dbs: [{path: /a, nonsense: /b, replica: {path: /r}}]",
    "x: &r {path: /r}\ndbs: [{path: /a, replica: *r}]",
    "x: &r {path: /r}\ndbs:\n- path: /a\n  replica:\n    <<: *r\n    type: file",
    "x: &r {path: /r}\ny: &s {type: s3, bucket: b}\ndbs:\n- path: /a\n  replica:\n    <<: [*r, *s]",
    "dbs: [{path: /a}]",
    "dbs: [{path: /a, replica: }]",
    "dbs: [{path: /a, replicas: [], replica: {path: /r}}]",
    "dbs: [{path: /a, replicas: [{path: /r}]}]",
    "dbs: [{path: /a, replicas: [{path: /r}, {path: /q}]}]",
    "dbs: [{path: /a, replicas: [{path: /r}], replica: {path: /r}}]",
    "dbs: [{path: /a, replica: {url: 's3://b/p'}}]",
    "dbs: [{path: /a, replica: {url: 'S3://b/p'}}]",
    "dbs: [{path: /a, replica: {url: 's3://b/%zz'}}]",
    "dbs: [{path: /a, replica: {type: s3}}]",
    "dbs: [{path: /a, replica: {type: S3, bucket: b}}]",
    "dbs: [{path: /a, replica: {type: s3, bucket: b, path: p}}]",
    "dbs: [{path: /a, replica: {url: 's3://b/p', bucket: b}}]",
    "dbs: [{path: /a, replica: {url: 's3://b/p?partSize=5MB'}}]",
    "dbs: [{path: /a, replica: {url: 's3://127.0.0.1:9000/p'}}]",
    "dbs: [{path: /a, replica: {type: s3, bucket: b, part-size: 1MB, concurrency: -1}}]",
    "dbs: [{path: /a, replica: {url: 'file:///r', type: s3}}]",
    "dbs: [{path: /a, replica: {url: '/r'}}]",
    "dbs: [{path: /a, replica: {url: 'file:x'}}]",
    "dbs: [{path: /a, replica: {url: 'http://x/y'}}]",
    "dbs: [{path: /a, replica: {path: 's3://b'}}]",
    "dbs: [{path: /a, replica: {type: foo}}]",
    "dbs: [{path: /a, replica: {path: /r, sync-interval: 0.5s}}]",
    "sync-interval: 0\ndbs: [{path: /a, replica: {path: /r}}]",
    "dbs: [{path: /a, replica: {path: /r, age: {identities: [x]}}}]",
    "age: {identities: [x]}\ndbs: [{path: /a, replica: {path: /r}}]",
    "dbs: [{path: /a, replica: {path: /r}}, {path: /a, replica: {path: /r}}]",
    "dbs: [{path: 'sqlite:///a', replica: {path: /r}}, {path: /a, replica: {path: /r}}]",
    "dbs: []\n...\ngarbage: [",
    "dbs: [{path: /a, replica: {path: /r}}]\n---\ndbs: []",
    "\u{feff}dbs: [{path: /a, replica: {path: /r}}]",
    "{\"dbs\": [{\"path\": \"/a\", \"replica\": {\"path\": \"/r\"}}]}",
    "? dbs\n: - path: !!str 5\n    replica: {path: /r}",
    "dbs: [{path: $NAME/a, replica: {path: /r}}]",
    "dbs: [{path: '${NAME}$NOPE/a', replica: {path: /r}}]",
    "dbs: [{path: '$$NAME', replica: {path: /r}}]",
    "dbs: [{path: 'a$', replica: {path: /r}}]",
    "socket: {permissions: 0660}",
    "socket: {permissions: '0660'}",
    "snapshot: {interval: 0}",
    "l0-retention: -1s",
    "shutdown-sync-timeout: -1s",
    "shutdown-sync-interval: 0",
    "heartbeat-interval: 10s",
    "heartbeat-url: foo",
    "levels: [{interval: 0}]",
];
