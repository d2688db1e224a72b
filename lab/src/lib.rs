//! The service models, as real servers, measured side by side.
//!
//! - [`model`] names them, and what they are compared with.
//! - [`serve`] is the servers, each in a file of its own, all with the same answers.
//! - [`peer`] starts what others have made of the same models: Node, PM2, gunicorn, nginx.

pub mod model;
pub mod peer;
pub mod serve;
