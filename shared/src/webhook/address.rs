//! The permitted addresses of webhooks. An owner of a webhook must not reach servers that only this
//! machine and its network reach: the database, the broker, a cloud's metadata. So Muster connects
//! only to public addresses, and to those that the operator allows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use clap::Args;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::MAX_URL;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 networks that are not public
/// ([IANA](https://www.iana.org/assignments/iana-ipv4-special-registry)).
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carriers' own; a cloud's metadata
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // a cloud's own services
    v4(169, 254, 0, 0, 16),   // link-local; clouds' metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocols' own; a cloud's metadata
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// The public IPv6 network.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);
/// Networks within it that are not public.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),     // protocols' own, Teredo
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4: an IPv4 address in disguise
    v6(0x3fff, 0, 20),     // documentation
];
/// The prefix of IPv4 addresses in IPv6-only networks (RFC 6052).
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Whether everyone on the Internet can reach this address.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    // A connection to ::ffff:10.0.0.1 goes to 10.0.0.1.
    match address.to_canonical() {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_public(IpAddr::from([a, b, c, d]))
        }
        IpAddr::V6(address) => {
            PUBLIC_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
        }
    }
}

/// What an operator allows beside public addresses: networks, and hosts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    networks: Vec<IpNet>,
    hosts: BTreeSet<String>,
}

impl FromStr for Allowed {
    type Err = String;

    /// Reads `10.1.0.0/16,fd00::/8,192.168.1.7,hooks.internal`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Ok(network) = part.parse::<IpNet>() {
                allowed.networks.push(network);
            } else if let Ok(address) = part.parse::<IpAddr>() {
                allowed.networks.push(address.into());
            } else if let Ok(Host::Domain(host)) = Host::parse(part) {
                allowed.hosts.insert(host);
            } else {
                return Err(format!("{part:?} is neither a network (10.1.0.0/16) nor a host"));
            }
        }
        Ok(allowed)
    }
}

/// Where webhooks may go.
#[derive(Debug, Clone, Args)]
pub struct WebhookArguments {
    /// Where webhooks may go besides public addresses: networks and hosts, such as
    /// 10.1.0.0/16,hooks.internal. There, http is allowed, too. Every account that may make
    /// webhooks can reach them from this process.
    #[arg(long, env = "WEBHOOK_ALLOW", value_name = "LIST")]
    pub webhook_allow: Option<Allowed>,
}

impl WebhookArguments {
    /// What is allowed besides public addresses.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        self.webhook_allow.clone().unwrap_or_default()
    }
}

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("this is no address")]
    Unreadable(#[from] url::ParseError),
    /// It is longer than an address should be.
    #[error("an address has at most {MAX_URL} characters")]
    TooLong,
    /// Another protocol.
    #[error("an address begins with https://")]
    NotHttps,
    /// A name and password would be stored and shown.
    #[error("an address must not contain a user name or password")]
    Credentials,
    /// Only this machine or its network reaches it.
    #[error("{0} is not a public address")]
    NotPublic(String),
}

impl Allowed {
    /// Whether a connection may be made to this address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether this host may be reached at any address.
    #[must_use]
    pub fn host(&self, host: &str) -> bool {
        self.hosts.contains(&host.to_ascii_lowercase())
    }

    /// Parses an address, and checks all but the name's resolution. The sender checks the resolved
    /// address when it connects to it.
    pub fn url(&self, text: &str) -> Result<Url, Refused> {
        if text.chars().count() > MAX_URL {
            return Err(Refused::TooLong);
        }
        let url = Url::parse(text)?;
        let literal = match url.host() {
            None => return Err(Refused::NotHttps),
            Some(Host::Domain(_)) => None,
            // The parser normalises all forms (decimal, octal, mapped). The client uses the same
            // parser.
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        };
        let named = url.host_str().is_some_and(|host| self.host(host));
        let listed = named
            || literal.is_some_and(|address| {
                self.networks.iter().any(|network| network.contains(&address.to_canonical()))
            });
        match url.scheme() {
            "https" => {}
            "http" if listed => {}
            _ => return Err(Refused::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        match literal {
            Some(address) if !self.address(address) => Err(Refused::NotPublic(address.to_string())),
            _ => Ok(url),
        }
    }
}
