//! How words are held to their bytes and their decoders to their manners; `proto/tests/words` and the unit tests
//! of `node` share it.

pub(crate) mod attack;
pub(crate) mod golden;
pub(crate) mod scan;
