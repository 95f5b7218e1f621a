//! The host side of Holdfast.
