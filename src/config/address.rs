//! Where to listen, as Thanos' flags say it.
//!
//! `host:port`, where the host is an IPv4 address, an IPv6 address in brackets, `localhost`, or
//! nothing for every interface in both families. Other names are refused: what they stand for may
//! change between two starts, and settings ask no resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Why a text is not a place to listen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    /// There is no `:port` at the end.
    #[error("has no port; write host:port or :port")]
    NoPort,
    /// The port is not a number up to 65535.
    #[error("has a bad port {port:?}; a port is a number from 0 to 65535")]
    BadPort {
        /// What stands there.
        port: String,
    },
    /// The host is a name.
    #[error("has a host name {host:?}; write an IP address, localhost, or nothing for all")]
    Name {
        /// What stands there.
        host: String,
    },
    /// An IPv6 address without brackets.
    #[error("has an IPv6 address without brackets; write [{host}]:port")]
    NoBrackets {
        /// What stands there.
        host: String,
    },
}

/// Reads an address. Without a host, and for `localhost`, it stands for one socket in each family.
pub(crate) fn parse(text: &str) -> Result<Vec<SocketAddr>, AddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(AddressError::NoBrackets { host: text.into() });
    }
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port: u16 = match port.parse() {
        Ok(port) if digits => port,
        _ => return Err(AddressError::BadPort { port: port.into() }),
    };
    let hosts: Vec<IpAddr> = match host {
        "" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => vec![ip(host)?],
    };
    Ok(hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect())
}

fn ip(host: &str) -> Result<IpAddr, AddressError> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let parsed = inner.parse::<Ipv6Addr>();
        return parsed.map(Into::into).map_err(|_| AddressError::Name { host: host.into() });
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Ok(ip.into()),
        Ok(IpAddr::V6(_)) => Err(AddressError::NoBrackets { host: host.into() }),
        Err(_) => Err(AddressError::Name { host: host.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (input, want) in [
            ("0.0.0.0:10902", Ok("0.0.0.0:10902")),
            (":10901", Ok("0.0.0.0:10901 [::]:10901")),
            ("localhost:1", Ok("127.0.0.1:1 [::1]:1")),
            ("[::1]:0", Ok("[::1]:0")),
            ("", Err(AddressError::NoPort)),
            ("10902", Err(AddressError::NoPort)),
            ("0.0.0.0", Err(AddressError::NoPort)),
            (":", Err(AddressError::BadPort { port: String::new() })),
            (":http", Err(AddressError::BadPort { port: "http".into() })),
            (":+80", Err(AddressError::BadPort { port: "+80".into() })),
            (":65536", Err(AddressError::BadPort { port: "65536".into() })),
            ("node-1:80", Err(AddressError::Name { host: "node-1".into() })),
            ("http://1.2.3.4:80", Err(AddressError::Name { host: "http://1.2.3.4".into() })),
            ("[1.2.3.4]:80", Err(AddressError::Name { host: "[1.2.3.4]".into() })),
            ("::1", Err(AddressError::NoBrackets { host: "::1".into() })),
            ("2001:db8::1:z", Err(AddressError::BadPort { port: "z".into() })),
        ] {
            let got = parse(input)
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(got, want.map(str::to_owned), "{input:?}");
        }
    }
}
