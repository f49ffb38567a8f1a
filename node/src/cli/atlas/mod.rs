//! The commands `foundations` and `atlas-server`.

mod config;
mod error;
mod job_config;
mod near;
mod params;
mod yaml;
