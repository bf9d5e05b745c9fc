//! Where bytes may come from and go to, as far as a message shows it: folders, and origins of URLs.
//!
//! One parser reads the operator's origins, the URLs of messages and the targets of redirects, so that no
//! two readings of one text can differ. Pure: links are found when a file is opened and addresses when a
//! name is resolved, in `storage`. Messages name the setting that decides, and of a URL only its origin:
//! the rest may hold secrets.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

use url::{Host, Url};

/// Longest URL of a message, in bytes; chosen.
const LONGEST_URL: usize = 8192;

/// Why a place is none that a job may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The text is no URL, whatever the settings say; the rule that it breaks.
    Malformed(&'static str),
    /// The settings do not allow it; a sentence that names the setting.
    Forbidden(String),
}

/// The operator's folders, and which setting names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    setting: &'static str,
    folders: Vec<PathBuf>,
}

impl Roots {
    /// Absolute folders without `..`; none: nothing is allowed.
    pub const fn new(setting: &'static str, folders: Vec<PathBuf>) -> Self {
        Self { setting, folders }
    }

    /// The root that covers `file`, and the path from there: one name or more, none of them `..`.
    /// The longest root wins. Says nothing of symbolic links.
    pub fn covering(&self, file: &Path) -> Result<(&Path, PathBuf), Refused> {
        let setting = self.setting;
        if self.folders.is_empty() {
            return Err(Refused::Forbidden(format!(
                "file {file:?} is not allowed: {setting} names no folder"
            )));
        }
        let names_only = |relative: &Path| {
            let mut parts = relative.components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let below = |root: &'_ PathBuf| file.strip_prefix(root).is_ok_and(names_only);
        let depth = |root: &&PathBuf| root.components().count();
        let root = self
            .folders
            .iter()
            .filter(|root| below(root))
            .max_by_key(depth);
        let found = root.and_then(|root| {
            // Collected anew: `.` and doubled slashes are dropped.
            let relative = file.strip_prefix(root).ok()?.components().collect();
            Some((root.as_path(), relative))
        });
        found.ok_or_else(|| {
            Refused::Forbidden(format!(
                "file {file:?} is not beneath any folder of {setting}"
            ))
        })
    }

    /// The setting that names the folders.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// TLS or not.
    pub scheme: Scheme,
    /// Lower case, IDNA applied, an IPv4 address in whatever notation an address, no trailing dot.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// The two schemes that are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As in URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Origin {
    /// Reads `cdn.example.com` (https on 443) or `scheme://host[:port]`; the error is the rule.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str =
            "an origin like cdn.example.com (https on port 443) or http://files.internal:8080";
        let whole = if text.contains("://") {
            text.to_owned()
        } else if text.contains(':') {
            return Err(RULE);
        } else {
            format!("https://{text}")
        };
        let authority = whole.split_once("://").map_or("", |(_, rest)| rest);
        if authority.contains(['/', '?', '#', '%']) {
            return Err(RULE);
        }
        SourceUrl::parse(&whole)
            .map(|url| url.origin)
            .map_err(|_| RULE)
    }

    fn of(url: &Url) -> Option<Self> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = match url.host()? {
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                // Nothing but a dot, `localhost..`, and patterns, which the URL standard lets pass.
                let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                if name.is_empty() || name.ends_with('.') || !name.chars().all(allowed) {
                    return None;
                }
                Host::Domain(name.to_owned())
            }
            Host::Ipv4(address) => Host::Ipv4(address),
            Host::Ipv6(address) => Host::Ipv6(address),
        };
        let port = url.port_or_known_default().filter(|port| *port > 0)?;
        Some(Self { scheme, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

/// A URL that can be fetched, from an origin that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUrl {
    url: Url,
    /// Where it leads.
    pub origin: Origin,
}

impl SourceUrl {
    /// Reads a URL strictly: no control characters, spaces or backslashes, which the URL standard would
    /// drop or turn into slashes; two slashes after the scheme; no user and password.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        const RULE: &str =
            "must be an http or https URL without spaces, backslashes and control characters";
        if text.len() > LONGEST_URL {
            return Err(Refused::Malformed("must be at most 8,192 bytes"));
        }
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(Refused::Malformed(RULE));
        }
        let (scheme, rest) = text.split_once(':').ok_or(Refused::Malformed(RULE))?;
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return Err(Refused::Forbidden(
                "only http and https URLs may be uploaded, from the origins in sources.url_hosts"
                    .to_owned(),
            ));
        }
        let rest = rest.strip_prefix("//").ok_or(Refused::Malformed(RULE))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(Refused::Forbidden(
                "a URL may hold no user and password; sources.url_hosts names origins".to_owned(),
            ));
        }
        let url = Url::parse(text).map_err(|_| Refused::Malformed(RULE))?;
        Self::of(url).ok_or(Refused::Malformed(RULE))
    }

    fn of(mut url: Url) -> Option<Self> {
        url.set_fragment(None);
        let origin = Origin::of(&url)?;
        Some(Self { url, origin })
    }

    /// The target of a redirect, absolute or relative to this URL; read as strictly.
    pub fn join(&self, location: &str) -> Result<Self, Refused> {
        const RULE: &str = "must redirect to an http or https URL";
        if location
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(Refused::Malformed(RULE));
        }
        let target = self
            .url
            .join(location)
            .map_err(|_| Refused::Malformed(RULE))?;
        // Read again from its text, so that users, schemes and hosts meet the same rules.
        Self::parse(target.as_str())
    }

    /// Path and query, as a request line has them: printable ASCII that begins with a slash.
    pub fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }
}

/// The operator's origins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(Vec<Origin>);

impl Origins {
    /// None: nothing is allowed.
    pub const fn new(origins: Vec<Origin>) -> Self {
        Self(origins)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Origin> {
        self.0.iter()
    }

    /// Reads a URL of a message and looks its origin up.
    pub fn check(&self, url: &str) -> Result<SourceUrl, Refused> {
        self.admit(SourceUrl::parse(url)?)
    }

    /// The URL, if its origin is in the list: scheme, host and port, all three.
    pub fn admit(&self, url: SourceUrl) -> Result<SourceUrl, Refused> {
        if self.0.contains(&url.origin) {
            return Ok(url);
        }
        let origin = &url.origin;
        Err(Refused::Forbidden(if self.0.is_empty() {
            format!("{origin} is not allowed: sources.url_hosts names no origin")
        } else {
            format!("{origin} is not in sources.url_hosts")
        }))
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
