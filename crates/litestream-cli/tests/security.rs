//! What the daemon opens to others: addresses, sockets, files. What is not in the
//! configuration must not be there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod site;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;
use litestream_testkit::program::Program;
use litestream_testkit::scenario;
use site::{Site, ours};

const LIMIT: Duration = Duration::from_secs(60);

/// Everything that a process accepts connections or datagrams on: `127.0.0.1:9090`,
/// or the path of a socket.
fn listeners(pid: u32) -> BTreeSet<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let sockets: BTreeSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found = BTreeSet::new();
    for (table, listening) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[3] == listening && sockets.contains(words[9]) {
                found.insert(address(words[1]));
            }
        }
    }
    for line in fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap().lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The flag says that connections are accepted.
        if words[3] == "00010000" && sockets.contains(words[6]) {
            found.insert(words.get(7).copied().unwrap_or_default().to_owned());
        }
    }
    found
}

/// `0100007F:1F90` is `127.0.0.1:8080`; longer ones are given as they stand.
fn address(hex: &str) -> String {
    let (host, port) = hex.split_once(':').unwrap();
    let port = u16::from_str_radix(port, 16).unwrap();
    match u32::from_str_radix(host, 16) {
        Ok(host) => format!("{}:{port}", std::net::Ipv4Addr::from(host.to_le_bytes())),
        Err(_) => format!("[{host}]:{port}"),
    }
}

fn commit(site: &Site, rows: u32) {
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, rows).unwrap();
}

fn running(site: &Site, top: &str) -> Daemon {
    commit(site, 1);
    let mut daemon = ours().replicate(&site.config(top), &site.log()).unwrap();
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    daemon
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_listens_unless_the_configuration_says_so() {
    let site = Site::new();
    let daemon = running(&site, "");
    wait_until("the replica has files", || site.replica().join("ltx/0").exists());
    assert_eq!(listeners(daemon.id()), BTreeSet::new());
}

#[test]
fn metrics_and_control_listen_where_they_are_told_and_nowhere_else() {
    let site = Site::new();
    let socket = site.path("ls.sock").display().to_string();
    let mut daemon = running(&site, &format!("addr: '127.0.0.1:0'\nsocket: {{enabled: true, path: {socket}}}"));
    let line = daemon.wait_for_log("serving metrics on", LIMIT).unwrap();
    daemon.wait_for_log("control socket listening", LIMIT).unwrap();
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.split('/').next().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    // The kernel tells the name under which a socket was made, before it was moved.
    let mut found = listeners(daemon.id());
    assert!(found.remove(&address), "{address} in {found:?}");
    let made = found.pop_first().unwrap();
    assert!(made.starts_with(&site.path(".ls").display().to_string()) && found.is_empty(), "{made}, {found:?}");
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Every file below `dir` but those whose names are in `but`.
fn files(dir: &Path, but: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path) {
            Ok(file) if file.is_dir() => found.extend(files(&path, but)),
            Ok(file) if file.is_file() && !but.contains(&path) => found.push(path),
            // Gone meanwhile.
            _ => {}
        }
    }
    found
}

/// Under a umask that hides nothing: what holds pages of a database nobody else may
/// read is read by nobody else, in the state directory and in a directory replica,
/// whichever level and whichever stage it is at.
#[test]
fn files_of_a_private_database_are_private() {
    let site = Site::new();
    commit(&site, 1);
    let root = site.db().parent().unwrap().to_owned();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        if site.path(name).exists() {
            fs::set_permissions(site.path(name), Permissions::from_mode(0o600)).unwrap();
        }
    }
    let config = site.config("levels: [{interval: 1s}, {interval: 2s}]\nsnapshot: {interval: 1s, retention: 1h}");
    let open = Program::new("/bin/sh");
    let ours = env!("CARGO_BIN_EXE_litestream");
    let args = ["-c", "umask 000; exec \"$0\" \"$@\"", ours, "replicate", "-config", config.to_str().unwrap()];
    let _daemon = open.daemon(args, &site.log()).unwrap();
    let but = [config.clone(), site.log()];
    let level = |level: u8| site.replica().join(format!("ltx/{level}"));
    let mut seen = BTreeSet::new();
    wait_until("there are files of every level", || {
        commit(&site, 3);
        for path in files(&root, &but) {
            let Ok(file) = fs::metadata(&path) else { continue };
            let mode = file.permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
            seen.insert(path);
        }
        [0, 1, 2, 9].iter().all(|number| level(*number).exists())
    });
    for name in ["position", "page-sums", "lock"] {
        assert!(seen.contains(&site.meta().join(name)), "{name} was not looked at: {seen:?}");
    }
    assert!(seen.iter().any(|path| path.starts_with(site.meta().join("ltx/0"))), "{seen:?}");
}

/// Whoever may write to the directory plants links where the daemon is about to
/// write. Nothing is written through them; where the state itself is a link,
/// `private.rs` refuses it.
#[test]
fn planted_links_are_not_written_through() {
    for name in ["replica-problem", "ltx/0/0000000000000001-0000000000000001.ltx.tmp"] {
        let site = Site::new();
        commit(&site, 3);
        let victim = site.path("victim");
        fs::write(&victim, "precious").unwrap();
        fs::create_dir_all(site.meta().join("ltx/0")).unwrap();
        symlink(&victim, site.meta().join(name)).unwrap();
        ours().replicate_once(&site.db(), &site.url()).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
    }
}

/// The same for a restore, whose temporary file has a name that can be foreseen.
#[test]
fn a_restore_does_not_write_through_planted_links() {
    let site = Site::new();
    commit(&site, 3);
    ours().replicate_once(&site.db(), &site.url()).unwrap();
    for suffix in [".tmp", ".tmp-resume", ".tmp-wal"] {
        let victim = site.path("victim");
        fs::write(&victim, "precious").unwrap();
        let output = site.path(&format!("out{suffix}.db"));
        symlink(&victim, format!("{}{suffix}", output.display())).unwrap();
        let restored = ours().restore(&site.url(), &output);
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{suffix}: {restored:?}");
        if restored.is_ok() {
            assert!(fs::symlink_metadata(&output).unwrap().is_file(), "{suffix}");
        }
    }
}
