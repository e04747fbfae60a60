//! The process under a service manager, and what it may do: RLD-33, RLD-34, SEC.
