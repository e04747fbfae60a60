//! What a client says first, as far as rules and keys ask for it. It may still be coming.

use std::net::IpAddr;

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
    /// What is said in the end; `None` = that is not known yet.
    pub fn known(self) -> Option<Option<T>> {
        match self {
            Self::NotYet => None,
            Self::Never => Some(None),
            Self::This(this) => Some(Some(this)),
        }
    }

    /// The same of what becomes of it.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Said<U> {
        match self {
            Self::NotYet => Said::NotYet,
            Self::Never => Said::Never,
            Self::This(this) => Said::This(change(this)),
        }
    }

    /// Whether it `fits`; `None` = that is not known yet.
    pub(super) fn fits(self, fits: impl FnOnce(T) -> bool) -> Option<bool> {
        match self {
            Self::NotYet => None,
            Self::Never => Some(false),
            Self::This(this) => Some(fits(this)),
        }
    }
}

/// A client, and what it has said so far. Each answer may cost a look through all of that, so only what
/// is needed is asked for.
pub trait Speaker {
    /// Its address, if it has one.
    fn source(&self) -> Option<IpAddr>;
    /// The name of the server that it asks for by TLS.
    fn sni(&self) -> Said<&str>;
    /// The application protocols that it offers by TLS.
    fn alpn(&self) -> Said<Vec<Vec<u8>>>;
    /// The host that it asks for by HTTP/1.
    fn http_host(&self) -> Said<&str>;
    /// The path that it asks for by HTTP/1, without a query.
    fn http_path(&self) -> Said<&[u8]>;
    /// The first field of this name in its first request of HTTP/1.
    fn http_header(&self, name: &str) -> Said<&[u8]>;
    /// So many bytes, the first of all; fewer where no more come, but not none.
    fn first_bytes(&self, count: usize) -> Said<&[u8]>;
    /// The hash of the extension of this type in the PROXY header that introduced it.
    fn extension(&self, kind: u8) -> Option<u64>;
}

/// A client that says nothing, from this address.
#[derive(Clone, Copy, Debug)]
pub struct Silent(pub IpAddr);

impl Speaker for Silent {
    fn source(&self) -> Option<IpAddr> {
        Some(self.0)
    }

    fn sni(&self) -> Said<&str> {
        Said::Never
    }

    fn alpn(&self) -> Said<Vec<Vec<u8>>> {
        Said::Never
    }

    fn http_host(&self) -> Said<&str> {
        Said::Never
    }

    fn http_path(&self) -> Said<&[u8]> {
        Said::Never
    }

    fn http_header(&self, _name: &str) -> Said<&[u8]> {
        Said::Never
    }

    fn first_bytes(&self, _count: usize) -> Said<&[u8]> {
        Said::Never
    }

    fn extension(&self, _kind: u8) -> Option<u64> {
        None
    }
}

#[cfg(test)]
pub(crate) mod scripted {
    use super::*;

    /// Somebody who has said just this.
    #[derive(Clone, Debug)]
    pub(crate) struct Scripted {
        pub(crate) source: Option<IpAddr>,
        pub(crate) sni: Said<&'static str>,
        pub(crate) alpn: Said<Vec<Vec<u8>>>,
        pub(crate) http_host: Said<&'static str>,
        pub(crate) http_path: Said<&'static [u8]>,
        pub(crate) fields: Vec<(&'static str, Said<&'static [u8]>)>,
        pub(crate) first_bytes: Said<&'static [u8]>,
        pub(crate) extensions: Vec<(u8, u64)>,
    }

    impl Default for Scripted {
        fn default() -> Self {
            Self {
                source: None,
                sni: Said::NotYet,
                alpn: Said::NotYet,
                http_host: Said::NotYet,
                http_path: Said::NotYet,
                fields: Vec::new(),
                first_bytes: Said::NotYet,
                extensions: Vec::new(),
            }
        }
    }

    impl Speaker for Scripted {
        fn source(&self) -> Option<IpAddr> {
            self.source
        }

        fn sni(&self) -> Said<&str> {
            self.sni
        }

        fn alpn(&self) -> Said<Vec<Vec<u8>>> {
            self.alpn.clone()
        }

        fn http_host(&self) -> Said<&str> {
            self.http_host
        }

        fn http_path(&self) -> Said<&[u8]> {
            self.http_path
        }

        fn http_header(&self, name: &str) -> Said<&[u8]> {
            let mut fields = self.fields.iter();
            let found = fields.find(|(found, _)| *found == name);
            found.map_or(Said::NotYet, |(_, value)| *value)
        }

        fn first_bytes(&self, _count: usize) -> Said<&[u8]> {
            self.first_bytes
        }

        fn extension(&self, kind: u8) -> Option<u64> {
            let mut extensions = self.extensions.iter();
            extensions
                .find(|(found, _)| *found == kind)
                .map(|(_, hash)| *hash)
        }
    }
}
