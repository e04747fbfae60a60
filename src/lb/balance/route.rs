//! Which pool? The rules of a listener, in order, against what is known of a client: its address, and
//! what it says first, which may still be coming.

use super::said::{Said, Speaker};
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
    /// Fields of its request.
    pub http_header: Vec<Field>,
}

/// A field of a request of HTTP/1: a name, in any case, and all of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// In small letters.
    pub name: String,
    /// Without spaces around it.
    pub value: String,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
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

impl Rule {
    /// Whether the client fits; `None` = that is not known yet.
    fn fits(&self, client: &impl Speaker) -> Option<bool> {
        fn unless_empty<P>(patterns: &[P], fits: impl FnOnce() -> Option<bool>) -> Option<bool> {
            if patterns.is_empty() {
                Some(true)
            } else {
                fits()
            }
        }
        let any_host = |patterns: &[HostPattern], said: Said<&str>| {
            said.fits(|name| patterns.iter().any(|pattern| pattern.fits(name)))
        };
        let parts = [
            unless_empty(&self.source, || {
                let mut networks = self.source.iter();
                let source = client.source();
                Some(source.is_some_and(|source| networks.any(|network| network.contains(source))))
            }),
            unless_empty(&self.sni, || any_host(&self.sni, client.sni())),
            unless_empty(&self.alpn, || {
                let offers = |offers: Vec<Vec<u8>>| {
                    let mut own = self.alpn.iter();
                    own.any(|own| offers.iter().any(|offer| offer == own.as_bytes()))
                };
                client.alpn().fits(offers)
            }),
            unless_empty(&self.http_host, || {
                any_host(&self.http_host, client.http_host())
            }),
            unless_empty(&self.http_path, || {
                let mut own = self.http_path.iter();
                let starts = |path: &[u8]| own.any(|own| path.starts_with(own.as_bytes()));
                client.http_path().fits(starts)
            }),
            unless_empty(&self.http_header, || {
                any(self.http_header.iter().map(|field| {
                    let said = client.http_header(&field.name);
                    said.fits(|value| value == field.value.as_bytes())
                }))
            }),
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

/// Whether one of them fits; `None` = that is not known yet.
fn any(fits: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut any = Some(false);
    for fit in fits {
        match fit {
            Some(true) => return fit,
            Some(false) => {}
            None => any = None,
        }
    }
    any
}

/// The first of `rules` that `client` fits: `Some(None)` if it fits none, and `None` if more must be
/// known.
pub fn route<'r>(
    rules: impl IntoIterator<Item = &'r Rule>,
    client: &impl Speaker,
) -> Option<Option<usize>> {
    for (place, rule) in rules.into_iter().enumerate() {
        match rule.fits(client) {
            Some(true) => return Some(Some(place)),
            Some(false) => {}
            None => return None,
        }
    }
    Some(None)
}

/// The longest name of a host.
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::lb::balance::said::scripted::Scripted;

    fn nobody() -> Scripted {
        Scripted {
            source: Some(IpAddr::from([10, 0, 0, 1])),
            ..Scripted::default()
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
        assert_eq!(route(&rules, &client), None, "it may ask for a.example");
        client.sni = Said::This("a.example");
        assert_eq!(route(&rules, &client), Some(Some(0)));
        client.sni = Said::Never;
        assert_eq!(route(&rules, &client), Some(Some(1)));
        client.source = None;
        assert_eq!(route(&rules, &client), Some(None));
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let rules = [rule(|rule| {
            rule.http_host = names("*.a.example");
            rule.http_path = vec!["/v1/".to_owned(), "/v2/".to_owned()];
        })];
        let mut client = nobody();
        client.http_path = Said::This(b"/v2/x");
        assert_eq!(route(&rules, &client), None);
        client.http_host = Said::This("b.a.example");
        assert_eq!(route(&rules, &client), Some(Some(0)));
        client.http_path = Said::This(b"/v3/x");
        client.http_host = Said::NotYet;
        assert_eq!(route(&rules, &client), Some(None), "no need to wait");
        let rules = [rule(|rule| rule.alpn = vec!["h2".to_owned()])];
        client.alpn = Said::This(vec![b"http/1.1".to_vec(), b"h2".to_vec()]);
        assert_eq!(route(&rules, &client), Some(Some(0)));
        client.alpn = Said::This(vec![b"h2c".to_vec()]);
        assert_eq!(route(&rules, &client), Some(None));
        assert_eq!(route(&[Rule::default()], &nobody()), Some(Some(0)));
    }

    #[test]
    fn one_of_the_fields_must_be_there() {
        let field = |name: &str, value: &str| Field {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let fields = vec![
            field("x-model", "a"),
            field("x-model", "b"),
            field("x", "1"),
        ];
        let rules = [rule(|rule| rule.http_header = fields)];
        let mut client = nobody();
        assert_eq!(route(&rules, &client), None);
        client.fields = vec![("x-model", Said::This(b"c"))];
        assert_eq!(route(&rules, &client), None, "the other may come");
        client.fields.push(("x", Said::Never));
        assert_eq!(route(&rules, &client), Some(None));
        client.fields[0].1 = Said::This(b"b");
        assert_eq!(route(&rules, &client), Some(Some(0)));
        client.fields = vec![("x", Said::This(b"1"))];
        assert_eq!(route(&rules, &client), Some(Some(0)), "whatever else comes");
    }
}
