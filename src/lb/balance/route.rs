//! Which pool? The rules of a listener, in order, against what is known of a client: its address, and
//! what it says first, which may still be coming.

use std::net::IpAddr;

use crate::lb::admission::access::Prefix;

/// What a client must be like for a pool. Of each list one must fit; an empty list fits everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Networks of clients; one without an address is in none.
    pub source: Vec<Prefix>,
    /// Names of servers that a client of TLS asks for.
    pub sni: Vec<HostPattern>,
    /// Application protocols that a client of TLS offers.
    pub alpn: Vec<String>,
    /// Hosts that a client of HTTP/1 asks for.
    pub http_host: Vec<HostPattern>,
    /// Beginnings of the paths that it asks for.
    pub http_path: Vec<String>,
}

/// The name of a host, or of all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one.
    Is(String),
    /// Every one that ends so, from the point on: ".a.example".
    Below(String),
}

impl HostPattern {
    /// Reads "a.example" or "*.a.example".
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=NAME_MAX).contains(&name.len())
                && name.bytes().all(is_allowed)
                && name.split('.').all(|label| !label.is_empty())
        };
        match text.strip_prefix('*') {
            Some(below) if below.starts_with('.') && is_name(&below[1..]) => {
                Some(Self::Below(below.to_ascii_lowercase()))
            }
            None if is_name(text) => Some(Self::Is(text.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// Whether `name` is meant, in any case, with or without the point of the root at its end.
    pub fn fits(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Is(own) => own.eq_ignore_ascii_case(name),
            Self::Below(below) => {
                let start = name.len().checked_sub(below.len());
                let end = start.and_then(|start| name.get(start..));
                start > Some(0) && end.is_some_and(|end| end.eq_ignore_ascii_case(below))
            }
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(name) => f.write_str(name),
            Self::Below(below) => write!(f, "*{below}"),
        }
    }
}

/// Something a client may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<T> {
    /// It may still come.
    NotYet,
    /// It does not, whatever comes.
    Never,
    /// This.
    This(T),
}

impl<T> Said<T> {
    /// Whether it `fits`; `None` = that is not known yet.
    fn fits(&self, fits: impl FnOnce(&T) -> bool) -> Option<bool> {
        match self {
            Self::NotYet => None,
            Self::Never => Some(false),
            Self::This(this) => Some(fits(this)),
        }
    }
}

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// Its address, if it has one.
    pub source: Option<IpAddr>,
    /// The name of the server that it asks for by TLS.
    pub sni: Said<&'a str>,
    /// The application protocols that it offers by TLS.
    pub alpn: Said<Vec<Vec<u8>>>,
    /// The host that it asks for by HTTP/1.
    pub http_host: Said<&'a str>,
    /// The path that it asks for by HTTP/1.
    pub http_path: Said<&'a [u8]>,
}

impl Rule {
    /// Whether it looks at what a client of TLS says.
    pub fn asks_tls(&self) -> bool {
        !self.sni.is_empty() || !self.alpn.is_empty()
    }

    /// Whether it looks at what a client of HTTP/1 says.
    pub fn asks_http(&self) -> bool {
        !self.http_host.is_empty() || !self.http_path.is_empty()
    }

    /// Whether the client fits; `None` = that is not known yet.
    fn fits(&self, client: &Known<'_>) -> Option<bool> {
        fn all_or_any<P>(patterns: &[P], said: Option<bool>) -> Option<bool> {
            if patterns.is_empty() {
                Some(true)
            } else {
                said
            }
        }
        let source = client.source.is_some_and(|address| {
            let mut networks = self.source.iter();
            networks.any(|network| network.contains(address))
        });
        let any_host = |patterns: &[HostPattern], name: &str| {
            patterns.iter().any(|pattern| pattern.fits(name))
        };
        let offered = |offers: &Vec<Vec<u8>>| {
            let mut own = self.alpn.iter();
            own.any(|own| offers.iter().any(|offer| offer == own.as_bytes()))
        };
        let starts = |path: &&[u8]| {
            let mut own = self.http_path.iter();
            own.any(|own| path.starts_with(own.as_bytes()))
        };
        let parts = [
            all_or_any(&self.source, Some(source)),
            all_or_any(&self.sni, client.sni.fits(|name| any_host(&self.sni, name))),
            all_or_any(&self.alpn, client.alpn.fits(offered)),
            all_or_any(
                &self.http_host,
                client
                    .http_host
                    .fits(|host| any_host(&self.http_host, host)),
            ),
            all_or_any(&self.http_path, client.http_path.fits(starts)),
        ];
        if parts.contains(&Some(false)) {
            Some(false) // whatever is still to come
        } else if parts.contains(&None) {
            None
        } else {
            Some(true)
        }
    }
}

