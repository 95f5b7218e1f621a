//! What POSIX expects of names, links and attributes, and what is left of it by the next mount.

mod attributes;
mod inodes;
mod links;
mod names;
mod read_only;
mod readdir;
