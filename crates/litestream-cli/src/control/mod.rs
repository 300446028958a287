//! The control socket: HTTP/1.1 with JSON over a Unix socket, by which a running
//! daemon is asked and told.
//!
//! - [`types`] – the JSON both sides agree on
//! - [`socket`] – who may listen where
//! - [`server`], [`routes`], [`views`] – the daemon's side
//! - [`client`] – the commands' side
//!
//! Routes, fields and messages are upstream's, so that either program's commands
//! talk to either program's daemon; fields of ours are additions.
//!
//! Spec: docs/commands.md, "Control socket".

pub(crate) mod client;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod types;
mod views;

use std::time::Duration;

use crate::config::model::Socket;
use crate::failure::Failure;

use client::Client;
use socket::{BindError, ControlSocket};
use types::Info;

/// Takes the configured socket; `None` when it is off, or cannot be had for a
/// reason that need not keep databases from being replicated. That is logged.
///
/// Call it before anything else happens: a second daemon must not get as far as
/// touching a database.
///
/// # Errors
/// Another daemon listens there.
pub(crate) async fn bind(config: &Socket) -> anyhow::Result<Option<ControlSocket>> {
    if !config.enabled {
        return Ok(None);
    }
    match ControlSocket::bind(&config.path, config.permissions) {
        Ok(socket) => Ok(Some(socket)),
        Err(BindError::Failed(why)) => {
            tracing::warn!(error = why, "failed to start control server");
            Ok(None)
        }
        Err(BindError::InUse) => {
            let client = Client::new(&config.path, Some(Duration::from_secs(1)));
            let who = match client.get::<Info>("/info").await {
                Ok(info) => format!("litestream {} (pid {})", info.version, info.pid),
                Err(_) => "a program".to_owned(),
            };
            let message = format!("{who} is listening on control socket {} already", config.path);
            Err(Failure::new(message).hint("Stop it first, or give this one a socket path of its own.").into())
        }
    }
}
