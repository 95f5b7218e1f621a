//! The sparse page map.
