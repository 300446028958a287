//! What a service manager hears from start to stop.
//!
//! Spec: docs/operations.md, "systemd".

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod scrape;
mod site;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use litestream_testkit::scenario;
use rustix::process::Signal;
use scrape::LIMIT;
use site::{Site, ours};

/// Everything that arrives until a message holds `text`.
#[track_caller]
fn listen_until(socket: &UnixDatagram, text: &str) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let started = Instant::now();
    let mut messages = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        if let Ok(len) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
            if messages.last().unwrap().contains(text) {
                return messages;
            }
        }
        assert!(started.elapsed() < LIMIT, "never heard {text:?}: {messages:?}");
    }
}

#[test]
fn a_service_manager_hears_ready_alive_and_stopping() {
    let site = Site::new();
    site.config("shutdown-sync-timeout: 2s");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 10).unwrap();
    let path = site.path("notify");
    let named = UnixDatagram::bind(&path).unwrap();
    // The other kind of socket has no file.
    let name = format!("litestream-test-{}-{}", std::process::id(), fastrand::u64(..));
    let unnamed = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (socket, variable) in [(named, path.display().to_string()), (unnamed, format!("@{name}"))] {
        let program = ours().env("NOTIFY_SOCKET", &variable).env("WATCHDOG_USEC", "400000");
        let mut daemon = site.daemon(&program);
        listen_until(&socket, "READY=1");
        let status = listen_until(&socket, "STATUS=replicating 1 of 1 databases");
        assert!(status.len() < 50, "{status:?}");
        // Twice in its period, again and again.
        listen_until(&socket, "WATCHDOG=1");
        listen_until(&socket, "WATCHDOG=1");
        daemon.signal(Signal::TERM).unwrap();
        let last = listen_until(&socket, "STOPPING=1");
        assert!(last.last().unwrap().contains("EXTEND_TIMEOUT_USEC=17000000"), "{last:?}");
        assert!(daemon.wait(LIMIT).unwrap().success(), "{}", daemon.log());
    }
}

/// A manager that is not there, or watches another process, is no obstacle.
#[test]
fn a_manager_that_cannot_be_reached_is_no_obstacle() {
    let site = Site::new();
    site.config("");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 10).unwrap();
    for variable in ["relative", "/nowhere/notify"] {
        let program = ours().env("NOTIFY_SOCKET", variable).env("WATCHDOG_USEC", "x");
        let mut daemon = site.daemon(&program);
        daemon.wait_for_log("replicating to", LIMIT).unwrap();
        site.wait_until_replicated(LIMIT, variable);
        daemon.signal(Signal::TERM).unwrap();
        assert!(daemon.wait(LIMIT).unwrap().success(), "{}", daemon.log());
    }
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let program =
        ours().env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    let _daemon = site.daemon(&program);
    let heard = listen_until(&socket, "STATUS=replicating");
    assert!(!heard.iter().any(|message| message.contains("WATCHDOG")), "{heard:?}");
}
