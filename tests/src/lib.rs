//! The harness that boots the guest cases.
