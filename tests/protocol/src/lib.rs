//! What the harness and the guest say to each other over the control port.

#![no_std]
