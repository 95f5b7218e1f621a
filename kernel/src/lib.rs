//! The thin hardware layer, the shell and the tour.

#![cfg_attr(target_os = "none", no_std)]
