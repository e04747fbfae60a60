//! The data path of TCP: conformance A.

mod accept_proxy;
mod data;
mod ends;
mod keys;
mod networks;
mod proxy_header;
mod routes;
mod scripts;
