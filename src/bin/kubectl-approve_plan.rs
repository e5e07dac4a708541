//! `kubectl approve-plan`; everything it does lives in the library.

fn main() {}
