//! What the tests that run real processes share: a directory with a database, a
//! replica of either kind, a configuration file that both binaries read, and the
//! one comparison everything ends in.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be set up fails"
)]

pub mod application;
pub mod backend;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::{Output, Program};
use litestream_testkit::s3_server::{self, Bucket, Kind, S3Server};
use litestream_testkit::upstream;
use ltx::FileName;

/// The binary under test.
pub fn ours() -> Program {
    Program::new(env!("CARGO_BIN_EXE_litestream"))
}

/// Where a replica is.
pub enum Place {
    File,
    S3(Bucket),
    /// Any other: its `replica:` mapping, and what programs need to know besides.
    Other {
        config: String,
        environment: Vec<(&'static str, String)>,
    },
}

/// A database, its replica and everything around them; gone when dropped.
pub struct Site {
    dir: tempfile::TempDir,
    place: Place,
}

impl Site {
    /// With a replica in a directory.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), place: Place::File }
    }

    /// With a replica in a bucket of its own.
    pub fn on(kind: Kind) -> Self {
        Self { place: Place::S3(s3_server::fresh_bucket(kind).unwrap()), ..Self::new() }
    }

    /// With a replica in a bucket of a server of the test's own.
    pub fn on_server(server: &S3Server) -> Self {
        Self { place: Place::S3(server.fresh_bucket().unwrap()), ..Self::new() }
    }

