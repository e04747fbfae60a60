//! The suite.
mod config_files;
