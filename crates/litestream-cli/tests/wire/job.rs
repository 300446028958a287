//! The job: what a database goes through in a day, in a few seconds.

use std::ffi::OsStr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use litestream_testkit::facts::Fact;
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::Program;
use litestream_testkit::scenario::{commit, quiet_connection};
use rusqlite::Connection;

use crate::store::Store;

/// One run of a program, and what it asked of the store.
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) facts: Vec<Fact>,
}

/// Does the job with `program`. Restored databases must be right, so that nobody
/// compares requests that failed.
pub(crate) fn record(program: &Program, store: &Store) -> Vec<Step> {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::new(program, store, dir.path());
    let db = dir.path().join("db");
    let connection = quiet_connection(&db).unwrap();
    let mut steps = Vec::new();

    commit(&connection, 2).unwrap();
    steps.push(job.step("first image: replicate -once", &["replicate", "-once"]));
    commit(&connection, 1).unwrap();
    steps.push(job.step("one more transaction: replicate -once", &["replicate", "-once"]));
    let (then, moment) = (read_image(&db).unwrap(), next_second());
    commit(&connection, 1).unwrap();
    steps.push(job.step("another: replicate -once", &["replicate", "-once"]));
    steps.push(job.step("ltx", &["ltx", "DB"]));
    steps.push(job.restore("restore", &[], &read_image(&db).unwrap()));
    steps.push(job.restore("restore -timestamp", &["-timestamp", &moment.to_string()], &then));
    steps.push(job.step("replicate -once -force-snapshot", &["replicate", "-once", "-force-snapshot"]));
    commit(&connection, 1).unwrap();
    steps.push(
        job.step("another transaction: replicate -once -force-snapshot", &["replicate", "-once", "-force-snapshot"]),
    );
    let words = ["replicate", "-once", "-enforce-retention"];
    steps.push(job.step("replicate -once -enforce-retention", &words));
    commit_large(&connection);
    steps.push(job.step("17 MiB: replicate -once", &["replicate", "-once"]));
    steps.push(job.restore("restore of 17 MiB", &[], &read_image(&db).unwrap()));
    steps
}

struct Job<'a> {
    program: Program,
    store: &'a Store,
    dir: &'a Path,
}

impl<'a> Job<'a> {
    fn new(program: &Program, store: &'a Store, dir: &'a Path) -> Self {
        let replica = store.config.trim_end().replace('\n', "\n      ");
        let db = dir.join("db");
        // Everything but the newest is old enough to go; nobody looks at intervals
        // in a single run, but ours keeps one for restores that are reading.
        let text = format!(
            "snapshot: {{interval: 1ms, retention: 1ms}}\nl0-retention: 1ms\n\
             dbs:\n  - path: {}\n    replica:\n      {replica}\n",
            db.display()
        );
        std::fs::write(dir.join("litestream.yml"), text).unwrap();
        let program = store.env.iter().fold(program.clone(), |program, (name, value)| program.env(name, value));
        Self { program, store, dir }
    }

    /// Runs one command on the configuration; `DB` is the database.
    fn step(&self, title: &'static str, words: &[&str]) -> Step {
        let (command, words) = words.split_first().unwrap();
        let (config, db) = (self.dir.join("litestream.yml"), self.dir.join("db"));
        let mut arguments = vec![OsStr::new(command), OsStr::new("-config"), config.as_os_str()];
        arguments.extend(words.iter().map(|word| if *word == "DB" { db.as_os_str() } else { OsStr::new(word) }));
        drop(self.store.recorder.take());
        self.program.run(arguments).unwrap().success().unwrap();
        let requests = self.store.recorder.take();
        assert!(!requests.is_empty(), "{title}: nothing went through the recorder");
        // How many requests a server refuses for want of credentials depends on how many are
        // under way when the first of them learns its challenge. Each comes again with them.
        let answered = requests.iter().filter(|request| request.status != UNAUTHORIZED);
        Step { title, facts: answered.map(|request| Fact::of(request, &self.store.names)).collect() }
    }

    fn restore(&self, title: &'static str, words: &[&str], wanted: &Image) -> Step {
        let output = self.dir.join("restored");
        let path = output.display().to_string();
        let words: Vec<&str> = ["restore", "-o", &path].iter().chain(words).chain(&["DB"]).copied().collect();
        let step = self.step(title, &words);
        wanted.assert_same(&Image::of_closed_file(&output).unwrap(), title);
        std::fs::remove_file(&output).unwrap();
        step
    }
}

/// Commits 17 MiB that do not compress, the same in every run: more than one part
/// or one request for every store.
fn commit_large(connection: &Connection) {
    let mut rng = fastrand::Rng::with_seed(17);
    connection.execute_batch("CREATE TABLE large (body BLOB)").unwrap();
    let body: Vec<u8> = (0..17 << 20).map(|_| rng.u8(..)).collect();
    connection.execute("INSERT INTO large VALUES (?1)", [body]).unwrap();
}

/// A moment after everything that has happened, and a second before whatever
/// comes: some stores keep times in whole seconds.
#[allow(clippy::disallowed_methods, reason = "the programs and servers look at the same clock")]
fn next_second() -> Timestamp {
    let moment = Timestamp::now();
    while Timestamp::now().as_second() == moment.as_second() {
        thread::sleep(Duration::from_millis(5));
    }
    moment
}

const UNAUTHORIZED: u16 = 401;