    /// With a replica as `config` says, for programs with this environment.
    pub fn with_replica(config: String, environment: Vec<(&'static str, String)>) -> Self {
        Self { place: Place::Other { config, environment }, ..Self::new() }
    }

    /// `program` with what it must know to reach the replica.
    fn equip(&self, program: &Program) -> Program {
        let Place::Other { environment, .. } = &self.place else { return program.clone() };
        environment.iter().fold(program.clone(), |program, (name, value)| program.env(name, value))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.path("app.db")
    }

    pub fn meta(&self) -> PathBuf {
        self.path(".app.db-litestream")
    }

    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// The directory of a replica of kind [`Place::File`].
    pub fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.replica().display())
    }

    /// Writes a configuration with `top` before the database.
    pub fn config(&self, top: &str) -> PathBuf {
        let replica = match &self.place {
            Place::File => format!("type: file\npath: {}\n", self.replica().display()),
            Place::S3(bucket) => bucket.config("replica"),
            Place::Other { config, .. } => config.clone(),
        };
        let replica: String = replica.lines().map(|line| format!("      {line}\n")).collect();
        let text = format!(
            "{top}\ndbs:\n  - path: {}\n    monitor-interval: 50ms\n    replica:\n{replica}      sync-interval: 50ms\n",
            self.db().display()
        );
        let path = self.path("litestream.yml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command that takes the configuration and the database.
    pub fn run(&self, program: &Program, command: &str, args: &[&str]) -> Output {
        let config = self.path("litestream.yml");
        let words = [OsStr::new(command), OsStr::new("-config"), config.as_os_str()];
        let args = args.iter().map(OsStr::new);
        self.equip(program).run(words.into_iter().chain(args).chain([self.db().as_os_str()])).unwrap()
    }

    /// What `program` restores, or what it says against it.
    pub fn try_restored(&self, program: &Program, args: &[&str]) -> Result<Image, String> {
        let output = self.path(&format!("restored-{}.db", fastrand::u64(..)));
        let result = self.run(program, "restore", &[args, &["-o", output.to_str().unwrap()]].concat()).success();
        let image = result.map(|_| Image::of_closed_file(&output).unwrap()).map_err(|error| format!("{error:#}"));
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", output.display());
            if Path::new(&path).exists() {
                fs::remove_file(path).unwrap();
            }
        }
        image
    }

    /// Restores with both binaries; each must give the database as it is now.
    /// Nobody may write meanwhile.
    #[track_caller]
    pub fn assert_restores(&self, what: &str) {
        let source = read_image(&self.db()).unwrap();
        for (name, program) in [("ours", ours()), ("upstream", upstream::litestream())] {
            let restored = self.try_restored(&program, &["-integrity-check", "full"]);
            let restored = restored.unwrap_or_else(|error| panic!("{what}, restored by {name}: {error}"));
            source.assert_same(&restored, &format!("{what}, restored by {name}"));
        }
    }

    /// Waits until our restore gives the database as it is, which no application
    /// may write meanwhile. Upstream does write, and is waited for.
    #[track_caller]
    pub fn wait_until_replicated(&self, limit: Duration, what: &str) {
        let started = Instant::now();
        loop {
            let difference = match self.try_restored(&ours(), &[]) {
                Ok(restored) => match read_image(&self.db()).unwrap().difference(&restored) {
                    None => return,
                    Some(difference) => difference.to_string(),
                },
                Err(error) => error,
            };
            assert!(started.elapsed() < limit, "{what}: not replicated within {limit:?}: {difference}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Names and sizes of the files of one level of a [`Place::File`] replica.
    pub fn level(&self, level: u8) -> Vec<(FileName, u64)> {
        ltx_files(&self.replica().join(format!("ltx/{level}")))
    }

    /// Waits until the replica holds a file at one of these levels.
    #[track_caller]
    pub fn wait_for_level(&self, level: u8, limit: Duration) {
        let started = Instant::now();
        while self.level(level).is_empty() {
            assert!(started.elapsed() < limit, "no file at level {level} within {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Paths below the site whose names end as temporary files do.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        let is_temporary = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(".tmp");
        files_below(self.dir.path()).into_iter().filter(is_temporary).collect()
    }

    /// Fails if a daemon panicked.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        assert!(!log.contains("panicked"), "{log}");
    }
}

pub fn ltx_files(dir: &Path) -> Vec<(FileName, u64)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((FileName::parse(entry.file_name().to_str()?)?, entry.metadata().ok()?.len())))
        .collect();
    files.sort_by_key(|(name, _)| (name.min, name.max));
    files
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// The seed of a random test: `LITESTREAM_TEST_SEED`, else a new one. Printed.
#[allow(clippy::disallowed_methods, reason = "a failing seed is repeated from the environment")]
pub fn seed() -> u64 {
    let seed =
        std::env::var("LITESTREAM_TEST_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}: repeat with LITESTREAM_TEST_SEED={seed}");
    seed
}

/// A file of a replica, as `ltx -json` lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub level: u8,
    pub min: String,
    pub max: String,
    pub timestamp: String,
}

impl Site {
    /// Starts `program` on the configuration.
    pub fn daemon(&self, program: &Program) -> litestream_testkit::daemon::Daemon {
        self.equip(program).replicate(&self.path("litestream.yml"), &self.log()).unwrap()
    }

    /// `replicate -once`.
    #[track_caller]
    pub fn once(&self, program: &Program) {
        let config = self.path("litestream.yml");
        let words = [OsStr::new("replicate"), OsStr::new("-once"), OsStr::new("-config"), config.as_os_str()];
        self.equip(program).run(words).unwrap().success().unwrap();
    }

    /// The JSON in which `program` lists the replica.
    pub fn listing(&self, program: &Program) -> String {
        let output = self.run(program, "ltx", &["-level", "all", "-json"]).success().unwrap();
        // Upstream logs to standard output, too.
        output.stdout.split_inclusive('\n').skip_while(|line| !line.starts_with('[')).collect()
    }

    /// All files of the replica, as upstream lists them.
    pub fn listed(&self) -> Vec<Listed> {
        let files: serde_json::Value = serde_json::from_str(&self.listing(&upstream::litestream())).unwrap();
        let text = |file: &serde_json::Value, key: &str| file[key].as_str().unwrap().to_owned();
        files
            .as_array()
            .unwrap()
            .iter()
            .map(|file| Listed {
                level: u8::try_from(file["level"].as_u64().unwrap()).unwrap(),
                min: text(file, "min_txid"),
                max: text(file, "max_txid"),
                timestamp: text(file, "timestamp"),
            })
            .collect()
    }

    /// The newest TXID of the replica at any level, in 16 hexadecimal digits.
    pub fn newest_txid(&self) -> String {
        self.listed().into_iter().map(|file| file.max).max().unwrap()
    }

    /// Waits until the replica holds a file.
    #[track_caller]
    pub fn wait_for_file(&self, limit: Duration) {
        let started = Instant::now();
        while self.listed().is_empty() {
            assert!(started.elapsed() < limit, "the replica is empty after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the replica's newest TXID is above `before`.
    #[track_caller]
    pub fn wait_for_newer(&self, before: &str, limit: Duration) {
        let started = Instant::now();
        while *self.newest_txid() <= *before {
            assert!(started.elapsed() < limit, "nothing newer than {before} within {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
