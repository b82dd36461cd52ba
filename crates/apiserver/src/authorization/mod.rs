//! Authorization: may this user do this.

mod authorizer;
mod build;

pub use authorizer::{Authorizer, Decision};
pub use build::build;
