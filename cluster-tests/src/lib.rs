//! The proof: a simulated cluster of many cores that one seed decides ([`sim`]), and what the tests in
//! `tests/` share. Nothing here is part of the product.

pub mod sim;
