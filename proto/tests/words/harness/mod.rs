//! How words are held to their bytes; `proto/tests/words` and the unit tests
//! of `node` share it.

pub(crate) mod golden;
pub(crate) mod scan;
