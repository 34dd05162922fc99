//! The schemes of the URLs that choose a deployment's parts, one list per part. Muster refuses all
//! others.

use crate::secret::Secret;

/// A setting that cannot be used, in a sentence that names it and never quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// The valid URLs of a part.
#[derive(Debug, Clone, Copy)]
pub struct Schemes {
    /// The variable that holds the URL.
    pub variable: &'static str,
    known: &'static [Scheme],
    forms: &'static str,
}

/// A scheme, and whether its URL names a server.
#[derive(Debug)]
struct Scheme(&'static str, Names);

#[derive(Debug, PartialEq, Eq)]
enum Names {
    /// Nothing but the scheme.
    Nothing,
    /// A file.
    File,
    /// A server.
    Server,
}

/// The database.
pub const DATABASE: Schemes = Schemes {
    variable: "DATABASE_URL",
    known: &[
        Scheme("sqlite", Names::File),
        Scheme("postgres", Names::Server),
        Scheme("postgresql", Names::Server),
        Scheme("mysql", Names::Server),
    ],
    forms: "sqlite:PATH, postgres://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE (for MariaDB)",
};
/// The broker.
pub const BROKER: Schemes = Schemes {
    variable: "BROKER_URL",
    known: &[
        Scheme("embedded", Names::Nothing),
        Scheme("amqp", Names::Server),
        Scheme("amqps", Names::Server),
    ],
    forms: "embedded:, amqp://USER:PASSWORD@HOST/VHOST or amqps://USER:PASSWORD@HOST/VHOST",
};
/// The cache.
pub const CACHE: Schemes = Schemes {
    variable: "CACHE_URL",
    known: &[
        Scheme("memory", Names::Nothing),
        Scheme("redis", Names::Server),
        Scheme("rediss", Names::Server),
    ],
    forms: "memory:, redis://HOST:PORT/DATABASE or, with TLS, rediss://USER:PASSWORD@HOST:PORT/DATABASE",
};
/// The mail server or folder.
pub const MAIL: Schemes = Schemes {
    variable: "MAIL_URL",
    known: &[
        Scheme("files", Names::Nothing),
        Scheme("none", Names::Nothing),
        Scheme("smtp", Names::Server),
        Scheme("smtps", Names::Server),
    ],
    forms: "files:, none:, smtp://USER:PASSWORD@HOST:PORT?tls=required or smtps://USER:PASSWORD@HOST:PORT",
};

/// The addresses of HTTP servers in this variable.
#[must_use]
pub const fn http(variable: &'static str) -> Schemes {
    Schemes {
        variable,
        known: &[Scheme("http", Names::Server), Scheme("https", Names::Server)],
        forms: "http://HOST:PORT or https://HOST:PORT",
    }
}

/// The parameters of a database's URL that the drivers know, by scheme. Drivers log unknown ones,
/// and such a one may be the rest of a password with a question mark.
const PARAMETERS: [(&str, &[&str]); 3] = [
    ("sqlite", &["mode"]),
    (
        "postgres",
        &[
            "sslmode",
            "ssl-mode",
            "sslrootcert",
            "ssl-root-cert",
            "ssl-ca",
            "sslcert",
            "ssl-cert",
            "sslkey",
            "ssl-key",
            "statement-cache-capacity",
            "host",
            "hostaddr",
            "port",
            "dbname",
            "user",
            "password",
            "application_name",
            "options",
        ],
    ),
    (
        "mysql",
        &[
            "sslmode",
            "ssl-mode",
            "sslca",
            "ssl-ca",
            "sslcert",
            "ssl-cert",
            "sslkey",
            "ssl-key",
            "charset",
            "collation",
            "statement-cache-capacity",
            "socket",
            "timezone",
            "time-zone",
        ],
    ),
];

/// Whether the drivers know all parameters of a database's URL.
pub(crate) fn has_known_parameters(url: &Secret) -> bool {
    let known = PARAMETERS.iter().find(|(scheme, _)| url.expose().starts_with(scheme));
    let (Some((_, known)), Some((_, query))) = (known, url.expose().split_once('?')) else { return true };
    url::form_urlencoded::parse(query.as_bytes()).all(|(name, _)| {
        known.contains(&&*name) || name.strip_prefix("options[").is_some_and(|name| name.ends_with(']'))
    })
}

impl Schemes {
    /// The scheme of this URL, in lower case, and what follows its colon.
    ///
    /// # Errors
    /// If the scheme is unknown. The error does not quote the URL.
    pub fn split<'u>(&self, url: &'u Secret) -> Result<(&'static str, &'u str), Unusable> {
        let found = url.expose().split_once(':').and_then(|(scheme, rest)| {
            let Scheme(name, names) = self.known.iter().find(|known| known.0.eq_ignore_ascii_case(scheme))?;
            let is_whole = match names {
                Names::Nothing => rest.is_empty(),
                Names::File => true,
                Names::Server => rest.starts_with("//") && url::Url::parse(url.expose()).is_ok(),
            };
            is_whole.then_some((*name, rest))
        });
        found.ok_or_else(|| self.unusable())
    }

    /// The error for a URL that cannot be used.
    #[must_use]
    pub fn unusable(&self) -> Unusable {
        Unusable(format!(
            "{} cannot be used. It must be {}. Write @, /, # and ? in names and passwords as %40, %2F, %23 and %3F",
            self.variable, self.forms
        ))
    }

    /// The URL with its scheme in lower case, as drivers expect it.
    pub(crate) fn normal(&self, url: &Secret) -> Result<Secret, Unusable> {
        let (scheme, rest) = self.split(url)?;
        Ok(format!("{scheme}:{rest}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_knows_its_schemes_and_no_other() {
        for (schemes, url, scheme) in [
            (DATABASE, "sqlite:data/muster.db", Some("sqlite")),
            (DATABASE, "PostgreSQL://ann:pw@host/db", Some("postgresql")),
            (DATABASE, "postgres:///db?host=/run/postgresql", Some("postgres")),
            (DATABASE, "mysql://root@host:3306/db", Some("mysql")),
            (DATABASE, "mariadb://root:s3cret@host/db", None),
            (DATABASE, "postgres:s3cret", None),
            (DATABASE, "postgres://ann:s3cret@host:port/db", None),
            (DATABASE, "s3cret", None),
            (BROKER, "embedded:", Some("embedded")),
            (BROKER, "embedded:s3cret", None),
            (BROKER, "amqps://a:b@host/%2f", Some("amqps")),
            (BROKER, "rabbitmq://a:s3cret@host", None),
            (CACHE, "redis://host:6379/0", Some("redis")),
            (CACHE, "REDISS://host", Some("rediss")),
            (CACHE, "redis+tls://:s3cret@host", None),
            (CACHE, "redis-cluster://:s3cret@host", None),
            (CACHE, "memory:", Some("memory")),
            (MAIL, "smtps://a:b@host", Some("smtps")),
            (MAIL, "smtp+tls://a:s3cret@host", None),
            (http("PEER_URL"), "https://host", Some("https")),
            (http("PEER_URL"), "ftp://a:s3cret@host", None),
        ] {
            let url = Secret::from(url);
            let found = schemes.split(&url);
            assert_eq!(found.as_ref().ok().map(|(scheme, _)| *scheme), scheme, "{}", url.expose());
            if let Err(error) = found {
                let said = error.to_string();
                assert!(said.contains(schemes.variable) && !said.contains("s3cret"), "{said}");
            }
        }
    }
}
