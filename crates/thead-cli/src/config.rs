//! What the operator wrote: files in, a checked [`Config`](model::Config) out.

pub(crate) mod model;
pub(crate) mod value;
