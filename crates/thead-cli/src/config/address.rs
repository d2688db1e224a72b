//! Where something listens, or is asked.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

/// What a socket of `listen` is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `tcp://HOST:PORT`
    Tcp(HostPort),
    /// `udp://HOST:PORT`
    Udp(HostPort),
    /// `unix:///PATH`
    Unix(PathBuf),
    /// `unix://@NAME`: a name in the kernel's abstract namespace.
    Abstract(String),
}

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// An IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The longest path that the kernel takes, with the zero behind it.
const UNIX_PATH: usize = 108;

impl Address {
    /// Reads the URL of a socket.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let forms = "write tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH";
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(match url.parse::<u16>() {
                Ok(port) => format!("{url:?} is no address; write tcp://0.0.0.0:{port}"),
                Err(_) => format!("{url:?} is no address; {forms}"),
            });
        };
        match scheme {
            "tcp" => HostPort::parse(rest).map(Self::Tcp),
            "udp" => HostPort::parse(rest).map(Self::Udp),
            "unix" if rest.len() >= UNIX_PATH => Err(format!(
                "{url:?} is longer than the {} bytes that a socket's path may have",
                UNIX_PATH - 1
            )),
            "unix" if rest.contains('\0') => Err(format!("{url:?} has a NUL character in it")),
            "unix" => match rest.strip_prefix('@') {
                Some("") => Err(format!("{url:?} names no socket; {forms}")),
                Some(name) => Ok(Self::Abstract(name.to_owned())),
                None if rest.starts_with('/') && !rest.ends_with('/') => Ok(Self::Unix(rest.into())),
                None => Err(format!("{url:?} is no absolute path of a socket; write unix:///PATH")),
            },
            _ => Err(format!("{scheme:?} is nothing that a socket is made of; {forms}")),
        }
    }

    /// Whether both cannot be bound at once.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a), Self::Tcp(b)) | (Self::Udp(a), Self::Udp(b)) => a.collides(b),
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Abstract(a), Self::Abstract(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Abstract(name) => write!(f, "unix://@{name}"),
        }
    }
}

impl HostPort {
    /// Reads `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("{text:?} has no port; write HOST:PORT"));
        };
        let Ok(port) = port.parse() else {
            return Err(format!("{port:?} is no port; write a number from 0 to 65535"));
        };
        let bare = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) if bare.parse::<Ipv6Addr>().is_ok() => bare,
            Some(_) => return Err(format!("{host:?} is no IPv6 address")),
            None if host.is_empty() || host == "*" => {
                return Err(format!(
                    "{text:?} has no host; write 0.0.0.0:{port} for every address of this machine"
                ));
            }
            None if host.parse::<Ipv6Addr>().is_ok() => {
                return Err(format!(
                    "{text:?} is ambiguous; write an IPv6 address in brackets: [{host}]:{port}"
                ));
            }
            None if is_host_name(host) => host,
            None => return Err(format!("{host:?} is no host; write its name or its address")),
        };
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }

    fn collides(&self, other: &Self) -> bool {
        if self.port != other.port || self.port == 0 {
            return false;
        }
        let every = |host: &str| host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        self.host == other.host || every(&self.host) || every(&other.host)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let digits = host
        .split('.')
        .all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && (!digits || host.parse::<IpAddr>().is_ok())
}

/// What a probe asks by HTTP: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    pub(crate) address: HostPort,
    /// From the `/` on.
    pub(crate) path: String,
}

impl HttpUrl {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let example = "write http://HOST:PORT/PATH";
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(match url.split_once("://") {
                Some(("https", rest)) => {
                    format!("{url:?}: thead speaks no TLS; ask without it (http://{rest}), or by `tcp` or `exec`")
                }
                _ => format!("{url:?} is no URL that can be asked; {example}"),
            });
        };
        if let Some(bad) = url
            .chars()
            .find(|c| c.is_control() || c.is_whitespace() || !c.is_ascii())
        {
            return Err(format!("{url:?} has {bad:?} in it, which must be escaped with %"));
        }
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(format!("{url:?} has a user in it, which is not sent; {example}"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
        let address = match has_port {
            true => HostPort::parse(authority),
            false => HostPort::parse(&format!("{authority}:80")),
        };
        let path = path.split('#').next().unwrap_or_default();
        Ok(Self {
            address: address?,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_address_is_read_and_printed() {
        for url in [
            "tcp://0.0.0.0:80",
            "udp://localhost:0",
            "tcp://[::1]:65535",
            "unix:///run/a.sock",
            "unix://@name",
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_is_no_address_says_how_it_is_written() {
        for (url, mend) in [
            ("", "tcp://HOST:PORT"),
            ("3000", "tcp://0.0.0.0:3000"),
            ("localhost:3000", "tcp://HOST:PORT"),
            ("http://localhost:80", "tcp://HOST:PORT"),
            ("tcp://localhost", "HOST:PORT"),
            ("tcp://:80", "0.0.0.0:80"),
            ("tcp://*:80", "0.0.0.0:80"),
            ("tcp://::1:80", "brackets"),
            ("tcp://[::x]:80", "no IPv6 address"),
            ("tcp://a b:80", "its name or its address"),
            ("tcp://1.2.3:80", "its name or its address"),
            ("tcp://a:66000", "0 to 65535"),
            ("unix://a.sock", "unix:///PATH"),
            ("unix:///", "unix:///PATH"),
            ("unix://@", "unix:///PATH"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(mend), "{url}: {error}");
        }
        assert!(Address::parse(&format!("unix:///{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn addresses_collide_as_the_kernel_has_it() {
        let collide = |a: &str, b: &str| Address::parse(a).unwrap().collides(&Address::parse(b).unwrap());
        assert!(collide("tcp://127.0.0.1:80", "tcp://0.0.0.0:80"));
        assert!(collide("tcp://[::]:80", "tcp://127.0.0.1:80"));
        assert!(collide("unix:///a", "unix:///a"));
        assert!(!collide("tcp://127.0.0.1:80", "tcp://127.0.0.2:80"));
        assert!(!collide("tcp://127.0.0.1:80", "udp://127.0.0.1:80"));
        assert!(!collide("tcp://0.0.0.0:0", "tcp://0.0.0.0:0"));
        assert!(!collide("unix:///a", "unix://@a"));
    }

    #[test]
    fn a_probe_asks_a_host_a_port_and_a_path() {
        for (url, host, port, path) in [
            (
                "http://localhost:3000/healthz?deep=1#x",
                "localhost",
                3000,
                "/healthz?deep=1",
            ),
            ("http://10.0.0.1", "10.0.0.1", 80, "/"),
            ("http://[::1]/a", "::1", 80, "/a"),
            ("http://[::1]:81?b", "::1", 81, "/?b"),
        ] {
            let url = HttpUrl::parse(url).unwrap();
            assert_eq!(
                (url.address.host.as_str(), url.address.port, url.path.as_str()),
                (host, port, path)
            );
        }
        for url in [
            "",
            "localhost",
            "https://a/",
            "http://",
            "http://a b/",
            "http://u:p@a/",
            "http://a:x/",
            "http://a/\u{7f}",
        ] {
            assert!(HttpUrl::parse(url).is_err(), "{url}");
        }
    }
}