/// The first of `rules` that `client` fits, as far as that is known: `Some(None)` if it fits none, and
/// `None` if more must be known. `is_final`: nothing more will be.
pub fn route<'r>(
    rules: impl IntoIterator<Item = &'r Rule>,
    client: &Known<'_>,
    is_final: bool,
) -> Option<Option<usize>> {
    for (place, rule) in rules.into_iter().enumerate() {
        match rule.fits(client) {
            Some(true) => return Some(Some(place)),
            Some(false) => {}
            None if is_final => {}
            None => return None,
        }
    }
    Some(None)
}

/// The longest name of a host.
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Known<'static> {
        Known {
            source: Some(IpAddr::from([10, 0, 0, 1])),
            sni: Said::NotYet,
            alpn: Said::NotYet,
            http_host: Said::NotYet,
            http_path: Said::NotYet,
        }
    }

    fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
        let mut rule = Rule::default();
        change(&mut rule);
        rule
    }

    fn names(name: &str) -> Vec<HostPattern> {
        vec![HostPattern::parse(name).expect("a pattern")]
    }

    #[test]
    fn names_fit_in_any_case_and_stars_stand_for_what_is_below() {
        for (pattern, name, fits) in [
            ("a.example", "A.Example", true),
            ("a.example", "a.example.", true),
            ("a.example", "b.a.example", false),
            ("*.a.example", "b.A.example", true),
            ("*.a.example", "c.b.a.example.", true),
            ("*.a.example", "a.example", false),
            ("*.a.example", ".a.example", false),
            ("*.a.example", "xa.example", false),
            ("*.é", "", false),
        ] {
            let Some(parsed) = HostPattern::parse(pattern) else {
                assert!(!pattern.is_ascii());
                continue;
            };
            assert_eq!(parsed.fits(name), fits, "{pattern} {name}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for wrong in ["", "*", "*.", "a..b", ".a", "a.", "a*.b", "*a.b", "a b"] {
            assert_eq!(HostPattern::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_wins_and_none_is_passed_that_still_may() {
        let rules = [
            rule(|rule| rule.sni = names("a.example")),
            rule(|rule| rule.source = vec![Prefix::of(IpAddr::from([10, 0, 0, 1]))]),
        ];
        let mut client = nobody();
        assert_eq!(
            route(&rules, &client, false),
            None,
            "it may ask for a.example"
        );
        assert_eq!(route(&rules, &client, true), Some(Some(1)));
        client.sni = Said::This("a.example");
        assert_eq!(route(&rules, &client, false), Some(Some(0)));
        client.sni = Said::Never;
        assert_eq!(route(&rules, &client, false), Some(Some(1)));
        client.source = None;
        assert_eq!(route(&rules, &client, false), Some(None));
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let rules = [rule(|rule| {
            rule.http_host = names("*.a.example");
            rule.http_path = vec!["/v1/".to_owned(), "/v2/".to_owned()];
        })];
        let mut client = nobody();
        client.http_path = Said::This(b"/v2/x");
        assert_eq!(route(&rules, &client, false), None);
        client.http_host = Said::This("b.a.example");
        assert_eq!(route(&rules, &client, false), Some(Some(0)));
        client.http_path = Said::This(b"/v3/x");
        client.http_host = Said::NotYet;
        assert_eq!(route(&rules, &client, false), Some(None), "no need to wait");
        let rules = [rule(|rule| rule.alpn = vec!["h2".to_owned()])];
        client.alpn = Said::This(vec![b"http/1.1".to_vec(), b"h2".to_vec()]);
        assert_eq!(route(&rules, &client, false), Some(Some(0)));
        client.alpn = Said::This(vec![b"h2c".to_vec()]);
        assert_eq!(route(&rules, &client, false), Some(None));
        assert_eq!(route(&[Rule::default()], &nobody(), false), Some(Some(0)));
    }
}
