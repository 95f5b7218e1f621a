//! Page metadata, pgmap, frames, page tables, address spaces and gup.

#![cfg_attr(target_os = "none", no_std)]
