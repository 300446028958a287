//! Child processes that cannot outlive the test process.
//!
//! The kernel kills the child when its parent *thread* ends (`PR_SET_PDEATHSIG`),
//! and the test harness runs every test on a thread of its own. So all children
//! are started by one thread that lives as long as the process: a server shared
//! by several tests survives the test that started it, and still dies with the
//! process however that ends.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::thread;

use anyhow::{Context, Result, anyhow};

/// Starts `program` with what `prepare` adds (arguments, environment, output),
/// killed with SIGKILL when this process ends for any reason.
///
/// The child's id is the program's own: there is no shell in between.
///
/// # Errors
/// When the child cannot be started, or this system has no `setpriv` (util-linux).
pub fn spawn(program: &std::path::Path, prepare: impl FnOnce(&mut Command)) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    prepare(&mut command);
    let (reply, started) = mpsc::channel();
    spawner().lock().map_err(|_| anyhow!("spawner is poisoned"))?.send((command, reply))?;
    started.recv()?.with_context(|| format!("start {} through setpriv", program.display()))
}

type Order = (Command, Sender<io::Result<Child>>);

fn spawner() -> &'static Mutex<Sender<Order>> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                // A caller that no longer waits has no use for the child either;
                // dropping the handle leaves it to the death signal.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    })
}
