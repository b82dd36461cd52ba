//! Images end to end: built here, served by a registry, pulled, unpacked, mounted, removed.

mod fixture;
mod keeping;
mod pulling;
mod registry;
