//! The data path of TCP: conformance A.

mod data;
mod ends;
mod networks;
mod proxy_header;
mod scripts;
