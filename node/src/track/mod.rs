//! What jobs tell of themselves while they run: lines of a track file become a summary for the log, and points in a
//! file of series. `node/sdk/foundations/_track.py` writes the lines, any program may.
//!
//! Read in this order: `line.rs` (the words), `reader.rs` (one track file, from its first line to its seal),
//! `series.rs` (points on disk, and series at a resolution). The node's loop decides when a file is read and what
//! becomes of the result.
//!
//! Deliberately absent: the log, the network, HTTP; and any trust in what a job writes: a line that is none is counted
//! and passed over.

mod line;
mod reader;
mod series;

pub use line::{Line, parse};
pub use reader::{Reader, Sealed, TagChange, last_exit};
pub use series::{Cut, Names, Page, Point, Series, SeriesError};
