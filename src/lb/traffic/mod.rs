//! What now with these bytes?
