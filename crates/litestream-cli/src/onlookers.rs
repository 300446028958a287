//! Everything that looks on while databases are replicated: the listener for
//! metrics and health, the heartbeat, and the service manager.
//!
//! They come after the databases and go before them, and nothing they meet stops
//! replication.

use std::sync::Arc;
use std::time::Duration;

use litestream::Store;
use tokio::task::{AbortHandle, JoinSet};

use crate::config::{Config, Surroundings};
use crate::failure::Failure;
use crate::heartbeat::Heartbeat;
use crate::notify::Manager;
use crate::observe::pulse::Pulse;
use crate::observe::{Address, Observer, serve};

/// The onlookers of one run. Dropping them ends them.
pub(crate) struct Onlookers {
    /// Where to listen; taken when it begins.
    address: Option<Address>,
    manager: Arc<Manager>,
    tasks: JoinSet<()>,
    /// Those that have nothing to say once replication ends.
    until_stop: Vec<AbortHandle>,
}

impl Onlookers {
    /// Reads the settings, and asks the service manager for patience while
    /// databases are restored and opened. Needs a tokio runtime.
    ///
    /// # Errors
    /// An address without a port.
    pub(crate) fn prepare(config: &Config, surroundings: &Surroundings<'_>) -> Result<Self, Failure> {
        let address = match config.addr.as_str() {
            "" => None,
            text => Some(Address::parse(text)?),
        };
        let manager = Arc::new(Manager::of(surroundings.environment));
        let mut tasks = JoinSet::new();
        let mut until_stop = Vec::new();
        if manager.is_there() {
            until_stop.push(tasks.spawn(manager.clone().ask_for_patience()));
        }
        Ok(Self { address, manager, tasks, until_stop })
    }

    /// Begins, once the databases are known. A one-shot run has metrics and health,
    /// but is nothing that lasts.
    pub(crate) fn begin(
        &mut self,
        store: &Arc<Store>,
        config: &Config,
        surroundings: &Surroundings<'_>,
        is_once: bool,
    ) {
        self.until_stop.drain(..).for_each(|task| task.abort());
        if self.address.is_none() && !self.manager.is_there() && config.heartbeat_url.is_empty() {
            return;
        }
        let pulse = Pulse::new();
        let observer = Arc::new(Observer { store: store.clone(), pulse: pulse.clone() });
        self.tasks.spawn(pulse.run());
        if let Some(address) = self.address.take() {
            self.tasks.spawn(serve(address, observer.clone()));
        }
        if is_once {
            return;
        }
        if !config.heartbeat_url.is_empty() {
            let http = surroundings.clients.http.clone();
            let heartbeat = Heartbeat::new(config.heartbeat_url.clone(), config.heartbeat_interval.to_duration(), http);
            self.until_stop.push(self.tasks.spawn(heartbeat.run(store.clone())));
        }
        if self.manager.is_there() {
            self.until_stop.push(self.tasks.spawn(self.manager.clone().keep_informed(observer)));
        }
    }

    /// What is left is sent now, which may take as long as `limit`.
    pub(crate) fn stopping(&mut self, limit: Duration) {
        self.until_stop.drain(..).for_each(|task| task.abort());
        self.manager.stopping(limit);
    }
}
