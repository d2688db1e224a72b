//! The program `thead`.

fn main() {}
