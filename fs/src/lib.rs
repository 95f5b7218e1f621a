//! A tiny extent file system on persistent memory.

#![cfg_attr(target_os = "none", no_std)]
