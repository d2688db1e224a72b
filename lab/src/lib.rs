//! The service models, as real servers, measured side by side.
//!
//! - [`model`] names them, and what they are compared with.
//! - [`serve`] is the servers, each in a file of its own, all with the same answers.
//! - [`peer`] starts what others have made of the same models: Node, PM2, gunicorn, nginx.
//! - [`plan`] says who is asked for what; [`load`] asks, in a process of its own; [`measure`] watches from outside.
//! - [`formula`] predicts; [`check`] judges; [`plot`] and [`report`] show. [`run`] is the program.

pub mod check;
pub mod formula;
pub mod load;
mod machine;
pub mod measure;
pub mod model;
pub mod peer;
pub mod plan;
pub mod plot;
pub mod report;
pub mod results;
pub mod run;
pub mod serve;
