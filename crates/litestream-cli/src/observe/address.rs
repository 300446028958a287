//! `addr`: where the listener binds.
//!
//! Spec: docs/configuration.md, "Top of the file" (`addr`).

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::failure::Failure;

/// A bind address as `host:port`, `[v6]:port` or `:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: String,
}

impl Address {
    /// Splits host and port, without asking anybody whether they exist.
    ///
    /// # Errors
    /// There is no port, or the two cannot be told apart.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let refused = || Failure::new(format!("must specify port for bind address: {text:?}"));
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(refused)?,
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        if port.is_empty() {
            return Err(refused());
        }
        Ok(Self { host: host.to_owned(), port: port.to_owned() })
    }

    /// The addresses to try, in order. Without a host that is every interface.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no port number", self.port));
        let port: u16 = self.port.parse().map_err(invalid)?;
        if self.host.is_empty() {
            // The first takes IPv4 as well; where there is no IPv6, the second.
            return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]);
        }
        let mut found: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), port)).await?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        Ok(found)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port() {
        for text in ["", "9090", "host", "x:", ":", "a:b:c", "[::1]", "[::1]:", "[::1"] {
            let failure = Address::parse(text).unwrap_err();
            assert_eq!(failure.to_string(), format!("must specify port for bind address: {text:?}"));
        }
    }

    #[tokio::test]
    async fn hosts_and_ports_are_told_apart() {
        for (text, first) in [
            (":9090", "[::]:9090"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:80", "127.0.0.1:80"),
            ("[::1]:9090", "[::1]:9090"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.resolve().await.unwrap().first().unwrap().to_string(), first);
        }
        for text in [":99999", "127.0.0.1:foo", ":-1"] {
            assert!(Address::parse(text).unwrap().resolve().await.is_err(), "{text}");
        }
    }
}
