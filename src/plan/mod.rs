//! From a draft to a plan: what exactly would happen, how risky it is, and the digest that people approve.

pub mod digest;
