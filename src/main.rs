//! The operator and its tools; everything it does lives in the library.

fn main() {}
