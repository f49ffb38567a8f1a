//! The runner as a real process, seen from its daemon's side.

mod adoption;
mod jobs;
mod stage;
