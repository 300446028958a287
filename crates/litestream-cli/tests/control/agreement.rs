//! Side by side with upstream's 0.5.17: the same requests and commands must be
//! understood alike, and upstream's fields must mean the same. Ours may have more.

use serde_json::Value;

use crate::{Answer, Outcome, World, original, ours};

/// Method, route, body. Each line builds on those before it.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("GET", "/list", ""),
    ("GET", "/info", ""),
    ("GET", "/txid?path=DIR/a.db", ""),
    ("GET", "/txid", ""),
    ("GET", "/txid?path=", ""),
    ("GET", "/txid?path=/nope", ""),
    ("GET", "/debug/sync-status", ""),
    ("GET", "/debug/sync-status?path=DIR/a.db", ""),
    ("GET", "/debug/sync-status?path=/nope", ""),
    ("POST", "/debug/sync-status", ""),
    ("POST", "/list", ""),
    ("DELETE", "/info", ""),
    ("GET", "/sync", ""),
    ("PUT", "/start", "{}"),
    ("GET", "/nope", ""),
    ("GET", "/", ""),
    ("GET", "/metrics", ""),
    ("POST", "/sync", r#"{"path":"DIR/a.db"}"#),
    ("POST", "/sync", r#"{"path":"DIR/a.db","wait":true}"#),
    ("POST", "/sync", r#"{"path":"sqlite://DIR/a.db","wait":true,"timeout":5}"#),
    ("POST", "/sync", r#"{"path":"DIR/missing.db"}"#),
    ("POST", "/sync", r#"{"path":"/nope"}"#),
    ("POST", "/sync", ""),
    ("POST", "/sync", "{"),
    ("POST", "/sync", "[]"),
    ("POST", "/sync", "null"),
    ("POST", "/sync", "{}"),
    ("POST", "/sync", r#"{"path":5}"#),
    ("POST", "/sync", r#"{"path":"DIR/a.db","wait":"yes"}"#),
    ("POST", "/sync", r#"{"path":"DIR/a.db","unknown":1} and more"#),
    ("POST", "/stop", r#"{"path":"DIR/b.db"}"#),
    ("POST", "/stop", r#"{"path":"DIR/b.db","timeout":5}"#),
    ("POST", "/sync", r#"{"path":"DIR/b.db"}"#),
    ("GET", "/list", ""),
    ("POST", "/start", r#"{"path":"DIR/b.db"}"#),
    ("POST", "/start", r#"{"path":"DIR/b.db","timeout":5}"#),
    ("POST", "/start", r#"{"path":"/nope"}"#),
    ("POST", "/stop", r#"{"path":"/nope"}"#),
    ("POST", "/start", "{}"),
    ("POST", "/stop", "{}"),
    ("POST", "/register", "{}"),
    ("POST", "/register", r#"{"path":"DIR/c.db"}"#),
    ("POST", "/register", r#"{"path":"DIR/c.db","replica_url":"foo://x"}"#),
    ("POST", "/register", r#"{"path":"DIR/c.db","replica_url":"/x"}"#),
    ("POST", "/register", r#"{"path":"DIR/c.db","replica_url":"file://DIR/replica/c"}"#),
    ("POST", "/register", r#"{"path":"DIR/c.db","replica_url":"file://DIR/replica/c"}"#),
    ("POST", "/sync", r#"{"path":"DIR/c.db","wait":true}"#),
    ("GET", "/list", ""),
    ("POST", "/unregister", r#"{"path":"DIR/c.db"}"#),
    ("POST", "/unregister", r#"{"path":"DIR/c.db"}"#),
    ("POST", "/unregister", "{}"),
    ("GET", "/info", ""),
];

#[test]
fn the_socket_answers_as_upstreams_does() {
    let (us, them) = (World::running(ours()), World::running(original()));
    for (method, route, body) in REQUESTS {
        let (our, their) = (us.ask(method, route, body), them.ask(method, route, body));
        let what = format!("{method} {route} {body}\nours:  {our:?}\ntheirs: {their:?}");
        assert_eq!(our.status, their.status, "{what}");
        assert_eq!(our.header("content-type"), their.header("content-type"), "{what}");
        assert_eq!(our.header("allow"), their.header("allow"), "{what}");
        assert_eq!(our.body.ends_with('\n'), their.body.ends_with('\n'), "{what}");
        match serde_json::from_str::<Value>(&their.body) {
            Ok(_) => assert_covers(&neutral(&us, &our), &neutral(&them, &their), "", &what),
            Err(_) => assert_eq!(our.body, their.body, "{what}"),
        }
    }
}

fn neutral(world: &World, answer: &Answer) -> Value {
    serde_json::from_str(&world.neutral(&answer.body)).unwrap()
}

/// Fields whose value belongs to one process; that they are there and of the same
/// type is what counts. TXIDs differ because a first image is followed by an empty
/// delta here.
const OWN: [&str; 13] = [
    "last_sync_at",
    "started_at",
    "updated_at",
    "elapsed_seconds",
    "uptime_seconds",
    "pid",
    "txid",
    "replicated_txid",
    "last_synced_wal_offset",
    "details",
    "phase",
    "operation",
    "wal_size",
];

/// Details of a step that is over; ours does not keep them (docs/compatibility.md).
const NOT_KEPT: [&str; 3] = ["started_at", "elapsed_seconds", "last_synced_wal_offset"];

fn assert_covers(ours: &Value, theirs: &Value, place: &str, what: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let is_diagnosis = theirs.contains_key("active");
            for (name, their) in theirs {
                let is_new = is_diagnosis && (NOT_KEPT.contains(&name.as_str()) || !ours.contains_key(name));
                if is_new {
                    continue;
                }
                let our = ours.get(name).unwrap_or_else(|| panic!("{place}.{name} is missing: {what}"));
                assert_covers(our, their, &format!("{place}.{name}"), what);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{place}: {what}");
            for (our, their) in ours.iter().zip(theirs) {
                assert_covers(our, their, place, what);
            }
        }
        _ if OWN.iter().any(|name| place.ends_with(&format!(".{name}"))) => {
            assert_eq!(our_kind(ours), our_kind(theirs), "{place}: {what}");
        }
        _ => assert_eq!(ours, theirs, "{place}: {what}"),
    }
}

fn our_kind(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.as_u64() == Some(0) => "zero",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        _ => "other",
    }
}

/// One line each; `{}` is where the socket goes.
const COMMANDS: &str = "\
list {}
list {} -json
info {}
info {} -json
sync {} DIR/a.db
sync {} -wait DIR/a.db
sync {} -json DIR/a.db
sync {} -json -wait DIR/a.db
sync {} -timeout 0 DIR/a.db
sync {} DIR/nope.db
stop {} DIR/b.db
stop {} DIR/b.db
stop {} -json DIR/b.db
sync {} DIR/b.db
start {} DIR/b.db
start {} DIR/b.db
start {} -json DIR/b.db
start {} DIR/nope.db
stop {} DIR/nope.db
start {}
stop {}
sync {}
unregister {}
register {}
register {} DIR/c.db
register {} -replica foo://x DIR/c.db
register {} -replica file://DIR/replica/c DIR/c.db
register {} -replica file://DIR/replica/c DIR/c.db
register {} -json -replica file://DIR/replica/c DIR/c.db
sync {} -wait DIR/c.db
unregister {} DIR/c.db
unregister {} DIR/c.db
unregister {} -json DIR/c.db
list {} x
info {} x
sync {} x y
list {} -timeout 0
info {} -timeout -1
list {} -nope";

#[test]
fn commands_print_what_upstreams_print() {
    let (us, them) = (World::running(ours()), World::running(original()));
    for line in COMMANDS.lines() {
        let our = us.run_of(&ours(), &line.replace("{}", "-socket DIR/ls.sock"));
        let their = them.run_of(&original(), &line.replace("{}", "-socket DIR/ls.sock"));
        let what = format!("{line}\nours:  {our:?}\ntheirs: {their:?}");
        assert_eq!(our.code, their.code, "{what}");
        assert_same_output(&us, &our, &them, &their, &what);
    }
}

/// Either program's commands and either program's daemon.
#[test]
fn commands_and_daemons_of_both_programs_understand_each_other() {
    let alone = World::running(ours());
    let mixed = [(World::running(ours()), original()), (World::running(original()), ours())];
    for line in COMMANDS.lines() {
        let line = line.replace("{}", "-socket DIR/ls.sock");
        let expected = alone.run_of(&ours(), &line).code;
        for (world, program) in &mixed {
            let outcome = world.run_of(program, &line);
            assert_eq!(outcome.code, expected, "{line} by {}: {outcome:?}", program.path().display());
        }
    }
}

/// Standard output by lines, standard error by its `Error:` line.
fn assert_same_output(us: &World, our: &Outcome, them: &World, their: &Outcome, what: &str) {
    let error = |world: &World, outcome: &Outcome| {
        let line = outcome.stderr.lines().find(|line| line.starts_with("Error:")).unwrap_or_default().to_owned();
        world.neutral(&line)
    };
    assert_eq!(error(us, our), error(them, their), "{what}");
    if their.code != 0 {
        return;
    }
    if let Ok(theirs) = serde_json::from_str::<Value>(&them.neutral(&their.stdout)) {
        let ours: Value = serde_json::from_str(&us.neutral(&our.stdout)).unwrap();
        assert_covers_output(&ours, &theirs, what);
        assert!(our.stdout.starts_with("{\n  \""), "indented by two: {what}");
        return;
    }
    let (our, their) = (us.neutral(&our.stdout), them.neutral(&their.stdout));
    let mut lines = our.lines();
    for their in their.lines() {
        let our = lines.next().unwrap_or_else(|| panic!("too few lines: {what}"));
        // Upstream calls a missing database "replicating".
        if their.contains("missing.db [") {
            assert_eq!(our, "DIR/missing.db [waiting] (last sync: never)", "{what}");
        } else {
            assert_eq!(plain(our), plain(their), "{what}");
        }
    }
    let rest: Vec<&str> = lines.collect();
    assert!(rest.iter().all(|line| line.starts_with("replica_txid: ")), "{rest:?} {what}");
}

/// Numbers and times are each process's own.
fn plain(line: &str) -> String {
    let time = |word: &str| word.len() > 18 && word.contains('T') && word.trim_end_matches(')').ends_with('Z');
    let words = line.split(' ').map(|word| match word {
        word if time(word) => "TIME",
        word if word.parse::<u64>().is_ok_and(|number| number > 0) || word.ends_with('s') && word.len() < 4 => "N",
        "0" if line.starts_with("duration_ms") => "N",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn assert_covers_output(ours: &Value, theirs: &Value, what: &str) {
    for (name, their) in theirs.as_object().unwrap() {
        let our = ours.get(name).unwrap_or_else(|| panic!("{name} is missing: {what}"));
        let is_own = ["txid", "replica_txid", "final_txid", "pid", "uptime_seconds", "started_at", "duration_ms"];
        if is_own.contains(&name.as_str()) {
            assert_eq!((our.is_number(), our.is_string()), (their.is_number(), their.is_string()), "{name}: {what}");
        } else {
            assert_covers(our, their, &format!(".{name}"), what);
        }
    }
}
